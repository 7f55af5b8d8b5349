"""Pooling to a given output size: one N-dimensional layer each, under three names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.geometry import Extents
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import adaptive_pool as ops


class AdaptivePoolingND(Spatial):
    """What adaptive pooling layers share: the output size."""

    def __init__(
        self,
        output_size: int | Sequence[int | None],
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.output_size = ops.output_size_of(output_size, self.rank)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        some = tuple(1 if extent is None else extent for extent in extents)
        output = ops.output_extents(some, self.output_size)
        open_ones = [(i, o) == (None, None) for i, o in zip(extents, self.output_size, strict=True)]
        return (*(None if n else o for n, o in zip(open_ones, output, strict=True)), channels)


class AdaptiveMaxPoolingND(AdaptivePoolingND):
    """Adaptive max pooling of ``rank`` dimensions; see :class:`AdaptiveMaxPooling2D`."""

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        input = tuple(x.shape[1:-1])
        output = ops.output_extents(input, self.output_size)
        y, indices = ops.max_pool(x, output, with_indices=True)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return ops.max_pool_backward(dy, indices, input) if input_gradient else None

        return y, backward

    def infer_channels_last(self, x: Array) -> Array:
        output = ops.output_extents(x.shape[1:-1], self.output_size)
        return ops.max_pool(x, output, with_indices=False)[0]


class AdaptiveAveragePoolingND(AdaptivePoolingND):
    """Adaptive average pooling of ``rank`` dimensions; see :class:`AdaptiveAveragePooling2D`."""

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        input = tuple(x.shape[1:-1])

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return ops.avg_pool_backward(dy, input) if input_gradient else None

        return ops.avg_pool(x, ops.output_extents(input, self.output_size)), backward


class AdaptiveMaxPooling1D(AdaptiveMaxPoolingND):
    """1-D adaptive max pooling; see :class:`AdaptiveMaxPooling2D`."""

    rank = 1


class AdaptiveMaxPooling2D(AdaptiveMaxPoolingND):
    """Max pooling to a given output size, as Keras's and PyTorch's layers.

    Args:
        output_size: an int or one a dimension; None in a tuple keeps the extent of the input.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``. Output position ``i`` is the maximum of the
    elements from ``floor(i * in / out)`` up to ``ceil((i + 1) * in / out)``. The gradient goes to
    the first of equal maxima.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank, or without any position.
    """

    rank = 2


class AdaptiveMaxPooling3D(AdaptiveMaxPoolingND):
    """3-D adaptive max pooling; see :class:`AdaptiveMaxPooling2D`."""

    rank = 3


class AdaptiveAveragePooling1D(AdaptiveAveragePoolingND):
    """1-D adaptive average pooling; see :class:`AdaptiveAveragePooling2D`."""

    rank = 1


class AdaptiveAveragePooling2D(AdaptiveAveragePoolingND):
    """Average pooling to a given output size, as Keras's and PyTorch's layers.

    Args:
        output_size: an int or one a dimension; None in a tuple keeps the extent of the input.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``. Output position ``i`` is the mean of the elements
    from ``floor(i * in / out)`` up to ``ceil((i + 1) * in / out)``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank, or without any position.
    """

    rank = 2


class AdaptiveAveragePooling3D(AdaptiveAveragePoolingND):
    """3-D adaptive average pooling; see :class:`AdaptiveAveragePooling2D`."""

    rank = 3
