"""Noise in training: added (GaussianNoise) or multiplied (GaussianDropout)."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.backends.arrays import device_of, to_device
from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers.arguments import as_number
from gpuconv.layers.base import Backward
from gpuconv.layers.seeded import Seeded


class Noisy(Seeded):
    """What both share: normal numbers, the same on every device and, but for rounding, dtype."""

    def normal(self, x: Array) -> Array:
        """Return numbers of mean 0 and variance 1 in the shape of ``x``."""
        drawn = self.seed_stream.generator().standard_normal(x.shape)
        return to_device(drawn.astype(x.dtype), device_of(x))


class GaussianNoise(Noisy):
    """In training, adds normal noise of mean 0; the identity in inference. As in Keras.

    Args:
        stddev: standard deviation of the noise, at least 0.
        seed: makes the noise reproducible; None takes a seed from ``gpuconv.random``.

    The output has the input's shape.

    Raises:
        InvalidArgumentError: a negative deviation, or an impossible seed.
    """

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.stddev = as_number(stddev, "stddev", 0.0)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if not training or self.stddev == 0.0:
            return x, _identity
        return x + self.normal(x) * self.stddev, _identity


class GaussianDropout(Noisy):
    """In training, multiplies by normal noise of mean 1; the identity in inference. As in Keras.

    Args:
        rate: the standard deviation is ``sqrt(rate / (1 - rate))``, which is that of Dropout of
            this rate (Srivastava et al. 2014); at least 0, below 1.
        seed: makes the noise reproducible; None takes a seed from ``gpuconv.random``.

    The output has the input's shape.

    Raises:
        InvalidArgumentError: the rate is out of range, or an impossible seed.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.rate = as_number(rate, "rate", 0.0, 1.0)
        if self.rate == 1.0:
            raise InvalidArgumentError(f"rate must be below 1. Received: {rate!r}")

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if not training or self.rate == 0.0:
            return x, _identity
        factor = self.normal(x) * math.sqrt(self.rate / (1.0 - self.rate)) + 1

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy * factor if input_gradient else None

        return x * factor, backward


def _identity(dy: Array, input_gradient: bool = True) -> Array | None:
    return dy if input_gradient else None
