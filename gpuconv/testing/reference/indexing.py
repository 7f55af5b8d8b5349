"""How the reference addresses pixels ``x[:, *position, channels]`` and taps ``w[*tap, :, :]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Position = tuple[int, ...]

EVERY = slice(None)


def pixel(position: Sequence[int], channels: slice = EVERY) -> tuple[Any, ...]:
    """Index of every sample at one spatial position, in all or some channels: (N, channels)."""
    return (EVERY, *position, channels)


def tap(
    position: Sequence[int], second_last: slice = EVERY, last: slice = EVERY
) -> tuple[Any, ...]:
    """Index of the channel matrix at one kernel position, or of a part of it."""
    return (*position, second_last, last)


def group_slices(groups: int, channels: int) -> list[slice]:
    """The channels of each group, in order."""
    size = channels // groups
    return [slice(g * size, (g + 1) * size) for g in range(groups)]


def flat_index(position: Sequence[int], extents: Sequence[int]) -> int:
    """Row-major number of a position in the spatial plane."""
    index = 0
    for p, n in zip(position, extents, strict=True):
        index = index * n + p
    return index
