"""A trainable array and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_device, to_numpy
from gpuconv.errors import ShapeError

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


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

    __slots__ = ("__weakref__", "grad", "name", "path", "regularizer", "trainable", "value")

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
        received = value.value if isinstance(value, Parameter) else value
        if not hasattr(received, "shape"):
            received = np.asarray(received)
        if tuple(received.shape) != self.shape:
            raise ShapeError(
                f"{self.path}: expected a value of shape {self.shape}. "
                f"Received: {tuple(received.shape)}"
            )
        xp = array_module(self.value)
        host = to_numpy(received) if xp is np else received
        self.value[...] = xp.asarray(host, dtype=self.value.dtype)

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
