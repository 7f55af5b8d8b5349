"""DepthwiseConv1D and DepthwiseConv2D: one N-dimensional layer under two names.

A depthwise convolution is a convolution with one input channel a group. Keras's kernel
``(*k, C, m)`` is the same memory as the ``(*k, 1, C*m)`` of that convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from gpuconv import initializers, regularizers
from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError
from gpuconv.geometry import Extents, as_int, as_tuple, where_known
from gpuconv.layers.activated import Biased
from gpuconv.layers.backwards import ActivatedBackward
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import convolution as ops
from gpuconv.ops.arguments import hashable
from gpuconv.parameter import Parameter


class DepthwiseBase(Spatial, Biased):
    """What depthwise and separable layers share: each channel is convolved by itself."""

    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        depthwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, activation=activation, **kwargs)
        self.kernel_size = as_tuple(kernel_size, self.rank, "kernel_size", 1)
        self.strides = as_tuple(strides, self.rank, "strides", 1)
        self.dilation_rate = as_tuple(dilation_rate, self.rank, "dilation_rate", 1)
        self.depth_multiplier = as_int(depth_multiplier, "depth_multiplier", 1)
        self.padding = self.check_padding(padding, self.kernel_size, causal=True)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)

    def add_depthwise(self, name: str, channels: int) -> Parameter:
        """Create the kernel (*k, C, m)."""
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        return self.add_parameter(
            name, shape, self.depthwise_initializer, self.depthwise_regularizer
        )

    def depthwise_extents(self, extents: Extents, channels: int) -> Extents:
        """The output's extents, None where the input's are not known."""
        return where_known(
            extents, lambda known: self.depthwise_problem((1, *known, channels)).geometry.output
        )

    def depthwise_problem(self, x_shape: Shape) -> ops.Convolution:
        """The grouped convolution for a canonical input shape; cached by that shape."""
        channels = x_shape[-1]
        if channels < 1:  # it is the number of groups too
            raise ShapeError(f"{self.name}: expected at least one channel. Received: {channels}")
        return ops.convolution(
            tuple(x_shape),
            (*self.kernel_size, 1, channels * self.depth_multiplier),
            self.strides,
            hashable(self.padding),
            self.dilation_rate,
            channels,
        )


def as_grouped(kernel: Array) -> Array:
    """View ``(*k, C, m)`` as the kernel ``(*k, 1, C*m)`` of a convolution with C groups."""
    *extents, channels, multiplier = kernel.shape
    return kernel.reshape(*extents, 1, channels * multiplier)


class DepthwiseConvND(DepthwiseBase):
    """Depthwise convolution of ``rank`` spatial dimensions; see :class:`DepthwiseConv2D`."""

    kernel: Parameter

    def add_parameters(self, input_shape: Shape) -> None:
        channels = self.channels_of(input_shape)
        self.kernel = self.add_depthwise("kernel", channels)
        self.add_bias(channels * self.depth_multiplier)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return (*self.depthwise_extents(extents, channels), channels * self.depth_multiplier)

    def infer_channels_last(self, x: Array) -> Array:
        problem, kernel = self.depthwise_problem(x.shape), as_grouped(self.kernel.value)
        return self.inferred(partial(ops.forward, x, kernel, self.bias_value(), problem))

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        problem = self.depthwise_problem(x.shape)
        kernel = as_grouped(self.kernel.value)
        y, activation = self.activated(partial(ops.forward, x, kernel, self.bias_value(), problem))

        def backward(dz: Array, input_gradient: bool = True) -> Array | None:
            if self.kernel.trainable:
                dw = ops.backward_weight(dz, x, problem)
                self.kernel.add_gradient(dw.reshape(self.kernel.shape))
            return ops.backward_input(dz, kernel, problem) if input_gradient else None

        return y, ActivatedBackward(activation, backward)


class DepthwiseConv1D(DepthwiseConvND):
    """1-D depthwise convolution; see :class:`DepthwiseConv2D`. Padding may be ``"causal"``."""

    rank = 1


class DepthwiseConv2D(DepthwiseConvND):
    """Each input channel convolved with its own filters, with Keras's words and defaults.

    Args:
        kernel_size, strides (1), dilation_rate (1): an int or one a dimension. Strides and
            dilation may both exceed 1 (Keras does not allow that).
        padding: ``"valid"`` (default), ``"same"`` (``out = ceil(in/stride)``), ``"causal"``
            (1-D only), an int, one int a dimension, or ``((lo, hi), ...)``.
        depth_multiplier: filters ``m`` for each input channel; default 1.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        activation: name or None (linear).
        use_bias (True), depthwise_initializer ("glorot_uniform"), bias_initializer ("zeros"),
            depthwise_regularizer, bias_regularizer: as in Keras.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; ``kernel`` (kh, kw, C, m), ``bias`` (C*m,). Output
    channel ``c*m + i`` belongs to input channel ``c``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2
