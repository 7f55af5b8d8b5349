"""RandomFlip: images mirrored, or not, by the toss of a coin."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.base import Array
from gpuconv.errors import one_of
from gpuconv.layers.augmentation.base import Augmentation, Numbers
from gpuconv.layers.base import Backward

_FLIPPED = {
    "horizontal": np.s_[:, ::-1],
    "vertical": np.s_[::-1],
    "horizontal_and_vertical": np.s_[::-1, ::-1],
}


class RandomFlip(Augmentation):
    """In training, flips every image with probability 1/2, as Keras's RandomFlip.

    Args:
        mode: ``"horizontal"`` (left becomes right), ``"vertical"`` (top becomes bottom) or
            ``"horizontal_and_vertical"`` (default), which does both or neither, as in Keras
            3.15; for independent flips use one layer for each.
        seed: makes the flips reproducible; None takes a seed from ``gpuconv.random``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 1

    def __init__(
        self,
        mode: str = "horizontal_and_vertical",
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        self.mode = one_of(mode, _FLIPPED, "mode")

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        chosen = np.flatnonzero(uniform[:, 0] < 0.5).tolist()
        pixels = _FLIPPED[self.mode]

        def flipped(images: Array) -> Array:
            result = images.copy()
            for i in chosen:
                result[i] = images[i][pixels]
            return result

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return flipped(dy) if input_gradient else None  # twice flipped is as before

        return flipped(x), backward
