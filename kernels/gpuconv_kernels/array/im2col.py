"""Convolution as im2col + GEMM, in boxes that stay in cache (Chellapilla et al. 2006).

For a box of output positions the windows that they read are copied side by side into a
*column matrix* (positions, taps * C/g); a matrix product with the weights (taps * C/g, F/g)
then gives the outputs::

    x (N, *in, C) --gather_block--> padded block --windows--> columns (M, taps*C) @ w (taps*C, F)

The column matrix exists for one box at a time and is never kept: backward_weight builds it
again, which costs less than the memory traffic of storing it. With channels last, the
``kw*C`` numbers of one kernel row lie next to each other in the input, so they are copied as one
item.

**Slabs.** Windows one below the other share all but one of their rows. Where the stride of the
first axis is 1, the columns therefore hold the taps of the other axes only, for every input row
once, and the kernel's rows become products of *slabs* of them, one row further down each::

    y[rows p..q] = sum over t of  columns[rows p+t..q+t] @ w[t]        (t: kernel row)

For a 3x3 kernel that is a third of the copying, for one more pass over ``y`` a kernel row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gpuconv_kernels.array.boxes import (
    Block,
    Box,
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


SLAB_DEPTH, SLAB_POSITIONS = 96, 128
"""Slabs need products that are deep enough to outweigh the additions to ``y``, and enough
positions in a sample, for a box of slabs holds one sample only."""


def slab_positions_for_weights(g: Convolution) -> int:
    """Positions in a sample from which backward_weight gains by slabs.

    Each sample then adds a whole ``dw`` to the total: three passes over taps*C*F numbers, against
    the copies saved, two thirds of taps*C numbers a position.
    """
    return max(SLAB_POSITIONS, 4 * g.out_channels // g.groups)


class Workspace:
    """How one convolution is cut, and its scratch sizes.

    Args:
        g: the convolution.
        itemsize: bytes of a number.
        limit: bytes that :attr:`bytes` should not exceed, if one position a box allows it.
        target: bytes that the column matrix should have.
        slab_positions: positions in a sample from which slabs pay.

    Attributes:
        extents, shape: the output (N, *out), and the largest box of it.
        slabs: number of products a box: the kernel's rows, or 1 if the columns hold all taps.
        kernel: the taps that the columns hold.
        bytes: of columns, padded block and partial result together.
    """

    def __init__(
        self, g: Convolution, itemsize: int, limit: int, target: int, slab_positions: int
    ) -> None:
        self.extents = (g.batch, *g.output)
        rest = math.prod(g.kernel[1:]) * g.in_channels
        self.slabs = 1
        if (
            g.stride[0] == 1
            and rest // g.groups >= SLAB_DEPTH
            and math.prod(g.output) >= slab_positions
        ):
            self.slabs = g.kernel[0]
        self.kernel = g.kernel if self.slabs == 1 else (1, *g.kernel[1:])
        depth = math.prod(self.kernel) * g.in_channels
        positions = max(min(target, limit) // (depth * itemsize), 1)
        while True:
            self._cut(g, depth, positions)
            self.bytes = (self.columns + self.block + self.part) * itemsize
            if self.bytes <= limit or positions == 1:
                break
            positions = max(min(positions, math.prod(self.shape)) // 2, 1)

    def _cut(self, g: Convolution, depth: int, positions: int) -> None:
        """Choose a box of at most so many positions, and count the elements it needs."""
        if self.slabs == 1:
            self.shape = box_shape(self.extents, positions)
        else:
            self.shape = (1, *box_shape(self.extents[1:], positions))
        extents = block_extents(self.shape[1:], g.kernel, g)
        self.columns = math.prod(self.column_shape(self.shape, g)) * depth
        self.block = self.shape[0] * math.prod(extents) * g.in_channels
        self.part = 0 if self.slabs == 1 else math.prod(self.shape) * g.out_channels

    def column_shape(self, shape: Sequence[int], g: Convolution) -> tuple[int, ...]:
        """Positions of the column matrix for a box: with slabs, every input row that it reads."""
        if self.slabs == 1:
            return tuple(shape)
        return (shape[0], shape[1] + g.dilation[0] * (self.slabs - 1), *shape[2:])

    def slab(self, columns: NDArray, t: int, shape: Sequence[int], g: Convolution) -> NDArray:
        """Return the part of the columns that kernel row ``t`` multiplies, (groups, M, depth)."""
        if self.slabs == 1:
            return columns
        row = math.prod(shape[2:])
        start = t * g.dilation[0] * row
        return columns[:, start : start + shape[1] * row]

    def scratch(self, dtype: Any) -> tuple[NDArray, NDArray, NDArray]:
        """Allocate the column matrix, the padded block and the partial result."""
        return (
            np.empty(self.columns, dtype),
            np.empty(self.block, dtype),
            np.empty(self.part, dtype),
        )


def columns_of(
    source: Block,
    shape: Sequence[int],
    kernel: Sequence[int],
    g: Convolution,
    scratch: NDArray,
) -> NDArray:
    """Copy the windows of ``kernel`` at ``shape`` positions side by side, (groups, M, depth)."""
    block = source.array
    channels = g.in_channels // g.groups
    positions = math.prod(shape)
    columns = scratch[: positions * math.prod(kernel) * g.in_channels]
    spatial = block.strides[1:-1]
    steps = tuple(stride * s for stride, s in zip(spatial, g.stride, strict=True))
    taps = tuple(stride * d for stride, d in zip(spatial, g.dilation, strict=True))
    if g.groups == 1 and g.dilation[-1] == 1:
        # One kernel row of all channels is one item: the copy then moves kw*C numbers at a time
        # instead of setting up an inner loop for each of them.
        item = np.dtype(("V", kernel[-1] * channels * block.itemsize))
        extents = (*shape, *kernel[:-1])
        strides = (block.strides[0], *steps, *taps[:-1])
    else:
        last = block.strides[-1]
        item = block.dtype
        extents = (g.groups, *shape, *kernel, channels)
        strides = (channels * last, block.strides[0], *steps, *taps, last)
    # Unlike as_strided, this constructor checks the windows against the end of the buffer.
    offset = block.__array_interface__["data"][0] - source.owner.__array_interface__["data"][0]
    windows = np.ndarray(extents, item, source.owner, offset, strides)
    np.copyto(columns.view(item).reshape(extents), windows)
    return columns.reshape(g.groups, positions, -1)


def _box_columns(
    x: NDArray, box: Box, g: Convolution, workspace: Workspace, columns: NDArray, block: NDArray
) -> NDArray:
    shape = [stop - start for start, stop in box]
    source = gather_block(x, box, g.kernel, g, block)
    return columns_of(source, workspace.column_shape(shape, g), workspace.kernel, g, columns)


def forward(
    x: NDArray,
    w: NDArray,
    y: NDArray,
    g: Convolution,
    workspace: Workspace,
    epilogue: Epilogue | None = None,
) -> None:
    """Write ``y`` (N, *out, F), of any strides; ``epilogue`` changes each finished box in place."""
    columns_scratch, block_scratch, part_scratch = workspace.scratch(y.dtype)
    per_group = g.out_channels // g.groups
    # (slabs, groups, depth, F/g): a view for one group
    weights = w.reshape(workspace.slabs, -1, g.groups, per_group).transpose(0, 2, 1, 3)
    direct = y.flags.c_contiguous
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        columns = _box_columns(x, box, g, workspace, columns_scratch, block_scratch)
        target = y[slices(box)]
        result = target if direct else np.empty((*shape, g.out_channels), y.dtype)
        flat = result.reshape(-1, g.out_channels)
        _multiply(workspace.slab(columns, 0, shape, g), weights[0], flat)
        part = part_scratch[: flat.size if workspace.slabs > 1 else 0].reshape(-1, g.out_channels)
        for t in range(1, workspace.slabs):
            _multiply(workspace.slab(columns, t, shape, g), weights[t], part)
            flat += part
        if epilogue is not None:
            epilogue(result)
        if not direct:
            target[...] = result


def _multiply(columns: NDArray, weights: NDArray, out: NDArray) -> None:
    """(groups, M, depth) @ (groups, depth, F/g) -> ``out`` (M, F)."""
    groups = columns.shape[0]
    if groups == 1:
        np.matmul(columns[0], weights[0], out=out)
    else:
        np.matmul(columns, weights, out=out.reshape(len(out), groups, -1).transpose(1, 0, 2))


def backward_weight(
    dy: NDArray, x: NDArray, dw: NDArray, g: Convolution, workspace: Workspace
) -> None:
    """Write ``dw`` (*k, C/g, F): the sum over boxes of columns transposed times ``dy``."""
    columns_scratch, block_scratch, _ = workspace.scratch(dw.dtype)
    per_group = g.out_channels // g.groups
    depth = math.prod(workspace.kernel) * g.in_channels // g.groups
    total = np.zeros((workspace.slabs, g.groups, depth, per_group), dw.dtype)
    part = np.empty_like(total[0])
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        columns = _box_columns(x, box, g, workspace, columns_scratch, block_scratch)
        gradient = np.ascontiguousarray(dy[slices(box)]).reshape(-1, g.groups, per_group)
        for t in range(workspace.slabs):
            slab = workspace.slab(columns, t, shape, g).transpose(0, 2, 1)
            np.matmul(slab, gradient.transpose(1, 0, 2), out=part)
            total[t] += part
    dw[...] = total.transpose(0, 2, 1, 3).reshape(dw.shape)
