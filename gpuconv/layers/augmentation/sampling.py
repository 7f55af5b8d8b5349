"""Images read at other places, by an affine map, and the exact adjoint of it.

A map is 2 x 3: pixel ``(r, c)`` of the output reads the input at row
``m[0,0]*r + m[0,1]*c + m[0,2]`` and column ``m[1,0]*r + m[1,1]*c + m[1,2]``, between up to four
pixels. Places are computed in float64, whatever the images' dtype, and rounded to 2**-32 of a
pixel: a rotation by a quarter is then exact, and every device reads at the same places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array

FILL_MODES = ("reflect", "wrap", "constant", "nearest")
INTERPOLATIONS = ("bilinear", "nearest")

_GRID = 2.0**32


def resample(
    x: Array,
    maps: Array,
    extents: tuple[int, int],
    fill_mode: str,
    interpolation: str,
    fill_value: float = 0.0,
) -> Array:
    """Read images at other places.

    Args:
        x: (N, H, W, C).
        maps: (N, 2, 3) in float64 on the same device, or (1, 2, 3) for all images.
        extents: height and width of the output.
        fill_mode: what lies outside: ``"reflect"`` (d c b a | a b c d | d c b a), ``"wrap"``,
            ``"nearest"`` (the pixel at the edge), or ``"constant"``, which is ``fill_value``.
        interpolation: ``"bilinear"`` or ``"nearest"``, halves to the even pixel.

    Returns:
        (N, *extents, C).
    """
    xp = array_module(x)
    batch, height, width, channels = x.shape
    fill = x.dtype.type(fill_value)
    y = xp.empty((batch, *extents, channels), x.dtype)
    for part in _parts(xp, batch, extents):
        planes = _planes(xp, x[part])
        total = None
        for index, weight, inside in _taps(
            xp, maps, part, (height, width), extents, fill_mode, interpolation
        ):
            values = xp.take(planes, index, axis=1)
            if inside is not None:
                values = xp.where(inside, values, fill)
            if weight is not None:
                values *= weight.astype(x.dtype)
            if total is None:
                total = values
            else:
                total += values
        y[part] = xp.moveaxis(total, 0, -1)
    return y


def resample_backward(
    dy: Array, maps: Array, extents: tuple[int, int], fill_mode: str, interpolation: str
) -> Array:
    """The adjoint of :func:`resample` without its fill value.

    Args:
        dy: (N, H', W', C).
        maps, fill_mode, interpolation: as in the forward.
        extents: height and width of the forward's input.

    Returns:
        (N, *extents, C). Sums are taken in float64.
    """
    xp = array_module(dy)
    batch, height, width, channels = dy.shape
    dx = xp.empty((batch, *extents, channels), dy.dtype)
    for part in _parts(xp, batch, (height, width)):
        count = part.stop - part.start
        gradient = _planes(xp, dy[part]).astype("float64").reshape(channels, count, height, width)
        plane = count * extents[0] * extents[1]
        size = channels * plane
        first = xp.arange(channels)[:, None, None, None] * plane
        total = xp.zeros(size, "float64")
        for index, weight, inside in _taps(
            xp, maps, part, extents, (height, width), fill_mode, interpolation
        ):
            share = gradient if weight is None else gradient * weight
            if inside is not None:
                share = share * inside
            elements = first + index
            total += xp.bincount(elements.ravel(), weights=share.ravel(), minlength=size)
        dx[part] = xp.moveaxis(total.reshape(channels, count, *extents), 0, -1)
    return dx


def _planes(xp: Any, images: Array) -> Array:
    """``(n, H, W, C)`` as (C, n*H*W): channels apart, so that weights go along pixels."""
    return xp.ascontiguousarray(xp.moveaxis(images, -1, 0)).reshape(images.shape[-1], -1)


def _parts(xp: Any, batch: int, extents: tuple[int, int]) -> Iterator[slice]:
    """Slices of the batch, small enough for a processor's cache or a device's memory."""
    pixels = 1 << (15 if xp is np else 20)
    samples = max(1, pixels // max(extents[0] * extents[1], 1))
    for start in range(0, batch, samples):
        yield slice(start, min(start + samples, batch))


def _taps(
    xp: Any,
    maps: Array,
    part: slice,
    source: tuple[int, int],
    target: tuple[int, int],
    fill_mode: str,
    interpolation: str,
) -> Iterator[tuple[Array, Array | None, Array | None]]:
    """Yield the pixels that the output reads: index in the part, weight, and whether inside.

    Each is (n, *target); no weight stands for 1, no mask for true everywhere.
    """
    count = part.stop - part.start
    chosen = maps if maps.shape[0] == 1 else maps[part]
    rows = xp.arange(target[0], dtype="float64")[:, None]
    columns = xp.arange(target[1], dtype="float64")
    axes = []
    for axis, extent in enumerate(source):
        m = chosen[:, axis, :, None, None]
        place = m[:, 0] * rows + m[:, 1] * columns + m[:, 2]
        place = xp.rint(place * _GRID) * (1.0 / _GRID)
        axes.append(list(_neighbours(xp, place, extent, fill_mode, interpolation)))
    first = xp.arange(count, dtype="float64")[:, None, None] * (source[0] * source[1])
    for row, weight, inside in axes[0]:
        row = first + row * source[1]
        for column, weight_2, inside_2 in axes[1]:
            index = (row + column).astype("int64")
            yield (
                index,
                None if weight is None else xp.broadcast_to(weight * weight_2, index.shape),
                None if inside is None else xp.broadcast_to(inside & inside_2, index.shape),
            )


def _neighbours(
    xp: Any, place: Array, extent: int, fill_mode: str, interpolation: str
) -> Iterator[tuple[Array, Array | None, Array | None]]:
    """Yield index, weight and whether inside of the pixels next to a place, along one axis.

    Indices stay floats, whose remainders take a fraction of the time of integers'.
    """
    if interpolation == "nearest":
        yield _fixed(xp, xp.rint(place), None, extent, fill_mode)
        return
    low = xp.floor(place)
    weight = place - low
    yield _fixed(xp, low, 1.0 - weight, extent, fill_mode)
    yield _fixed(xp, low + 1.0, weight, extent, fill_mode)


def _fixed(
    xp: Any, index: Array, weight: Array | None, extent: int, fill_mode: str
) -> tuple[Array, Array | None, Array | None]:
    """Bring an index into the image, as the fill mode says."""
    if fill_mode == "wrap":
        return _remainder(xp, index, extent), weight, None
    if fill_mode == "reflect":
        index = _remainder(xp, index, 2 * extent)
        return xp.minimum(index, 2 * extent - 1 - index), weight, None
    inside = (index >= 0) & (index < extent) if fill_mode == "constant" else None
    return xp.minimum(xp.maximum(index, 0.0), extent - 1.0), weight, inside


def _remainder(xp: Any, index: Array, period: int) -> Array:
    """``index % period`` of whole numbers; the half keeps quotients off the whole numbers."""
    return index - xp.floor((index + 0.5) * (1.0 / period)) * period
