"""Normalisation over groups of channels (Wu and He 2018, "Group Normalization")."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.layers.axes import resolve_axis
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.normalizing import Normalizing


class GroupNormalization(Normalizing):
    """Gives each group of channels of each sample mean 0 and variance 1, then scales and shifts.

    Args:
        groups: how many groups the channels form, default 32; -1: one for each channel
            (instance normalisation); 1: all channels together.
        axis: of the channels; -1 (default), or 1 for channels-first inputs.
        epsilon: added to the variance, default 1e-3.
        center (True), scale (True): whether there is a ``beta``, a ``gamma``, both (C,).
        beta_initializer ("zeros"), gamma_initializer ("ones"), beta_regularizer,
            gamma_regularizer: as in Keras.

    Training and inference do the same. The variance is the biased one.

    Raises:
        InvalidArgumentError: ``groups`` is neither positive nor -1; a negative epsilon.
        ShapeError: the number of channels is no multiple of ``groups``, or differs from the one
            built for.
    """

    def __init__(
        self, groups: int = 32, axis: int = -1, epsilon: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.groups = as_int(groups, "groups", -1)
        if self.groups == 0:
            raise InvalidArgumentError(f"groups must be positive or -1. Received: {groups!r}")
        self.axis = as_int(axis, "axis")

    def parameter_axes(self, rank: int) -> tuple[int, ...]:
        return (resolve_axis(self.axis, rank, self.name),)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._split(self.parameter_shape(input_shape)[0])
        return input_shape

    def _split(self, channels: int) -> tuple[int, int]:
        """Return the number of groups and the channels in each."""
        groups = channels if self.groups == -1 else self.groups
        if groups == 0 or channels == 0 or channels % groups:
            raise ShapeError(
                f"{self.name}: the number of channels must be a multiple of groups={groups}. "
                f"Received: {channels} channels"
            )
        return groups, channels // groups

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        axis = self.parameter_axes(x.ndim)[0]
        last = xp.moveaxis(x, axis, -1)
        split = self._split(last.shape[-1])
        grouped = last.reshape(*last.shape[:-1], *split)
        axes = (*range(1, grouped.ndim - 2), grouped.ndim - 1)
        along = (grouped.ndim - 2, grouped.ndim - 1)
        mean, variance = engine_for(x).moments(grouped, axes)
        y = self.normalize(grouped, mean, variance, along)
        backward_grouped = self.normalize_backward(grouped, mean, variance, along, axes)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            moved = xp.moveaxis(dy, axis, -1).reshape(grouped.shape)
            dx = backward_grouped(moved, input_gradient)
            return None if dx is None else xp.moveaxis(dx.reshape(last.shape), -1, axis)

        return xp.moveaxis(y.reshape(last.shape), -1, axis), backward
