"""Working together without Python: how a caller offers a job, and how other threads take part.

Both sides are compiled and meet in a few words of memory, so between two kernels no thread needs
Python's lock, and none sleeps: to wake one takes the system some 50 us, longer than many kernels
run. Threads look for the next job again and again for a while, and soon let others have the core
between two looks. Where somebody wants it, they sleep after all: that may be a thread of a BLAS or
of OpenMP which spins for 30 ms after its own work, and of two that are ready to run the system lets
the other one finish its turn of some 3 ms, while one that it wakes can have the core at once.

The words of a meeting place, each in a line of the cache of its own::

    OPEN      the number of the job that is open; 0: none
    SEATS     how many more threads it wants
    INSIDE    how many threads look at it or work on it
    CODE      the kernel and, in the next word, the address of its own words

A thread counts itself in before it looks whether the job is open, and the caller closes the job
before it looks whether anybody is in: so either the thread finds it closed, or the caller waits.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, LINE, compiled

WHILE = 150e-6
"""Seconds of looking without a break: as long as most of a training step's pauses between kernels,
too short to matter to others who need the core."""
LONGER = 3e-3
"""Seconds of looking after that, giving way between two looks: a step's longest pauses."""
_GONE = 100_000
"""Nanoseconds that giving way takes only if another thread has run meanwhile."""
_WANTED = 50_000_000
"""Nanoseconds for which a core then counts as wanted by others."""

_LESS = 8
"""How much shorter a thread then looks before it sleeps."""

_CLOCK = getattr(time, "CLOCK_MONOTONIC", 1)

OPEN, SEATS, INSIDE, CODE = (line * LINE for line in range(4))
PLACE_BYTES = 4 * LINE

_VOID = types.void


@intrinsic
def _look(typing_context, address):  # type: ignore[no-untyped-def]
    """Return the word at an address, as another thread wrote it last."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.intp(types.intp), generate


@intrinsic
def _write(typing_context, address, value):  # type: ignore[no-untyped-def]
    """Write a word that other threads look at."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        builder.store_atomic(arguments[1], place, "seq_cst", 8)
        return context.get_dummy_value()

    return _VOID(types.intp, types.intp), generate


@intrinsic
def _add(typing_context, address, value):  # type: ignore[no-untyped-def]
    """Add to a word, as one step; return what it was before."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), generate


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

    return _VOID(), generate


@intrinsic
def _run(typing_context, code, words):  # type: ignore[no-untyped-def]
    """Call the function at an address with the address of its words."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [INT])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return _VOID(types.intp, types.intp), generate


@intrinsic
def _give_way(typing_context, function):  # type: ignore[no-untyped-def]
    """Let another thread have the core."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return _VOID(types.intp), generate


@intrinsic
def _now(typing_context, function):  # type: ignore[no-untyped-def]
    """Return nanoseconds of a clock, by the system's function at an address; 0: always 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        (function,) = arguments
        known = builder.icmp_signed("!=", function, INT(0))
        time = cgutils.alloca_once_value(builder, INT(0))
        with builder.if_then(known):
            words = cgutils.alloca_once(builder, INT, 2)  # a ``struct timespec``
            number = ir.IntType(32)
            kind = ir.FunctionType(number, [number, words.type])
            builder.call(builder.inttoptr(function, kind.as_pointer()), [number(_CLOCK), words])
            seconds, rest = (builder.load(builder.gep(words, [INT(n)])) for n in (0, 1))
            builder.store(builder.add(builder.mul(seconds, INT(10**9)), rest), time)
        return builder.load(time)

    return types.intp(types.intp), generate


look: Any = _look
write: Any = _write
add: Any = _add
pause: Any = _pause
run: Any = _run
give_way: Any = _give_way
now: Any = _now


@functools.cache
def _functions() -> tuple[Any, Any]:
    def attend(place, last, times, more, yielding, clock, wanted):  # type: ignore[no-untyped-def]
        if now(clock) < look(wanted):
            times, more = times // _LESS, 0
        left = times + more
        while left > 0:
            left -= 1
            number = look(place + OPEN)
            if number != 0 and number != last:
                add(place + INSIDE, 1)
                number = look(place + OPEN)
                if number != 0 and number != last:
                    last = number
                    if add(place + SEATS, -1) > 0:
                        run(look(place + CODE), look(place + CODE + 8))
                        left = times + more
                add(place + INSIDE, -1)
            elif left < more:
                before = now(clock)
                give_way(yielding)
                after = now(clock)
                if after - before > _GONE:
                    write(wanted, after + _WANTED)
                    return last
            else:
                pause()
        return last

    def share(place, number, seats, code, words, result, times, yielding):  # type: ignore[no-untyped-def]
        if seats > 0:
            write(place + SEATS, seats)
            write(place + CODE, code)
            write(place + CODE + 8, words)
            write(place + OPEN, number)
        run(code, words)
        if seats > 0:
            write(place + OPEN, 0)
            left = times
            while look(place + INSIDE) > 0:
                if left > 0:
                    left -= 1
                    pause()
                elif yielding:
                    give_way(yielding)
        return look(result)

    return compiled(attend), compiled(share)


@functools.cache
def _times() -> tuple[int, int]:
    """How often to look in ``WHILE``, and after that in ``LONGER``."""
    _seconds(1, 1)  # compiled now
    times = int(500 * WHILE / min(_seconds(500, 0) for _ in range(5)))
    if not _yielding():
        return max(1, times), 0
    return max(1, times), int(500 * LONGER / min(_seconds(0, 500) for _ in range(5)))


def _seconds(times: int, more: int) -> float:
    place = np.zeros(PLACE_BYTES // 8 + 1, np.int64)
    first = place.ctypes.data
    attend_jobs, _ = _functions()
    start = time.perf_counter()
    more = more if _yielding() else 0
    attend_jobs(first, 0, times, more, _yielding(), 0, first + PLACE_BYTES)
    return time.perf_counter() - start


@functools.cache
def _yielding() -> int:
    """Address of the system's function that lets another thread have the core; 0: not known."""
    try:
        library = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


@functools.cache
def _clock() -> int:
    """Address of the system's function that tells the time; 0: not known."""
    if sys.platform == "win32" or sys.maxsize < 2**32:
        return 0
    try:
        return ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


def attend(place: int, last: int, wanted: int) -> int:
    """Take part in the jobs at a meeting place until none has come for ``WHILE + LONGER`` seconds.

    While others want the core, for a part of ``WHILE``.

    Args:
        place: address of ``PLACE_BYTES`` bytes, zero at first, at the beginning of a line.
        last: number of the last job that this thread has seen; 0 at first.
        wanted: address of a word of this thread's own, 0 at first: the time until which its core
            counts as wanted by others.

    Returns:
        ``last``, afterwards.
    """
    function, _ = _functions()
    return int(function(place, last, *_times(), _yielding(), _clock(), wanted))


@functools.cache
def sharing() -> Callable[..., int]:
    """Return ``share(place, number, seats, code, words, result, *patience())``, compiled.

    It runs a kernel in this thread, and in up to ``seats`` others that attend at ``place``, and
    returns the word at the address ``result``.

    When it returns, all of them have finished and nobody looks at ``words`` any more. Nothing of
    Python runs meanwhile, so no signal can come between.

    - ``place``: as for :func:`attend`; of one caller at a time.
    - ``number``: of this job, greater than those before; not looked at if there are no ``seats``.
    - ``code``, ``words``: what :class:`~gpuconv_kernels.host.kernel.Kernel` prepares.
    """
    return _functions()[1]  # type: ignore[no-any-return]


@functools.cache
def patience() -> tuple[int, int]:
    """Return how often to look in ``WHILE``, and the address of what lets others have the core."""
    return _times()[0], _yielding()
