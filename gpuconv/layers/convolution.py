"""Conv1D, Conv2D and Conv3D: one N-dimensional layer under three names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.backends.functions import Activation
from gpuconv.backends.selection import resolve_device
from gpuconv.dispatch import Decision, select
from gpuconv.errors import InvalidArgumentError, ShapeError, one_of
from gpuconv.geometry import PADDING_MODES, Extents, as_int, as_tuple, where_known
from gpuconv.layers.activated import Activated
from gpuconv.layers.backwards import ActivatedBackward
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import convolution as ops
from gpuconv.ops.arguments import hashable
from gpuconv.ops.layouts import shape_last
from gpuconv.parameter import Parameter


class ConvND(Spatial, Activated):
    """The convolution of ``rank`` spatial dimensions; see :class:`Conv2D`."""

    rank: ClassVar[int]
    kernel: Parameter

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        padding_mode: str = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, activation=activation, **kwargs)
        self.filters = as_int(filters, "filters", 1)
        self.kernel_size = as_tuple(kernel_size, self.rank, "kernel_size", 1)
        self.strides = as_tuple(strides, self.rank, "strides", 1)
        self.dilation_rate = as_tuple(dilation_rate, self.rank, "dilation_rate", 1)
        self.groups = as_int(groups, "groups", 1)
        self.padding = self.check_padding(padding, self.kernel_size, causal=True)
        self.padding_mode = one_of(padding_mode, PADDING_MODES, "padding_mode")
        if self.filters % self.groups:
            raise InvalidArgumentError(
                f"filters must be a multiple of groups ({self.groups}). Received: {filters}"
            )

    def add_parameters(self, input_shape: Shape) -> None:
        channels = self.channels_of(input_shape)
        self.kernel = self.add_kernel((*self.kernel_size, channels // self.groups, self.filters))
        self.add_bias(self.filters)

    def _problem(self, x_shape: Shape) -> ops.Convolution:
        """The convolution for a canonical input shape; cached by that shape."""
        channels = x_shape[-1]
        if channels % self.groups:
            raise ShapeError(
                f"{self.name}: the number of input channels must be a multiple of groups "
                f"({self.groups}). Received: {channels}"
            )
        return ops.convolution(
            tuple(x_shape),
            (*self.kernel_size, channels // self.groups, self.filters),
            self.strides,
            hashable(self.padding),
            self.dilation_rate,
            self.groups,
            self.padding_mode,
        )

    def explain(self, input_shape: Shape) -> Decision:
        """Say who would compute the forward pass for an input shape (batch first), and why.

        Raises:
            ShapeError: the layer cannot take such an input, or an extent is not known.
        """
        if None in tuple(input_shape):
            raise ShapeError(
                f"{self.name}: who computes depends on every extent, and on the batch. "
                f"Received: shape {tuple(input_shape)}"
            )
        shape = shape_last(tuple(input_shape), self.channels_first)
        device = resolve_device()[0] if self.backend is None else self.backend
        return select("conv_forward", self._problem(shape).geometry, str(self.dtype), device)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        output = where_known(
            extents, lambda known: self._problem((1, *known, channels)).geometry.output
        )
        return (*output, self.filters)

    def infer_channels_last(self, x: Array) -> Array:
        problem = self._problem(x.shape)
        return self.inferred(partial(ops.forward, x, self.kernel, self.bias_value(), problem))

    def infer_added(self, x: Array, residual: Array, activation: Activation | None) -> Array:
        """Return ``activation(convolution + bias + residual)``, for channels-last arrays.

        The layer's own activation is not applied.

        Raises:
            ShapeError: ``residual`` has not the shape of the result.
        """
        problem = self._problem(x.shape)
        if residual.shape != problem.geometry.y_shape:
            raise ShapeError(
                f"{self.name}: expected a residual of shape {problem.geometry.y_shape}. "
                f"Received: {tuple(residual.shape)}"
            )
        return ops.add_forward(x, self.kernel, self.bias_value(), residual, problem, activation)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        problem = self._problem(x.shape)
        kernel = self.kernel.value
        y, activation = self.activated(
            partial(ops.forward, x, self.kernel, self.bias_value(), problem)
        )

        def backward(dz: Array, input_gradient: bool = True) -> Array | None:
            if self.kernel.trainable:
                self.kernel.add_gradient(ops.backward_weight(dz, x, problem))
            return ops.backward_input(dz, kernel, problem) if input_gradient else None

        return y, ActivatedBackward(activation, backward)


class Conv1D(ConvND):
    """1-D convolution; see :class:`Conv2D`. ``padding="causal"`` looks at the past only."""

    rank = 1


class Conv2D(ConvND):
    """2-D convolution (cross-correlation), with Keras's words and defaults.

    Args:
        filters: number of output channels ``F``, a multiple of ``groups``.
        kernel_size, strides (1), dilation_rate (1): an int or one a dimension. Strides and
            dilation may both exceed 1 (PyTorch allows that, Keras does not).
        padding: ``"valid"`` (default), ``"same"`` (``out = ceil(in/stride)``), ``"causal"``
            (1-D only), an int, one int a dimension, or ``((lo, hi), ...)``.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        groups: divides input channels and filters; default 1.
        activation: name or None (linear).
        padding_mode: ``"zeros"`` (default), ``"reflect"``, ``"replicate"``, ``"circular"``, as in
            PyTorch.
        use_bias (True), kernel_initializer ("glorot_uniform"), bias_initializer ("zeros"),
            kernel_regularizer, bias_regularizer: as in Keras.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; ``kernel`` (kh, kw, C/groups, F) for both data
    formats, ``bias`` (F,).

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2


class Conv3D(ConvND):
    """3-D convolution; see :class:`Conv2D`."""

    rank = 3
