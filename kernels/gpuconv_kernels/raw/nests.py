"""The axes of an array and of the vectors broadcast to it, as few as possible (nest.cuh).

Axes of extent 1 vanish, and neighbours that behave alike become one: BatchNorm's (N, H, W, C) are
two, (N*H*W, C); GroupNorm's (N, H, W, G, C/G) are four, since its mean varies along N and G and
its scale along G and C/G.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpuconv_kernels.raw.source import NEST

MOST_AXES = 4
"""Axes that the kernels take: three in a ``Nest``, and the innermost."""


class Axis(NamedTuple):
    """Axes of x that lie together and behave alike; strides count numbers, 0: not along it."""

    extent: int
    x: int
    mean: int
    scale: int
    is_reduced: bool


@lru_cache(maxsize=1024)
def merged(
    shape: tuple[int, ...],
    mean_shape: tuple[int, ...],
    scale_shape: tuple[int, ...],
    reduced: tuple[int, ...] = (),
) -> tuple[Axis, ...]:
    """Merge the axes of a contiguous array, outermost first; at least one is left.

    Args:
        shape: of x.
        mean_shape, scale_shape: extents of 1 are broadcast, and so are missing leading axes.
        reduced: axes to sum over, counted from 0.
    """
    rank = len(shape)
    means, scales = (_padded(s, rank) for s in (mean_shape, scale_shape))
    merging: list[tuple[int, bool, bool, bool]] = []
    for axis, extent in enumerate(shape):
        if extent == 1:
            continue
        alike = (means[axis] > 1, scales[axis] > 1, axis in reduced)
        if merging and merging[-1][1:] == alike:
            merging[-1] = (merging[-1][0] * extent, *alike)
        else:
            merging.append((extent, *alike))
    axes: list[Axis] = []
    x = mean = scale = 1
    for extent, has_mean, has_scale, is_reduced in reversed(merging):
        axes.append(Axis(extent, x, mean if has_mean else 0, scale if has_scale else 0, is_reduced))
        x *= extent
        mean *= extent if has_mean else 1
        scale *= extent if has_scale else 1
    return tuple(reversed(axes)) or (Axis(1, 1, 0, 0, bool(reduced)),)


def nest(axes: Sequence[Axis]) -> Any:
    """``struct Nest`` of at most three axes, given outermost first."""
    made = np.zeros((), NEST)
    made["count"] = len(axes)
    made["extent"] = 1
    for place, axis in enumerate(reversed(axes)):
        made["extent"][place] = axis.extent
        made["x"][place] = axis.x
        made["mean"][place] = axis.mean
        made["scale"][place] = axis.scale
    return made


def kept_shape(shape: Sequence[int], reduced: Collection[int]) -> tuple[int, ...]:
    """The shape of a sum that keeps extents of 1."""
    return tuple(1 if axis in reduced else n for axis, n in enumerate(shape))


def positive(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from 0, in order."""
    return tuple(sorted(axis % rank for axis in axes))


def extent_of(axes: Sequence[Axis]) -> int:
    """Number of elements along some axes together."""
    return math.prod(axis.extent for axis in axes)


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape
