"""Where an array lives, and moving it: the only module that knows both NumPy and CuPy.

CuPy is never imported here unless the caller asks for CUDA or already holds a CuPy array
(then it is in ``sys.modules``).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from gpuconv.errors import InvalidArgumentError


def _loaded_cupy() -> ModuleType | None:
    return sys.modules.get("cupy")


def is_cupy(array: Any) -> bool:
    """Whether ``array`` is a CuPy array."""
    cupy = _loaded_cupy()
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_array(value: Any) -> bool:
    """Whether ``value`` is a NumPy or CuPy array."""
    return isinstance(value, np.ndarray) or is_cupy(value)


def array_module(array: Any) -> Any:
    """Return ``numpy`` or ``cupy``, whichever ``array`` belongs to."""
    return _loaded_cupy() if is_cupy(array) else np


def device_of(array: Any) -> str:
    """Return ``"cuda"`` for CuPy arrays and ``"cpu"`` for NumPy arrays."""
    return "cuda" if is_cupy(array) else "cpu"


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array: the same object on the CPU, a copy from the device."""
    if is_cupy(array):
        return array.get()  # type: ignore[no-any-return]
    return np.asarray(array)


def to_device(array: Any, device: str) -> Any:
    """Move an array; no copy if it is already there.

    Raises:
        InvalidArgumentError: ``device`` is neither ``"cpu"``, ``"cuda"`` nor ``"cuda-sim"``.
    """
    if device in ("cpu", "cuda-sim"):
        return to_numpy(array)
    if device == "cuda":
        import cupy

        return cupy.asarray(array)
    raise InvalidArgumentError(f"device must be 'cpu', 'cuda' or 'cuda-sim'. Received: {device!r}")
