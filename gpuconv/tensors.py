"""An array and where it lies: :class:`Tensor`, and :func:`tensor` that makes one.

A Tensor is a thin cover over a NumPy or CuPy array. Its arithmetic is NumPy's: broadcasting, dtype
rules (NumPy 2's, so a Python number never widens a float32) and error cases are those of the array
inside. It records nothing for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpuconv.backends import interchange
from gpuconv.backends.arrays import device_of, is_array, is_cupy, to_device, to_numpy
from gpuconv.backends.selection import resolve_device
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError, suggestion

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Axis = int | tuple[int, ...] | None

_BY_HAND = frozenset({"backward", "detach", "grad", "grad_fn", "requires_grad", "requires_grad_"})


def tensor(value: Any, backend: str | None = None, dtype: Any = None) -> Tensor:
    """Make a Tensor; it shares memory with ``value`` where dtype and device allow.

    Args:
        value: a NumPy or CuPy array, a Tensor, an object with ``__cuda_array_interface__``,
            ``__dlpack__`` (PyTorch, JAX) or ``__array__``, nested lists, or a number.
        backend: ``"cpu"``, ``"cuda"``, an engine, or ``"auto"``. None leaves Tensors and GPU arrays
            where they are and brings the rest to the backend in force.
        dtype: such as ``"float32"``. None keeps what ``value`` has; Python's floats become float32,
            its integers int64.

    Raises:
        DTypeError: ``value`` is not real numbers, or ``dtype`` is unknown.
        ShapeError: nested lists of unequal lengths.
        InvalidArgumentError: an unknown backend, or memory that cannot be shared.
        BackendUnavailableError: the backend cannot run here; the message says why.
    """
    device = None if backend is None else resolve_device(backend)[0]
    array = interchange.as_array(as_array(value) if isinstance(value, Tensor) else value, dtype)
    if device is None:
        stays = isinstance(value, Tensor) or device_of(array) != "cpu"
        device = device_of(array) if stays else resolve_device()[0]
    return Tensor(to_device(array, device))


def as_array(value: Any) -> Array:
    """Return the NumPy or CuPy array of ``value``, which may be all that :func:`tensor` takes.

    Raises:
        DTypeError: not real numbers.
        ShapeError: nested lists of unequal lengths.
        InvalidArgumentError: memory that cannot be shared.
        BackendUnavailableError: the memory is on a GPU, and CuPy is missing.
    """
    return value.array if isinstance(value, Tensor) else interchange.as_array(value)


class Tensor(NDArrayOperatorsMixin):
    """A NumPy or CuPy array of real numbers, with the device that it lies on.

    Operators and NumPy's functions take Tensors, arrays, lists and numbers, and give Tensors. All
    arrays of one expression lie on one device: nothing is moved but by :meth:`to`. ``==`` compares
    element by element, and so a Tensor, like a NumPy array, has no hash.

    Args:
        array: a NumPy or CuPy array (or a NumPy scalar); it is not copied.
        backend: ``"cpu"`` or ``"cuda"``, where the array lies; found out when None.

    Raises:
        DTypeError: ``array`` is not an array of real numbers.
        InvalidArgumentError: the array does not lie on ``backend``.
    """

    __slots__ = ("array", "backend")
    __array_priority__ = 1000  # CuPy's operators leave the work to the higher number
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: Array, backend: str | None = None) -> None:
        if isinstance(array, (np.ndarray, np.generic)) and not is_cupy(array):
            array = np.asarray(array)  # a matrix or memmap becomes a plain view
        if not is_array(array) or array.dtype.kind not in interchange.KINDS:
            received = f"dtype {array.dtype}" if is_array(array) else type(array).__name__
            raise DTypeError(
                f"a Tensor holds a NumPy or CuPy array of real numbers; gpuconv.tensor() converts "
                f"others. Received: {received}"
            )
        found = device_of(array)
        if backend not in (None, found):
            raise InvalidArgumentError(
                f"the array lies on {found!r}; gpuconv.tensor(array, backend=...) moves it. "
                f"Received: backend={backend!r}"
            )
        self.array = array
        self.backend = found

    # --- what it is ------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype object, on every device."""
        found: np.dtype[Any] = self.array.dtype
        return found

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.array.ndim)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.array.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return int(self.array.nbytes)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a Tensor of shape () has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        edge = max(1, 4 - max(self.ndim, 1))  # a batch of pictures fills a screen, not ten
        values = np.array2string(self.numpy(), threshold=100, edgeitems=edge, separator=", ")
        about = f"shape={self.shape}, dtype={self.dtype.name}, backend={self.backend!r}"
        return f"Tensor({about},\n{values})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are not there.
        if name in _BY_HAND:
            raise AttributeError(
                f"a Tensor has no {name!r}: gradients are computed by hand. A layer's forward(x) "
                f"returns (y, backward), and backward(dy) returns the gradient of x; see "
                f"gpuconv.layers.Layer.forward"
            )
        hint = suggestion(name, dir(Tensor)) if not name.startswith("_") else ""
        raise AttributeError(f"a Tensor has no attribute {name!r}.{hint}")

    # --- where it is, and as what ----------------------------------------------------

    def to(self, backend: str) -> Tensor:
        """Return the Tensor on a backend: itself if it is there already, else a copy.

        Raises:
            InvalidArgumentError: an unknown backend.
            BackendUnavailableError: the backend cannot run here; the message says why.
        """
        device = resolve_device(backend)[0]
        return self if device == self.backend else Tensor(to_device(self.array, device))

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return a NumPy array: the Tensor's own memory on the CPU, a copy from a GPU."""
        return to_numpy(self.array)

    def astype(self, dtype: Any, copy: bool = True) -> Tensor:
        """Return the values in another dtype; ``copy=False`` may return the same memory.

        Raises:
            DTypeError: ``dtype`` is unknown or not one of real numbers.
        """
        return Tensor(self.array.astype(interchange.check_dtype(dtype), copy=copy))

    def copy(self) -> Tensor:
        """Return a Tensor with memory of its own."""
        return Tensor(self.array.copy())

    def item(self) -> float | int | bool:
        """Return the only element as a Python number.

        Raises:
            ShapeError: there is not exactly one element.
        """
        if self.size != 1:
            raise ShapeError(f"item() needs exactly one element. Received: shape {self.shape}")
        return self.array.item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """Return nested lists of Python numbers, or one number for shape ()."""
        return self.array.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"only one element is true or false; reduce with .any() or .all(). "
                f"Received: shape {self.shape}"
            )
        return bool(self.item())

    def __index__(self) -> int:
        if self.ndim != 0 or self.dtype.kind not in "iu":
            raise TypeError(
                f"only an integer Tensor of shape () is an index. "
                f"Received: shape {self.shape}, dtype {self.dtype.name}"
            )
        return int(self.item())

    def __reduce__(self) -> tuple[type[Tensor], tuple[Array]]:
        return Tensor, (self.array,)

    def __copy__(self) -> Tensor:
        return self.copy()

    # --- elements --------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        where = _unwrap(key)
        _require_one_device((self.array, where))
        return Tensor(self.array[where])

    def __setitem__(self, key: Any, value: Any) -> None:
        where, (_, operand) = _unwrap(key), _operands((self, value))
        _require_one_device((self.array, where, operand))
        self.array[where] = operand

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("a Tensor of shape () cannot be iterated over")
        return (Tensor(part) for part in self.array)

    # --- shape -----------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        """Return the values in row-major order with another shape, a view if possible.

        Args:
            *shape: extents, or one tuple of them; one may be -1.

        Raises:
            ShapeError: the number of elements differs.
        """
        wanted = shape[0] if len(shape) == 1 else shape
        try:
            return Tensor(self.array.reshape(wanted))
        except ValueError as error:
            raise ShapeError(
                f"a Tensor of shape {self.shape} has {self.size} elements and cannot be reshaped. "
                f"Received: {wanted}"
            ) from error

    def transpose(self, *axes: Any) -> Tensor:
        """Return a view with the axes in another order; reversed when none are given."""
        return Tensor(self.array.transpose(*axes))

    @property
    def T(self) -> Tensor:
        """A view with the axes reversed."""
        return Tensor(self.array.T)

    # --- reductions ------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Sum over the axes, or over all."""
        return Tensor(self.array.sum(axis=axis, keepdims=keepdims))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Mean over the axes, or over all."""
        return Tensor(self.array.mean(axis=axis, keepdims=keepdims))

    def std(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Standard deviation over the axes, or over all; divided by n, as in NumPy."""
        return Tensor(self.array.std(axis=axis, keepdims=keepdims))

    def var(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Variance over the axes, or over all; divided by n, as in NumPy."""
        return Tensor(self.array.var(axis=axis, keepdims=keepdims))

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Maximum over the axes, or over all; NaN if there is one."""
        return Tensor(self.array.max(axis=axis, keepdims=keepdims))

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Minimum over the axes, or over all; NaN if there is one."""
        return Tensor(self.array.min(axis=axis, keepdims=keepdims))

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether any element is true, over the axes or over all."""
        return Tensor(self.array.any(axis=axis, keepdims=keepdims))

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether all elements are true, over the axes or over all."""
        return Tensor(self.array.all(axis=axis, keepdims=keepdims))

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Index of the first maximum along an axis, or in the flattened values."""
        return Tensor(self.array.argmax(axis=axis, keepdims=keepdims))

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Index of the first minimum along an axis, or in the flattened values."""
        return Tensor(self.array.argmin(axis=axis, keepdims=keepdims))

    def matmul(self, other: Any) -> Tensor:
        """Matrix product, as the operator ``@``: ``(..., M, K)`` times ``(..., K, N)``."""
        return self @ other  # type: ignore[no-any-return]

    # --- NumPy's protocols: the operators are NumPy's universal functions -------------

    def __eq__(self, other: object) -> Any:
        return NotImplemented if _is_no_number(other) else super().__eq__(other)

    def __ne__(self, other: object) -> Any:
        return NotImplemented if _is_no_number(other) else super().__ne__(other)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        operands = _operands(inputs) if method == "__call__" else _unwrap(inputs)
        options = {name: _unwrap(value) for name, value in options.items()}
        if out:
            options["out"] = _unwrap(out)
        _require_one_device((operands, tuple(options.values())))
        result = getattr(ufunc, method)(*operands, **options)
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
        arrays, named = _unwrap(args), {name: _unwrap(value) for name, value in kwargs.items()}
        _require_one_device((arrays, tuple(named.values())))
        if not any(_holds_tensor(value) for value in (*args, *kwargs.values())):
            return NotImplemented  # it is inside a container that only ``func`` can open
        return _wrap(func(*arrays, **named))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        converts = dtype is not None and np.dtype(dtype) != array.dtype
        if copy is False and (converts or array is not self.array):
            raise ValueError(
                f"a NumPy array of dtype {dtype or self.dtype} cannot be had without a copy. "
                f"Received: dtype {self.dtype.name} on {self.backend!r}"
            )
        if converts:
            return array.astype(dtype)
        return array.copy() if copy and array is self.array else array

    # --- other libraries' protocols --------------------------------------------------

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        given = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return self.array.__dlpack__(**{k: v for k, v in given.items() if v is not None})

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.array.__dlpack_device__()  # type: ignore[no-any-return]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__cuda_array_interface__  # type: ignore[no-any-return]


def _is_numpy_number(value: Any) -> bool:
    return isinstance(value, np.generic) and value.dtype.kind in interchange.KINDS


def _is_no_number(value: object) -> bool:
    return value is None or isinstance(value, (str, bytes, dict, set))


def _unwrap(value: Any) -> Any:
    """Put the arrays of Tensors in their place, also inside lists and tuples."""
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, (list, tuple)) and _holds_tensor(value):
        parts = [_unwrap(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)


def _operands(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arrays and numbers for the ``inputs`` of a universal function.

    Lists go where the first Tensor lies, and Python's floats in them take its dtype, as a single
    Python float does.
    """
    first = next((value for value in inputs if isinstance(value, Tensor)), None)
    floats = first.dtype if first is not None and first.dtype.kind == "f" else "float32"
    device = "cpu" if first is None else first.backend
    operands = []
    for value in inputs:
        if isinstance(value, (list, tuple)):
            value = to_device(interchange.as_array(value, floats=floats), device)
        elif not isinstance(value, (bool, int, float)) and not _is_numpy_number(value):
            value = as_array(value)
        operands.append(value)
    return tuple(operands)


def _require_one_device(values: tuple[Any, ...]) -> None:
    devices = sorted(set(_devices(values)))
    if len(devices) > 1:
        raise InvalidArgumentError(
            f"all arrays of one expression must lie on one device; move them with .to(). "
            f"Received: arrays on {' and '.join(repr(d) for d in devices)}"
        )


def _devices(value: Any) -> Iterator[str]:
    if is_array(value):
        yield device_of(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _devices(part)


def _wrap(result: Any) -> Any:
    """Make Tensors of the arrays and NumPy scalars in a result that are real numbers."""
    if is_array(result) or isinstance(result, np.generic):
        return Tensor(result) if result.dtype.kind in interchange.KINDS else result
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(_wrap(part) for part in result))
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(part) for part in result)
    return result
