"""How many CPU kernels this process has compiled, and how long it took."""

from __future__ import annotations

from typing import NamedTuple


class Compiled(NamedTuple):
    """What has been compiled: ``kernels``, parts of them included, in so many ``seconds``."""

    kernels: int
    seconds: float


_so_far = Compiled(0, 0.0)


def compiled_so_far() -> Compiled:
    """Return the sum of this process; what was taken from the disk does not count."""
    return _so_far


def count(seconds: float) -> None:
    """Add a kernel that took so long."""
    global _so_far
    _so_far = Compiled(_so_far.kernels + 1, _so_far.seconds + seconds)
