"""What threads ask of the system's scheduler; where it knows of no such thing, nothing happens."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable

_TURN = 100_000
"""Nanoseconds: the shortest turn that can be asked for."""
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}
"""Number of Linux's system call, which the C library has no function for."""


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


def ask_for_short_turns() -> bool:
    """Ask that this thread, when it is woken, need not wait for another's turn to end.

    Linux 6.12 and later let a thread choose how long its turns are, and one with shorter turns that
    wakes goes first. It gets no more of the core in all. Earlier ones ignore the wish.

    Returns:
        whether the system has been asked.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        return False
    number = _SET_ATTRIBUTES.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    size = 48
    # struct sched_attr: its size, policy, flags, nice value, priority, and three times.
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = struct.pack("=IIQiIQQQ", size, os.SCHED_OTHER, 0, nice, 0, _TURN, 0, 0)
    try:
        call = ctypes.CDLL(None).syscall
    except (AttributeError, OSError):  # another C library
        return False
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_long
    return bool(call(number, 0, wish, 0) == 0)
