"""Taking in what is not an array of ours: other libraries' arrays, lists, numbers.

Memory is shared wherever a protocol allows it: ``__cuda_array_interface__``, DLPack,
``__array__`` and the buffer protocol, in this order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends import cuda_probe
from gpuconv.backends.arrays import device_of, is_array
from gpuconv.backends.base import Array
from gpuconv.errors import (
    BackendUnavailableError,
    DTypeError,
    InvalidArgumentError,
    ShapeError,
)

_HOST = (1, 3)  # kDLCPU, kDLCUDAHost: memory that NumPy can read
_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged

KINDS = "fiub"
"""Kinds of dtype that count as numbers here: float, int, unsigned int, bool."""


def as_array(value: Any, dtype: Any = None, floats: Any = "float32") -> Array:
    """Return a NumPy or CuPy array of numbers over ``value``, without a copy where possible.

    Args:
        value: an array; an object with ``__cuda_array_interface__``, ``__dlpack__`` or
            ``__array__``; nested lists; a number.
        dtype: of the result; None keeps what ``value`` has.
        floats: what Python's floats become when ``dtype`` is None; integers follow NumPy (int64).

    Raises:
        DTypeError: not numbers, or complex ones; or an unknown ``dtype``.
        ShapeError: nested lists of unequal lengths.
        InvalidArgumentError: memory that cannot be shared, or numbers out of ``dtype``'s range,
            or masked elements.
        BackendUnavailableError: the memory is on a GPU, and CuPy is missing.
    """
    wanted = None if dtype is None else check_dtype(dtype)
    if is_array(value):
        array = _plain_array(value)
    elif isinstance(value, type):  # an array's class has the protocols' methods, but no memory
        raise DTypeError(f"expected numbers. Received: the class {value.__name__}")
    elif hasattr(value, "__cuda_array_interface__"):
        array = _cupy_for(value).asarray(value)
    elif hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        array = _from_dlpack(value)
    else:
        array = _from_python(value, wanted, floats)
    if array.dtype.kind not in KINDS:
        raise DTypeError(f"expected real numbers. Received: {_describe(value)}")
    native = array.dtype.newbyteorder("=")  # engines compute in the machine's byte order only
    return array.astype(wanted or native, copy=False)


def _plain_array(array: Array) -> Array:
    """Return the array without NumPy's subclasses, which pass their own rules on to every result.

    Raises:
        InvalidArgumentError: masked elements.
    """
    if type(array) is np.ndarray or device_of(array) != "cpu":
        return array
    if np.ma.is_masked(array):
        raise InvalidArgumentError(
            "masked elements have no value to compute with; give them one with "
            f"numpy.ma.filled(array, value). Received: {_describe(array)}"
        )
    return np.asarray(array)


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return ``dtype`` as NumPy's object for it.

    Raises:
        DTypeError: unknown, or not one of real numbers.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in KINDS:
        raise DTypeError(
            "dtype must name a kind of real number that NumPy knows, such as 'float32'. "
            f"Received: {dtype!r}"
        )
    return found


def _from_dlpack(value: Any) -> Array:
    try:
        device = int(value.__dlpack_device__()[0])
    except (BufferError, RuntimeError, ValueError) as error:
        raise _refused(value, error) from error
    if device not in (*_HOST, *_CUDA):
        raise InvalidArgumentError(
            f"expected memory of the CPU or of a CUDA device. Received: {_describe(value)} on "
            f"DLPack device type {device}"
        )
    library = np if device in _HOST else _cupy_for(value)
    try:
        return library.from_dlpack(value)
    except (BufferError, RuntimeError, ValueError) as error:
        raise _refused(value, error) from error


def _refused(value: Any, error: Exception) -> InvalidArgumentError:
    # DLPack leaves open how an exporter refuses; PyTorch raises all three that are caught above.
    return InvalidArgumentError(
        f"cannot share the memory of this array: {error}. Received: {_describe(value)}"
    )


def _cupy_for(value: Any) -> Any:
    found = cuda_probe.probe_cupy()
    if not found.available:
        raise BackendUnavailableError(
            f"the array lies on a CUDA device and can only be used there with CuPy: "
            f"{found.reason}. {found.hint} Received: {_describe(value)}"
        )
    import cupy

    return cupy


def _from_python(value: Any, dtype: np.dtype[Any] | None, floats: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
        if dtype is None:
            if array.dtype == np.float64 and _is_plain_python(value):
                return array.astype(floats)
        elif array.dtype.kind in KINDS and array.dtype != dtype:
            return np.asarray(value, dtype)  # from the numbers themselves: range is checked
    except OverflowError as error:
        raise InvalidArgumentError(f"{error}. Received: {_describe(value)}") from error
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error):
            raise ShapeError(
                f"expected nested lists of equal lengths. Received: {_describe(value)}"
            ) from error
        raise DTypeError(f"expected numbers ({error}). Received: {_describe(value)}") from error
    return array


def _is_plain_python(value: Any) -> bool:
    """Whether ``value`` is of Python's own numbers, which carry no dtype."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (int, float, list, tuple)) and not isinstance(value, np.generic)


def _describe(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if hasattr(value, "dtype"):
        return f"{name} of dtype {value.dtype}"
    text = repr(value)
    return f"{name} {text if len(text) <= 60 else text[:57] + '...'}"
