"""Weights that do not change, and what the kernels of ``cpu:jit`` have made of them so far.

With one image a layer whose weights are large takes about as long to pack or transform them as to
multiply with them. What is made of a layer's weights does not depend on the size of its images, nor
on the number of threads, so it is made when a kernel first asks for it and serves from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gpuconv_kernels.host import direct, winograd_filters
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import host

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

_MOST_BYTES: Final = 8 * 2**20
"""Transformed filters up to which they come from memory faster than they are transformed,"""
_MOST_GROWTH: Final = 2
"""unless they are hardly more numbers than the weights: up to so many times as many."""


class KeptWeights:
    """What ``conv_forward`` and ``dense`` of this engine take for ``w`` as well.

    Two threads that ask at once may both make the same; either result serves.

    Attributes:
        values: the weights (*k, C/g, F), contiguous; they must not change.
    """

    def __init__(self, values: Array) -> None:
        self.values = np.ascontiguousarray(values)
        self._packed: dict[int, Array] = {}
        self._transformed: dict[int, Array] = {}

    def packed(self, groups: int) -> Array:
        """For direct convolution with so many groups: as many numbers as there are weights."""
        if groups not in self._packed:
            self._packed[groups] = direct.pack_weights(self.values, groups)
        return self._packed[groups]

    def transformed(self, tile: int) -> Array | None:
        """For Winograd's method; None where keeping them does not pay.

        For tiles of 2 and 4 that is 1.8 and 4 times as many numbers as there are weights.
        """
        if tile not in self._transformed:
            *_, channels, filters = self.values.shape
            dtype = name_of(self.values.dtype)
            size = winograd_filters.transformed_bytes(channels, filters, tile, dtype, host())
            if size > max(_MOST_BYTES, _MOST_GROWTH * self.values.nbytes):
                return None
            self._transformed[tile] = winograd_filters.transform_weights(self.values, tile)
        return self._transformed[tile]
