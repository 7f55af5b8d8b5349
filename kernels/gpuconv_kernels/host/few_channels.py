"""Few input channels: the taps of a line taken for channels.

The micro-kernel sums over the channels of one tap after the other, and with the 3 channels of an
image it would hardly have begun when the next tap comes. Under neighbouring taps of a line, though,
channels follow each other in memory::

    a line of x, 3 channels      r g b r g b r g b r g b r g b ...
    3 taps at output 0           |-------------|                        9 numbers in a row
    3 taps at output 1                 |-------------|                  the next output's

so the convolution is one with a kernel of width 1 over a picture with 9 channels, whose pixels
overlap in memory. Only the padding at the ends of a line has to be there: that takes a copy of x,
which is small where there are few channels.
"""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import replace
from typing import Any

import numpy as np

Array = Any

MAX_CHANNELS = 8


def pays(geometry: Any) -> bool:
    """Whether :func:`folded` can be used, and helps."""
    g = geometry
    few = g.groups == 1 and g.in_channels <= MAX_CHANNELS
    return few and g.kernel[-1] > 1 and g.dilation[-1] == 1 and min(g.pads[-1]) >= 0


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes of the padded copy."""
    g = geometry
    if g.pads[-1] == (0, 0):
        return 0
    lines = g.batch * int(np.prod(g.input[:-1]))
    return int(lines * (g.input[-1] + sum(g.pads[-1])) * g.in_channels * np.dtype(dtype).itemsize)


@functools.lru_cache(maxsize=1024)
def folded_geometry(geometry: Any) -> Any:
    """Return the ``ConvGeometry`` of the same convolution over pixels that overlap."""
    g = geometry
    width = g.input[-1] + sum(g.pads[-1]) - g.kernel[-1] + 1
    return replace(
        g,
        in_channels=g.kernel[-1] * g.in_channels,
        input=(*g.input[:-1], width),
        kernel=(*g.kernel[:-1], 1),
        pads=(*g.pads[:-1], (0, 0)),
    )


def folded(x: Array, geometry: Any) -> Array:
    """Return ``x`` (N, *in, C) as (N, *in, width, taps * C), pixels that overlap; a view or a copy.

    Weights (*k, C, F) are reshaped to the folded geometry's ``w_shape`` without a copy.
    """
    g = geometry
    if g.pads[-1] != (0, 0) or not x.flags.c_contiguous:
        lo, _ = g.pads[-1]
        shape = (*x.shape[:-2], x.shape[-2] + sum(g.pads[-1]), x.shape[-1])
        padded = np.empty(shape, x.dtype)
        padded[..., :lo, :] = 0
        padded[..., lo : lo + x.shape[-2], :] = x
        padded[..., lo + x.shape[-2] :, :] = 0
        x = padded
    shape = (*x.shape[:-2], x.shape[-2] - g.kernel[-1] + 1, g.kernel[-1] * x.shape[-1])
    # Not x.strides, which an extent of 1 leaves open; as_strided takes ten times as long.
    lines = itertools.accumulate(x.shape[:0:-1], operator.mul, initial=x.itemsize)
    return np.ndarray(shape, x.dtype, x, strides=tuple(lines)[::-1])
