"""PReLU: a ReLU whose slope below 0 is learned (He et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv import initializers, regularizers
from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError
from gpuconv.layers.axes import as_axes, require_extents, resolve_axes
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.parameter import Parameter


class PReLU(Layer):
    """``x`` above 0, ``alpha * x`` elsewhere, with a learned ``alpha``, as Keras's PReLU.

    Args:
        alpha_initializer ("Zeros"), alpha_regularizer: as in Keras.
        shared_axes: axes along which ``alpha`` is the same; ``[1, 2]`` for images gives one
            number a channel, as PyTorch's ``PReLU(C)`` does. None (default): one number for
            every element of a sample.

    State: ``alpha``, of the shape of a sample with 1 in the shared axes. At 0 the gradient is
    ``alpha``.

    Raises:
        InvalidArgumentError: ``shared_axes`` is not an int or a sequence of ints.
        ShapeError: the input lacks an axis, has an unknown extent that is not shared, or other
            extents than the layer was built for.
    """

    min_rank = 2
    alpha: Parameter

    def __init__(
        self,
        alpha_initializer: Any = "Zeros",
        alpha_regularizer: Any = None,
        shared_axes: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        none = shared_axes is None or (isinstance(shared_axes, (list, tuple)) and not shared_axes)
        self.shared_axes = None if none else as_axes(shared_axes)

    def _own_axes(self, rank: int) -> tuple[int, ...]:
        """The axes along which alpha varies."""
        given = self.shared_axes
        shared = () if given is None else given if isinstance(given, tuple) else (given,)
        axes = resolve_axes(shared, rank, self.name)
        return tuple(axis for axis in range(1, rank) if axis not in axes)

    def _alpha_shape(self, shape: Shape) -> tuple[int, ...]:
        own = self._own_axes(len(shape))
        extents = iter(require_extents(shape, own, self.name))
        return tuple(next(extents) if axis in own else 1 for axis in range(1, len(shape)))

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        wanted = self._alpha_shape(shape)
        if self.built and wanted != self.alpha.shape:
            raise ShapeError(
                f"{self.name}: expected an input to which alpha, of shape {self.alpha.shape}, "
                f"belongs. Received: shape {tuple(shape)}"
            )

    def add_parameters(self, input_shape: Shape) -> None:
        self.alpha = self.add_parameter(
            "alpha", self._alpha_shape(input_shape), self.alpha_initializer, self.alpha_regularizer
        )

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        alpha = self.alpha.value
        below = x <= 0

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if self.alpha.trainable:
                shared = [axis for axis, n in enumerate(alpha.shape, 1) if n == 1]
                total = (dy * x * below).sum(axis=(0, *shared), keepdims=True)
                self.alpha.add_gradient(total.reshape(alpha.shape))
            return xp.where(below, alpha * dy, dy) if input_gradient else None

        return xp.where(below, alpha * x, x), backward
