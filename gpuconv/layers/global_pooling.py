"""Pooling over all spatial positions: one N-dimensional layer each, under three names."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.base import Array
from gpuconv.geometry import Extents, PoolGeometry
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import pool as ops


class GlobalPoolingND(Spatial):
    """What global pooling layers share: one window that covers the input."""

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.keepdims = bool(keepdims)

    def geometry(self, x_shape: tuple[int, ...]) -> PoolGeometry:
        """The pooling for a canonical input shape; cached by that shape."""
        window = tuple(x_shape[1:-1])
        ones = (1,) * self.rank
        return ops.pooling(tuple(x_shape), window, ones, 0, ones)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        some = tuple(1 if extent is None else extent for extent in extents)
        output = self.geometry((1, *some, channels)).output  # 1, whatever the input's extent
        return (*output, channels) if self.keepdims else (channels,)

    def _shaped(self, y: Array) -> Array:
        """``y`` (N, 1, ..., C) as it is, or as (N, C) unless dimensions are kept."""
        return y if self.keepdims else y.reshape(y.shape[0], y.shape[-1])


class GlobalMaxPoolingND(GlobalPoolingND):
    """Maximum over ``rank`` spatial dimensions; see :class:`GlobalMaxPooling2D`."""

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        geometry = self.geometry(x.shape)
        y, indices = ops.max_pool(x, geometry, with_indices=True)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            return ops.max_pool_backward(dy.reshape(geometry.y_shape), indices, geometry)

        return self._shaped(y), backward

    def infer_channels_last(self, x: Array) -> Array:
        return self._shaped(ops.max_pool(x, self.geometry(x.shape), with_indices=False)[0])


class GlobalAveragePoolingND(GlobalPoolingND):
    """Mean over ``rank`` spatial dimensions; see :class:`GlobalAveragePooling2D`."""

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        geometry = self.geometry(x.shape)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            return ops.avg_pool_backward(dy.reshape(geometry.y_shape), geometry)

        return self._shaped(ops.avg_pool(x, geometry)), backward


class GlobalMaxPooling1D(GlobalMaxPoolingND):
    """1-D global max pooling; see :class:`GlobalMaxPooling2D`."""

    rank = 1


class GlobalMaxPooling2D(GlobalMaxPoolingND):
    """The maximum over all spatial positions, as Keras's GlobalMaxPooling2D.

    Args:
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        keepdims: keep the spatial dimensions, with extents of 1; default False.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; output ``(N, C)``, or with ``keepdims``
    ``(N, 1, 1, C)`` or ``(N, C, 1, 1)``. The gradient goes to the first of equal maxima.

    Raises:
        InvalidArgumentError: an unknown data format.
        ShapeError: an input of another rank, or without any position.
    """

    rank = 2


class GlobalMaxPooling3D(GlobalMaxPoolingND):
    """3-D global max pooling; see :class:`GlobalMaxPooling2D`."""

    rank = 3


class GlobalAveragePooling1D(GlobalAveragePoolingND):
    """1-D global average pooling; see :class:`GlobalAveragePooling2D`."""

    rank = 1


class GlobalAveragePooling2D(GlobalAveragePoolingND):
    """The mean over all spatial positions, as Keras's GlobalAveragePooling2D.

    Args:
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        keepdims: keep the spatial dimensions, with extents of 1; default False.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``; output ``(N, C)``, or with ``keepdims``
    ``(N, 1, 1, C)`` or ``(N, C, 1, 1)``.

    Raises:
        InvalidArgumentError: an unknown data format.
        ShapeError: an input of another rank, or without any position.
    """

    rank = 2


class GlobalAveragePooling3D(GlobalAveragePoolingND):
    """3-D global average pooling; see :class:`GlobalAveragePooling2D`."""

    rank = 3
