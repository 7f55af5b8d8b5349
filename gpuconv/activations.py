"""Activation functions by name, with their gradients, as layers use them.

Definitions and default parameters are those of Keras 3.15.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT, Activation
from gpuconv.containers import FLOATS, unwrap
from gpuconv.dispatch import engine_for
from gpuconv.errors import InvalidArgumentError, suggestion

_ALPHA: Final = {"leaky_relu": 0.2, "elu": 1.0}
_ALIASES: Final = {"swish": "silu", "hard_swish": "hard_silu", None: "linear"}
WHOLE_ROWS: Final = ("softmax", "log_softmax")
"""Functions of the whole last axis; the others are element-wise."""

NAMES: Final = tuple(sorted({"linear", *WHOLE_ROWS, *FROM_OUTPUT, *FROM_INPUT}))
"""Every name that ``activation=`` takes, besides None and Keras's ``swish``, ``hard_swish``."""


@dataclass(frozen=True, slots=True)
class ActivationFunction:
    """A function that a layer applies to its output.

    Attributes:
        name: a word from ``NAMES``.
        alpha: slope of ``leaky_relu`` (default 0.2) or scale of ``elu`` (default 1.0).
    """

    name: str
    alpha: float = 0.0

    @property
    def elementwise(self) -> Activation | None:
        """The function in the form that a convolution applies as it stores, if it can."""
        known = self.name in FROM_OUTPUT or self.name in FROM_INPUT
        return _described(self.name, self.alpha) if known else None

    @property
    def fused(self) -> Activation | None:
        """The same where a gradient is asked for later: None if that needs the input."""
        return _described(self.name, self.alpha) if self.name in FROM_OUTPUT else None

    @property
    def needs_input(self) -> bool:
        """Whether :meth:`backward` wants ``x``; the others follow from ``y``."""
        return self.name in FROM_INPUT

    def apply(self, x: Array) -> Array:
        """Return a new array; ``x`` itself for ``linear``. Softmax runs over the last axis."""
        if self.name == "linear":
            return x
        if self.name == "softmax":
            return engine_for(x).softmax(x)
        if self.name == "log_softmax":
            return _log_softmax(x)
        return engine_for(x).activation(x, _described(self.name, self.alpha))

    def apply_with_gradient(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Return :meth:`apply`'s result, and the function from its gradient to that of ``x``."""
        if (described := self.elementwise) is not None:
            return engine_for(x).activation_with_gradient(x, described)
        if self.name == "linear":
            return x, lambda dy: dy
        y = self.apply(x)
        return y, lambda dy: self.backward(dy, None, y)

    def backward(self, dy: Array, x: Array | None, y: Array | None) -> Array:
        """Return the gradient of :meth:`apply`'s input; ``dy`` itself for ``linear``."""
        if self.name == "linear":
            return dy
        engine = engine_for(dy)
        if self.name == "softmax":
            return engine.softmax_backward(dy, y)
        if self.name == "log_softmax":
            return _log_softmax_backward(dy, y)
        return engine.activation_backward(dy, x, y, _described(self.name, self.alpha))

    def backward_with_sums(
        self, dy: Array, x: Array | None, y: Array | None
    ) -> tuple[Array, Array]:
        """Return :meth:`backward`, and its sums over all axes but the last."""
        engine = engine_for(dy)
        if self.name in FROM_OUTPUT:
            return engine.activation_backward_with_sums(dy, y, _described(self.name, self.alpha))
        dx = self.backward(dy, x, y)
        return dx, engine.sum_channels(dx)

    def __call__(self, x: Any) -> Any:
        """Apply it to an array or Tensor; the result is in the same container.

        Raises:
            DTypeError: not real numbers.
        """
        array, wrap = unwrap(x, self.name)
        return wrap(self.apply(array if array.dtype.name in FLOATS else array.astype("float32")))

    def config(self) -> Any:
        """Return plain data from which :func:`get` makes this function again."""
        if self.alpha == _ALPHA.get(self.name, 0.0):
            return self.name
        return {"name": self.name, "alpha": self.alpha}


@functools.cache
def _described(name: str, alpha: float) -> Activation:
    """The function as engines take it; made anew it would cost as much as a small kernel."""
    return Activation(name, alpha)


LINEAR: Final = ActivationFunction("linear")


def get(identifier: Any) -> ActivationFunction:
    """Return an activation function from its name, its configuration, itself, or None (linear).

    A layer that is one, such as ``LeakyReLU(0.1)``, stands for it too.

    Raises:
        InvalidArgumentError: an unknown name, or something else, such as a Python function (its
            gradient would be unknown: gpuconv has no autograd).
    """
    if isinstance(identifier, ActivationFunction):
        return identifier
    if isinstance(identifier, Mapping) and set(identifier) == {"name", "alpha"}:
        return make(identifier["name"], identifier["alpha"])
    if identifier is None or isinstance(identifier, str):
        return make(identifier)
    function = getattr(identifier, "function", None)
    if isinstance(function, ActivationFunction):  # a layer, such as LeakyReLU(0.1)
        return function
    raise InvalidArgumentError(
        f"activation must be None or a name, one of {', '.join(NAMES)}; the gradient of other "
        f"functions is unknown. Received: {identifier!r}"
    )


def make(name: str | None, alpha: float | None = None) -> ActivationFunction:
    """Return the function of this name, with the default parameter unless one is given.

    Raises:
        InvalidArgumentError: an unknown name, or a slope of leaky_relu that is not positive
            (its gradient is computed from the sign of the output).
    """
    known = _ALIASES.get(name, name)
    if known not in NAMES:
        raise InvalidArgumentError(
            f"unknown activation; expected None or one of {', '.join(NAMES)}."
            f"{suggestion(str(name), NAMES)} Received: {name!r}"
        )
    value = _ALPHA.get(known, 0.0) if alpha is None else float(alpha)
    if known in _ALPHA and not value >= 0.0:
        raise InvalidArgumentError(
            f"the parameter of {known} must not be negative. Received: {alpha!r}"
        )
    return ActivationFunction(known, value)


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    exponentials = engine_for(x).activation(shifted, Activation("exponential"))
    total = exponentials.sum(axis=-1, keepdims=True)
    return shifted - array_module(x).log(total)


def _log_softmax_backward(dy: Array, y: Array | None) -> Array:
    softmax = engine_for(dy).activation(y, Activation("exponential"))
    softmax *= dy.sum(axis=-1, keepdims=True)
    return dy - softmax


# The functions, as Keras names them: ``activation=activations.relu``, ``activations.relu(x)``.
elu: Final = make("elu")
exponential: Final = make("exponential")
gelu: Final = make("gelu")
hard_sigmoid: Final = make("hard_sigmoid")
hard_silu: Final = make("hard_silu")
leaky_relu: Final = make("leaky_relu")
linear: Final = make("linear")
log_softmax: Final = make("log_softmax")
mish: Final = make("mish")
relu: Final = make("relu")
relu6: Final = make("relu6")
selu: Final = make("selu")
sigmoid: Final = make("sigmoid")
silu: Final = make("silu")
softmax: Final = make("softmax")
softplus: Final = make("softplus")
softsign: Final = make("softsign")
tanh: Final = make("tanh")
swish, hard_swish = silu, hard_silu
