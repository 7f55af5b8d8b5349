"""RandomContrast: differences from the mean of a channel made larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends.arrays import array_module, device_of, to_device
from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.geometry import entries_of
from gpuconv.layers.arguments import as_number
from gpuconv.layers.augmentation.base import Augmentation, Factor, Numbers, as_factor
from gpuconv.layers.base import Backward


class RandomContrast(Augmentation):
    """In training, ``(x - mean) * factor + mean`` for every image, as Keras's RandomContrast.

    The mean is that of the channel of the image.

    Args:
        factor: how far the factor may lie from 1: 0.3 draws from 0.7 to 1.3, evenly; a pair
            ``(lower, upper)`` from ``1 - lower`` to ``1 + upper``. From 0 to 1. Keras's
            documentation says so; Keras 3.15 itself draws from 1 to 1.3.
        value_range: bounds of the pixels, to which the result is clipped; default (0, 255).
        seed: makes the factors reproducible; None takes a seed from ``gpuconv.random``.
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
        self.factor = as_factor(factor, "factor", 0.0, 1.0)
        self.value_range = as_range(value_range)

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        xp = array_module(x)
        pair = self.factor if isinstance(self.factor, tuple) else (self.factor, self.factor)
        drawn = 1.0 - pair[0] + (pair[0] + pair[1]) * uniform
        factor = to_device(drawn.astype(x.dtype).reshape(-1, 1, 1, 1), device_of(x))
        mean = x.mean(axis=(1, 2), keepdims=True)
        y = x - mean
        y *= factor
        y += mean
        low, high = self.value_range
        kept = (y >= low) & (y <= high)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            passed = dy * kept
            through_mean = passed.mean(axis=(1, 2), keepdims=True)
            return passed * factor + (1 - factor) * through_mean

        return xp.clip(y, low, high), backward


def as_range(value: Any) -> tuple[float, float]:
    """Return ``(low, high)``.

    Raises:
        InvalidArgumentError: not two numbers, the smaller one first.
    """
    entries = entries_of(value)
    if entries is not None and len(entries) == 2:
        low, high = (as_number(entry, "value_range") for entry in entries)
        if low < high:
            return low, high
    raise InvalidArgumentError(
        f"value_range must be two numbers, the smaller one first. Received: {shown(value)}"
    )
