"""Activation functions as layers, with the names and defaults of Keras 3.15."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from gpuconv import activations
from gpuconv.activations import ActivationFunction
from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.layers.arguments import as_number
from gpuconv.layers.axes import as_axes, resolve_axes
from gpuconv.layers.backwards import ActivatedBackward, ActivationGradient, SpatialBackward
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.ops.layouts import channels_last, from_channels_last


def run_function(function: ActivationFunction, x: Array) -> tuple[Array, Backward]:
    """Apply a function; the backward keeps its input OR its output, or less."""
    first = _is_seen_channels_last(function, x)
    seen = channels_last(x, first)
    y, gradient = function.apply_with_gradient(seen)
    backward = ActivatedBackward(ActivationGradient(function, None, seen, y, gradient), _if_wanted)
    return from_channels_last(y, first), SpatialBackward(backward, first)


def infer_function(function: ActivationFunction, x: Array) -> Array:
    """Apply a function where nobody asks for a gradient."""
    first = _is_seen_channels_last(function, x)
    return from_channels_last(function.apply(channels_last(x, first)), first)


def _if_wanted(dx: Array, input_gradient: bool) -> Array | None:
    return dx if input_gradient else None


def _is_seen_channels_last(function: ActivationFunction, x: Array) -> bool:
    """Whether ``x`` is (N, C, ...) over channels-last memory; element-wise results keep that."""
    if x.ndim <= 2 or x.flags.c_contiguous or function.name in activations.WHOLE_ROWS:
        return False
    return bool(channels_last(x, True).flags.c_contiguous)


class ActivationLayer(Layer):
    """A layer that applies one function of ``gpuconv.activations``."""

    @property
    def function(self) -> ActivationFunction:
        """The function."""
        raise TypeError(f"{type(self).__name__} must define function")

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return run_function(self.function, x)

    def infer(self, x: Array) -> Array:
        return infer_function(self.function, x)


class Activation(ActivationLayer):
    """Applies an activation function by name; the shape stays.

    Args:
        activation: a name from ``gpuconv.activations.NAMES``, or None (the identity). Softmax
            runs over the last axis.

    Raises:
        InvalidArgumentError: an unknown name.
        ShapeError: softmax of an input with nothing but a batch axis.
    """

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    @property
    def function(self) -> ActivationFunction:
        return self.activation

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        if len(shape) < 2 and self.activation.name in activations.WHOLE_ROWS:
            raise ShapeError(
                f"{self.name}: {self.activation.name} needs an input of at least 2 dimensions "
                f"(batch first). Received: shape {tuple(shape)}"
            )

    def without_softmax(self) -> Layer | None:
        if self.activation.name != "softmax":
            return None
        twin = copy.copy(self)
        twin.activation = activations.LINEAR
        return twin


class ReLU(Layer):
    """``x`` above the threshold, ``negative_slope * (x - threshold)`` elsewhere, as in Keras.

    Args:
        max_value: largest value returned, or None (default) for no limit.
        negative_slope: default 0.
        threshold: default 0.

    At the threshold the gradient is ``negative_slope``, from ``max_value`` on it is 0.

    Raises:
        InvalidArgumentError: a negative argument.
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else as_number(max_value, "max_value", 0.0)
        self.negative_slope = as_number(negative_slope, "negative_slope", 0.0)
        self.threshold = as_number(threshold, "threshold", 0.0)
        self._named = self._with_a_name()

    def _with_a_name(self) -> ActivationFunction | None:
        """The activation that this is the same as, if it has a name."""
        if self.threshold == 0.0 and self.max_value is None:
            if self.negative_slope:
                return activations.make("leaky_relu", self.negative_slope)
            return activations.make("relu")
        plain_six = (self.threshold, self.negative_slope, self.max_value) == (0.0, 0.0, 6.0)
        return activations.make("relu6") if plain_six else None

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if self._named is not None:
            return run_function(self._named, x)
        y = self.infer(x)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            above = x > self.threshold
            dx = dy * (above if self.max_value is None else above & (x < self.max_value))
            if self.negative_slope:
                dx += dy * ~above * self.negative_slope
            return dx

        return y, backward

    def infer(self, x: Array) -> Array:
        if self._named is not None:
            return infer_function(self._named, x)
        xp = array_module(x)
        above = x if self.max_value is None else xp.minimum(x, self.max_value)
        # An infinite input times a slope of 0 would be NaN.
        below = (x - self.threshold) * self.negative_slope if self.negative_slope else 0.0
        return xp.where(x <= self.threshold, below, above)


class LeakyReLU(ActivationLayer):
    """``x`` where it is positive, else ``negative_slope * x``.

    Args:
        negative_slope: default 0.3.

    Raises:
        InvalidArgumentError: a negative slope.
    """

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = as_number(negative_slope, "negative_slope", 0.0)

    @property
    def function(self) -> ActivationFunction:
        return activations.make("leaky_relu", self.negative_slope)


class ELU(ActivationLayer):
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016).

    Args:
        alpha: default 1.

    Raises:
        InvalidArgumentError: a negative ``alpha``.
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = as_number(alpha, "alpha", 0.0)

    @property
    def function(self) -> ActivationFunction:
        return activations.make("elu", self.alpha)


class GELU(ActivationLayer):
    """``x`` times the normal distribution function of ``x`` (Hendrycks and Gimpel 2016).

    Args:
        approximate: True takes the approximation by tanh; default False, as PyTorch's.
    """

    def __init__(self, approximate: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approximate = bool(approximate)

    @property
    def function(self) -> ActivationFunction:
        return activations.make("gelu_tanh" if self.approximate else "gelu")


class Sigmoid(ActivationLayer):
    """``1 / (1 + exp(-x))``."""

    @property
    def function(self) -> ActivationFunction:
        return activations.make("sigmoid")


class Tanh(ActivationLayer):
    """The hyperbolic tangent."""

    @property
    def function(self) -> ActivationFunction:
        return activations.make("tanh")


class SiLU(ActivationLayer):
    """``x / (1 + exp(-x))``, also called swish."""

    @property
    def function(self) -> ActivationFunction:
        return activations.make("silu")


class Softmax(Layer):
    """Exponentials divided by their sum over an axis.

    Args:
        axis: default -1; a tuple for the sum over several axes.

    Raises:
        InvalidArgumentError: ``axis`` is not an int or a tuple of ints.
        ShapeError: the input has no such axis, or it is the batch axis.
    """

    def __init__(self, axis: int | Sequence[int] = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = as_axes(axis)

    def _axes(self, rank: int) -> tuple[int, ...]:
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return resolve_axes(axes, rank, self.name)

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        self._axes(len(shape))

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        axes = self._axes(x.ndim)
        last = tuple(range(-len(axes), 0))
        engine = engine_for(x)

        def to_rows(array: Array) -> Array:
            moved = xp.moveaxis(array, axes, last)
            return moved.reshape(*moved.shape[: -len(axes)], row)

        def from_rows(rows: Array) -> Array:
            return xp.moveaxis(rows.reshape(moved_shape), last, axes)

        moved_shape = xp.moveaxis(x, axes, last).shape
        row = math.prod(moved_shape[-len(axes) :])
        y = engine.softmax(to_rows(x))

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return from_rows(engine.softmax_backward(to_rows(dy), y)) if input_gradient else None

        return from_rows(y), backward

    def without_softmax(self) -> Layer | None:
        rank = None if self.built_shape is None else len(self.built_shape)
        last = self.axis == -1 or (rank is not None and self._axes(rank) == (rank - 1,))
        if not last:
            return None
        twin = Activation("linear", name=self.name, dtype=self.dtype)
        twin.backend = self.backend
        return twin
