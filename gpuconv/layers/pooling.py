"""Max and average pooling over windows: one N-dimensional layer each, under three names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.geometry import Extents, PoolGeometry, as_tuple, where_known
from gpuconv.layers.backwards import MaxPoolingBackward
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import pool as ops
from gpuconv.ops.arguments import hashable
from gpuconv.ops.pooling import check_divisor


class PoolingND(Spatial):
    """What max and average pooling share: the window, its steps and the padding."""

    rank: ClassVar[int]

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Any = "valid",
        data_format: str | None = None,
        ceil_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.pool_size = as_tuple(pool_size, self.rank, "pool_size", 1)
        self.strides = (
            self.pool_size if strides is None else as_tuple(strides, self.rank, "strides", 1)
        )
        self.padding = self.check_padding(padding, self.pool_size)
        self.ceil_mode = bool(ceil_mode)

    def geometry(self, x_shape: tuple[int, ...]) -> PoolGeometry:
        """The pooling for a canonical input shape; cached by that shape."""
        raise TypeError(f"{type(self).__name__} must define geometry")

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        output = where_known(extents, lambda known: self.geometry((1, *known, channels)).output)
        return (*output, channels)


class MaxPoolingND(PoolingND):
    """Max pooling of ``rank`` spatial dimensions; see :class:`MaxPooling2D`."""

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Any = "valid",
        data_format: str | None = None,
        dilation: int | Sequence[int] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, **kwargs)
        self.dilation = as_tuple(dilation, self.rank, "dilation", 1)

    def geometry(self, x_shape: tuple[int, ...]) -> PoolGeometry:
        return ops.pooling(
            tuple(x_shape),
            self.pool_size,
            self.strides,
            hashable(self.padding),
            self.dilation,
            self.ceil_mode,
        )

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        geometry = self.geometry(x.shape)
        y, indices = ops.max_pool(x, geometry, with_indices=True)
        return y, MaxPoolingBackward(indices, geometry)

    def infer_channels_last(self, x: Array) -> Array:
        return ops.max_pool(x, self.geometry(x.shape), with_indices=False)[0]


class AveragePoolingND(PoolingND):
    """Average pooling of ``rank`` spatial dimensions; see :class:`AveragePooling2D`."""

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Any = "valid",
        data_format: str | None = None,
        count_include_pad: bool = False,
        divisor_override: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, **kwargs)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = check_divisor(divisor_override)

    def geometry(self, x_shape: tuple[int, ...]) -> PoolGeometry:
        return ops.pooling(
            tuple(x_shape),
            self.pool_size,
            self.strides,
            hashable(self.padding),
            (1,) * self.rank,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        geometry = self.geometry(x.shape)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return ops.avg_pool_backward(dy, geometry) if input_gradient else None

        return ops.avg_pool(x, geometry), backward


class MaxPooling1D(MaxPoolingND):
    """1-D max pooling; see :class:`MaxPooling2D`."""

    rank = 1


class MaxPooling2D(MaxPoolingND):
    """2-D max pooling, with Keras's words and defaults.

    Args:
        pool_size: extent of the window, an int or one a dimension; default 2.
        strides: an int or one a dimension; None (default) is ``pool_size``.
        padding: ``"valid"`` (default), ``"same"`` (``out = ceil(in/strides)``), an int, one int a
            dimension, or ``((lo, hi), ...)`` of at most half the window. Padding never wins.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        dilation: distance of the window's positions, as in PyTorch; default 1.
        ceil_mode: round the output extent up, by PyTorch's rule; default False.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``. The gradient goes to the first of equal maxima.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2


class MaxPooling3D(MaxPoolingND):
    """3-D max pooling; see :class:`MaxPooling2D`."""

    rank = 3


class AveragePooling1D(AveragePoolingND):
    """1-D average pooling; see :class:`AveragePooling2D`."""

    rank = 1


class AveragePooling2D(AveragePoolingND):
    """2-D average pooling, with Keras's words and defaults.

    Args:
        pool_size: extent of the window, an int or one a dimension; default 2.
        strides: an int or one a dimension; None (default) is ``pool_size``.
        padding: ``"valid"`` (default), ``"same"`` (``out = ceil(in/strides)``), an int, one int a
            dimension, or ``((lo, hi), ...)`` of at most half the window.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        count_include_pad: divide by the window's part inside the padded input (PyTorch's default)
            instead of by the number of its real elements (False, as Keras does).
        divisor_override: divide by this instead, as in PyTorch; not zero.
        ceil_mode: round the output extent up, by PyTorch's rule; default False.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input that does not fit.
    """

    rank = 2


class AveragePooling3D(AveragePoolingND):
    """3-D average pooling; see :class:`AveragePooling2D`."""

    rank = 3
