"""The numbers of a convolution that kernels are given, in three dimensions whatever its own."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from gpuconv_kernels.device.spatial import Three, spatial


class Extents(NamedTuple):
    """What kernels take as ``input, output, stride, dilation, before, kernel``.

    In pixels; ``before`` is the padding before the first one, which may be negative.
    """

    input: Three
    output: Three
    stride: Three
    dilation: Three
    before: Three
    kernel: Three


@functools.lru_cache(maxsize=1024)
def extents_of(geometry: Any) -> Extents:
    """Return the extents of a ``ConvGeometry``."""
    s = spatial(geometry)
    return Extents(s.input, s.output, s.stride, s.dilation, s.before, s.kernel)


def meeting(extent: int, outputs: int, taps: int, stride: int, dilation: int, before: int) -> int:
    """Return how many pairs of an output and a tap meet the input, in one dimension."""
    firsts = (p * stride - before for p in range(outputs))
    return sum(0 <= first + t * dilation < extent for first in firsts for t in range(taps))


def numbers_of(geometry: Any) -> int:
    """Return how many numbers x, the weights and y of a ``ConvGeometry`` hold together."""
    g = geometry
    return sum(math.prod(shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
