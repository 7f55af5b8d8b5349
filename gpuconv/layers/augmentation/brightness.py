"""RandomBrightness: every image made lighter or darker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends.arrays import array_module, device_of, to_device
from gpuconv.backends.base import Array
from gpuconv.layers.augmentation.base import Augmentation, Factor, Numbers, as_factor, spread
from gpuconv.layers.augmentation.contrast import as_range
from gpuconv.layers.base import Backward


class RandomBrightness(Augmentation):
    """In training, adds one number to every image, as Keras's RandomBrightness.

    Args:
        factor: the number is a part of the range of values, drawn evenly: 0.2 from -0.2 to 0.2,
            a pair ``(lower, upper)`` between these; from -1 to 1.
        value_range: bounds of the pixels, to which the result is clipped; default (0, 255).
        seed: makes the numbers reproducible; None takes a seed from ``gpuconv.random``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape. Pixels that were clipped
    have no gradient.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 1

    def __init__(
        self,
        factor: Factor,
        value_range: Sequence[float] = (0, 255),
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        self.factor = as_factor(factor, "factor", -1.0, 1.0)
        self.value_range = as_range(value_range)

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        low, high = self.value_range
        drawn = spread(self.factor, uniform) * (high - low)
        y = x + to_device(drawn.astype(x.dtype).reshape(-1, 1, 1, 1), device_of(x))
        kept = (y >= low) & (y <= high)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy * kept if input_gradient else None

        return array_module(x).clip(y, low, high), backward
