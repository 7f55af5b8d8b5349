"""Convolution as im2col + GEMM, in chunks under a limit of memory.

The column matrix (im2col.cu) has one row for each output position, with what its window reads,
group by group: (positions, g, taps, C/g). All groups are one batched matrix product of views of
it, of the weights (taps, C/g, g, F/g) and of the output (positions, g, F/g), without copies::

    forward          columns = im2col(x)         y       = columns @ w            group by group
    backward_weight  columns = im2col(x)         dw     += columns^T @ dy
    backward_input   columns = dy @ w^T          dx      = col2im(columns)

The matrix exists for one chunk of positions at a time and is never kept. Chunks are taken in order,
so the results are the same on every run. A 1x1 kernel of stride 1 without padding needs no
columns at all: the pixels are the matrix.

For backward_input the other way would be a convolution of ``dy`` with the flipped kernel, one for
each sub-pixel phase. The way back by col2im multiplies only what exists, at any stride, dilation
and padding, needs no other order of the weights, and is one product whatever the phases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from gpuconv_kernels.raw.runtime import Runtime, itemsize, row_grid
from gpuconv_kernels.raw.windows import Windowed, window

Array = Any
Epilogue = Callable[[Array], None]

MOST_ROWS = 2**30
"""Rows of one matrix product: cuBLAS counts them in 32 bits."""

_TILE = 32  # rows of a block of im2col, as in im2col.cu
_MOST_GRID_Y = 65_535


class Convolution(Windowed, Protocol):
    """The part of ``gpuconv.geometry.ConvGeometry`` that is read here."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def kernel(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def is_pointwise(self) -> bool: ...


class Chunks(NamedTuple):
    """How the output positions are cut.

    Attributes:
        rows: positions of a chunk; at least one, if there are any. The last may have fewer.
        number: of chunks.
        row_bytes: of one row of the column matrix.
        whole_samples: whether no sample is divided between chunks.
    """

    rows: int
    number: int
    row_bytes: int
    whole_samples: bool

    @property
    def bytes(self) -> int:
        """Of the column matrix of one chunk."""
        return self.rows * self.row_bytes


@lru_cache(maxsize=1024)
def chunks(g: Convolution, bytes_per_number: int, limit: int) -> Chunks:
    """Cut the output positions so that a chunk's columns stay within ``limit`` bytes.

    Whole samples where they fit. A single position that does not fit is a chunk nevertheless.
    """
    row_bytes = math.prod(g.kernel) * g.in_channels * bytes_per_number
    plane = math.prod(g.output)
    positions = g.batch * plane
    if positions == 0:
        return Chunks(0, 0, row_bytes, True)
    room = max(min(limit // row_bytes, positions, MOST_ROWS), 1)
    if room >= plane:
        parts = -(-g.batch // (room // plane))
        samples = -(-g.batch // parts)
        return Chunks(samples * plane, -(-g.batch // samples), row_bytes, True)
    rows = -(-positions // -(-positions // room))
    return Chunks(rows, -(-positions // rows), row_bytes, False)


def forward(
    rt: Runtime,
    x: Array,
    w: Array,
    y: Array,
    g: Convolution,
    limit: int,
    epilogue: Epilogue | None = None,
) -> None:
    """Write ``y`` (N, *out, F). All arrays are contiguous; ``epilogue`` works on rows in place."""
    weights = _by_group(rt, w, g.groups)  # (g, taps*C/g, F/g)
    out = rt.xp.reshape(y, (g.batch * math.prod(g.output), g.out_channels))
    for first, rows, columns in _columns_of(rt, x, g, limit):
        target = out[first : first + rows, :]
        rt.multiply(columns, weights, _by_group(rt, target, g.groups))
        if epilogue is not None:
            epilogue(target)


def backward_weight(
    rt: Runtime, dy: Array, x: Array, dw: Array, g: Convolution, limit: int
) -> None:
    """Write ``dw`` (*k, C/g, F): the sum over chunks of columns transposed times ``dy``."""
    out = _by_group(rt, dw, g.groups)
    gradients = rt.xp.reshape(dy, (g.batch * math.prod(g.output), g.out_channels))
    for first, rows, columns in _columns_of(rt, x, g, limit):
        gradient = gradients[first : first + rows, :]
        rt.multiply(
            rt.transpose(columns, (0, 2, 1)),
            _by_group(rt, gradient, g.groups),
            out,
            add=first > 0,
        )


def backward_input(rt: Runtime, dy: Array, w: Array, dx: Array, g: Convolution, limit: int) -> None:
    """Write ``dx`` (N, *in, C); where a sample is divided between chunks, ``dx`` must be zero."""
    weights = rt.transpose(_by_group(rt, w, g.groups), (0, 2, 1))  # (g, F/g, taps*C/g)
    gradients = rt.xp.reshape(dy, (g.batch * math.prod(g.output), g.out_channels))
    if g.is_pointwise:
        out = rt.xp.reshape(dx, (gradients.shape[0], g.in_channels))
        for first, rows in _pieces(gradients.shape[0], MOST_ROWS):
            gradient, target = gradients[first : first + rows, :], out[first : first + rows, :]
            rt.multiply(
                _by_group(rt, gradient, g.groups),
                weights,
                _by_group(rt, target, g.groups),
            )
        return
    if g.batch == 0:
        return
    cut = chunks(g, itemsize(rt, dy), limit)
    width = math.prod(g.kernel) * g.in_channels
    scratch = rt.empty((cut.rows, width), dy.dtype)
    for first, rows in _pieces(gradients.shape[0], cut.rows):
        gradient, columns = gradients[first : first + rows, :], scratch[:rows, :]
        rt.multiply(
            _by_group(rt, gradient, g.groups),
            weights,
            _by_group(rt, columns, g.groups),
        )
        col2im(rt, columns, dx, g, first, rows, accumulate=not cut.whole_samples)


def im2col(rt: Runtime, x: Array, columns: Array, g: Convolution, first: int, rows: int) -> None:
    """Write the columns (rows, taps*C) of the output positions from ``first`` on."""
    packs = math.prod(g.kernel) * g.in_channels
    if g.in_channels // g.groups % 4 == 0:
        packs //= 4
    grid = (-(-rows // _TILE), min(-(-packs // 32), _MOST_GRID_Y))
    arguments = (x, columns, window(g, g.kernel), g.in_channels, g.groups, first, rows)
    rt.launch("im2col", grid, (32, 8), arguments)


def col2im(
    rt: Runtime,
    columns: Array,
    dx: Array,
    g: Convolution,
    first: int,
    rows: int,
    accumulate: bool,
) -> None:
    """Sum the columns of the output positions from ``first`` on where they meet the input.

    Writes all elements of ``dx`` that these positions can reach, or adds to them.
    """
    start, stop = reached(g, first, rows, whole=not accumulate)
    if stop <= start:
        return
    width = g.in_channels // 4 if g.in_channels // g.groups % 4 == 0 else g.in_channels
    grid, block = row_grid(stop - start, width)
    shape = window(g, g.kernel)
    arguments = (columns, dx, shape, g.in_channels, g.groups, first, rows, start, stop, accumulate)
    rt.launch("col2im", grid, block, arguments)


def reached(g: Convolution, first: int, rows: int, whole: bool) -> tuple[int, int]:
    """The range of input positions, counted through all samples, that output positions can meet.

    Args:
        g: the convolution.
        first, rows: the output positions.
        whole: take the samples from their first to their last position.
    """
    plane, extent = math.prod(g.output), math.prod(g.input)
    first_sample, last_sample = first // plane, (first + rows - 1) // plane
    if whole:
        return first_sample * extent, (last_sample + 1) * extent
    line, inner = plane // g.output[0], extent // g.input[0]
    reach = (g.kernel[0] - 1) * g.dilation[0] + 1
    top = first % plane // line * g.stride[0] - g.pads[0][0]
    bottom = (first + rows - 1) % plane // line * g.stride[0] - g.pads[0][0] + reach
    top, bottom = (min(max(edge, 0), g.input[0]) for edge in (top, bottom))
    return first_sample * extent + top * inner, last_sample * extent + bottom * inner


def _columns_of(
    rt: Runtime, x: Array, g: Convolution, limit: int
) -> Iterator[tuple[int, int, Array]]:
    """Yield ``(first, rows, columns)`` for each chunk, the columns as (g, rows, taps*C/g)."""
    positions = g.batch * math.prod(g.output)
    if positions == 0:
        return
    if g.is_pointwise:
        pixels = rt.xp.reshape(x, (positions, g.in_channels))
        for first, rows in _pieces(positions, MOST_ROWS):
            part = pixels[first : first + rows, :]
            yield first, rows, _by_group(rt, part, g.groups)
        return
    cut = chunks(g, itemsize(rt, x), limit)
    scratch = rt.empty((cut.rows, math.prod(g.kernel) * g.in_channels), x.dtype)
    for first, rows in _pieces(positions, cut.rows):
        columns = scratch[:rows, :]
        im2col(rt, x, columns, g, first, rows)
        yield first, rows, _by_group(rt, columns, g.groups)


def _pieces(count: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, size):
        yield first, min(size, count - first)


def _by_group(rt: Runtime, matrix: Array, groups: int) -> Array:
    """View (..., g * n), its leading axes as one, as (g, rows, n)."""
    width = matrix.shape[-1]
    rows = math.prod(matrix.shape[:-1])
    split = rt.xp.reshape(matrix, (rows, groups, width // groups))
    return rt.transpose(split, (1, 0, 2))
