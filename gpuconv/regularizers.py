"""Penalties on the size of parameters, as in Keras 3.15."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuconv.backends.arrays import array_module
from gpuconv.configurable import Configurable, Registry
from gpuconv.errors import InvalidArgumentError

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class Regularizer(Configurable, ABC):
    """Base class: subclasses define :meth:`value` and its derivative :meth:`gradient`.

    Both take a parameter's array and work on its device, without waiting for it.
    """

    @abstractmethod
    def value(self, array: Array) -> Array:
        """Return the penalty, a 0-d array of the dtype of ``array``."""

    @abstractmethod
    def gradient(self, array: Array) -> Array:
        """Return the derivative of :meth:`value`, a new array like ``array``."""

    def __call__(self, array: Array) -> Array:
        """Return :meth:`value`."""
        return self.value(array)


class L1L2(Regularizer):
    """``l1 * sum(abs(w)) + l2 * sum(w * w)``.

    Raises:
        InvalidArgumentError: a factor is negative or not finite.
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = _factor(l1, "l1")
        self.l2 = _factor(l2, "l2")

    def value(self, array: Array) -> Array:
        xp = array_module(array)
        total = xp.zeros((), array.dtype)
        if self.l1:
            total = total + xp.abs(array).sum() * self.l1
        if self.l2:
            total = total + xp.square(array).sum() * self.l2
        return xp.asarray(total, array.dtype)

    def gradient(self, array: Array) -> Array:
        xp = array_module(array)
        total = array * (2.0 * self.l2)
        if self.l1:
            total += xp.sign(array) * self.l1
        return total


class L1(L1L2):
    """``l1 * sum(abs(w))``."""

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)


class L2(L1L2):
    """``l2 * sum(w * w)``."""

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)


def _factor(value: float, name: str) -> float:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (valid and math.isfinite(value) and value >= 0):
        raise InvalidArgumentError(
            f"{name} must be a finite number of at least 0. Received: {value!r}"
        )
    return float(value)


_registry: Registry[Regularizer] = Registry("regularizer", Regularizer)
_registry.register(L1)
_registry.register(L2)
_registry.register(L1L2, "l1_l2", "l1l2")

register = _registry.register
l1, l2, l1_l2 = L1, L2, L1L2
"""Keras's other names."""


def get(
    identifier: Regularizer | str | Mapping[str, Any] | type[Regularizer] | None,
) -> Regularizer | None:
    """Return a regularizer, or None for None.

    Args:
        identifier: ``"l1"``, ``"l2"``, a dict from :func:`serialize`, a :class:`Regularizer` or
            its class, or None.

    Raises:
        InvalidArgumentError: none of these, or an unknown name.
    """
    return None if identifier is None else _registry.get(identifier)


def serialize(regularizer: Regularizer) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(regularizer)
