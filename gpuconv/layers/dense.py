"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.backends.functions import Activation
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.geometry import as_int
from gpuconv.layers.activated import Activated
from gpuconv.layers.base import Backward, Shape
from gpuconv.parameter import Parameter


class Dense(Activated):
    """``y = activation(x @ kernel + bias)`` over the last axis, as Keras's Dense.

    Args:
        units: number of outputs.
        activation: name or None (linear).
        use_bias, kernel_initializer ("glorot_uniform"), bias_initializer ("zeros"),
            kernel_regularizer, bias_regularizer: as in Keras.

    Input ``(N, ..., I)``, output ``(N, ..., units)``; ``kernel`` (I, units), ``bias`` (units,).

    Raises:
        InvalidArgumentError: units below 1, an unknown activation or initializer.
        ShapeError: an input whose last axis is unknown or differs from the one built for.
    """

    min_rank = 2
    kernel: Parameter

    def __init__(self, units: int, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(activation=activation, **kwargs)
        self.units = as_int(units, "units", 1)

    def add_parameters(self, input_shape: Shape) -> None:
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.add_bias(self.units)

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        if shape[-1] is None:
            raise ShapeError(
                f"{self.name}: the extent of the last axis, the number of features, must be known. "
                f"Images of any size have none behind Flatten; GlobalAveragePooling2D gives them "
                f"as many as there are channels. Received: shape {tuple(shape)}"
            )
        if self.built and shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self.name}: expected {self.kernel.shape[0]} features in the last axis. "
                f"Received: shape {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        return (*input_shape[:-1], self.units)

    def _linear(self, rows: Array) -> Callable[[Activation | None], Array]:
        engine = engine_for(rows)
        return partial(engine.dense, rows, self.kernel.prepared_by(engine), self.bias_value())

    def infer(self, x: Array) -> Array:
        y = self.inferred(self._linear(x.reshape(-1, x.shape[-1])))
        return y.reshape(*x.shape[:-1], self.units)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        engine = engine_for(x)
        kernel = self.kernel.value
        rows = x.reshape(-1, x.shape[-1])
        y, activation = self.activated(self._linear(rows))

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            dz = activation(dy.reshape(-1, self.units))
            if self.kernel.trainable:
                self.kernel.add_gradient(engine.gemm(rows.T, dz))
            return engine.gemm(dz, kernel.T).reshape(x.shape) if input_gradient else None

        return y.reshape(*x.shape[:-1], self.units), backward
