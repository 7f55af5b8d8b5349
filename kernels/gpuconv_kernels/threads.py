"""How many threads compute: one number for compiled kernels and BLAS."""

from __future__ import annotations

import os

_chosen: int | None = None


def set_threads(count: int | None) -> None:
    """Let kernels use ``count`` threads, the caller's included; None: :func:`usual_threads`."""
    global _chosen
    _chosen = count


def threads() -> int:
    """Threads that a kernel may use."""
    return _chosen or _usual


def _find_usual() -> int:
    for name in ("GPUCONV_THREADS", "OMP_NUM_THREADS"):
        word = os.environ.get(name, "").partition(",")[0].strip()
        if word.isdecimal() and int(word) > 0:
            return int(word)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


_usual = _find_usual()


def usual_threads() -> int:
    """``GPUCONV_THREADS``, else ``OMP_NUM_THREADS``, else the cores that this process may use."""
    return _usual
