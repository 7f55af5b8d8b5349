"""backward_input as GEMM + col2im: every output adds its window to the input's gradient.

The gather form (a convolution of ``dy`` for each sub-pixel phase) multiplies every tap at every
input position, also where a tap meets no output, and begins anew for each of ``prod(stride)``
phases. Where few outputs meet much input (a kernel nearly as large as the input, a stride of
many elements) the scatter form computes only what exists::

    dy (M, F) @ w transposed (F, taps*C) -> columns (M, taps*C), each row added to its window of dx

Positions are added one after the other, in memory order: the same bits on every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpuconv_kernels.array.boxes import NDArray, box_shape, boxes, slices
from gpuconv_kernels.array.im2col import COLUMN_BYTES, Convolution

FEW = 4
"""Outputs a phase up to which adding them one by one is faster than a convolution a phase, and
how many times more input positions than outputs make the gather form a waste."""


def pays(g: Convolution) -> bool:
    """Whether the scatter form is the faster one."""
    positions, phases = math.prod(g.output), math.prod(g.stride)
    if positions <= FEW * phases and phases > 1:
        return True
    return positions <= math.prod(g.kernel) and math.prod(g.input) >= FEW * phases * positions


class Workspace:
    """How one convolution is cut, and the bytes of columns and gradient of one box."""

    def __init__(self, g: Convolution, itemsize: int, limit: int) -> None:
        self.extents = (g.batch, *g.output)
        row = (math.prod(g.kernel) * g.in_channels + g.out_channels) * itemsize
        self.shape = box_shape(self.extents, max(min(COLUMN_BYTES, limit) // row, 1))
        self.bytes = math.prod(self.shape) * row


def backward_input(
    dy: NDArray, w: NDArray, dx: NDArray, g: Convolution, workspace: Workspace
) -> None:
    """Write the C-contiguous ``dx`` (N, *in, C)."""
    dx.fill(0)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    split = dx.reshape(*dx.shape[:-1], g.groups, channels)
    weights = w.reshape(-1, g.groups, filters).transpose(1, 2, 0)  # (g, F/g, taps*C/g)
    for box in boxes(workspace.extents, workspace.shape):
        shape = [stop - start for start, stop in box]
        gradient = np.ascontiguousarray(dy[slices(box)]).reshape(-1, g.groups, filters)
        columns = np.matmul(gradient.transpose(1, 0, 2), weights)
        windows = np.moveaxis(columns.reshape(g.groups, *shape, *g.kernel, channels), 0, -2)
        samples = split[slice(*box[0])]
        for position in np.ndindex(*shape[1:]):
            output = [start + p for (start, _), p in zip(box[1:], position, strict=True)]
            taps, inputs = _overlap(output, g)
            window = (slice(None), *position, *taps)
            target = (slice(None), *inputs)
            samples[target] += windows[window]


def _overlap(output: Sequence[int], g: Convolution) -> tuple[list[slice], list[slice]]:
    """The taps of one output's window that lie in the input, and where they lie."""
    taps, inputs = [], []
    for p, i, k, s, d, (lo, _) in zip(
        output, g.input, g.kernel, g.stride, g.dilation, g.pads, strict=True
    ):
        start = p * s - lo
        first = max(-(start // d), 0)
        last = max(min((i - 1 - start) // d + 1, k), first)
        taps.append(slice(first, last))
        stop = start + (last - 1) * d + 1 if last > first else 0
        inputs.append(slice(start + first * d, stop, d))
    return taps, inputs
