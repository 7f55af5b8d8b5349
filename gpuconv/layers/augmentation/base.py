"""What all augmentation layers share: images in, numbers drawn on the host, training only."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, ShapeError, shown
from gpuconv.geometry import Extents, entries_of
from gpuconv.layers.arguments import as_number
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.seeded import Seeded
from gpuconv.layers.spatial import Spatial

Numbers = np.ndarray[Any, Any]


class Augmentation(Spatial, Seeded):
    """Changes every image of a batch by random numbers of its own, in training only.

    The numbers are drawn on the host, one generator a batch and one row a sample: they are the
    same on every device. A subclass writes ``draws`` and ``augment``.
    """

    rank = 2
    draws: int
    """Random numbers a sample."""

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        """Change ``x`` (N, H, W, C) by ``uniform`` (N, draws), numbers from [0, 1)."""
        raise TypeError(f"{type(self).__name__} must define augment")

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        if any(extent == 0 for extent in shape[1:]):
            raise ShapeError(
                f"{self.name}: expected images of at least one pixel and one channel. "
                f"Received: shape {tuple(shape)}"
            )

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return (*extents, channels)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if not training:
            return x, identity_backward
        uniform = self.seed_stream.generator().random((x.shape[0], self.draws))
        return self.augment(x, uniform)


def identity_backward(dy: Array, input_gradient: bool = True) -> Array | None:
    """The gradient of the identity."""
    return dy if input_gradient else None


Factor = float | tuple[float, float]


def as_factor(value: Any, name: str, lowest: float, highest: float) -> Factor:
    """Return a number, or a pair of numbers as they came.

    Raises:
        InvalidArgumentError: neither, or out of ``[lowest, highest]``.
    """
    entries = entries_of(value)
    if entries is None:
        return as_number(value, name, lowest, highest)
    if len(entries) != 2:
        raise InvalidArgumentError(
            f"{name} must be a number or a pair of numbers from {lowest:g} to {highest:g}. "
            f"Received: {shown(value)}"
        )
    low, high = (as_number(entry, name, lowest, highest) for entry in entries)
    return low, high


def spread(factor: Factor, uniform: Numbers) -> Numbers:
    """Numbers from [0, 1) spread over a pair's range, or over ``[-factor, factor)``."""
    low, high = sorted(factor) if isinstance(factor, tuple) else (-abs(factor), abs(factor))
    return low + (high - low) * uniform
