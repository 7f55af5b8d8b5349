"""A convolution as the kernels see it: integers in three dimensions, and where results go.

One and two dimensions are three with leading extents of 1. The results need not lie next to each
other: position ``p`` is written to ``target_first + target_step * p``, which is how a phase of
backward_input fills every ``stride``-th position of ``dx``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Three = tuple[int, int, int]

_OFFSETS = 2**31 - 2**24
"""Elements up to which offsets are computed in 32 bits; the rest is room for the last tile."""


@dataclass(frozen=True)
class Spatial:
    """One convolution, its channels and filters counted in one group.

    Attributes:
        batch, groups: ``N`` and ``g``.
        channels, filters: ``C/g`` and ``F/g``.
        input, output, stride, dilation, kernel: in each dimension.
        before: padding at the low end; may be negative.
        target: extents of the array that is written.
        target_first, target_step: where in it the positions of ``output`` lie.
    """

    batch: int
    channels: int
    filters: int
    groups: int
    input: Three
    output: Three
    stride: Three
    dilation: Three
    before: Three
    kernel: Three
    target: Three
    target_first: Three
    target_step: Three

    @property
    def pixels(self) -> int:
        """Positions of the output over the whole batch."""
        return self.batch * math.prod(self.output)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def is_plain(self) -> bool:
        """Whether the results lie next to each other."""
        return self.target == self.output and self.target_step == (1, 1, 1)

    def is_wide(self, parts: int = 1) -> bool:
        """Whether an offset into any of the arrays may need more than 32 bits."""
        low = [-b for b in self.before]
        high = [
            (o - 1) * s + (k - 1) * d - b
            for o, s, k, d, b in zip(
                self.output, self.stride, self.kernel, self.dilation, self.before, strict=True
            )
        ]
        all_channels, all_filters = self.groups * self.channels, self.groups * self.filters
        reach = max(
            abs(self._offset(0, low)) * all_channels,
            abs(self._offset(self.batch, high)) * all_channels,
            self.batch * math.prod(self.input) * all_channels,
            self.taps * self.channels * all_filters,
            self.batch * math.prod(self.target) * all_filters,
            parts * self.pixels * all_filters,
            parts * self.taps * self.channels * all_filters,
        )
        return reach >= _OFFSETS

    def _offset(self, image: int, position: list[int]) -> int:
        for p, extent in zip(position, self.input, strict=True):
            image = image * extent + p
        return image


@functools.lru_cache(maxsize=1024)
def spatial(geometry: Any) -> Spatial:
    """Return a ``ConvGeometry`` in three dimensions."""
    output = three(geometry.output, 1)
    return Spatial(
        batch=geometry.batch,
        channels=geometry.in_channels // geometry.groups,
        filters=geometry.out_channels // geometry.groups,
        groups=geometry.groups,
        input=three(geometry.input, 1),
        output=output,
        stride=three(geometry.stride, 1),
        dilation=three(geometry.dilation, 1),
        before=three([lo for lo, _ in geometry.pads], 0),
        kernel=three(geometry.kernel, 1),
        target=output,
        target_first=(0, 0, 0),
        target_step=(1, 1, 1),
    )


def product(m: int, k: int, n: int) -> Spatial:
    """Return the product of (m, k) and (k, n) as a convolution of ``m`` images of one pixel."""
    one, none = (1, 1, 1), (0, 0, 0)
    return Spatial(m, k, n, 1, one, one, one, one, none, one, one, none, one)


def three(values: Any, fill: int) -> Three:
    """Return one to three values with ``fill`` in front."""
    a, b, c = [fill] * (3 - len(values)) + list(values)
    return a, b, c


def int32s(values: Three) -> tuple[Any, ...]:
    """Return what a kernel takes as three int32."""
    return tuple(np.int32(v) for v in values)
