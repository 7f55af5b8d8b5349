"""The boundary between a user's arrays and ours: Tensor in, Tensor out; NumPy in, NumPy out.

Everything below this boundary (ops, layers' inner methods, engines) sees NumPy or CuPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuconv.backends.arrays import device_of, to_device
from gpuconv.backends.base import Array
from gpuconv.dispatch import target_device
from gpuconv.errors import DTypeError, GpuconvError
from gpuconv.tensors import Tensor, as_array

Wrap = Callable[[Array], Any]

FLOATS = ("float32", "float64")
_LETTERS = "fd"
"""NumPy's for these, which are found thirty times as fast as the names."""


def unwrap(value: Any, name: str = "") -> tuple[Array, Wrap]:
    """Return the array behind ``value``, and the function that gives results its container.

    NumPy and CuPy arrays and Tensors pass without a copy, as does anything with ``__dlpack__`` or
    ``__cuda_array_interface__``; the results for those, and for lists and scalars, are arrays.
    Errors begin with ``name``, if one is given.

    Raises:
        DTypeError: strings, objects or complex numbers.
        ShapeError, InvalidArgumentError: ragged lists, masked elements.
    """
    if isinstance(value, Tensor):
        return value.array, Tensor
    try:
        return as_array(value), _plain
    except GpuconvError as error:
        if not name:
            raise
        raise type(error)(f"{name}: {error}") from error


def _plain(array: Array) -> Array:
    return array


def place(array: Array, device: str | None = None) -> tuple[Array, Callable[[Array], Array]]:
    """Bring an array to where it is to be computed; also return the way back for results.

    Args:
        array: a NumPy or CuPy array.
        device: where a model lives, or None: where the array lies, unless a backend of another
            device is in force by name.
    """
    home = device_of(array)
    there = target_device(home) if device is None else device
    if there == home:
        return array, _plain

    def back(result: Array) -> Array:
        return to_device(result, home)

    return to_device(array, there), back


def require_float(array: Array, name: str) -> None:
    """Check that the engines compute in the array's dtype.

    Raises:
        DTypeError: neither float32 nor float64.
    """
    if array.dtype.char not in _LETTERS:
        raise DTypeError(
            f"{name}: expected float32 or float64; convert with .astype('float32'). "
            f"Received: {array.dtype.name}"
        )


def require_same_dtype(**arrays: Array | None) -> None:
    """Check that all arrays have one floating dtype.

    Raises:
        DTypeError: they differ, or are neither float32 nor float64.
    """
    present = {name: a for name, a in arrays.items() if a is not None}
    for name, array in present.items():
        require_float(array, name)
    if len({a.dtype.char for a in present.values()}) > 1:
        listed = ", ".join(f"{name} {a.dtype.name}" for name, a in present.items())
        raise DTypeError(f"expected one dtype for all arrays. Received: {listed}")
