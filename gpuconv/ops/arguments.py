"""What every public op does with its arguments before it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuconv.backends.arrays import device_of
from gpuconv.backends.base import Array
from gpuconv.containers import Wrap, place, require_same_dtype, unwrap
from gpuconv.dispatch import target_device
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.geometry import as_extents, as_int
from gpuconv.ops import layouts

_FLOATS = np.dtype("float32"), np.dtype("float64")


class Operands(NamedTuple):
    """Arrays brought to one device, and the way back to the caller's container."""

    arrays: tuple[Array | None, ...]
    wrap: Wrap


def operands(**values: Any) -> Operands:
    """Unwrap the arrays of one call, check that they match, bring them to where it is computed.

    The first decides the container and the device of the result. Only ``bias`` may be None.

    Raises:
        DTypeError: not float32 or float64, or not all the same.
    """
    given = {n: value for n, value in values.items() if value is not None or n != "bias"}
    if _are_ready(list(given.values())):
        return Operands(tuple(values.values()), _unchanged)
    unwrapped = {name: unwrap(value, name) for name, value in given.items()}
    require_same_dtype(**{name: array for name, (array, _) in unwrapped.items()})
    placed = {name: place(array) for name, (array, _) in unwrapped.items()}
    first = next(iter(values))
    to_container, home = unwrapped[first][1], placed[first][1]
    arrays = tuple(placed[name][0] if name in placed else None for name in values)
    return Operands(arrays, lambda result: to_container(home(result)))


def _are_ready(arrays: list[Any]) -> bool:
    """Whether these are NumPy arrays of one dtype that are computed where they lie.

    Nearly always they are, and to bring them there step by step takes longer than small kernels.
    """
    if not all(type(array) is np.ndarray for array in arrays):
        return False
    dtype = arrays[0].dtype
    ready = dtype in _FLOATS and all(array.dtype == dtype for array in arrays)
    return ready and target_device("cpu") == "cpu"


def _unchanged(result: Array) -> Array:
    return result


def shape_tuple(shape: Sequence[int], rank: int, name: str, layout: str) -> tuple[int, ...]:
    """Return a shape argument as a tuple of ``rank + 2`` ints.

    Raises:
        InvalidArgumentError: not integers, or negative.
        ShapeError: the wrong number of dimensions.
    """
    extents = as_extents(shape, name)
    if len(extents) != rank + 2:
        raise ShapeError(f"{name}: expected {rank + 2} dimensions ({layout}). Received: {extents}")
    return extents


def require_shape(array: Array, expected: tuple[int, ...], name: str, first: bool) -> None:
    """Check a gradient's shape against the canonical shape that the geometry gives.

    Raises:
        ShapeError: they differ; both are shown in the caller's layout.
    """
    wanted = layouts.shape_from_last(expected, first)
    if tuple(array.shape) != wanted:
        raise ShapeError(f"{name}: expected the shape {wanted}. Received: {tuple(array.shape)}")


def require_bias(bias: Array | None, filters: int) -> None:
    """Check that a bias has one number for each output channel.

    Raises:
        ShapeError: it has not.
    """
    if bias is not None and tuple(bias.shape) != (filters,):
        raise ShapeError(f"bias: expected the shape ({filters},). Received: {tuple(bias.shape)}")


def hashable(padding: Any, name: str = "padding") -> Any:
    """Return a padding argument in a form that can be the key of a cache.

    Only words, None, ints and tuples of them pass: a cache takes ``1.0`` and ``True`` for ``1``,
    so what is not an integer must be refused before it is looked up.

    Raises:
        InvalidArgumentError: something else.
    """
    if padding is None or isinstance(padding, str):
        return padding
    entries = padding.tolist() if isinstance(padding, np.ndarray) else padding
    if isinstance(entries, Sequence):
        return tuple(hashable(entry, name) for entry in entries)
    return as_int(entries, name)


def _lie_below(indices: Array, size: int) -> bool:
    """Whether all are -1 or one of 0 ... size - 1.

    They are read once: as unsigned numbers the negative ones are the largest. Only if there are
    such, or too large ones, is it looked at more closely.
    """
    if not indices.size or indices.view(indices.dtype.str.replace("i", "u")).max() < size:
        return True
    return bool(-1 <= indices.min() <= indices.max() < size)


def index_operand(indices: Any, extents: tuple[int, ...]) -> Array:
    """Unwrap the indices that a max pooling returned, and bring them to where it is computed.

    Their range is checked on the CPU only: on a GPU that would wait for the device.

    Raises:
        DTypeError: not integers.
        InvalidArgumentError: outside of the spatial plane; -1 marks a window without elements.
    """
    array, _ = unwrap(indices, "indices")
    if array.dtype.kind not in "iu":
        raise DTypeError(f"indices: expected integers. Received: {array.dtype.name}")
    array, _ = place(array)
    size = math.prod(extents)
    if device_of(array) == "cpu" and not _lie_below(array, size):
        raise InvalidArgumentError(
            f"indices must lie in the spatial plane {extents}, from 0 to {size - 1}. "
            f"Received: values from {array.min()} to {array.max()}"
        )
    return array.astype(np.int64, copy=False)
