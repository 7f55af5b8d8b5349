"""Losses: ``value, dy = loss.forward(labels, y)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.configurable import Registry
from gpuconv.losses.base import Loss
from gpuconv.losses.categorical import CategoricalCrossentropy, SparseCategoricalCrossentropy
from gpuconv.losses.elementwise import (
    BinaryCrossentropy,
    ElementwiseLoss,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
)
from gpuconv.losses.functions import (
    binary_crossentropy,
    categorical_crossentropy,
    huber,
    mean_absolute_error,
    mean_squared_error,
    sparse_categorical_crossentropy,
)

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "ElementwiseLoss",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "get",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "register",
    "serialize",
    "sparse_categorical_crossentropy",
]

_registry: Registry[Loss] = Registry("loss", Loss)
_registry.register(SparseCategoricalCrossentropy)
_registry.register(CategoricalCrossentropy)
_registry.register(BinaryCrossentropy, "binary_crossentropy", "bce", "BCE")
_registry.register(MeanSquaredError, "mean_squared_error", "mse", "MSE")
_registry.register(MeanAbsoluteError, "mean_absolute_error", "mae", "MAE")
_registry.register(Huber)

register = _registry.register


def get(identifier: Loss | str | Mapping[str, Any] | type[Loss]) -> Loss:
    """Return a loss.

    Args:
        identifier: a name such as ``"sparse_categorical_crossentropy"`` or ``"mse"``, a dict
            from :func:`serialize`, a :class:`Loss` or its class.

    Raises:
        InvalidArgumentError: none of these, or an unknown name. A plain function of labels and
            outputs has no gradient: write a subclass of :class:`Loss` instead.
    """
    return _registry.get(identifier)


def serialize(loss: Loss) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(loss)
