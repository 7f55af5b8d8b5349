"""Launchers of sums.cu: sums over any axes in two stages, always in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gpuconv_kernels.raw.nests import (
    MOST_AXES,
    Axis,
    extent_of,
    kept_shape,
    merged,
    nest,
)
from gpuconv_kernels.raw.runtime import THREADS, Runtime, row_block

Array = Any

VALUES: Final = 0
SQUARES: Final = 1
GRADIENTS: Final = 2
"""``enum Term`` in sums.cu."""

_BLOCKS = 1024
"""Blocks of the first stage that keep any device busy."""

_LONGEST = 256
"""Elements that a thread adds up, about: more segments are made of longer sums."""

_MOST_GRID_Y = 65_535


class Operands(NamedTuple):
    """What is summed; all contiguous. Vectors are broadcast to ``x``; None: not in the term."""

    x: Array
    dy: Array | None = None
    mean: Array | None = None
    inverse: Array | None = None
    scale: Array | None = None


class Partial(NamedTuple):
    """Sums of each segment: (segments, kept) in float64, and the shape of the result."""

    first: Array
    second: Array | None
    shape: tuple[int, ...]


def sum_channels(rt: Runtime, dy: Array) -> Array:
    """``dy`` (..., C) -> (C,), summed over every other axis."""
    channels = dy.shape[-1]
    if channels == 0 or math.prod(dy.shape) == 0:
        return rt.zeros((channels,), dy.dtype)
    rows = rt.xp.reshape(dy, (-1, channels))
    total = total_of(rt, partial_sums(rt, VALUES, Operands(rows), (0,)), dy.dtype)
    return rt.xp.reshape(total, (channels,))


def channel_means(rt: Runtime, x: Array) -> Array:
    """``x`` (N, M, C) -> (N, C), averaged over M."""
    if math.prod(x.shape) == 0:
        return rt.zeros((x.shape[0], x.shape[2]), x.dtype)
    partial = partial_sums(rt, VALUES, Operands(x), (1,))
    mean = total_of(rt, partial, x.dtype, 1.0 / x.shape[1])
    return rt.xp.reshape(mean, (x.shape[0], x.shape[2]))


def total_of(rt: Runtime, partial: Partial, dtype: Any, factor: float = 1.0) -> Array:
    """``factor`` times the first sums, as an array that keeps extents of 1."""
    out = rt.empty(partial.shape, dtype)
    finish(rt, partial.first, out, factor)
    return out


def finish(rt: Runtime, partial: Array, out: Array, factor: float) -> None:
    """The second stage: ``partial`` (segments, kept) in float64 -> ``out``, of ``kept`` numbers."""
    segments, kept = partial.shape
    grid = (-(-kept // 32),)
    rt.launch("finish_sums", grid, (32, 8), (partial, out, kept, segments, factor))


class Arrangement(NamedTuple):
    """How the first stage is started: what follows from the axes alone.

    Attributes:
        kernel: ``sum_runs`` or ``sum_columns``, by the fate of the innermost axis.
        block: threads (X, Y).
        blocks: of one segment.
        kept: number of sums.
        reduced: elements of each sum.
        per_segment, segments: how these are cut.
    """

    kernel: str
    block: tuple[int, int]
    blocks: int
    kept: int
    reduced: int
    per_segment: int
    segments: int


def arrange(axes: Sequence[Axis]) -> Arrangement:
    """Choose kernel, block and segments for at most four merged axes, outermost first."""
    *outer, inner = axes
    kept = extent_of([a for a in outer if not a.is_reduced])
    reduced = extent_of([a for a in outer if a.is_reduced])
    if inner.is_reduced:
        kernel, reduced = "sum_runs", reduced * inner.extent
        block = row_block(reduced, widest=THREADS)
        blocks, together = -(-kept // block[1]), block[0]
    else:
        kernel, block = "sum_columns", row_block(inner.extent, widest=32)
        blocks, together = -(-inner.extent // block[0]) * kept, block[1]
        kept *= inner.extent
    return Arrangement(kernel, block, blocks, kept, reduced, *_cut(reduced, blocks, together))


def workspace_bytes(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Bytes that a sum of plain values over ``axes`` needs between its stages."""
    if math.prod(shape) == 0:
        return 0
    plan = arrange(merged(shape, (), (), axes))
    return plan.segments * plan.kept * 8


def partial_sums(rt: Runtime, term: int, given: Operands, axes: tuple[int, ...]) -> Partial:
    """The first stage: sums over ``axes`` (from 0, in order) of a term; ``x`` is not empty.

    Memory: 8 bytes a segment, kept element and sum.
    """
    shape = kept_shape(given.x.shape, axes)
    together = _merge(given, axes)
    if len(together) > MOST_AXES:
        given, axes = _sorted_by_fate(rt, given, axes)
        together = _merge(given, axes)
    plan = arrange(together)
    *outer, inner = together
    nests = (nest([a for a in outer if a.is_reduced is fate]) for fate in (False, True))
    first = rt.empty((plan.segments, plan.kept), rt.xp.float64)
    second = rt.empty((plan.segments, plan.kept), rt.xp.float64) if term == GRADIENTS else None
    arguments = (
        *(given.x, given.dy, given.mean, given.inverse, given.scale, first, second),
        *(*nests, inner.extent, inner.mean, inner.scale, term),
        *(plan.kept, plan.reduced, plan.per_segment),
    )
    rt.launch(plan.kernel, (plan.blocks, plan.segments), plan.block, arguments)
    return Partial(first, second, shape)


def _cut(count: int, blocks: int, together: int) -> tuple[int, int]:
    """Elements of a segment and the number of segments.

    Args:
        count: elements of each sum.
        blocks: blocks of one segment.
        together: threads that share a sum.
    """
    busy = min(-(-_BLOCKS // blocks), -(-count // (4 * together)))
    short = -(-count // (_LONGEST * together))
    segments = max(min(max(busy, short), _MOST_GRID_Y), 1)
    per_segment = -(-count // segments)
    return per_segment, -(-count // per_segment)


def _merge(given: Operands, axes: tuple[int, ...]) -> Any:
    mean, scale = given.mean, given.scale
    return merged(
        tuple(given.x.shape),
        () if mean is None else tuple(mean.shape),
        () if scale is None else tuple(scale.shape),
        axes,
    )


def _sorted_by_fate(
    rt: Runtime, given: Operands, axes: tuple[int, ...]
) -> tuple[Operands, tuple[int, ...]]:
    """Copy everything to the full shape with the kept axes first: two axes are then left."""
    shape = tuple(given.x.shape)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    order = (*kept, *axes)
    moved = (
        None
        if array is None
        else rt.contiguous(rt.transpose(rt.xp.broadcast_to(array, shape), order))
        for array in given
    )
    return Operands(*moved), tuple(range(len(kept), len(shape)))
