"""Launchers of padding.cu: padding of the spatial axes, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from gpuconv_kernels.raw.runtime import Runtime, row_grid
from gpuconv_kernels.raw.windows import describe

Array = Any

MODES: Final = ("zeros", "reflect", "replicate", "circular")
"""In the order of ``enum Mode`` in padding.cu."""


def pad(rt: Runtime, x: Array, pads: Sequence[tuple[int, int]], mode: str) -> Array:
    """Pad the contiguous ``x`` (N, *in, C)."""
    batch, *extents, channels = x.shape
    padded = [n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True)]
    y = rt.empty((batch, *padded, channels), x.dtype)
    _launch(rt, "pad", x, y, extents, padded, pads, mode, batch * math.prod(padded))
    return y


def pad_backward(rt: Runtime, dy: Array, pads: Sequence[tuple[int, int]], mode: str) -> Array:
    """The gradient of :func:`pad`: what was copied several times is summed."""
    batch, *padded, channels = dy.shape
    extents = [n - lo - hi for n, (lo, hi) in zip(padded, pads, strict=True)]
    dx = rt.empty((batch, *extents, channels), dy.dtype)
    _launch(rt, "pad_backward", dy, dx, extents, padded, pads, mode, batch * math.prod(extents))
    return dx


def _launch(
    rt: Runtime,
    kernel: str,
    source: Array,
    target: Array,
    extents: Sequence[int],
    padded: Sequence[int],
    pads: Sequence[tuple[int, int]],
    mode: str,
    positions: int,
) -> None:
    channels = source.shape[-1]
    if positions == 0 or channels == 0:
        return
    ones = (1,) * len(extents)
    shape = describe(extents, padded, ones, ones, ones, pads)
    grid, block = row_grid(positions, channels)
    arguments = (source, target, shape, channels, MODES.index(mode), positions)
    rt.launch(kernel, grid, block, arguments)
