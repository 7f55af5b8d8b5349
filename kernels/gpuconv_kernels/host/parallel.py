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

import ctypes
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import address
from gpuconv_kernels.host.spinning import wait_for_work, wait_for_zero
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


def _no_core() -> int:
    return -1


def _find_current_core() -> Callable[[], int]:
    """Return what tells the number of the core that a thread runs on; -1 where that is unknown."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        return _no_core
    try:
        function = ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError):  # another C library
        return _no_core
    function.restype, function.argtypes = ctypes.c_int, []
    return function  # type: ignore[no-any-return]


current_core = _find_current_core()


class _Job:
    """One call of a kernel that threads share.

    Attributes:
        words: two in memory that kernels and :mod:`spinning` read: the counter of its tasks, and
            how many threads of the pool work on it.
    """

    def __init__(self, kernel: Any, words: Any, tasks: int, arguments: tuple[Any, ...]) -> None:
        self._kernel, self.words = kernel, words
        words[0] = words[1] = 0
        self._arguments = (address(words), tasks, *arguments)
        self._over = False
        self._changed = threading.Condition(threading.Lock())
        self._error: BaseException | None = None

    def help(self) -> None:
        """Work on it in a thread of the pool, unless it is over."""
        with self._changed:
            if self._over:
                return
            self.words[1] += 1
        try:
            self._kernel(*self._arguments)
        except BaseException as error:
            self._error = error
        with self._changed:
            self.words[1] -= 1
            if not self.words[1]:
                self._changed.notify()

    def finish(self) -> None:
        """Work on it in the caller's thread; return when everybody has finished."""
        try:
            self._kernel(*self._arguments)
        finally:
            with self._changed:
                self._over = True
                busy = self.words[1] > 0
            if busy and not wait_for_zero(address(self.words) + 8):
                with self._changed:
                    while self.words[1]:
                        self._changed.wait()
        if self._error is not None:
            raise self._error


class _Pool:
    """Threads that wait for jobs; they are daemons, and made when they are first needed."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._caller_core = -1
        # The number of the last job, and the address of its counter: what waiting threads look at.
        self._last = np.zeros(2, np.int64)
        # Words for jobs, which are never freed: a thread may look at those of a job that is over.
        self._words = [np.zeros(8, np.int64) for _ in range(64)]

    def work(self, kernel: Any, tasks: int, arguments: tuple[Any, ...], helpers: int) -> None:
        """Run a kernel in the caller's thread and in ``helpers`` others."""
        try:
            words = self._words.pop()
        except IndexError:  # that many Python threads, or jobs of jobs
            words = np.zeros(8, np.int64)
        job = _Job(kernel, words, tasks, arguments)
        self._offer(job, helpers)
        try:
            job.finish()
        finally:
            self._words.append(words)

    def _offer(self, job: _Job, helpers: int) -> None:
        if len(self._threads) < helpers:
            with self._lock:
                while len(self._threads) < helpers:
                    name = f"gpuconv-{len(self._threads) + 1}"
                    thread = threading.Thread(target=self._help, name=name, daemon=True)
                    thread.start()
                    self._threads.append(thread)
                self._caller_core = -1
        core = current_core()
        if core != self._caller_core:
            self._keep_away_from(core)
        for _ in range(helpers):
            self._jobs.put(job)
        self._last[1] = address(job.words)
        self._last[0] += 1

    def _keep_away_from(self, core: int) -> None:
        """Keep the threads off the caller's core, where the system often wakes them: both would
        take turns there, for milliseconds, while another core idles."""
        self._caller_core = core
        others = os.sched_getaffinity(0) - {core}
        try:
            for thread in self._threads if others else ():
                if thread.native_id is not None:
                    os.sched_setaffinity(thread.native_id, others)
        except OSError:  # not allowed here, or the thread is gone
            pass

    def _help(self) -> None:
        place = address(self._last)
        while True:
            job: _Job | None = self._jobs.get()
            while job is not None:
                seen = int(self._last[0])
                job.help()
                job = self._next(place, seen)

    def _next(self, place: int, seen: int) -> _Job | None:
        """The next job, if it comes soon.

        It is begun in the moment in which the caller, having taken the first task, has left Python
        to others.
        """
        while True:
            try:
                return self._jobs.get_nowait()
            except Empty:
                if not wait_for_work(place, seen):
                    return None
                seen = int(self._last[0])


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
    helpers = min(threads(), tasks) - 1
    if helpers < 1:
        counter = np.zeros(1, np.int64)
        kernel(address(counter), tasks, *arguments)
        return
    _pool.work(kernel, tasks, arguments, helpers)
