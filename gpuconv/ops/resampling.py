"""Enlarging the spatial axes by whole factors, on canonical arrays, with the gradients.

Whole factors make every output position one of ``factor`` phases of an input position, so that
both methods and their gradients are sums over slices: no gather, and no two additions to one
element at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array


def upsample_nearest(x: Array, factors: Sequence[int]) -> Array:
    """``x`` (N, *in, C) -> (N, *(in * factor), C), every element repeated."""
    xp = array_module(x)
    batch, *extents, channels = x.shape
    split, repeated = [batch], [batch]
    for extent, factor in zip(extents, factors, strict=True):
        split += [extent, 1]
        repeated += [extent, factor]
    large = (e * f for e, f in zip(extents, factors, strict=True))
    every = xp.broadcast_to(x.reshape(*split, channels), (*repeated, channels))
    # Copied explicitly: with factors of 1 the reshape alone would be a view of x.
    return xp.array(every, order="C").reshape(batch, *large, channels)


def upsample_nearest_backward(dy: Array, factors: Sequence[int]) -> Array:
    """``dy`` (N, *(in * factor), C) -> (N, *in, C), the copies' gradients summed."""
    batch, *extents, channels = dy.shape
    split: list[int] = [batch]
    for extent, factor in zip(extents, factors, strict=True):
        split += [extent // factor, factor]
    copies = tuple(2 * (axis + 1) for axis in range(len(extents)))
    return dy.reshape(*split, channels).sum(axis=copies)


def upsample_bilinear(x: Array, factors: Sequence[int]) -> Array:
    """``x`` (N, *in, C) -> (N, *(in * factor), C), linear in each dimension.

    Pixels are areas: the centre of output ``p`` lies at ``(p + 0.5)/factor - 0.5`` of the input
    (PyTorch's ``align_corners=False``, Keras's only way). Beyond the outermost centres the
    outermost pixel continues.
    """
    for axis, factor in enumerate(factors, start=1):
        x = _stretch(x, axis, factor)
    return x


def upsample_bilinear_backward(dy: Array, factors: Sequence[int]) -> Array:
    """``dy`` (N, *(in * factor), C) -> (N, *in, C)."""
    for axis, factor in enumerate(factors, start=1):
        dy = _stretch_backward(dy, axis, factor)
    return dy


def _stretch(x: Array, axis: int, factor: int) -> Array:
    xp = array_module(x)
    extent = x.shape[axis]
    first, last = _at(axis, slice(0, 1)), _at(axis, slice(extent - 1, extent))
    wide = xp.concatenate([x[first], x, x[last]], axis=axis)  # the edges continue
    y = xp.empty((*x.shape[:axis], extent * factor, *x.shape[axis + 1 :]), x.dtype)
    for phase, shift, weight in _phases(factor):
        part = y[_at(axis, slice(phase, None, factor))]
        xp.multiply(x, 1.0 - weight, out=part)
        if weight:
            part += weight * wide[_at(axis, slice(1 + shift, 1 + shift + extent))]
    return y


def _stretch_backward(dy: Array, axis: int, factor: int) -> Array:
    xp = array_module(dy)
    extent = dy.shape[axis] // factor
    wide = xp.zeros((*dy.shape[:axis], extent + 2, *dy.shape[axis + 1 :]), dy.dtype)
    dx = wide[_at(axis, slice(1, 1 + extent))]
    for phase, shift, weight in _phases(factor):
        part = dy[_at(axis, slice(phase, None, factor))]
        dx += (1.0 - weight) * part
        if weight:
            wide[_at(axis, slice(1 + shift, 1 + shift + extent))] += weight * part
    dx[_at(axis, slice(0, 1))] += wide[_at(axis, slice(0, 1))]
    dx[_at(axis, slice(extent - 1, extent))] += wide[_at(axis, slice(extent + 1, extent + 2))]
    return xp.ascontiguousarray(dx)


def _phases(factor: int) -> Iterator[tuple[int, int, float]]:
    """Yield, for each phase, the side of the second input pixel (-1 or 1) and its weight."""
    for phase in range(factor):
        centre = (phase + 0.5) / factor - 0.5
        yield phase, (1 if centre > 0 else -1), abs(centre)


def _at(axis: int, index: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, index)
