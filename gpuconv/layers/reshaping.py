"""Layers that give an input another shape: Flatten, Reshape, Permute. No numbers change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, ShapeError, one_of
from gpuconv.geometry import as_extents, as_int
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.layers.spatial import DATA_FORMATS
from gpuconv.ops.layouts import channels_last, from_channels_last, shape_last


class Flatten(Layer):
    """Merges axes into one, in row-major order.

    Args:
        data_format: ``"channels_last"`` (default): the order of the input; or
            ``"channels_first"``: the input (N, C, ...) is first seen as (N, ..., C), as Keras
            does, so that models of both data formats have the same weights behind it.
        start_dim, end_dim: first and last axis to merge, as in PyTorch; default 1 and -1,
            everything but the batch. Channels-last order only.

    Input ``(N, ...)``, output ``(N, prod(...))``; ``(N,)`` becomes ``(N, 1)`` as in Keras.

    Raises:
        InvalidArgumentError: an unknown data format, or ``channels_first`` with other axes.
        ShapeError: the axes to merge do not exist.
    """

    def __init__(
        self,
        data_format: str | None = None,
        *,
        start_dim: int = 1,
        end_dim: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_format = (
            DATA_FORMATS[0]
            if data_format is None
            else one_of(data_format, DATA_FORMATS, "data_format")
        )
        self.start_dim = as_int(start_dim, "start_dim")
        self.end_dim = as_int(end_dim, "end_dim")
        self._channels_first = self.data_format == "channels_first"
        if self._channels_first and (self.start_dim, self.end_dim) != (1, -1):
            raise InvalidArgumentError(
                "start_dim and end_dim go with data_format='channels_last'. "
                f"Received: start_dim={start_dim}, end_dim={end_dim}, data_format={data_format!r}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) == 1 and (self.start_dim, self.end_dim) == (1, -1):
            return (input_shape[0], 1)
        shape = tuple(input_shape)
        if len(shape) > 2:
            shape = shape_last(shape, self._channels_first)
        start, stop = self._range(len(shape))
        merged = shape[start:stop]
        extent = None if None in merged else math.prod(merged)
        return (*shape[:start], extent, *shape[stop:])

    def _range(self, rank: int) -> tuple[int, int]:
        start = self.start_dim + rank if self.start_dim < 0 else self.start_dim
        end = self.end_dim + rank if self.end_dim < 0 else self.end_dim
        if not 0 <= start <= end < rank:
            raise ShapeError(
                f"{self.name}: expected an input with axes {self.start_dim} to {self.end_dim}, in "
                f"this order. Received: an input of {rank} dimensions"
            )
        return start, end + 1

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        first = self._channels_first and x.ndim > 2
        seen = channels_last(x, first)
        shape = seen.shape

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return from_channels_last(dy.reshape(shape), first) if input_gradient else None

        return seen.reshape(self.compute_output_shape(x.shape)), backward


class Reshape(Layer):
    """Gives each sample another shape, in row-major order, as Keras's Reshape.

    Args:
        target_shape: the sample's new shape, without the batch; one entry may be -1, which
            is what remains.

    Input ``(N, ...)``, output ``(N, *target_shape)``.

    Raises:
        InvalidArgumentError: an entry below -1, or -1 twice.
        ShapeError: the sample does not have the right number of elements.
    """

    def __init__(self, target_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(target_shape, (int, str)) or not hasattr(target_shape, "__iter__"):
            raise InvalidArgumentError(
                f"target_shape must be a tuple of integers. Received: {target_shape!r}"
            )
        self.target_shape = tuple(as_int(n, "an entry of target_shape", -1) for n in target_shape)
        if self.target_shape.count(-1) > 1:
            raise InvalidArgumentError(
                f"target_shape may hold -1 only once. Received: {self.target_shape}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *extents = input_shape
        if None in extents:
            return (batch, *(None if n == -1 else n for n in self.target_shape))
        size = math.prod(extents)
        known = math.prod(n for n in self.target_shape if n != -1)
        rest = size // known if known else 0
        target = tuple(rest if n == -1 else n for n in self.target_shape)
        if math.prod(target) != size:
            raise ShapeError(
                f"{self.name}: a sample must have a number of elements that fits "
                f"target_shape={self.target_shape}. Received: shape {tuple(input_shape)}"
            )
        return (batch, *target)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        shape = x.shape

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy.reshape(shape) if input_gradient else None

        return x.reshape(self.compute_output_shape(shape)), backward


class Permute(Layer):
    """Reorders the axes of each sample, as Keras's Permute; the result is a view.

    Args:
        dims: for each axis of the output the axis of the input; they count from 1, the batch
            stays first. ``(2, 1)`` turns (N, 10, 64) into (N, 64, 10).

    Raises:
        InvalidArgumentError: not each number from 1 on once.
        ShapeError: the input does not have ``len(dims) + 1`` dimensions.
    """

    def __init__(self, dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = as_extents([dims] if isinstance(dims, int) else dims, "dims")
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise InvalidArgumentError(
                f"dims must hold each of 1, 2, ... once. Received: {self.dims}"
            )

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        if len(shape) != len(self.dims) + 1:
            raise ShapeError(
                f"{self.name}: expected an input of {len(self.dims) + 1} dimensions for "
                f"dims={self.dims}. Received: shape {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        return (input_shape[0], *(input_shape[n] for n in self.dims))

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        inverse = tuple(self.dims.index(n) + 1 for n in range(1, len(self.dims) + 1))

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy.transpose(0, *inverse) if input_gradient else None

        return x.transpose(0, *self.dims), backward
