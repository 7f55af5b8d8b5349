"""Normalisation of each sample over its features (Ba et al. 2016, "Layer Normalization")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.layers.axes import as_axes, resolve_axes
from gpuconv.layers.base import Backward
from gpuconv.layers.normalizing import Normalizing


class LayerNormalization(Normalizing):
    """Gives each sample mean 0 and variance 1 over ``axis``, then scales and shifts it.

    Args:
        axis: the axis (default -1), or several, to normalise over; ``gamma`` and ``beta`` have
            their extents, in rising order of axes.
        epsilon: added to the variance, default 1e-3.
        center (True), scale (True): whether there is a ``beta``, a ``gamma``.
        beta_initializer ("zeros"), gamma_initializer ("ones"), beta_regularizer,
            gamma_regularizer: as in Keras.

    Training and inference do the same. The variance is the biased one.

    Raises:
        InvalidArgumentError: ``axis`` is not an int or a sequence of ints; a negative epsilon.
        ShapeError: the input lacks an axis, or has other extents than the layer was built for.
    """

    def __init__(
        self, axis: int | Sequence[int] = -1, epsilon: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.axis = as_axes(axis)

    def parameter_axes(self, rank: int) -> tuple[int, ...]:
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return resolve_axes(axes, rank, self.name)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        axes = self.parameter_axes(x.ndim)
        mean, variance = engine_for(x).moments(x, axes)
        y = self.normalize(x, mean, variance, axes)
        return y, self.normalize_backward(x, mean, variance, axes, axes)
