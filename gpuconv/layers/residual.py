"""ConvAdd: a convolution and the residual connection behind it, as one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuconv import activations
from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, ShapeError, shown
from gpuconv.layers import registry
from gpuconv.layers.activation import run_function
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.layers.convolution import ConvND
from gpuconv.ops.layouts import channels_last, from_channels_last


class ConvAdd(Layer):
    """``activation(layer(x) + residual)``: what ``optimize_for_inference`` makes of an Add.

    In inference the sum and the activation are a part of the convolution's store, on engines that
    can do it.

    Args:
        layer: a Conv1D, Conv2D or Conv3D without activation.
        activation: name or None (linear).

    Called with ``[x, residual]``; ``residual`` and output have the shape of the layer's output.

    Raises:
        InvalidArgumentError: not such a layer, or an unknown activation.
        ShapeError: inputs that do not fit.
    """

    several_inputs = True

    def __init__(self, layer: ConvND, activation: Any = None, **kwargs: Any) -> None:
        if not isinstance(layer, ConvND) or layer.activation.name != "linear":
            raise InvalidArgumentError(
                f"expected a convolution without activation. Received: {shown(layer)}"
            )
        super().__init__(**{"dtype": layer.dtype, **kwargs})
        self.layer = layer
        self.activation = activations.get(activation)
        if not self._trainable:
            layer.trainable = False

    @property
    def sublayers(self) -> Sequence[Layer]:
        return (self.layer,)

    def check_input_shape(self, shape: Sequence[Shape]) -> None:
        super().check_input_shape(shape)
        if len(shape) != 2:
            raise ShapeError(f"{self.name}: expected two inputs. Received: {len(shape)}")
        output = self.layer.compute_output_shape(shape[0])
        fits = len(output) == len(shape[1]) and all(
            one is None or other is None or one == other
            for one, other in zip(output, shape[1], strict=True)
        )
        if not fits:
            raise ShapeError(
                f"{self.name}: expected a second input of shape {output}, the convolution's "
                f"output. Received: shape {tuple(shape[1])}"
            )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        self.check_input_shape(input_shape)
        return self.layer.compute_output_shape(input_shape[0])

    def add_parameters(self, input_shape: Sequence[Shape]) -> None:
        self.layer.to(self.backend or "cpu")
        self.layer.build(input_shape[0])

    def run(self, x: Sequence[Array], training: bool) -> tuple[Array, Backward]:
        self.check_input_shape([part.shape for part in x])
        convolved, convolution_backward = self.layer.run(x[0], training)
        y, activation_backward = run_function(self.activation, convolved + x[1])

        def backward(dy: Array, input_gradient: bool = True) -> list[Array] | None:
            dz = activation_backward(dy)
            dx = convolution_backward(dz, input_gradient)
            return [dx, dz] if input_gradient else None

        return y, backward

    def infer(self, x: Sequence[Array]) -> Array:
        image, residual = (channels_last(part, self.layer.channels_first) for part in x)
        fused = self.activation.elementwise
        y = self.layer.infer_added(image, residual, fused)
        if fused is None:
            y = self.activation.apply(y)
        return from_channels_last(y, self.layer.channels_first)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ConvAdd:
        """Build an equal layer, without weights, from :meth:`get_config`'s dict."""
        settings = dict(config)
        inner: Any = settings.pop("layer")
        return cls(inner if isinstance(inner, Layer) else registry.deserialize(inner), **settings)  # type: ignore[arg-type]
