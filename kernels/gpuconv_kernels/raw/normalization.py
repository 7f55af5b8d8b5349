"""Moments over any axes, normalisation by them, and its gradient (sums.cu, normalization.cu).

The formulas are derived in :mod:`gpuconv_kernels.array.normalization`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuconv_kernels.raw.nests import MOST_AXES, extent_of, kept_shape, merged, nest, positive
from gpuconv_kernels.raw.runtime import Runtime, flat_grid, itemsize, row_grid
from gpuconv_kernels.raw.sums import (
    GRADIENTS,
    SQUARES,
    VALUES,
    Operands,
    Partial,
    finish,
    partial_sums,
    total_of,
)

Array = Any
Axes = tuple[int, ...]


def moments(rt: Runtime, x: Array, axes: Axes) -> tuple[Array, Array]:
    """Mean and biased variance of the contiguous ``x``, extents kept as 1, by two passes.

    Both are 0 where there is nothing to average.
    """
    axes = positive(axes, x.ndim)
    kept = kept_shape(x.shape, axes)
    if math.prod(x.shape) == 0:
        return rt.zeros(kept, x.dtype), rt.zeros(kept, x.dtype)
    share = 1.0 / math.prod(x.shape[axis] for axis in axes)
    mean = total_of(rt, partial_sums(rt, VALUES, Operands(x), axes), x.dtype, share)
    squares = partial_sums(rt, SQUARES, Operands(x, mean=mean), axes)
    return mean, total_of(rt, squares, x.dtype, share)


def normalize(
    rt: Runtime,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    offset: Array | None,
    epsilon: float,
) -> Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + offset``, all contiguous."""
    y = rt.empty(x.shape, x.dtype)
    if math.prod(x.shape) == 0:
        return y
    mean, variance = _alike(rt, mean, variance)
    scale, offset = _alike(rt, scale, offset)
    inverse = _inverse_deviation(rt, variance, epsilon)
    vector = offset if scale is None else scale
    axes = _axes(x, mean, vector)
    if len(axes) > MOST_AXES:
        mean, inverse, scale, offset = (_full(rt, v, x) for v in (mean, inverse, scale, offset))
        axes = _axes(x, mean, offset if scale is None else scale)
    grid, block, rest = _rows(rt, x, axes)
    rt.launch("normalize", grid, block, (x, mean, inverse, scale, offset, y, *rest))
    return y


def normalize_backward(
    rt: Runtime,
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    epsilon: float,
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    input_gradient: bool,
) -> tuple[Array | None, Array, Array]:
    """Return ``(dx, dscale, doffset)``; the arguments are those of the engine contract."""
    axes, parameter_axes = (positive(a, x.ndim) for a in (axes, parameter_axes))
    kept = kept_shape(x.shape, parameter_axes)
    if math.prod(x.shape) == 0:
        dx = rt.empty(x.shape, x.dtype) if input_gradient else None
        return dx, rt.zeros(kept, x.dtype), rt.zeros(kept, x.dtype)
    mean, variance = _alike(rt, mean, variance)
    inverse = _inverse_deviation(rt, variance, epsilon)
    sums = partial_sums(rt, GRADIENTS, Operands(x, dy, mean, inverse), parameter_axes)
    dscale, doffset = _both(rt, sums, x.dtype, 1.0)
    if not input_gradient:
        return None, dscale, doffset
    shift = slope = None
    scale_last = False
    if batch_statistics:
        share = 1.0 / math.prod(x.shape[axis] for axis in axes)
        # One scale for all that share a moment: the sums above serve here too.
        scale_last = axes == parameter_axes and (scale is None or _constant(scale, x, axes))
        if not scale_last:
            sums = partial_sums(rt, GRADIENTS, Operands(x, dy, mean, inverse, scale), axes)
        slope, shift = _both(rt, sums, x.dtype, share)
    dx = _backward_input(rt, dy, x, mean, inverse, scale, shift, slope, scale_last)
    return dx, dscale, doffset


def _backward_input(
    rt: Runtime,
    dy: Array,
    x: Array,
    mean: Array,
    inverse: Array,
    scale: Array | None,
    shift: Array | None,
    slope: Array | None,
    scale_last: bool,
) -> Array:
    dx = rt.empty(x.shape, x.dtype)
    if shift is not None and tuple(shift.shape) != tuple(mean.shape):
        shape = np.broadcast_shapes(tuple(shift.shape), tuple(mean.shape))
        mean, inverse, shift, slope = (_to(rt, v, shape) for v in (mean, inverse, shift, slope))
    axes = _axes(x, mean, scale)
    if len(axes) > MOST_AXES:
        mean, inverse, shift, slope, scale = (
            _full(rt, v, x) for v in (mean, inverse, shift, slope, scale)
        )
        axes = _axes(x, mean, scale)
    grid, block, rest = _rows(rt, x, axes)
    arguments = (dy, x, mean, inverse, scale, shift, slope, dx, scale_last, *rest)
    rt.launch("normalize_backward", grid, block, arguments)
    return dx


def _rows(rt: Runtime, x: Array, axes: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Grid, block, and the arguments that say how x and its vectors lie."""
    *outer, inner = axes
    rows = extent_of(outer)
    lanes = 16 // itemsize(rt, x)
    width = inner.extent // lanes if inner.extent % lanes == 0 else inner.extent
    grid, block = row_grid(rows, width)
    if not outer:  # one long row: its elements in the grid's rows instead
        return _one_row(inner, lanes)
    return grid, block, (nest(outer), rows, inner.extent, inner.mean, inner.scale)


def _one_row(inner: Any, lanes: int) -> tuple[Any, Any, tuple[Any, ...]]:
    """Cut one row into rows of equal length where that is possible, so that all blocks work."""
    width = math.gcd(inner.extent, 256 * lanes)
    rows = inner.extent // width
    cut = inner._replace(extent=rows, x=width, mean=inner.mean * width, scale=inner.scale * width)
    grid, block = row_grid(rows, width // lanes if width % lanes == 0 else width)
    return grid, block, (nest([cut]), rows, width, inner.mean, inner.scale)


def _inverse_deviation(rt: Runtime, variance: Array, epsilon: float) -> Array:
    inverse = rt.empty(variance.shape, variance.dtype)
    count = math.prod(variance.shape)
    grid, block = flat_grid(count)
    rt.launch("inverse_deviation", grid, block, (variance, inverse, epsilon, count))
    return inverse


def _both(rt: Runtime, sums: Partial, dtype: Any, factor: float) -> tuple[Array, Array]:
    """Finish the second and the first sums."""
    weighted = rt.empty(sums.shape, dtype)
    finish(rt, sums.second, weighted, factor)
    return weighted, total_of(rt, sums, dtype, factor)


def _axes(x: Array, mean: Array, scale: Array | None) -> Any:
    return merged(tuple(x.shape), tuple(mean.shape), () if scale is None else tuple(scale.shape))


def _constant(vector: Array, x: Array, axes: Axes) -> bool:
    """Whether a vector broadcast to x does not vary along ``axes``."""
    missing = x.ndim - vector.ndim
    return all(axis < missing or vector.shape[axis - missing] == 1 for axis in axes)


def _alike(rt: Runtime, a: Array | None, b: Array | None) -> tuple[Array | None, Array | None]:
    """Two vectors as arrays of one shape."""
    if a is None or b is None or tuple(a.shape) == tuple(b.shape):
        return a, b
    shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
    return _to(rt, a, shape), _to(rt, b, shape)


def _full(rt: Runtime, vector: Array | None, x: Array) -> Array | None:
    return _to(rt, vector, tuple(x.shape))


def _to(rt: Runtime, vector: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if vector is None else rt.contiguous(rt.xp.broadcast_to(vector, shape))
