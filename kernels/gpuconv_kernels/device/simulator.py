"""Mending Numba's CUDA simulator: shared arrays that are really shared, barriers that do not poll.

The simulator finds the shared array of a source line in a dictionary and, if none is there, makes
one; two threads that do so at the same time get two arrays, and the block computes nonsense, about
once in a thousand launches. Here the look-up happens under a lock, and takes the caller's line from
its frame alone: the simulator formats a whole traceback for it. New arrays are full of NaN (or the
largest integer), so that what is read before it is written shows.

A device function that one thread leaves loses its ``cuda`` for the others; here the last to leave
puts it back.

Its main thread asks in a busy loop whether all threads of a block have reached a barrier, and
takes most of the time of a launch by it. Here the last thread to arrive wakes the others. As in the
simulator, threads that have ended are not waited for, and an exception in one thread ends all.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba.np import numpy_support


@functools.cache
def mend() -> None:
    """Replace the simulator's shared arrays, barriers and swaps; once, however often it is called.

    A second time would wrap what is wrapped, and a thread that ends would count twice.
    """
    from numba.cuda.simulator import kernel
    from numba.cuda.simulator.kernel import BlockManager, BlockThread
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    begin = BlockThread.run

    def run(self: Any) -> None:
        begin(self)  # keeps an exception in self.exception
        self._manager._gathering.leave(failed=self.exception is not None)

    def run_block(self: Any, grid_point: Any, *arguments: Any) -> None:
        self._gathering = _Gathering(math.prod(self._block_dim))
        threads = [
            BlockThread(lambda: self._f(*arguments), self, grid_point, block_point, self._debug)
            for block_point in np.ndindex(*self._block_dim)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for thread in threads:
            if thread.exception and not thread.abort:
                raise thread.exception[0].with_traceback(thread.exception[1])

    def syncthreads(self: Any) -> None:
        if not self._manager._gathering.wait():
            self.abort = True
            raise RuntimeError("another thread of the block has failed")

    kernel.swapped_cuda_module = _swapped_cuda_module  # type: ignore[assignment]
    FakeCUDAShared.array = _shared_array  # type: ignore[method-assign]
    BlockThread.run = run  # type: ignore[method-assign]
    BlockThread.syncthreads = syncthreads  # type: ignore[method-assign]
    BlockManager.run = run_block  # type: ignore[method-assign]


class _Gathering:
    """The barrier of one block: opens when all threads that have not ended wait at it."""

    def __init__(self, threads: int) -> None:
        self.running, self.waiting, self.opened, self.failed = threads, 0, 0, False
        self.changed = threading.Condition()

    def wait(self) -> bool:
        """Wait for the others; False if one has failed."""
        with self.changed:
            self.waiting += 1
            before = self.opened
            if not self._open_if_all():
                self.changed.wait_for(lambda: self.opened != before or self.failed)
            return not self.failed

    def leave(self, failed: bool) -> None:
        """Say that a thread has ended."""
        with self.changed:
            self.running -= 1
            self.failed = self.failed or failed
            if self.failed:
                self.changed.notify_all()
            else:
                self._open_if_all()

    def _open_if_all(self) -> bool:
        if self.waiting < self.running or not self.waiting:
            return False
        self.waiting = 0
        self.opened += 1
        self.changed.notify_all()
        return True


_LOCK = threading.Lock()
_swapped: dict[int, tuple[int, tuple[str, ...]]] = {}


@contextlib.contextmanager
def _swapped_cuda_module(function: Any, simulated: Any) -> Iterator[None]:
    """Let the module of a function see the simulated ``cuda`` while any thread is inside.

    The simulator's own puts the real one back when the first thread leaves, whoever else is
    still in the function.
    """
    from numba import cuda

    names_of = function.__globals__
    with _LOCK:
        inside, names = _swapped.get(id(names_of), (0, ()))
        if not inside:
            names = tuple(name for name, value in names_of.items() if value is cuda)
            names_of.update(dict.fromkeys(names, simulated))
        _swapped[id(names_of)] = (inside + 1, names)
    try:
        yield
    finally:
        with _LOCK:
            inside, names = _swapped.pop(id(names_of))
            if inside > 1:
                _swapped[id(names_of)] = (inside - 1, names)
            else:
                names_of.update(dict.fromkeys(names, cuda))


def _shared_array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> Any:
    if not isinstance(dtype, (np.dtype, type)):
        dtype = numpy_support.as_dtype(dtype)
    dtype = np.dtype(dtype)
    if shape == 0:  # dynamic shared memory: all of it
        return np.frombuffer(self._dynshared.data, dtype, self._dynshared_size // dtype.itemsize)
    caller = sys._getframe(1)
    line = (caller.f_code.co_filename, caller.f_lineno)
    with _LOCK:
        found = self._allocations.get(line)
        if found is None:
            poison = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
            found = self._allocations[line] = np.full(shape, poison, dtype)
    return found
