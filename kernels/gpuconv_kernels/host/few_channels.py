"""The taps of a line taken for channels: what pays most where there are few of these.

The micro-kernel sums over the channels of one tap after the other, and with the 3 channels of an
image it would hardly have begun when the next tap comes. Under neighbouring taps of a line, though,
channels follow each other in memory::

    a line of x, 3 channels      r g b r g b r g b r g b r g b ...
    3 taps at output 0           |-------------|                        9 numbers in a row
    3 taps at output 1                 |-------------|                  the next output's

so the convolution is one with a kernel of width 1 over a picture with 9 channels, whose pixels
overlap in memory. Only the padding at the ends of a line has to be there: some lines at a time are
copied.

Where pixels do not overlap, as in the patches of a vision transformer, that needs no kernel of its
own: x is reshaped, see :func:`patched`.

Where there are more channels, windows are read where they lie all the same, and only those that
reach over an end of their line are copied, see :class:`Margins`::

    line of x                      a b c d e f g h
    windows of 3 taps, pads 1    . a b             g h .
    margins: first, last         . a b  |  g h .
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

from gpuconv_kernels.host.memory import clear, copy
from gpuconv_kernels.host.target import inlined

_MOST_CHANNELS = 8
"""With more, a tap is worth beginning."""
_MOST_WEIGHTS = 64 * 1024
"""Numbers that lie in the L2 cache while lines stream by."""


def taps_follow(geometry: Any) -> bool:
    """Whether the taps of a line follow each other, so that they can be taken for channels."""
    g = geometry
    return bool(g.groups == 1 and g.dilation[-1] == 1 and min(g.pads[-1]) >= 0)


def can_join(geometry: Any) -> bool:
    """Whether they do, and kernels that go line by line, which read all weights for each, serve."""
    return taps_follow(geometry) and math.prod(geometry.w_shape) <= _MOST_WEIGHTS


@functools.lru_cache(maxsize=1024)
def patched(geometry: Any) -> Any:
    """Return the ``ConvGeometry`` of the same convolution with the taps of a line as channels.

    The geometry itself, unless there are few channels and the windows in a line are just beside
    each other. Arrays that are contiguous are reshaped to its shapes.
    """
    g, taps = geometry, geometry.kernel[-1]
    beside = g.stride[-1] == taps > 1 and g.pads[-1] == (0, 0) and g.input[-1] % taps == 0
    if not (beside and g.groups == 1 and g.dilation[-1] == 1 and g.in_channels <= _MOST_CHANNELS):
        return g
    return replace(
        g,
        in_channels=taps * g.in_channels,
        input=(*g.input[:-1], g.input[-1] // taps),
        kernel=(*g.kernel[:-1], 1),
        stride=(*g.stride[:-1], 1),
    )


class Margins(NamedTuple):
    """What is copied of each end of a line, with its padding: all windows that reach beyond it.

    Attributes:
        left: pixels of the first one, which begins with the padding; ``right``: of the last one,
            which begins at the column ``first`` of the input.
    """

    left: int
    first: int
    right: int


@functools.lru_cache(maxsize=1024)
def margins(geometry: Any) -> Margins:
    """Return the ``Margins`` of a ``ConvGeometry`` whose lines are no shorter than its kernel."""
    g = geometry
    taps, stride, extent, before = g.kernel[-1], g.stride[-1], g.input[-1], g.pads[-1][0]
    begin = min(max(-(-before // stride), 0), g.output[-1])  # windows that begin in the padding
    inside = max((extent - taps + before) // stride + 1, begin)  # and those before one ends there
    left, right = (
        (windows - 1) * stride + taps if windows > 0 else 0
        for windows in (begin, g.output[-1] - inside)
    )
    return Margins(left, inside * stride - before, right)


@inlined
def copy_margins(to, line, left, first, right, before, extent, of_pixel):  # type: ignore[no-untyped-def]
    """Copy both ends of a line of ``extent`` pixels, as :class:`Margins` says."""
    none = min(max(before, 0), left)
    clear(to, none * of_pixel)
    copy(to + none * of_pixel, line, (left - none) * of_pixel)
    to += left * of_pixel
    inside = min(max(extent - first, 0), right)
    copy(to, line + first * of_pixel, inside * of_pixel)
    clear(to + inside * of_pixel, (right - inside) * of_pixel)


@inlined
def copy_lines(  # type: ignore[no-untyped-def]
    to, image, p0, top, reached, left, across, of_pixel, input, stride, dilation, before, kernel,
    steps,
):  # fmt: skip
    """Copy the lines of an image that a band of output lines needs, with zeros around it.

    To ``(kernel[0], reached, across)`` pixels of ``of_pixel`` bytes: for each of the taps of depth
    of the output plane ``p0`` the lines from ``top`` on, ``across`` pixels from the column ``left``
    on. Lines outside of the image are left as they are. Steps are in bytes.
    """
    # What lies before, in and behind the image.
    none = min(max(-left, 0), across)
    behind = min(max(left + across - input[2], 0), across - none)
    inside = across - none - behind
    for t0 in range(kernel[0]):
        q0 = p0 * stride[0] - before[0] + t0 * dilation[0]
        if q0 < 0 or q0 >= input[0]:
            continue
        for q1 in range(max(top, 0), min(top + reached, input[1])):
            at = to + (t0 * reached + q1 - top) * across * of_pixel
            source = image + q0 * steps[1] + q1 * steps[2] + max(left, 0) * steps[3]
            clear(at, none * of_pixel)
            at += none * of_pixel
            if steps[3] == of_pixel:
                copy(at, source, inside * of_pixel)
            else:
                for i in range(inside):
                    copy(at + i * of_pixel, source + i * steps[3], of_pixel)
            clear(at + inside * of_pixel, behind * of_pixel)
