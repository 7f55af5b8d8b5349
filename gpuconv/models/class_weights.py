"""``class_weight`` of ``fit``: a weight for each sample by its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module
from gpuconv.errors import InvalidArgumentError, ShapeError


def class_weight_table(class_weight: Mapping[int, float]) -> np.ndarray[Any, Any]:
    """Return the weights by class number; classes that are not named weigh 1.

    Raises:
        InvalidArgumentError: not a dict of class numbers and finite weights of at least 0.
    """
    given = class_weight.items() if isinstance(class_weight, Mapping) else ()
    if not given or not all(_is_class(number) and _is_weight(weight) for number, weight in given):
        raise InvalidArgumentError(
            f"class_weight must be a dict from class numbers to weights of at least 0. "
            f"Received: {class_weight!r}"
        )
    table = np.ones(max(class_weight) + 1, dtype="float32")
    for number, weight in given:
        table[number] = weight
    return table


def _is_class(number: Any) -> bool:
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    return whole and number >= 0


def _is_weight(weight: Any) -> bool:
    number = isinstance(weight, (int, float, np.number)) and not isinstance(weight, bool)
    return number and math.isfinite(weight) and weight >= 0


def with_class_weights(batch: Any, table: np.ndarray[Any, Any]) -> Any:
    """Return ``(x, y, sample_weight)`` with the weights of the classes multiplied in.

    Targets are class numbers, (N,) or (N, 1), or one row of probabilities a sample.

    Raises:
        ShapeError: targets of more dimensions, whose samples have no class.
    """
    x, y, sample_weight = batch
    if y.ndim > 2:
        raise ShapeError(
            f"class_weight needs one class for each sample, targets (N,), (N, 1) or (N, classes). "
            f"Received: targets of shape {tuple(y.shape)}"
        )
    xp = array_module(y)
    classes = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(y.shape[0])
    classes = classes.astype("int64")
    named = xp.asarray(table)
    known = classes < named.shape[0]
    weights = xp.where(known, named[xp.where(known, classes, 0)], 1.0).astype("float32")
    return x, y, weights if sample_weight is None else weights * sample_weight
