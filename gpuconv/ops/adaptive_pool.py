"""Adaptive pooling on canonical arrays: what layers and the public ops both call.

The windows are PyTorch's: output position ``i`` of ``out`` covers the elements from
``floor(i * in / out)`` up to ``ceil((i + 1) * in / out)``. Where every ``out`` divides its ``in``
that is an ordinary pooling and an engine computes it; else the windows differ in size, may
overlap, and are taken one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, constant
from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError
from gpuconv.geometry import PoolGeometry, as_tuple
from gpuconv.ops import pool

OutputSize = tuple[int | None, ...]
"""One extent a dimension; None keeps that of the input."""


def output_size_of(output_size: Any, rank: int) -> OutputSize:
    """Return a user's ``output_size``, an int or one int or None a dimension, as a tuple.

    Raises:
        InvalidArgumentError: extents below 1, or the wrong number of entries.
    """
    if not isinstance(output_size, Sequence) or isinstance(output_size, str):
        return as_tuple(output_size, rank, "output_size", 1)
    known = as_tuple([1 if e is None else e for e in output_size], rank, "output_size", 1)
    return tuple(
        None if e is None else extent for e, extent in zip(output_size, known, strict=True)
    )


def output_extents(input: Sequence[int], output_size: OutputSize) -> tuple[int, ...]:
    """Return the output's extents for an input's.

    Raises:
        ShapeError: an empty input.
    """
    if min(input) < 1:
        raise ShapeError(
            f"pooling needs an input of at least 1 in each dimension. Received: {tuple(input)}"
        )
    return tuple(i if o is None else o for i, o in zip(input, output_size, strict=True))


def avg_pool(x: Array, output: tuple[int, ...]) -> Array:
    """``x`` (N, *in, C) -> ``y`` (N, *output, C)."""
    geometry = _even(x.shape, output)
    if geometry is not None:
        return pool.avg_pool(x, geometry)
    xp = array_module(x)
    sums = x
    for axis, (extent, size) in enumerate(zip(x.shape[1:-1], output, strict=True), start=1):
        if size != extent:
            parts = [sums[_along(axis, w)].sum(axis=axis) for w in _windows(extent, size)]
            sums = xp.stack(parts, axis=axis)
    return xp.ascontiguousarray(sums / _counts(x, x.shape[1:-1], output))


def avg_pool_backward(dy: Array, input: tuple[int, ...]) -> Array:
    """``dy`` (N, *output, C) -> ``dx`` (N, *input, C)."""
    output = tuple(dy.shape[1:-1])
    geometry = _even((dy.shape[0], *input, dy.shape[-1]), output)
    if geometry is not None:
        return pool.avg_pool_backward(dy, geometry)
    xp = array_module(dy)
    shares = dy / _counts(dy, input, output)
    for axis, (extent, size) in enumerate(zip(input, output, strict=True), start=1):
        if size != extent:
            spread = xp.zeros((*shares.shape[:axis], extent, *shares.shape[axis + 1 :]), dy.dtype)
            for o, window in enumerate(_windows(extent, size)):
                spread[_along(axis, window)] += shares[_along(axis, slice(o, o + 1))]
            shares = spread
    return shares


def max_pool(x: Array, output: tuple[int, ...], with_indices: bool) -> tuple[Array, Array | None]:
    """``x`` (N, *in, C) -> ``y`` and, if wanted, ``indices`` into the plane, (N, *output, C)."""
    geometry = _even(x.shape, output)
    if geometry is not None:
        return pool.max_pool(x, geometry, with_indices)
    xp = array_module(x)
    batch, *input, channels = x.shape
    plane = _plane(x, input)
    y = xp.empty((batch, *output, channels), x.dtype)
    indices = xp.empty(y.shape, np.int64) if with_indices else None
    for position, window in _all_windows(input, output):
        inside = x[_of_each_sample(window)]
        flat = inside.reshape(batch, math.prod(inside.shape[1:-1]), channels)
        y[_of_each_sample(position)] = flat.max(axis=1)
        if indices is not None:
            # argmax takes the first maximum, and the first NaN before any number.
            winner = flat.argmax(axis=1)
            indices[_of_each_sample(position)] = plane[window].reshape(-1)[winner]
    return y, indices


def max_pool_backward(dy: Array, indices: Array, input: tuple[int, ...]) -> Array:
    """``dy`` (N, *output, C) -> ``dx`` (N, *input, C).

    Each window picks its own winner, so that no two threads add to one element at once.
    """
    batch, *output, channels = dy.shape
    geometry = _even((batch, *input, channels), tuple(output))
    if geometry is not None:
        return pool.max_pool_backward(dy, indices, geometry)
    xp = array_module(dy)
    plane = _plane(dy, input)[..., None]
    spatial = (slice(None), *(None,) * len(input))
    dx = xp.zeros((batch, *input, channels), dy.dtype)
    for position, window in _all_windows(input, output):
        one = _of_each_sample(position)
        won = plane[window] == indices[one][spatial]
        dx[_of_each_sample(window)] += xp.where(won, dy[one][spatial], 0)
    return dx


def _even(x_shape: tuple[int, ...], output: tuple[int, ...]) -> PoolGeometry | None:
    """The ordinary pooling that this is, if every output extent divides its input extent."""
    extents = x_shape[1:-1]
    if any(i % o for i, o in zip(extents, output, strict=True)):
        return None
    window = tuple(i // o for i, o in zip(extents, output, strict=True))
    return pool.pooling(tuple(x_shape), window, window, 0, (1,) * len(window))


def _windows(extent: int, size: int) -> list[slice]:
    return [slice(o * extent // size, -(-(o + 1) * extent // size)) for o in range(size)]


def _all_windows(
    input: Sequence[int], output: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each output position with its window in the input."""
    axes = [_windows(i, o) for i, o in zip(input, output, strict=True)]
    for position in np.ndindex(*output):
        yield position, tuple(axis[p] for axis, p in zip(axes, position, strict=True))


def _of_each_sample(index: tuple[Any, ...]) -> tuple[Any, ...]:
    """A spatial position or window as an index into ``(N, *spatial, C)``."""
    return (slice(None), *index)


def _along(axis: int, window: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, window)


def _counts(like: Array, input: Sequence[int], output: Sequence[int]) -> Array:
    """The number of elements of each window, (*output, 1), in the array's module and dtype."""
    counts = np.ones((1,), like.dtype)
    for extent, size in zip(reversed(input), reversed(output), strict=True):
        sizes = np.array([w.stop - w.start for w in _windows(extent, size)], like.dtype)
        counts = sizes.reshape(-1, *(1,) * counts.ndim) * counts
    return constant(counts, like)


def _plane(like: Array, input: Sequence[int]) -> Array:
    """The row-major number of each position of the spatial plane."""
    return array_module(like).arange(math.prod(input)).reshape(tuple(input))
