"""How much memory a convolution may use beyond its inputs and outputs.

On a CUDA device the default follows the memory that is free. It is looked at once in several
thousand decisions, since asking the driver costs more than a decision; counting them, not
the time, and rounding to a power of two keeps runs of the same program alike. Who shares a
device with other programs and needs the same bits on every run sets ``config.workspace_limit``.
"""

from __future__ import annotations

from gpuconv.settings import config

_LARGEST, _SMALLEST = 1024**3, 16 * 1024**2
_SHARE = 8
"""The part of the free memory that a workspace may have: one in so many."""
_DECISIONS = 4096
"""How often a limit is used before the free memory is looked at again."""


class FreeMemoryLimit:
    """The default limit of a CUDA device."""

    def __init__(self) -> None:
        self._limit = _SMALLEST
        self._left = 0

    def current(self) -> int:
        """Return the limit in bytes."""
        if self._left <= 0:
            self._limit = limit_within(free_memory())
            self._left = _DECISIONS
        self._left -= 1
        return self._limit

    def forget(self) -> None:
        """Look at the free memory when the limit is next asked for."""
        self._left = 0


cuda_limit = FreeMemoryLimit()


def workspace_limit(device: str) -> int:
    """Return the limit in bytes for a device: ``config.workspace_limit``, or its default."""
    if device != "cuda":
        return config.workspace_limit
    chosen = config.chosen_workspace_limit
    return cuda_limit.current() if chosen is None else chosen


def limit_within(free: int) -> int:
    """Return an eighth of ``free`` bytes as a power of two, from 16 MiB to 1 GiB."""
    share = max(free // _SHARE, 1)
    return min(max(1 << (share.bit_length() - 1), _SMALLEST), _LARGEST)


def free_memory() -> int:
    """Return the bytes that the current CUDA device has left, CuPy's unused blocks included."""
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(free) + int(cupy.get_default_memory_pool().free_bytes())
