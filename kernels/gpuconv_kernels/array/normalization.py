"""Moments over any axes, normalisation by them, and its gradient.

With ``m`` the number of elements that share one mean and variance::

    mean = sum(x) / m,   variance = sum((x - mean)^2) / m,   r = 1 / sqrt(variance + epsilon)
    xhat = (x - mean) r,                                     y = scale xhat + offset

Gradient (Ioffe and Szegedy 2015, "Batch normalization"). Let ``g = scale dy`` be the gradient with
respect to xhat. If mean and variance are constants, ``dx = r g``. If they are those of x, every
xhat depends on every x through them too; as ``sum(x - mean) = 0``, ::

    dL/dmean     = -r sum(g)
    dL/dvariance = -(r^3 / 2) sum(g (x - mean)) = -(r^2 / 2) sum(g xhat)

and with ``dmean/dx = 1/m`` and ``dvariance/dx = 2 (x - mean)/m``::

    dx = r g + dL/dmean / m + dL/dvariance 2 (x - mean)/m
       = r (g - sum(g)/m - xhat sum(g xhat)/m)

Sums run over the axes of the moments. The mean is always subtracted first, never folded into the
offset: where it dwarfs the deviation the difference is exact, and the fold is not.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gpuconv_kernels.array import batch_norm
from gpuconv_kernels.array.boxes import Box, box_shape, boxes, slices

NDArray = np.ndarray[Any, Any]
Axes = tuple[int, ...]

BLOCK: Final = 64 * 1024
"""Elements of a box: with a temporary and an output of float32 it fits a 1 MiB L2. Sums within a
box are formed in the dtype of ``x``, sums of boxes in float64."""


def moments(x: NDArray, axes: Axes) -> tuple[NDArray, NDArray]:
    """Mean and biased variance of ``x`` over ``axes``, extents kept as 1, in the dtype of ``x``.

    By two passes. Both are 0 where there is nothing to average.
    """
    kept = _kept(x, axes)
    if _all_but_last(axes, x) and x.flags.c_contiguous:
        mean, variance = batch_norm.moments(_rows(x))
        return mean.reshape(kept), variance.reshape(kept)
    count = _count(x, axes)
    total = np.zeros(kept)
    for box in _boxes(x):
        total[_within(box, kept)] += _sum(x[slices(box)], axes)
    mean = (total / count).astype(x.dtype)
    centre = _repeated(mean, x)
    total = np.zeros(kept)
    for box in _boxes(x):
        deviation = x[slices(box)] - _part(centre, box)
        deviation *= deviation
        total[_within(box, kept)] += _sum(deviation, axes)
    return mean, (total / count).astype(x.dtype)


def normalize(
    x: NDArray,
    mean: NDArray,
    variance: NDArray,
    scale: NDArray | None,
    offset: NDArray | None,
    epsilon: float,
) -> NDArray:
    """``(x - mean) / sqrt(variance + epsilon) * scale + offset``, all broadcast to ``x``."""
    inverse = _inverse_deviation(variance, epsilon)
    vectors = [v for v in (mean, variance, scale, offset) if v is not None]
    if x.flags.c_contiguous and all(v.size == v.shape[-1] == x.shape[-1] for v in vectors):
        factor = inverse if scale is None else inverse * scale
        shift = None if offset is None else offset.reshape(-1)
        y = batch_norm.normalize(_rows(x), mean.reshape(-1), factor.reshape(-1), shift)
        return y.reshape(x.shape)
    y = np.empty(x.shape, x.dtype)
    mean, inverse = _repeated(mean, x), _repeated(inverse, x)
    for box in _boxes(x):
        target = y[slices(box)]
        np.subtract(x[slices(box)], _part(mean, box), out=target)
        target *= _part(inverse, box)
        if scale is not None:
            target *= _part(scale, box)
        if offset is not None:
            target += _part(offset, box)
    return y


def normalize_backward(
    dy: NDArray,
    x: NDArray,
    mean: NDArray,
    variance: NDArray,
    scale: NDArray | None,
    epsilon: float,
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    input_gradient: bool,
) -> tuple[NDArray | None, NDArray, NDArray]:
    """Return ``(dx, dscale, doffset)``; see the formulas at the top of this file.

    Args:
        dy, x: of one shape.
        mean, variance: as :func:`moments` gave them, or constants.
        scale: broadcast to ``x``, or None.
        epsilon: as in :func:`normalize`.
        axes: over which the moments were taken.
        parameter_axes: over which ``dscale`` and ``doffset`` are summed; extents of 1 remain.
        batch_statistics: whether the moments are those of ``x`` rather than constants.
        input_gradient: whether ``dx`` is wanted, which is None otherwise.
    """
    by_channel = (
        _all_but_last(axes, x)
        and _all_but_last(parameter_axes, x)
        and x.flags.c_contiguous
        and dy.flags.c_contiguous
    )
    backward = _backward_by_channel if by_channel else _backward_by_box
    inverse = _inverse_deviation(variance, epsilon)
    return backward(
        dy, x, mean, inverse, scale, axes, parameter_axes, batch_statistics, input_gradient
    )


def _backward_by_channel(
    dy: NDArray,
    x: NDArray,
    mean: NDArray,
    inverse: NDArray,
    scale: NDArray | None,
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    input_gradient: bool,
) -> tuple[NDArray | None, NDArray, NDArray]:
    kept = (*(1,) * (x.ndim - 1), x.shape[-1])
    centre, r = mean.reshape(-1), inverse.reshape(-1)
    plain, weighted = batch_norm.parameter_sums(_rows(dy), _rows(x), centre)
    dscale = (weighted * r).astype(x.dtype).reshape(kept)
    doffset = plain.astype(x.dtype).reshape(kept)
    if not input_gradient:
        return None, dscale, doffset
    factor = r if scale is None else r * scale.reshape(-1)
    if batch_statistics:
        # The factor scale stands before everything in dx: g = scale dy, factor = scale r.
        count = _count(x, axes)
        slope = (weighted * r.astype(np.float64) ** 2 / count).astype(x.dtype)
        shift = (plain / count).astype(x.dtype)
        dx = batch_norm.backward_input(_rows(dy), _rows(x), centre, factor, slope, shift)
    else:
        dx = batch_norm.normalize(_rows(dy), np.zeros_like(factor), factor, None)
    return dx.reshape(x.shape), dscale, doffset


def _backward_by_box(
    dy: NDArray,
    x: NDArray,
    mean: NDArray,
    inverse: NDArray,
    scale: NDArray | None,
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    input_gradient: bool,
) -> tuple[NDArray | None, NDArray, NDArray]:
    through_moments = batch_statistics and input_gradient
    dscale = np.zeros(_kept(x, parameter_axes))
    doffset = np.zeros_like(dscale)
    sum_g = np.zeros(_kept(x, axes))
    sum_g_xhat = np.zeros_like(sum_g)
    mean, inverse = _repeated(mean, x), _repeated(inverse, x)
    for box in _boxes(x):
        g = dy[slices(box)]
        product = _xhat(x, mean, inverse, box)
        product *= g
        parameter = _within(box, dscale.shape)
        dscale[parameter] += _sum(product, parameter_axes)
        doffset[parameter] += _sum(g, parameter_axes)
        if through_moments:
            if scale is not None:
                g = g * _part(scale, box)
                product *= _part(scale, box)
            moment = _within(box, sum_g.shape)
            sum_g[moment] += _sum(g, axes)
            sum_g_xhat[moment] += _sum(product, axes)
    dx: NDArray | None = None
    if input_gradient:
        dx = np.empty(x.shape, x.dtype)
        count = _count(x, axes)
        shift, slope = (_repeated((s / count).astype(x.dtype), x) for s in (sum_g, sum_g_xhat))
        for box in _boxes(x):
            target = dx[slices(box)]
            target[...] = dy[slices(box)]
            if scale is not None:
                target *= _part(scale, box)
            if batch_statistics:
                target -= _part(shift, box)
                xhat = _xhat(x, mean, inverse, box)
                xhat *= _part(slope, box)
                target -= xhat
            target *= _part(inverse, box)
    return dx, dscale.astype(x.dtype), doffset.astype(x.dtype)


def _inverse_deviation(variance: NDArray, epsilon: float) -> NDArray:
    with np.errstate(divide="ignore"):  # epsilon and variance 0: infinity, as in PyTorch
        r: NDArray = 1.0 / np.sqrt(variance.astype(np.float64) + epsilon)
    return r.astype(variance.dtype)


def _xhat(x: NDArray, mean: NDArray, inverse: NDArray, box: Box) -> NDArray:
    xhat: NDArray = x[slices(box)] - _part(mean, box)
    xhat *= _part(inverse, box)
    return xhat


def _repeated(vector: NDArray, x: NDArray) -> NDArray:
    """Repeat along the last axis where that costs little.

    Broadcast, the few channels of a group would be a short inner loop of their own.
    """
    if vector.shape[-1] == 1 < x.shape[-1] and 16 * vector.size * x.shape[-1] <= x.size:
        return np.repeat(vector, x.shape[-1], axis=-1)
    return vector


def _sum(block: NDArray, axes: Axes) -> NDArray:
    """Sum over ``axes``, extents kept as 1, in float64 but for the longest stretch.

    Other axes go before the last: whole rows are then added to whole rows.
    """
    positive = _positive(axes, block)
    last = block.ndim - 1
    others = tuple(axis for axis in positive if axis != last)
    if others:
        block = np.add.reduce(block, axis=others, keepdims=True).astype(np.float64)
    if last in positive:
        block = np.add.reduce(block, axis=last, keepdims=True)
    return block


def _rows(x: NDArray) -> NDArray:
    return x.reshape(-1, x.shape[-1])


def _positive(axes: Axes, x: NDArray) -> Axes:
    return tuple(axis % x.ndim for axis in axes)


def _all_but_last(axes: Axes, x: NDArray) -> bool:
    return sorted(_positive(axes, x)) == list(range(x.ndim - 1))


def _kept(x: NDArray, axes: Axes) -> tuple[int, ...]:
    """The shape of a sum over ``axes`` that keeps extents of 1."""
    positive = _positive(axes, x)
    return tuple(1 if axis in positive else n for axis, n in enumerate(x.shape))


def _count(x: NDArray, axes: Axes) -> int:
    """How many elements share one sum over ``axes``; 1 rather than 0."""
    return max(math.prod(x.shape[axis] for axis in axes), 1)


def _boxes(x: NDArray) -> Any:
    return boxes(x.shape, box_shape(x.shape, BLOCK))


def _within(box: Box, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Index of a box in an array of ``shape``, whose extents are those of x or 1."""
    return tuple(
        slice(0, 1) if n == 1 else slice(start, stop)
        for n, (start, stop) in zip(shape, box, strict=True)
    )


def _part(vector: NDArray, box: Box) -> NDArray:
    """What of a broadcast array meets a box; missing leading axes count as extents of 1."""
    return vector[_within(box[len(box) - vector.ndim :], vector.shape)]
