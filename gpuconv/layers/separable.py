"""SeparableConv1D and SeparableConv2D: a depthwise convolution, then a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from gpuconv import initializers, regularizers
from gpuconv.backends.base import Array
from gpuconv.geometry import Extents, as_int
from gpuconv.layers.backwards import ActivatedBackward
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.depthwise import DepthwiseBase, as_grouped
from gpuconv.ops import convolution as ops
from gpuconv.parameter import Parameter


class SeparableConvND(DepthwiseBase):
    """Separable convolution of ``rank`` spatial dimensions; see :class:`SeparableConv2D`."""

    depthwise_kernel: Parameter
    pointwise_kernel: Parameter

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        pointwise_initializer: Any = "glorot_uniform",
        pointwise_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            depth_multiplier,
            data_format,
            dilation_rate,
            activation,
            **kwargs,
        )
        self.filters = as_int(filters, "filters", 1)
        self.pointwise_initializer = initializers.get(pointwise_initializer)
        self.pointwise_regularizer = regularizers.get(pointwise_regularizer)

    def add_parameters(self, input_shape: Shape) -> None:
        channels = self.channels_of(input_shape)
        self.depthwise_kernel = self.add_depthwise("depthwise_kernel", channels)
        self.pointwise_kernel = self.add_parameter(
            "pointwise_kernel",
            (*(1,) * self.rank, channels * self.depth_multiplier, self.filters),
            self.pointwise_initializer,
            self.pointwise_regularizer,
        )
        self.add_bias(self.filters)

    def _problems(self, x_shape: Shape) -> tuple[ops.Convolution, ops.Convolution]:
        """The grouped and the 1x1 convolution for a canonical input shape."""
        depthwise = self.depthwise_problem(x_shape)
        ones = (1,) * self.rank
        between = depthwise.geometry.y_shape
        w_shape = (*ones, between[-1], self.filters)
        return depthwise, ops.convolution(between, w_shape, ones, 0, ones, 1)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return (*self.depthwise_extents(extents, channels), self.filters)

    def infer_channels_last(self, x: Array) -> Array:
        depthwise, pointwise = self._problems(x.shape)
        between = ops.forward(x, as_grouped(self.depthwise_kernel.value), None, depthwise)
        mixing, bias = self.pointwise_kernel.value, self.bias_value()
        return self.inferred(partial(ops.forward, between, mixing, bias, pointwise))

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        depthwise, pointwise = self._problems(x.shape)
        grouped, mixing = as_grouped(self.depthwise_kernel.value), self.pointwise_kernel.value
        between = ops.forward(x, grouped, None, depthwise)
        y, activation = self.activated(
            partial(ops.forward, between, mixing, self.bias_value(), pointwise)
        )

        def backward(dz: Array, input_gradient: bool = True) -> Array | None:
            if self.pointwise_kernel.trainable:
                self.pointwise_kernel.add_gradient(ops.backward_weight(dz, between, pointwise))
            if not (input_gradient or self.depthwise_kernel.trainable):
                return None
            dbetween = ops.backward_input(dz, mixing, pointwise)
            if self.depthwise_kernel.trainable:
                dw = ops.backward_weight(dbetween, x, depthwise)
                self.depthwise_kernel.add_gradient(dw.reshape(self.depthwise_kernel.shape))
            return ops.backward_input(dbetween, grouped, depthwise) if input_gradient else None

        return y, ActivatedBackward(activation, backward)


class SeparableConv1D(SeparableConvND):
    """1-D separable convolution; see :class:`SeparableConv2D`. Padding may be ``"causal"``."""

    rank = 1


class SeparableConv2D(SeparableConvND):
    """Depthwise, then 1x1 convolution (Chollet 2017, "Xception"), with Keras's words and defaults.

    Args:
        filters: number of output channels ``F``.
        kernel_size, strides (1), dilation_rate (1): of the depthwise step; an int or one a
            dimension. Strides and dilation may both exceed 1 (Keras does not allow that).
        padding: ``"valid"`` (default), ``"same"`` (``out = ceil(in/stride)``), ``"causal"``
            (1-D only), an int, one int a dimension, or ``((lo, hi), ...)``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        depth_multiplier: depthwise filters ``m`` for each input channel; default 1.
        activation: name or None (linear), after the second step only.
        use_bias (True; one bias, after the second step), depthwise_initializer and
            pointwise_initializer ("glorot_uniform"), bias_initializer ("zeros"),
            depthwise_regularizer, pointwise_regularizer, bias_regularizer: as in Keras.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; ``depthwise_kernel`` (kh, kw, C, m),
    ``pointwise_kernel`` (1, 1, C*m, F), ``bias`` (F,).

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2
