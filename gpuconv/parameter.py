"""A trainable array and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import overwrite, to_device, to_numpy
from gpuconv.errors import ShapeError

if TYPE_CHECKING:
    from gpuconv.backends.base import Array, Engine


class Parameter:
    """A named array that an optimizer may change, with the gradient that backward adds into.

    Attributes:
        name: last part of the path, such as ``"kernel"``.
        path: unique within a model, such as ``"conv2d_1/kernel"``; the model sets it.
        value: array on the layer's device.
        grad: None until a backward pass has run; later passes ADD into it.
        trainable: whether gradients are computed and optimizers may touch it.
        regularizer: object with ``value(array)`` and ``gradient(array)``, or None.
    """

    __slots__ = (
        "__weakref__",
        "_fixed",
        "_prepared",
        "_prepared_from",
        "grad",
        "name",
        "path",
        "regularizer",
        "trainable",
        "value",
    )

    def __init__(
        self,
        value: Array,
        name: str = "parameter",
        trainable: bool = True,
        regularizer: Any | None = None,
    ) -> None:
        self.value = value
        self.grad: Array | None = None
        self.name = name
        self.path = name
        self.trainable = trainable
        self.regularizer = regularizer
        self._fixed = False
        self._prepared: dict[str, Any] = {}
        self._prepared_from: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.value.dtype)

    @property
    def size(self) -> int:
        return int(self.value.size)

    @property
    def nbytes(self) -> int:
        return int(self.value.nbytes)

    def add_gradient(self, gradient: Array) -> None:
        """Add ``gradient``, a fresh array that the parameter may keep, into ``grad``."""
        if self.grad is None:
            self.grad = gradient
        else:
            self.grad += gradient

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the value as a NumPy array: a copy, so that later steps do not change it."""
        return np.array(to_numpy(self.value))

    def assign(self, value: Any) -> None:
        """Overwrite the value in place.

        Raises:
            ShapeError: the shapes differ.
        """
        received: Any = value.value if isinstance(value, Parameter) else value
        if not hasattr(received, "shape"):
            received = np.asarray(received)
        if tuple(received.shape) != self.shape:
            raise ShapeError(
                f"{self.path}: expected a value of shape {self.shape}. "
                f"Received: {tuple(received.shape)}"
            )
        overwrite(self.value, received)

    # --- values that do not change ----------------------------------------------------

    def fix(self) -> None:
        """Say that the value will hardly change: engines may keep what they make of it.

        On the CPU the array can then only be read: writing into it raises NumPy's ValueError, so
        that nobody changes it unnoticed. :meth:`assign`, ``set_weights``, the functions that load
        weights, and optimizers write all the same; what engines kept is then made anew. An array
        that is a view of another is copied. (A view that was taken before still writes: take none.)
        """
        self._fixed = True
        self._lock()

    @property
    def fixed(self) -> bool:
        """Whether :meth:`fix` was called."""
        return self._fixed

    def prepared_by(self, engine: Engine) -> Any:
        """Return what ``engine`` takes for the value: of a fixed one ``engine.prepare_weights``."""
        if not self._fixed:
            return self.value
        known = self._prepared_from
        if known is None or known is not self.value or known.flags.writeable:
            self._lock()
        value, prepared = self.value, self._prepared  # which another thread may replace
        if type(value) is not np.ndarray:
            return value
        if engine.name not in prepared:
            prepared[engine.name] = engine.prepare_weights(value)
        return prepared[engine.name]

    def _lock(self) -> None:
        """Forget what was made of the value before, and let nobody write it."""
        self._prepared, self._prepared_from = {}, None
        if type(self.value) is np.ndarray:  # other arrays cannot be locked
            if self.value.base is not None:
                self.value = self.value.copy()
            self.value.flags.writeable = False
            self._prepared_from = self.value

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """What copies and pickles hold: all but what engines keep."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "__weakref__"}
        return None, {**kept, "_prepared": {}, "_prepared_from": None}

    # --- the value elsewhere ----------------------------------------------------------

    def to(self, device: str) -> None:
        """Move value and gradient to ``"cpu"`` or ``"cuda"``, in place."""
        self.value = to_device(self.value, device)
        if self.grad is not None:
            self.grad = to_device(self.grad, device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(to_numpy(self.value), dtype=dtype)

    def __repr__(self) -> str:
        frozen = "" if self.trainable else ", frozen"
        return f"Parameter({self.path!r}, shape={self.shape}, dtype={self.dtype.name}{frozen})"
