"""What rows can be cut from: arrays, and anything that looks like one without being in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, is_array
from gpuconv.containers import unwrap
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.tensors import Tensor

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Source = Any
"""A NumPy or CuPy array, or an array-like with ``shape``, ``dtype`` and slicing by rows."""


class RowRange:
    """Rows ``start`` to ``stop`` of an array-like that is read slice by slice; no copy is made."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self.source = source
        self.start = start
        self.shape = (stop - start, *source.shape[1:])
        self.dtype = source.dtype

    def __getitem__(self, rows: slice) -> Array:
        first, last, _ = rows.indices(self.shape[0])
        return self.source[self.start + first : self.start + max(first, last)]


def as_source(value: Any, name: str) -> Source:
    """Return ``value`` in a form that :func:`read_rows` and :func:`gather_rows` take.

    NumPy and CuPy arrays (``numpy.memmap`` too) are returned as they are and Tensors as the
    array inside. Array-likes with ``shape``, ``dtype`` and slicing, such as HDF5 data sets,
    are read batch by batch. Everything else, such as lists, becomes one NumPy array.

    Raises:
        DTypeError: the elements are not booleans, integers or real floats.
        ShapeError: the value is ragged, or has no axis of samples.
        InvalidArgumentError: slices of an array-like are not the arrays that they should be.
    """
    source = value if _reads_slices(value) else unwrap(value, name)[0]
    dtype = np.dtype(source.dtype)
    if dtype.kind not in "biuf":
        raise DTypeError(
            f"{name} must hold booleans, integers or floats. "
            f"Received: {_kind(value)} of dtype {dtype.name}"
        )
    if len(source.shape) == 0:
        raise ShapeError(
            f"{name} must have at least one axis, that of the samples. Received: {_kind(value)}"
        )
    if not is_array(source):
        _probe(source, name)
    return source


def is_several(value: Any) -> bool:
    """Whether ``value`` is a list or tuple of arrays: of several inputs or outputs."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(len(getattr(item, "shape", ())) > 0 for item in value)
    )


def row_count(source: Source) -> int:
    """Number of samples."""
    return int(source.shape[0])


def slice_rows(source: Source, start: int, stop: int) -> Source:
    """Return rows ``start`` to ``stop`` as a source, without reading or copying them."""
    return source[start:stop] if is_array(source) else RowRange(source, start, stop)


def read_rows(source: Source, start: int, stop: int) -> Array:
    """Return rows ``start`` to ``stop``: a view of an array, or what an array-like reads."""
    rows = source[start:stop]
    return rows if is_array(source) else np.asarray(rows)


def gather_rows(source: Source, indices: np.ndarray[Any, Any]) -> Array:
    """Return the rows with these numbers, in this order, as a new array."""
    if is_array(source):
        return source[array_module(source).asarray(indices)]
    # Array-likes promise slices only: read ascending runs of neighbours, then reorder.
    ascending, places = np.unique(indices, return_inverse=True)
    ends = np.flatnonzero(np.diff(ascending) > 1) + 1
    runs = np.split(ascending, ends)
    rows = np.concatenate([read_rows(source, int(r[0]), int(r[-1]) + 1) for r in runs])
    return rows[places.reshape(-1)]


def _reads_slices(value: Any) -> bool:
    """Whether ``value`` is an array-like to be read slice by slice, rather than an array."""
    if is_array(value) or isinstance(value, Tensor) or hasattr(value, "to_numpy"):
        return False
    try:
        np.dtype(value.dtype)
    except (AttributeError, TypeError):
        return False
    return isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "__getitem__")


def _probe(source: Source, name: str) -> None:
    """Read one row of an array-like, to learn now whether its slices are arrays."""
    expected = (min(1, source.shape[0]), *source.shape[1:])
    row = read_rows(source, 0, 1)
    if row.shape != expected or row.dtype.kind not in "biuf":
        raise InvalidArgumentError(
            f"{name}[0:1] should give an array of shape {expected}. "
            f"Received: {row.dtype.name} {row.shape} from {_kind(source)}"
        )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is None and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"{type(value).__name__} of length {len(value)}"
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
