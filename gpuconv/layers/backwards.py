"""What runs backwards through a layer that ends in an activation, or in max pooling.

Where max pooling follows an activation, the activation's gradient is computed behind the pooling,
on fewer numbers::

    y = f(z), p = max_pool(y)        dz = max_pool_backward(dp) f'(y)
                                        = max_pool_backward(dp f'(p))

since each gradient goes to the element that was the maximum, where y is p. The sum of dz, which is
the gradient of a bias, is that of ``dp f'(p)`` too. A 2x2 window leaves a quarter of the numbers,
and y need not be kept. :func:`postpone` arranges it between the two layers' ``backward``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from gpuconv.activations import WHOLE_ROWS, ActivationFunction
from gpuconv.backends.base import Array
from gpuconv.geometry import PoolGeometry
from gpuconv.layers.base import Backward
from gpuconv.ops import pool as ops
from gpuconv.ops.layouts import channels_last, from_channels_last
from gpuconv.parameter import Parameter


class ActivationGradient:
    """From the gradient of ``function(x + bias)`` to that of ``x``, and the bias' on the way.

    Only what that needs is kept: the input or the output.

    Args:
        function: the activation.
        bias: None if there is none.
        x, y: input and output of ``function``, channels last.
        gradient: from the gradient of ``y`` to that of ``x``, which keeps what it needs itself, if
            there is no bias; default None: it is computed from ``x`` or ``y``.
    """

    def __init__(
        self,
        function: ActivationFunction,
        bias: Parameter | None,
        x: Array,
        y: Array,
        gradient: Callable[[Array], Array] | None = None,
    ) -> None:
        self._function, self.bias, self._gradient = function, bias, gradient
        self._x = x if function.needs_input and gradient is None else None
        from_output = not function.needs_input and function.name != "linear"
        self._y = y if from_output and gradient is None else None
        self._postponed = False

    def __call__(self, dy: Array) -> Array:
        if self._postponed:
            return dy
        return self._compute(dy, self._y) if self._gradient is None else self._gradient(dy)

    def _compute(self, dy: Array, y: Array | None) -> Array:
        if self.bias is None or not self.bias.trainable:
            return self._function.backward(dy, self._x, y)
        dx, sums = self._function.backward_with_sums(dy, self._x, y)
        self.bias.add_gradient(sums)
        return dx

    @property
    def elementwise_from_output(self) -> bool:
        """Whether each number's gradient follows from that number of the output."""
        return not self._function.needs_input and self._function.name not in WHOLE_ROWS

    def postpone(self) -> Callable[[Array, Array | None], Array]:
        """Leave the work to the function that is returned: of some of ``dy`` and of ``y``."""
        self._postponed, self._y, self._gradient = True, None, None
        return self._compute


@dataclass(slots=True)
class ActivatedBackward:
    """Backwards through a layer that ends in an activation.

    Attributes:
        activation: the gradient of that.
        rest: what the layer does with the result; as every ``backward``.
    """

    activation: ActivationGradient
    rest: Backward

    def __call__(self, dy: Array, input_gradient: bool = True) -> Array | None:
        return self.rest(self.activation(dy), input_gradient)  # type: ignore[no-any-return]


class MaxPoolingBackward:
    """Backwards through max pooling, and through the activation before it if that is postponed.

    Args:
        indices: where the maxima were, (N, *out, C).
        geometry: the pooling.
    """

    def __init__(self, indices: Array, geometry: PoolGeometry) -> None:
        self._indices, self.geometry = indices, geometry
        self._first: Callable[[Array, Array | None], Array] | None = None
        self._y: Array | None = None

    def take_over(self, activation: ActivationGradient, y: Array) -> None:
        """Compute that gradient too; ``y`` (N, *out, C) is what the pooling gave."""
        self._first, self._y = activation.postpone(), y

    def __call__(self, dy: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        if self._first is not None:
            dy = self._first(dy, self._y)
        return ops.max_pool_backward(dy, self._indices, self.geometry)


@dataclass(slots=True)
class SpatialBackward:
    """Backwards through a layer that sees channels-last arrays only, whatever it is given.

    Attributes:
        inner: ``backward`` for channels-last arrays.
        channels_first: whether gradients come, and go, in that format.
    """

    inner: Backward
    channels_first: bool

    def __call__(self, dy: Array, input_gradient: bool = True) -> Array | None:
        dx = self.inner(channels_last(dy, self.channels_first), input_gradient)
        return None if dx is None else from_channels_last(dx, self.channels_first)


def postpone(before: Backward | None, behind: Backward, y: Array) -> None:
    """Let ``behind`` compute what ``before`` ends in, if these are max pooling and an activation.

    Args:
        before, behind: of two layers, of which the second alone reads what the first gives.
        y: what the second gave.
    """
    if not (isinstance(before, SpatialBackward) and isinstance(behind, SpatialBackward)):
        return
    activated, pooling = before.inner, behind.inner
    if not isinstance(activated, ActivatedBackward) or not isinstance(pooling, MaxPoolingBackward):
        return
    activation = activated.activation
    same_sums = activation.bias is None or before.channels_first == behind.channels_first
    if activation.elementwise_from_output and same_sums and _meets_the_input(pooling.geometry):
        pooling.take_over(activation, channels_last(y, behind.channels_first))


@functools.lru_cache(maxsize=1024)
def _meets_the_input(g: PoolGeometry) -> bool:
    """Whether every window has a maximum; where one has not, its gradient goes nowhere."""
    reaching = all(max(pad) < extent for pad, extent in zip(g.pads, g.window, strict=True))
    return reaching and max(g.dilation) == 1
