"""Launchers of depthwise.cu: convolution with one input channel a group, without columns."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from gpuconv_kernels.raw.activations import Function, code_of
from gpuconv_kernels.raw.convolution import Convolution
from gpuconv_kernels.raw.runtime import Runtime, row_block, row_grid
from gpuconv_kernels.raw.sums import finish
from gpuconv_kernels.raw.windows import window

Array = Any

_BLOCKS = 2048
"""Blocks of the weights' gradient that keep any device busy."""

_DOUBLE = 8


class Segments(NamedTuple):
    """How the output positions are cut for the weights' gradient.

    Attributes:
        number: of segments; at least one, if there are positions.
        rows: positions of a segment.
        bytes: of the segments' sums.
    """

    number: int
    rows: int
    bytes: int


@lru_cache(maxsize=1024)
def segments(g: Convolution, limit: int) -> Segments:
    """Cut the positions into as many segments as keep a device busy and ``limit`` bytes hold."""
    positions = g.batch * math.prod(g.output)
    if positions == 0:
        return Segments(0, 0, 0)
    one = math.prod(g.kernel) * g.out_channels * _DOUBLE
    x, y = row_block(g.out_channels, widest=32)
    tiles = -(-g.out_channels // x) * math.prod(g.kernel)
    wanted = min(-(-_BLOCKS // tiles), -(-positions // (4 * y)))
    count = max(min(wanted, limit // one), 1)
    rows = -(-positions // count)
    return Segments(-(-positions // rows), rows, -(-positions // rows) * one)


def forward(
    rt: Runtime,
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Convolution,
    activation: Function | None,
) -> None:
    """Write ``y`` (N, *out, C*m), bias and activation included."""
    rows = g.batch * math.prod(g.output)
    if rows == 0:
        return
    multiplier = g.out_channels // g.in_channels
    grid, block = row_grid(rows, _width(g.out_channels, multiplier))
    kind, alpha = code_of(activation)
    shape = window(g, g.kernel)
    arguments = (x, w, bias, y, shape, g.in_channels, multiplier, kind, alpha, rows)
    rt.launch("depthwise_forward", grid, block, arguments)


def backward_input(rt: Runtime, dy: Array, w: Array, dx: Array, g: Convolution) -> None:
    """Write ``dx`` (N, *in, C)."""
    positions = g.batch * math.prod(g.input)
    if positions == 0:
        return
    multiplier = g.out_channels // g.in_channels
    grid, block = row_grid(positions, _width(g.in_channels, multiplier))
    arguments = (dy, w, dx, window(g, g.kernel), g.in_channels, multiplier, positions)
    rt.launch("depthwise_backward_input", grid, block, arguments)


def backward_weight(
    rt: Runtime, dy: Array, x: Array, dw: Array, g: Convolution, limit: int
) -> None:
    """Write ``dw`` (*k, 1, C*m), in two stages; see :func:`segments` for the memory needed."""
    cut = segments(g, limit)
    taps, filters = math.prod(g.kernel), g.out_channels
    partial = rt.empty((cut.number, taps * filters), rt.xp.float64)
    block = row_block(filters, widest=32)
    grid = (-(-filters // block[0]) * taps, cut.number)
    rows = g.batch * math.prod(g.output)
    multiplier = filters // g.in_channels
    shape = window(g, g.kernel)
    arguments = (dy, x, partial, shape, g.in_channels, multiplier, rows, cut.rows)
    rt.launch("depthwise_backward_weight", grid, block, arguments)
    finish(rt, partial, dw, 1.0)


def _width(channels: int, multiplier: int) -> int:
    """Threads that a row keeps busy: with packs of four where they are possible."""
    return channels // 4 if multiplier == 1 and channels % 4 == 0 else channels
