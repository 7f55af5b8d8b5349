"""Sharing a kernel's tasks among threads: the caller's own and a pool of this process.

A kernel computes tasks ``0 ... count - 1``, in any order and in any number of threads at once; each
thread that enters it draws the number of its next task from a shared counter until there are none
left::

    def kernel(counter, count, ...):
        task = take(counter)
        while task < count:
            ...
            task = take(counter)

The caller always works itself, so a call never waits for a thread that is busy with the call of
another Python thread: threads that come too late find nothing to do. What a task computes does not
depend on who computes it, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import address
from gpuconv_kernels.host.target import INT
from gpuconv_kernels.threads import threads


@intrinsic
def _take(typing_context, counter):  # type: ignore[no-untyped-def]
    """Return the number at the address ``counter`` and add one to it, as one step."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(INT, 1), "monotonic")

    return types.intp(types.intp), generate


take: Any = _take


class _Job:
    """One call of a kernel that threads share."""

    def __init__(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        self._kernel, self._arguments = kernel, arguments
        self._inside, self._over = 0, False
        self._changed = threading.Condition(threading.Lock())
        self._error: BaseException | None = None

    def help(self) -> None:
        """Work on it in a thread of the pool, unless it is over."""
        with self._changed:
            if self._over:
                return
            self._inside += 1
        try:
            self._kernel(*self._arguments)
        except BaseException as error:
            self._error = error
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify()

    def finish(self) -> None:
        """Work on it in the caller's thread; return when everybody has finished."""
        try:
            self._kernel(*self._arguments)
        finally:
            with self._changed:
                self._over = True
                while self._inside:
                    self._changed.wait()
        if self._error is not None:
            raise self._error


class _Pool:
    """Threads that wait for jobs; they are daemons, and made when they are first needed."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()

    def offer(self, job: _Job, helpers: int) -> None:
        if self._threads < helpers:
            with self._lock:
                while self._threads < helpers:
                    self._threads += 1
                    name = f"gpuconv-{self._threads}"
                    threading.Thread(target=self._work, name=name, daemon=True).start()
        for _ in range(helpers):
            self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get().help()


_pool = _Pool()


def _forget_threads() -> None:
    """A child process has a copy of the pool and none of its threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def run(kernel: Any, tasks: int, *arguments: Any) -> None:
    """Call ``kernel(counter, tasks, *arguments)`` in as many threads as there is work for.

    Args:
        kernel: made by ``target.compiled``; draws its tasks by :func:`take`.
        tasks: how many there are.
        arguments: addresses and other numbers; the arrays live at least as long as the call.
    """
    counter = np.zeros(1, np.int64)
    arguments = (address(counter), tasks, *arguments)
    helpers = min(threads(), tasks) - 1
    if helpers < 1:
        kernel(*arguments)
        return
    job = _Job(kernel, arguments)
    _pool.offer(job, helpers)
    job.finish()
