"""Sharing a kernel's tasks among threads: the caller's own and a pool of this process.

A kernel computes tasks ``0 ... count - 1``, in any order and in any number of threads at once; each
thread that enters it draws the number of its next task from a shared counter until there are none
left::

    def kernel(counter, count, ...):
        task = take(counter)
        while task < count:
            ...
            task = take(counter)

The caller always works itself, so a call never waits for a thread that is busy elsewhere: threads
that come too late find nothing to do. The pool serves one caller at a time; another Python thread
that calls meanwhile works alone. What a task computes does not depend on who computes it, so the
bits do not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.kernel import Kernel, Words
from gpuconv_kernels.host.memory import address
from gpuconv_kernels.host.scheduling import ask_for_short_turns, current_core
from gpuconv_kernels.host.spinning import PLACE_BYTES, attend, patience, sharing
from gpuconv_kernels.host.target import INT, LINE
from gpuconv_kernels.threads import threads


@intrinsic
def _take(typing_context, counter):  # type: ignore[no-untyped-def]
    """Return the number at the address ``counter`` and add one to it, as one step."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(INT, 1), "monotonic")

    return types.intp(types.intp), generate


take: Any = _take


class _Helper(threading.Thread):
    """A thread that attends at a meeting place, and sleeps when no job has come for a while."""

    def __init__(self, number: int, place: int) -> None:
        super().__init__(name=f"gpuconv-{number}", daemon=True)
        self._place = place
        self._bell = threading.Lock()
        self._bell.acquire()
        self._sleeps = False

    def run(self) -> None:
        ask_for_short_turns()
        last, wanted = 0, np.zeros(1, np.int64)
        while True:
            last = attend(self._place, last, address(wanted))
            self._sleeps = True
            self._bell.acquire()

    def wake(self) -> None:
        """Let it attend again if it sleeps; for one thread at a time.

        One that falls asleep in this moment misses a job, which others do without it.
        """
        if self._sleeps:
            self._sleeps = False
            self._bell.release()


class _Pool:
    """Helpers, made when they are first needed, and the place where they meet their caller."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []
        self._is_used = threading.Lock()
        self._jobs = 0
        self._caller_core = -1
        self._memory = np.zeros(PLACE_BYTES + LINE, np.uint8)
        self._place = -(-address(self._memory) // LINE) * LINE
        self._words = [Words() for _ in range(8)]

    def work(self, kernel: Kernel, tasks: int, arguments: tuple[Any, ...], helpers: int) -> None:
        """Run a kernel in the caller's thread and, if they are free, in ``helpers`` others."""
        try:
            words = self._words.pop()
        except IndexError:  # that many Python threads
            words = Words()
        code, share = kernel.prepare(words, tasks, arguments), sharing()
        if helpers > 0 and self._is_used.acquire(blocking=False):
            try:
                self._wake(helpers)
                self._jobs += 1
                failed = share(
                    self._place, self._jobs, helpers, code, words.address, words.failed, *patience()
                )
            finally:
                self._is_used.release()
        else:
            failed = share(self._place, 0, 0, code, words.address, words.failed, *patience())
        self._words.append(words)
        if failed:
            raise MemoryError("no memory for what a kernel works on; its results are not whole")

    def _wake(self, helpers: int) -> None:
        while len(self._helpers) < helpers:
            helper = _Helper(len(self._helpers) + 1, self._place)
            helper.start()
            self._helpers.append(helper)
            self._caller_core = -1
        core = current_core()
        if core != self._caller_core:
            self._keep_away_from(core)
        for helper in self._helpers[:helpers]:
            helper.wake()

    def _keep_away_from(self, core: int) -> None:
        """Keep the threads off the caller's core, where the system often wakes them: both would
        take turns there, for milliseconds, while another core idles."""
        self._caller_core = core
        others = os.sched_getaffinity(0) - {core}
        try:
            for helper in self._helpers if others else ():
                if helper.native_id is not None:
                    os.sched_setaffinity(helper.native_id, others)
        except OSError:  # not allowed here, or the thread is gone
            pass


_pool = _Pool()


def _forget_threads() -> None:
    """A child process has a copy of the pool and none of its threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def run(kernel: Kernel, tasks: int, *arguments: Any) -> None:
    """Run a kernel, ``tasks`` tasks of it, in as many threads as there is work for.

    Args:
        kernel: draws its tasks by :func:`take`.
        tasks: how many there are.
        arguments: addresses and other numbers; the arrays live at least as long as the call.

    Raises:
        MemoryError: there was not enough for what the kernel works on.
    """
    _pool.work(kernel, tasks, arguments, min(threads(), tasks) - 1)
