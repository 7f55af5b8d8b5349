"""Losses: ``value, dy = loss.forward(labels, y)``."""

from __future__ import annotations

from inspect import isfunction
from typing import Any

from gpuconv.configurable import Registry
from gpuconv.losses import functions
from gpuconv.losses.base import Loss
from gpuconv.losses.categorical import CategoricalCrossentropy, SparseCategoricalCrossentropy
from gpuconv.losses.distances import (
    BinaryFocalCrossentropy,
    Hinge,
    KLDivergence,
    LogCosh,
    MeanAbsolutePercentageError,
    MeanSquaredLogarithmicError,
    Poisson,
    SquaredHinge,
)
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
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "ElementwiseLoss",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
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
_registry.register(LogCosh, "log_cosh", "logcosh")
_registry.register(Poisson)
_registry.register(MeanAbsolutePercentageError, "mean_absolute_percentage_error", "mape", "MAPE")
_registry.register(MeanSquaredLogarithmicError, "mean_squared_logarithmic_error", "msle", "MSLE")
_registry.register(Hinge)
_registry.register(SquaredHinge)
_registry.register(KLDivergence, "kl_divergence", "kld", "KLD")
_registry.register(BinaryFocalCrossentropy)

register = _registry.register


def get(identifier: Any) -> Loss:
    """Return a loss.

    Args:
        identifier: a name such as ``"sparse_categorical_crossentropy"`` or ``"mse"``, a dict
            from :func:`serialize`, a :class:`Loss` or its class, or one of this module's functions.

    Raises:
        InvalidArgumentError: none of these, or an unknown name. Another function of labels and
            outputs has no gradient: write a subclass of :class:`Loss` instead.
    """
    name = getattr(identifier, "__name__", "")
    if isfunction(identifier) and vars(functions).get(name) is identifier:
        return _registry.get(name)
    return _registry.get(identifier)


def serialize(loss: Loss) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(loss)
