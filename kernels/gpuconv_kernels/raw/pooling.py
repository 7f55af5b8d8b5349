"""Launchers of pooling.cu: max and average pooling and their gradients, in gather form."""

from __future__ import annotations

import math
from typing import Any, Protocol

from gpuconv_kernels.raw.runtime import Runtime, row_grid
from gpuconv_kernels.raw.sums import channel_means
from gpuconv_kernels.raw.windows import Windowed, window

Array = Any


class Pooling(Windowed, Protocol):
    """The part of ``gpuconv.geometry.PoolGeometry`` that is read here."""

    @property
    def channels(self) -> int: ...
    @property
    def window(self) -> tuple[int, ...]: ...
    @property
    def count_include_pad(self) -> bool: ...
    @property
    def divisor_override(self) -> int | None: ...
    @property
    def is_global(self) -> bool: ...


def max_pool(rt: Runtime, x: Array, g: Pooling, with_indices: bool) -> tuple[Array, Array | None]:
    """``x`` (N, *in, C) -> ``y`` and, if wanted, ``indices`` (int64), both (N, *out, C)."""
    shape = (g.batch, *g.output, g.channels)
    y = rt.empty(shape, x.dtype)
    indices = rt.empty(shape, rt.xp.int64) if with_indices else None
    rows = g.batch * math.prod(g.output)
    if rows:
        grid, block = row_grid(rows, g.channels)
        rt.launch("max_pool", grid, block, (x, y, indices, window(g, g.window), g.channels, rows))
    return y, indices


def max_pool_backward(rt: Runtime, dy: Array, indices: Array, g: Pooling) -> Array:
    """``dy`` and ``indices`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    dx = rt.empty((g.batch, *g.input, g.channels), dy.dtype)
    positions = g.batch * math.prod(g.input)
    if positions:
        grid, block = row_grid(positions, g.channels)
        arguments = (dy, indices, dx, window(g, g.window), g.channels, positions)
        rt.launch("max_pool_backward", grid, block, arguments)
    return dx


def avg_pool(rt: Runtime, x: Array, g: Pooling) -> Array:
    """``x`` (N, *in, C) -> ``y`` (N, *out, C); a global one as the mean of each plane."""
    shape = (g.batch, *g.output, g.channels)
    if g.is_global and g.divisor_override is None:
        planes = rt.xp.reshape(x, (g.batch, math.prod(g.input), g.channels))
        return rt.xp.reshape(channel_means(rt, planes), shape)
    y = rt.empty(shape, x.dtype)
    rows = g.batch * math.prod(g.output)
    if rows:
        grid, block = row_grid(rows, g.channels)
        rt.launch(
            "avg_pool", grid, block, (x, y, window(g, g.window), g.channels, rows, *_divisor(g))
        )
    return y


def avg_pool_backward(rt: Runtime, dy: Array, g: Pooling) -> Array:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    dx = rt.empty((g.batch, *g.input, g.channels), dy.dtype)
    positions = g.batch * math.prod(g.input)
    if positions:
        grid, block = row_grid(positions, g.channels)
        arguments = (dy, dx, window(g, g.window), g.channels, positions, *_divisor(g))
        rt.launch("avg_pool_backward", grid, block, arguments)
    return dx


def _divisor(g: Pooling) -> tuple[int, int]:
    return int(g.count_include_pad), g.divisor_override or 0
