"""TimeDistributed: one layer for every step of a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, ShapeError, shown
from gpuconv.layers import registry
from gpuconv.layers.base import Backward, Layer, Shape


class TimeDistributed(Layer):
    """Runs a layer on every step of a sequence, as Keras's TimeDistributed.

    Args:
        layer: any layer with one input and one output, such as ``Conv2D(8, 3)``; it has one set
            of weights.
        dtype: default that of the layer; another one goes for the layer too.

    Input (N, T, ...), output (N, T, ...): the layer sees the N * T steps as one batch, so that
    BatchNormalization inside normalises over the steps too. Frames of a video: (N, T, H, W, C).

    Raises:
        InvalidArgumentError: not a layer, or one with several inputs.
        ShapeError: an input without steps, or steps that the layer cannot take.
    """

    min_rank = 3

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        if not isinstance(layer, Layer) or layer.several_inputs:
            raise InvalidArgumentError(
                f"expected a layer of one input, such as Conv2D(8, 3). Received: {shown(layer)}"
            )
        super().__init__(**{"dtype": layer.dtype, **kwargs})
        self.layer = layer
        for part in layer.walk():
            if part.dtype is not None and not part.built:
                part.dtype = self.dtype
        if not self._trainable:
            layer.trainable = False

    @property
    def sublayers(self) -> Sequence[Layer]:
        return (self.layer,)

    def _one_step(self, shape: Shape) -> Shape:
        return (None, *shape[2:])

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        self.layer.check_input_shape(self._one_step(shape))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        return (*input_shape[:2], *self.layer.compute_output_shape(self._one_step(input_shape))[1:])

    def add_parameters(self, input_shape: Shape) -> None:
        self.layer.to(self.backend or "cpu")
        self.layer.build(self._one_step(input_shape))

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        y, step_backward = self.layer.run(_as_batch(x), training)
        if isinstance(y, list):
            raise ShapeError(f"{self.name}: the layer must give one output. Received: {len(y)}")

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            dx = step_backward(_as_batch(dy), input_gradient)
            return None if dx is None else dx.reshape(x_shape)

        x_shape = x.shape
        return y.reshape(*x.shape[:2], *y.shape[1:]), backward

    def infer(self, x: Array) -> Array:
        y = self.layer.infer(_as_batch(x))
        return y.reshape(*x.shape[:2], *y.shape[1:])

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TimeDistributed:
        """Build an equal layer, without weights, from :meth:`get_config`'s dict."""
        settings = dict(config)
        inner = settings.pop("layer")
        return cls(inner if isinstance(inner, Layer) else registry.deserialize(inner), **settings)


def _as_batch(x: Array) -> Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
