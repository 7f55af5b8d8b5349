"""What the normalisation layers share: scale ``gamma``, offset ``beta``, and the arithmetic."""

from __future__ import annotations

from typing import Any

from gpuconv import initializers, regularizers
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.layers.arguments import as_number
from gpuconv.layers.axes import require_extents
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.parameter import Parameter


class Normalizing(Layer):
    """A layer ``(x - mean) / sqrt(variance + epsilon) * gamma + beta``.

    Subclasses define ``parameter_axes`` and ``run``. The arguments here are the last ones of every
    such layer, with Keras's defaults.
    """

    gamma: Parameter | None
    beta: Parameter | None

    def __init__(
        self,
        *,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.epsilon = as_number(epsilon, "epsilon", 0.0)
        self.center = bool(center)
        self.scale = bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.gamma = None
        self.beta = None

    def parameter_axes(self, rank: int) -> tuple[int, ...]:
        """Return the axes along which ``gamma`` and ``beta`` vary, in rising order.

        Raises:
            ShapeError: an input of this rank does not have them.
        """
        raise TypeError(f"{type(self).__name__} must define parameter_axes")

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        extents = self.parameter_shape(shape)
        if self.built and self.built_shape is not None:
            expected = self.parameter_shape(tuple(self.built_shape))
            if extents != expected:
                raise ShapeError(
                    f"{self.name}: expected extents {expected} along the normalized axes "
                    f"{self.parameter_axes(len(shape))}. Received: shape {tuple(shape)}"
                )

    def parameter_shape(self, shape: Shape) -> tuple[int, ...]:
        """Return the shape of ``gamma`` and ``beta`` for inputs of a shape.

        Raises:
            ShapeError: an axis does not exist or has an unknown extent.
        """
        return require_extents(shape, self.parameter_axes(len(shape)), self.name)

    def add_parameters(self, input_shape: Shape) -> None:
        shape = self.parameter_shape(input_shape)
        if self.scale:
            self.gamma = self.add_parameter(
                "gamma", shape, self.gamma_initializer, self.gamma_regularizer
            )
        if self.center:
            self.beta = self.add_parameter(
                "beta", shape, self.beta_initializer, self.beta_regularizer
            )

    def normalize(self, x: Array, mean: Array, variance: Array, along: tuple[int, ...]) -> Array:
        """Normalise ``x`` by statistics that broadcast to it.

        Args:
            x, mean, variance: arrays.
            along: the axes of ``x`` along which ``gamma`` and ``beta`` vary.
        """
        scale, offset = _broadcastable(self.gamma, x, along), _broadcastable(self.beta, x, along)
        return engine_for(x).normalize(x, mean, variance, scale, offset, self.epsilon)

    def normalize_backward(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        along: tuple[int, ...],
        statistics_axes: tuple[int, ...] | None,
    ) -> Backward:
        """Return the backward of :meth:`normalize`, which adds into both parameters' gradients.

        Args:
            x, mean, variance, along: as there.
            statistics_axes: the axes over which ``mean`` and ``variance`` were taken from ``x``;
                None if they are constants.
        """
        scale = _broadcastable(self.gamma, x, along)
        summed = tuple(axis for axis in range(x.ndim) if axis not in along)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            learning = [p for p in (self.gamma, self.beta) if p is not None and p.trainable]
            if not learning and not input_gradient:
                return None
            dx, dscale, doffset = engine_for(dy).normalize_backward(
                dy,
                x,
                mean,
                variance,
                scale,
                self.epsilon,
                summed if statistics_axes is None else statistics_axes,
                summed,
                statistics_axes is not None,
                input_gradient,
            )
            for parameter, gradient in ((self.gamma, dscale), (self.beta, doffset)):
                if parameter is not None and parameter.trainable:
                    parameter.add_gradient(gradient.reshape(parameter.shape))
            return dx

        return backward


def _broadcastable(parameter: Parameter | None, x: Array, along: tuple[int, ...]) -> Array | None:
    if parameter is None:
        return None
    shape = [1] * x.ndim
    for axis in along:
        shape[axis] = x.shape[axis]
    return parameter.value.reshape(shape)
