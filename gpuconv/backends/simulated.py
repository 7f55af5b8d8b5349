"""Device memory of ``cuda-sim``: arrays that behave as CuPy's do, over NumPy's memory.

Numba's simulator runs kernels on NumPy arrays. If those were used as they are, code that mixes host
and device arrays, or that reads numbers off the device at every step, would work in the simulator
and fail or crawl on a GPU. A :class:`SimulatedArray` therefore keeps CuPy's rules: it is not a
NumPy array, does not mix with one, reductions give arrays of shape () instead of numbers, and
copies to the host are explicit (``get``) or counted (``float``, ``bool``, ``tolist``).

:data:`numpy_on_device` is the array module to go with it, as ``cupy`` is for CuPy's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpuconv.backends.transfers import note_to_device, note_to_host

_METHODS = frozenset(
    {
        *("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumsum"),
        *("diagonal", "dot", "fill", "flatten", "max", "mean", "min", "nonzero", "prod", "ravel"),
        *("repeat", "reshape", "round", "sort", "squeeze", "std", "sum", "swapaxes", "take"),
        *("trace", "transpose", "var", "view"),
    }
)
_ATTRIBUTES = frozenset(
    {"dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides"}
)
_FROM_HOST = frozenset({"array", "asarray", "ascontiguousarray"})


class SimulatedArray(NDArrayOperatorsMixin):
    """An array on the simulated device.

    Args:
        host: the NumPy array whose memory it is; not copied.
    """

    __slots__ = ("host",)
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    host: np.ndarray[Any, Any]

    def __init__(self, host: np.ndarray[Any, Any]) -> None:
        object.__setattr__(self, "host", np.asarray(host))

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "shape":
            raise AttributeError(f"{name!r} of an array on the device cannot be set")
        reshaped = self.host.reshape(value)
        if self.size and not np.may_share_memory(reshaped, self.host):
            raise AttributeError(f"the shape {value} needs a copy of the array; use reshape")
        object.__setattr__(self, "host", reshaped)

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES:
            return getattr(self.host, name)
        if name in _METHODS:
            return _on_device(getattr(self.host, name))
        raise AttributeError(f"an array on the simulated device has no attribute {name!r}")

    @property
    def T(self) -> SimulatedArray:
        return SimulatedArray(self.host.T)

    # --- to the host: explicit, or counted --------------------------------------------

    def get(self) -> np.ndarray[Any, Any]:
        """Return a copy as a NumPy array."""
        note_to_host()
        return self.host.copy()

    def item(self, *index: int) -> Any:
        """Return one element as a Python number."""
        note_to_host()
        return self.host.item(*index)

    def tolist(self) -> Any:
        """Return nested lists of Python numbers."""
        note_to_host()
        return self.host.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        raise TypeError(
            "an array on the device is not converted to NumPy implicitly; use .get(), or "
            "gpuconv.Tensor.numpy()"
        )

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        note_to_host()
        return bool(self.host)

    def __index__(self) -> int:
        note_to_host()
        return self.host.__index__()

    # --- elements ---------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[SimulatedArray]:
        return (SimulatedArray(part) for part in self.host)

    def __getitem__(self, key: Any) -> SimulatedArray:
        return SimulatedArray(np.asarray(self.host[_to_host_index(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[_to_host_index(key)] = _unwrap(value)

    def __repr__(self) -> str:
        return f"SimulatedArray({self.host!r})"

    def __copy__(self) -> SimulatedArray:
        return SimulatedArray(self.host.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> SimulatedArray:
        return SimulatedArray(self.host.copy())

    def __reduce__(self) -> tuple[type[SimulatedArray], tuple[np.ndarray[Any, Any]]]:
        return SimulatedArray, (self.host,)

    # --- NumPy's protocols ------------------------------------------------------------

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        options = {name: _unwrap(value) for name, value in options.items()}
        if out:
            options["out"] = tuple(_unwrap(part) for part in out)
        result = getattr(ufunc, method)(*map(_unwrap, inputs), **options)
        if out:
            return out[0] if len(out) == 1 else out
        return _wrap(result)

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        return _on_device(func)(*args, **kwargs)


class _Module:
    """NumPy's functions for arrays on the simulated device."""

    ndarray = SimulatedArray

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found  # float32, newaxis, pi
        wrapped = _from_host(found) if name in _FROM_HOST else _on_device(found)
        self.__dict__[name] = wrapped
        return wrapped


numpy_on_device = _Module()
"""NumPy's functions for arrays on the simulated device, as the module ``cupy`` is for CuPy's."""


def to_simulated(array: np.ndarray[Any, Any]) -> SimulatedArray:
    """Copy a NumPy array to the simulated device."""
    note_to_device()
    return SimulatedArray(array.copy(order="K"))


def _from_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``asarray`` and its kind: the functions through which NumPy arrays may enter."""

    def call(value: Any, *args: Any, **kwargs: Any) -> SimulatedArray:
        if isinstance(value, SimulatedArray):
            return SimulatedArray(function(value.host, *args, **kwargs))
        note_to_device()
        made = function(value, *args, **kwargs)
        return SimulatedArray(made.copy() if made is value else made)

    return call


def _on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        named = {name: _unwrap(value) for name, value in kwargs.items()}
        return _wrap(function(*map(_unwrap, args), **named))

    return call


def _unwrap(value: Any) -> Any:
    """Return NumPy's array for ours; refuse NumPy's own, as CuPy does."""
    if isinstance(value, SimulatedArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError(
            "an array on the host does not mix with one on the device. "
            f"Received: a NumPy array of shape {value.shape}"
        )
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(part) for part in value)
    return value


def _to_host_index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_to_host_index(part) for part in key)
    if isinstance(key, np.ndarray):
        note_to_device()
    return key.host if isinstance(key, SimulatedArray) else key


def _wrap(result: Any) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return SimulatedArray(np.asarray(result))
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(_wrap, result))
    if isinstance(result, (list, tuple)):
        return type(result)(map(_wrap, result))
    return result
