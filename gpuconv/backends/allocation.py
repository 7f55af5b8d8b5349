"""Keeping freed memory for the next step, where the C library would return it at once.

A training step makes and frees the same arrays each time. glibc gives memory of more than 128 KiB
back to the system when it is freed, and every page of the next array is then fetched, and cleared,
anew: a third of the time of a small network's step.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # names of glibc's mallopt
_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 32 * 1024**2  # glibc takes no more
KEPT: Final = 256 * 1024**2
"""Bytes of freed memory, at the end of the heap, that the process keeps."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let the process keep freed arrays of up to 32 MiB; say whether that was possible.

    Only with glibc, and not where the user has chosen by glibc's own environment variables
    ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_``.
    """
    chosen = any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP"))
    if chosen or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
