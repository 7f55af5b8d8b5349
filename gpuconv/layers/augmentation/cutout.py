"""Cutout (DeVries and Taylor 2017): a window of every image painted over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.backends.base import Array
from gpuconv.geometry import as_tuple
from gpuconv.layers.arguments import as_number
from gpuconv.layers.augmentation.base import Augmentation, Numbers
from gpuconv.layers.base import Backward


class Cutout(Augmentation):
    """In training, paints over a window of every image (DeVries and Taylor 2017).

    The window's centre may be any pixel, each as likely; what lies beyond the edges is cut off.

    Args:
        size: height and width of the window, an int or a pair.
        fill_value: what the pixels become; default 0.
        seed: makes the places reproducible; None takes a seed from ``gpuconv.random``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape. Keras has no such layer;
    its RandomErasing draws the window's size too.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 2

    def __init__(
        self,
        size: int | Sequence[int],
        fill_value: float = 0.0,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        self.size = as_tuple(size, 2, "size", 1)
        self.fill_value = as_number(fill_value, "fill_value")

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        corners = np.floor(uniform * x.shape[1:3]).astype(int) - np.array(self.size) // 2
        ends = corners + self.size
        windows = [
            (i, slice(top, bottom), slice(left, right))
            for i, ((top, left), (bottom, right)) in enumerate(
                zip(np.maximum(corners, 0).tolist(), ends.tolist(), strict=True)
            )
        ]

        def painted(images: Array, value: float) -> Array:
            result = images.copy()
            for window in windows:
                result[window] = value
            return result

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return painted(dy, 0.0) if input_gradient else None

        return painted(x, self.fill_value), backward
