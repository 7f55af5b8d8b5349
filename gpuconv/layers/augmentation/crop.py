"""RandomCrop: a window of every image, somewhere else each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, constant
from gpuconv.backends.base import Array
from gpuconv.geometry import Extents, as_int
from gpuconv.layers.augmentation.base import Augmentation, Numbers
from gpuconv.layers.augmentation.sampling import resample, resample_backward
from gpuconv.layers.base import Backward


class RandomCrop(Augmentation):
    """In training, cuts a window of ``height`` x ``width`` out of every image.

    In inference, and in training if an image is smaller than the window, it takes the largest
    window of the same proportions from the middle and resizes it (bilinear, pixels are areas), as
    Keras's documentation of RandomCrop says and its ``Resizing(crop_to_aspect_ratio=True)`` does;
    Keras 3.15's RandomCrop itself leaves images as they are in inference. It also takes one place
    for a whole batch; here each image has its own.

    Args:
        height, width: extents of the output.
        seed: makes the places reproducible; None takes a seed from ``gpuconv.random``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W) of any size.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 2

    def __init__(
        self,
        height: int,
        width: int,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        self.height = as_int(height, "height", 1)
        self.width = as_int(width, "width", 1)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return self.height, self.width, channels

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if training and x.shape[1] >= self.height and x.shape[2] >= self.width:
            return super().run_channels_last(x, training)
        return self._from_the_middle(x)

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        xp = array_module(x)
        height, width, shape, dtype = self.height, self.width, x.shape, x.dtype
        places = (shape[1] - height + 1, shape[2] - width + 1)
        corners = np.floor(uniform * places).astype(int).tolist()
        windows = [
            (i, slice(top, top + height), slice(left, left + width))
            for i, (top, left) in enumerate(corners)
        ]

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            dx = xp.zeros(shape, dtype)
            for i, window in enumerate(windows):
                dx[window] = dy[i]
            return dx

        y = xp.empty((shape[0], height, width, shape[3]), dtype)
        for i, window in enumerate(windows):
            y[i] = x[window]
        return y, backward

    def _from_the_middle(self, x: Array) -> tuple[Array, Backward]:
        """The largest window of the output's proportions, resized to the output."""
        xp = array_module(x)
        shape, dtype, size = x.shape, x.dtype, (self.height, self.width)
        tall = max(min(shape[1], shape[2] * self.height // self.width), 1)
        wide = max(min(shape[2], shape[1] * self.width // self.height), 1)
        top, left = (shape[1] - tall) // 2, (shape[2] - wide) // 2
        window = (slice(None), slice(top, top + tall), slice(left, left + wide))
        inside = xp.ascontiguousarray(x[window])
        matrix = constant(_resizing(size, (tall, wide)), xp.empty(0, "float64"))

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            dx = xp.zeros(shape, dtype)
            if size == (tall, wide):
                dx[window] = dy
            else:
                dx[window] = resample_backward(dy, matrix, (tall, wide), "nearest", "bilinear")
            return dx

        if size == (tall, wide):
            return inside, backward
        return resample(inside, matrix, size, "nearest", "bilinear"), backward


def _resizing(large: tuple[int, int], small: tuple[int, int]) -> Numbers:
    """The affine map from pixels of the output to those of the input, centre to centre."""
    (r, c) = (s / b for s, b in zip(small, large, strict=True))
    return np.array([[[r, 0.0, (r - 1) / 2], [0.0, c, (c - 1) / 2]]])
