"""What Dense and the convolutions share: a linear map with bias and an activation behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from gpuconv import activations, initializers, regularizers
from gpuconv.backends.base import Array
from gpuconv.backends.functions import Activation
from gpuconv.layers.backwards import ActivationGradient
from gpuconv.layers.base import Layer
from gpuconv.parameter import Parameter


class Biased(Layer):
    """A layer ``activation(linear(x) + bias)``, whatever its weights are called.

    The arguments here are among the last ones of every such layer, with Keras's defaults.
    """

    bias: Parameter | None

    def __init__(
        self,
        *,
        activation: Any = None,
        use_bias: bool = True,
        bias_initializer: Any = "zeros",
        bias_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.bias_initializer = initializers.get(bias_initializer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias = None

    def add_bias(self, size: int) -> None:
        """Create the bias, if the layer has one."""
        if self.use_bias:
            self.bias = self.add_parameter(
                "bias", (size,), self.bias_initializer, self.bias_regularizer
            )

    def bias_value(self) -> Array | None:
        """Return the bias as an array, or None."""
        return None if self.bias is None else self.bias.value

    def activated(
        self, linear: Callable[[Activation | None], Array]
    ) -> tuple[Array, ActivationGradient]:
        """Run ``linear`` with the activation fused into its store where possible.

        Args:
            linear: computes the map and bias, then the given activation.

        Returns:
            The output, and the function from its gradient to that of ``linear`` without
            activation, which adds to the bias' gradient.
        """
        function = self.activation
        fused = function.fused
        x = linear(fused)
        y = x if fused is not None else function.apply(x)
        return y, ActivationGradient(function, self.bias, x, y)

    def inferred(self, linear: Callable[[Activation | None], Array]) -> Array:
        """Return the output of :meth:`activated` where nobody asks for a gradient.

        Functions whose gradient needs their input are then fused too.
        """
        fused = self.activation.elementwise
        y = linear(fused)
        return y if fused is not None else self.activation.apply(y)

    def without_softmax(self) -> Layer | None:
        """Return a twin with the same parameters that gives logits, if this ends in a softmax."""
        if self.activation.name != "softmax":
            return None
        twin = copy.copy(self)
        twin.activation = activations.LINEAR
        return twin


class Activated(Biased):
    """A layer ``activation(linear(x) + bias)`` with one array of weights, ``kernel``."""

    def __init__(
        self,
        *,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def add_kernel(self, shape: tuple[int, ...]) -> Parameter:
        """Create the weights."""
        return self.add_parameter("kernel", shape, self.kernel_initializer, self.kernel_regularizer)
