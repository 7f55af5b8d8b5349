"""Where an array lives, and moving it: the only module that knows every kind of array.

CuPy is never imported here unless the caller asks for CUDA or already holds a CuPy array
(then it is in ``sys.modules``).
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import numpy as np

from gpuconv.backends.transfers import note_to_device, note_to_host
from gpuconv.errors import InvalidArgumentError


def _loaded_cupy() -> ModuleType | None:
    return sys.modules.get("cupy")


def _is_simulated(array: Any) -> bool:
    module = sys.modules.get("gpuconv.backends.simulated")
    return module is not None and isinstance(array, module.SimulatedArray)


def is_cupy(array: Any) -> bool:
    """Whether ``array`` is a CuPy array."""
    cupy = _loaded_cupy()
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array that engines compute on, on the host or on a device."""
    return isinstance(value, np.ndarray) or is_cupy(value) or _is_simulated(value)


def array_module(array: Any) -> Any:
    """Return the module whose functions take ``array``: ``numpy``, ``cupy``, or cuda-sim's own."""
    if is_cupy(array):
        return _loaded_cupy()
    if _is_simulated(array):
        from gpuconv.backends.simulated import numpy_on_device

        return numpy_on_device
    return np


def device_of(array: Any) -> str:
    """Return ``"cuda"`` for CuPy arrays, ``"cpu"`` for NumPy arrays, or ``"cuda-sim"``."""
    if type(array) is np.ndarray:
        return "cpu"
    if is_cupy(array):
        return "cuda"
    return "cuda-sim" if _is_simulated(array) else "cpu"


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array: the same object on the CPU, a copy from the device."""
    if is_cupy(array):
        note_to_host()
        return array.get()  # type: ignore[no-any-return]
    if _is_simulated(array):
        return array.get()  # type: ignore[no-any-return]
    return np.asarray(array)


def to_device(array: Any, device: str) -> Any:
    """Move an array; no copy if it is already there.

    Raises:
        InvalidArgumentError: ``device`` is neither ``"cpu"``, ``"cuda"`` nor ``"cuda-sim"``.
    """
    if device == "cpu":
        return to_numpy(array)
    if device == "cuda":
        if is_cupy(array):
            return array
        import cupy

        note_to_device()
        return cupy.asarray(to_numpy(array))
    if device == "cuda-sim":
        if _is_simulated(array):
            return array
        from gpuconv.backends.simulated import to_simulated

        return to_simulated(to_numpy(array))
    raise InvalidArgumentError(f"device must be 'cpu', 'cuda' or 'cuda-sim'. Received: {device!r}")


def writable(array: Any) -> Any:
    """Return the array itself; one that may only be read, as fixed parameters, becomes writable.

    Raises:
        ValueError: NumPy's, for memory that nobody may write.
    """
    if type(array) is np.ndarray and not array.flags.writeable:
        array.flags.writeable = True
    return array


def overwrite(target: Any, values: Any) -> None:
    """Write ``values``, of any dtype, all over ``target``, even one that may only be read.

    NumPy arrays take values from every device, others from the host and their own.
    """
    xp = array_module(target)
    there = to_numpy(values) if xp is np else values
    writable(target)[...] = xp.asarray(there, dtype=target.dtype)


def constant(values: np.ndarray[Any, Any], like: Any) -> Any:
    """Return small, unchanging ``values`` where ``like`` lies, in its dtype; not to be modified.

    They are copied to a device once and kept: a copy at every call would make the host wait.
    """
    values = np.asarray(values, like.dtype, order="C")
    device = device_of(like)
    if device == "cpu":
        return values
    return _kept_constant(values.tobytes(), values.shape, values.dtype.str, device)


@functools.lru_cache(maxsize=256)
def _kept_constant(numbers: bytes, shape: tuple[int, ...], dtype: str, device: str) -> Any:
    return to_device(np.frombuffer(numbers, dtype).reshape(shape), device)
