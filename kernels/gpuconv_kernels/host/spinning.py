"""Waiting for another thread without sleeping, for the short while in which it usually comes.

To wake a sleeping thread takes the system some 50 us, more on a virtual machine whose idle cores
are halted: longer than many kernels run. So a thread looks again and again at a word in memory,
without Python's lock, before it goes to sleep.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, compiled

WHILE = 150e-6
"""Seconds of looking: longer than a training step's pauses between kernels, too short to matter to
others who need the core."""


@intrinsic
def _look(typing_context, address):  # type: ignore[no-untyped-def]
    """Return the word at an address, as another thread wrote it last."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.intp(types.intp), generate


@intrinsic
def _pause(typing_context):  # type: ignore[no-untyped-def]
    """Tell the core that this is a loop that waits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if binding.get_default_triple().startswith(("x86_64", "i686", "i386")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


look: Any = _look
pause: Any = _pause


@functools.cache
def _compiled_waits() -> tuple[Any, Any]:
    def wait_for_work(place, seen, times):  # type: ignore[no-untyped-def]
        """Wait for words (number, address): a number other than ``seen``, and 1 at the address."""
        for _ in range(times):
            if look(place) != seen and look(look(place + 8)) > 0:
                return True
            pause()
        return False

    def wait_for_zero(place, times):  # type: ignore[no-untyped-def]
        for _ in range(times):
            if look(place) == 0:
                return True
            pause()
        return False

    return compiled(wait_for_work), compiled(wait_for_zero)


@functools.cache
def _times() -> int:
    """How often to look in ``WHILE``."""
    one = np.ones(1, np.int64)
    _, wait = _compiled_waits()
    wait(one.ctypes.data, 1)  # compiled now
    best = min(_seconds(wait, one, 500) for _ in range(5))
    return max(1, int(500 * WHILE / best))


def _seconds(wait: Any, word: Any, times: int) -> float:
    start = time.perf_counter()
    wait(word.ctypes.data, times)
    return time.perf_counter() - start


def wait_for_work(place: int, seen: int) -> bool:
    """Wait until somebody works on a job that this thread has not seen; False: nobody came.

    Args:
        place: address of two words: the number of the last job, and the address of its counter,
            which becomes positive when the first task is taken.
        seen: number of the last job that this thread knows.
    """
    wait, _ = _compiled_waits()
    return bool(wait(place, seen, _times()))


def wait_for_zero(place: int) -> bool:
    """Wait until the word at an address is 0; False: it stayed."""
    _, wait = _compiled_waits()
    return bool(wait(place, _times()))
