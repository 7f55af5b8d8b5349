"""Convolution as im2col + GEMM, in boxes that stay in cache (Chellapilla et al. 2006).

For a box of output positions the windows that they read are copied side by side into a
*column matrix* (positions, taps * C/g); a matrix product with the weights (taps * C/g, F/g)
then gives the outputs::

    x (N, *in, C) --gather_block--> padded block --windows--> columns (M, taps*C) @ w (taps*C, F)

The column matrix exists for one box at a time and is never kept: backward_weight builds it
again, which costs less than the memory traffic of storing it. With channels last, the
``kw*C`` numbers of one kernel row lie next to each other in the input, so they are copied as one
item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gpuconv_kernels.array.boxes import (
    Block,
    NDArray,
    Windowed,
    block_extents,
    box_shape,
    boxes,
    gather_block,
    slices,
)

Epilogue = Callable[[NDArray], None]

COLUMN_BYTES = 4 * 1024**2
"""Size of one box's column matrix that was fastest on several machines: large enough for the
matrix product to reach its rate, small enough to be still in the last-level cache."""


class Convolution(Windowed, Protocol):
    """The part of ``gpuconv.geometry.ConvGeometry`` that these kernels read."""

    @property
    def batch(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def kernel(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...


class Workspace:
    """Box shape and scratch sizes of one convolution under a limit in bytes."""

    def __init__(self, g: Convolution, itemsize: int, limit: int, target: int) -> None:
        self.extents = (g.batch, *g.output)
        depth = math.prod(g.kernel) * g.in_channels
        positions = max(min(target, limit) // (depth * itemsize), 1)
        while True:
            self.shape = box_shape(self.extents, positions)
            self.columns = math.prod(self.shape) * depth
            self.block = (
                self.shape[0]
                * math.prod(block_extents(self.shape[1:], g.kernel, g))
                * g.in_channels
            )
            self.bytes = (self.columns + self.block) * itemsize
            if self.bytes <= limit or positions == 1:
                break
            positions = max(min(positions, math.prod(self.shape)) // 2, 1)

    def scratch(self, dtype: Any) -> tuple[NDArray, NDArray]:
        """Allocate the column matrix and the padded block."""
        return np.empty(self.columns, dtype), np.empty(self.block, dtype)


def columns_of(source: Block, shape: Sequence[int], g: Convolution, scratch: NDArray) -> NDArray:
    """Copy the windows of a box into its column matrix, (groups, M, taps * C/g)."""
    block = source.array
    channels = g.in_channels // g.groups
    positions = math.prod(shape)
    columns = scratch[: positions * math.prod(g.kernel) * g.in_channels]
    spatial = block.strides[1:-1]
    steps = tuple(stride * s for stride, s in zip(spatial, g.stride, strict=True))
    taps = tuple(stride * d for stride, d in zip(spatial, g.dilation, strict=True))
    if g.groups == 1 and g.dilation[-1] == 1:
        # One kernel row of all channels is one item: the copy then moves kw*C numbers at a time
        # instead of setting up an inner loop for each of them.
        item = np.dtype(("V", g.kernel[-1] * channels * block.itemsize))
        extents = (*shape, *g.kernel[:-1])
        strides = (block.strides[0], *steps, *taps[:-1])
    else:
        last = block.strides[-1]
        item = block.dtype
        extents = (g.groups, *shape, *g.kernel, channels)
        strides = (channels * last, block.strides[0], *steps, *taps, last)
    # Unlike as_strided, this constructor checks the windows against the end of the buffer.
    offset = block.__array_interface__["data"][0] - source.owner.__array_interface__["data"][0]
    windows = np.ndarray(extents, item, source.owner, offset, strides)
    np.copyto(columns.view(item).reshape(extents), windows)
    return columns.reshape(g.groups, positions, -1)


def grouped_weights(w: NDArray, groups: int) -> NDArray:
    """(*k, C/g, F) -> (groups, taps * C/g, F/g); a view for one group."""
    filters = w.shape[-1]
    return w.reshape(-1, groups, filters // groups).transpose(1, 0, 2)


def forward(
    x: NDArray,
    w: NDArray,
    y: NDArray,
    g: Convolution,
    workspace: Workspace,
    epilogue: Epilogue | None = None,
) -> None:
    """Write ``y`` (N, *out, F), of any strides; ``epilogue`` changes each finished box in place."""
    columns_scratch, block_scratch = workspace.scratch(y.dtype)
    weights = grouped_weights(w, g.groups)
    per_group = g.out_channels // g.groups
    direct = y.flags.c_contiguous
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        block = gather_block(x, box, g.kernel, g, block_scratch)
        columns = columns_of(block, shape, g, columns_scratch)
        target = y[slices(box)]
        result = target if direct else np.empty((*shape, g.out_channels), y.dtype)
        if g.groups == 1:
            np.matmul(columns[0], weights[0], out=result.reshape(-1, g.out_channels))
        else:
            by_group = result.reshape(-1, g.groups, per_group).transpose(1, 0, 2)
            np.matmul(columns, weights, out=by_group)
        if epilogue is not None:
            epilogue(result)
        if not direct:
            target[...] = result


def backward_weight(
    dy: NDArray, x: NDArray, dw: NDArray, g: Convolution, workspace: Workspace
) -> None:
    """Write ``dw`` (*k, C/g, F): the sum over boxes of columns transposed times ``dy``."""
    columns_scratch, block_scratch = workspace.scratch(dw.dtype)
    per_group = g.out_channels // g.groups
    depth = math.prod(g.kernel) * g.in_channels // g.groups
    total = np.zeros((g.groups, depth, per_group), dw.dtype)
    part = np.empty_like(total)
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        block = gather_block(x, box, g.kernel, g, block_scratch)
        columns = columns_of(block, shape, g, columns_scratch)
        gradient = np.ascontiguousarray(dy[slices(box)]).reshape(-1, g.groups, per_group)
        np.matmul(columns.transpose(0, 2, 1), gradient.transpose(1, 0, 2), out=part)
        total += part
    dw[...] = total.transpose(1, 0, 2).reshape(dw.shape)
