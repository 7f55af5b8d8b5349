"""Enlarging the spatial axes of ``x`` (N, *in, C) by whole factors."""

from __future__ import annotations

import itertools
import math

import numpy as np

from gpuconv.testing.reference.extents import F64, Ints, as_f64, per_axis
from gpuconv.testing.reference.indexing import pixel


def upsample_nearest(x: F64, size: Ints) -> F64:
    """Repeat every element ``size`` times in each dimension."""
    extents = x.shape[1:-1]
    factors = per_axis(size, len(extents))
    output = [n * f for n, f in zip(extents, factors, strict=True)]
    y: F64 = np.empty((x.shape[0], *output, x.shape[-1]))
    for o in np.ndindex(*output):
        i = tuple(p // f for p, f in zip(o, factors, strict=True))
        y[pixel(o)] = x[pixel(i)]
    return y


def _neighbours(position: int, factor: int, extent: int) -> list[tuple[int, float]]:
    """The two input positions around the centre of an output pixel, with their weights.

    Beyond the centre of the first or last pixel, that pixel counts alone.
    """
    centre = (position + 0.5) / factor - 0.5
    below = math.floor(centre)
    fraction = centre - below
    clamp = [min(max(i, 0), extent - 1) for i in (below, below + 1)]
    return [(clamp[0], 1.0 - fraction), (clamp[1], fraction)]


def upsample_bilinear(x: F64, size: Ints) -> F64:
    """Linear interpolation in each dimension, half-pixel centres (align_corners False)."""
    x = as_f64(x)
    extents = x.shape[1:-1]
    factors = per_axis(size, len(extents))
    output = [n * f for n, f in zip(extents, factors, strict=True)]
    y: F64 = np.zeros((x.shape[0], *output, x.shape[-1]))
    for o in np.ndindex(*output):
        corners = [_neighbours(p, f, n) for p, f, n in zip(o, factors, extents, strict=True)]
        for corner in itertools.product(*corners):
            i = tuple(index for index, _ in corner)
            y[pixel(o)] += math.prod(weight for _, weight in corner) * x[pixel(i)]
    return y
