"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: one N-dimensional layer under three names.

Each runs the convolution of the same weights the other way round: forward is its backward_input,
the input gradient is its forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.backends.functions import Activation
from gpuconv.dispatch import engine_for
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import Extents, as_int, as_tuple, where_known
from gpuconv.geometry.transposed import check_output_padding, check_transposed_padding
from gpuconv.layers.activated import Activated
from gpuconv.layers.backwards import ActivatedBackward
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import convolution as ops
from gpuconv.ops.arguments import hashable
from gpuconv.parameter import Parameter


class ConvTransposeND(Spatial, Activated):
    """Transposed convolution of ``rank`` spatial dimensions; see :class:`Conv2DTranspose`."""

    rank: ClassVar[int]
    kernel: Parameter

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, activation=activation, **kwargs)
        self.filters = as_int(filters, "filters", 1)
        self.kernel_size = as_tuple(kernel_size, self.rank, "kernel_size", 1)
        self.strides = as_tuple(strides, self.rank, "strides", 1)
        self.dilation_rate = as_tuple(dilation_rate, self.rank, "dilation_rate", 1)
        self.padding = check_transposed_padding(padding, self.rank)
        self.output_padding = check_output_padding(output_padding, self.strides, self.dilation_rate)
        self.groups = as_int(groups, "groups", 1)
        if self.filters % self.groups:
            raise InvalidArgumentError(
                f"filters must be a multiple of groups ({self.groups}). Received: {filters}"
            )

    def add_parameters(self, input_shape: Shape) -> None:
        channels = self.channels_of(input_shape)
        self.kernel = self.add_kernel((*self.kernel_size, self.filters // self.groups, channels))
        self.add_bias(self.filters)

    def _problem(self, x_shape: Shape) -> ops.Convolution:
        """The convolution that leads back to a canonical input shape; cached by that shape."""
        channels = x_shape[-1]
        if channels % self.groups:
            raise ShapeError(
                f"{self.name}: the number of input channels must be a multiple of groups "
                f"({self.groups}). Received: {channels}"
            )
        return ops.transposed_convolution(
            tuple(x_shape),
            (*self.kernel_size, self.filters // self.groups, channels),
            self.strides,
            hashable(self.padding),
            self.output_padding,
            self.dilation_rate,
            self.groups,
        )

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        output = where_known(
            extents, lambda known: self._problem((1, *known, channels)).geometry.input
        )
        return (*output, self.filters)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        problem = self._problem(x.shape)
        kernel = self.kernel.value

        def linear(activation: Activation | None) -> Array:
            y = ops.backward_input(x, kernel, problem)
            if self.bias is not None:
                y += self.bias.value
            return y if activation is None else engine_for(y).activation(y, activation)

        y, activation = self.activated(linear)

        def backward(dz: Array, input_gradient: bool = True) -> Array | None:
            if self.kernel.trainable:
                self.kernel.add_gradient(ops.backward_weight(x, dz, problem))
            return ops.forward(dz, kernel, None, problem) if input_gradient else None

        return y, ActivatedBackward(activation, backward)


class Conv1DTranspose(ConvTransposeND):
    """1-D transposed convolution; see :class:`Conv2DTranspose`."""

    rank = 1


class Conv2DTranspose(ConvTransposeND):
    """2-D transposed convolution, with Keras's words, defaults and extents.

    Args:
        filters: number of output channels ``F``, a multiple of ``groups``.
        kernel_size, strides (1), dilation_rate (1): an int or one a dimension. Strides and
            dilation may both exceed 1 (PyTorch allows that, Keras does not).
        padding: with ``e = dilation_rate*(kernel_size - 1) + 1``: ``"valid"`` (default,
            ``out = (in - 1)*strides + max(e, strides)``), ``"same"`` (``out = in*strides``), or
            as in PyTorch an int, one int a dimension or ``((lo, hi), ...)``
            (``out = (in - 1)*strides + e - lo - hi + output_padding``).
        output_padding: None (default) for the extents above; else an int or one a dimension below
            strides or dilation, which makes ``"valid"`` ``(in - 1)*strides + e + output_padding``
            and ``"same"`` ``(in - 1)*strides + e % 2 + output_padding``, as in Keras.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        activation: name or None (linear).
        groups: divides input channels and filters, as in PyTorch; default 1.
        use_bias (True), kernel_initializer ("glorot_uniform"), bias_initializer ("zeros"),
            kernel_regularizer, bias_regularizer: as in Keras.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; ``kernel`` (kh, kw, F/groups, C) for both data
    formats, ``bias`` (F,). Where Keras's backends disagree about "same", this is its JAX and
    TensorFlow result.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2


class Conv3DTranspose(ConvTransposeND):
    """3-D transposed convolution; see :class:`Conv2DTranspose`."""

    rank = 3
