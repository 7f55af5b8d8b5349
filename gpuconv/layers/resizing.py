"""Images brought to one size: Resizing and CenterCrop."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, constant
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import one_of
from gpuconv.geometry import as_int
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial

Matrix = np.ndarray[Any, Any]


class SizedImages(Spatial):
    """What both share: images in, images of ``height`` x ``width`` out, in training too."""

    rank = 2

    def __init__(
        self, height: int, width: int, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.height = as_int(height, "height", 1)
        self.width = as_int(width, "width", 1)

    def output_extents(self, extents: Any, channels: int) -> Any:
        return self.height, self.width, channels

    def resized(self, x: Array, interpolation: str) -> tuple[Array, Backward]:
        """Resize ``x`` (N, H, W, C): a product with one matrix a dimension, and its transpose."""
        _, tall, wide, _ = x.shape
        if (tall, wide) == (self.height, self.width):
            return x, lambda dy, input_gradient=True: dy if input_gradient else None
        rows = constant(weights(tall, self.height, interpolation), x)
        columns = constant(weights(wide, self.width, interpolation), x)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return _stretched(dy, rows.T, columns.T) if input_gradient else None

        return _stretched(x, rows, columns), backward


class Resizing(SizedImages):
    """Resizes images, as Keras's Resizing.

    Args:
        height, width: extents of the output.
        interpolation: ``"bilinear"`` (default) or ``"nearest"``. Pixels are areas: the centre of
            output ``p`` lies at ``(p + 0.5) * in / out - 0.5`` of the input. As in Keras nothing is
            averaged when images become smaller.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W) of any size, but one size a batch.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    def __init__(
        self,
        height: int,
        width: int,
        interpolation: str = "bilinear",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(height, width, data_format=data_format, **kwargs)
        self.interpolation = one_of(interpolation, ("bilinear", "nearest"), "interpolation")

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return self.resized(x, self.interpolation)


class CenterCrop(SizedImages):
    """Cuts a window of ``height`` x ``width`` out of the middle, as Keras's CenterCrop.

    An image that is smaller than the window in a dimension is resized instead: the largest window
    of the same proportions, from the middle, bilinear.

    Args:
        height, width: extents of the output.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W).

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        shape, dtype = x.shape, x.dtype
        tall, wide = self.height, self.width
        if shape[1] < tall or shape[2] < wide:
            tall = max(min(shape[1], shape[2] * self.height // self.width), 1)
            wide = max(min(shape[2], shape[1] * self.width // self.height), 1)
        top, left = (shape[1] - tall) // 2, (shape[2] - wide) // 2
        window = (slice(None), slice(top, top + tall), slice(left, left + wide))
        y, sized_backward = self.resized(xp.array(x[window], order="C"), "bilinear")

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            dx = xp.zeros(shape, dtype)
            dx[window] = sized_backward(dy, True)
            return dx

        return y, backward


@functools.lru_cache(maxsize=64)
def weights(before: int, after: int, interpolation: str) -> Matrix:
    """Return (after, before): how much of each input pixel an output pixel takes."""
    matrix = np.zeros((after, before))
    for p in range(after):
        if interpolation == "nearest":
            matrix[p, min(int((p + 0.5) * before / after), before - 1)] = 1.0
            continue
        centre = min(max((p + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        first = math.floor(centre)
        matrix[p, first] += 1.0 - (centre - first)
        matrix[p, min(first + 1, before - 1)] += centre - first
    return matrix


def _stretched(x: Array, rows: Array, columns: Array) -> Array:
    """``y[n, i, j, c] = sum over h, w of rows[i, h] columns[j, w] x[n, h, w, c]``."""
    xp, engine = array_module(x), engine_for(x)
    batch, tall, wide, channels = x.shape
    by_row = xp.ascontiguousarray(xp.moveaxis(x, 1, 0)).reshape(tall, -1)
    x = engine.gemm(rows, by_row).reshape(len(rows), batch, wide, channels)
    by_column = xp.ascontiguousarray(xp.moveaxis(x, 2, 0)).reshape(wide, -1)
    y = engine.gemm(columns, by_column).reshape(len(columns), len(rows), batch, channels)
    return xp.ascontiguousarray(y.transpose(2, 1, 0, 3))
