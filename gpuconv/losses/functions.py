"""Losses as functions of labels and outputs: one value for each sample, no reduction.

Arguments, shapes and errors are those of the classes of the same name.
"""

from __future__ import annotations

from typing import Any

from gpuconv.losses.categorical import CategoricalCrossentropy, SparseCategoricalCrossentropy
from gpuconv.losses.elementwise import (
    BinaryCrossentropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
)


def sparse_categorical_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False) -> Any:
    """``-log p[label]``: scores (N, ..., K), class numbers (N, ...) -> (N, ...)."""
    return SparseCategoricalCrossentropy(from_logits, reduction="none")(y_true, y_pred)


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0
) -> Any:
    """``-sum(labels * log p)``: both (N, ..., K) -> (N, ...)."""
    loss = CategoricalCrossentropy(from_logits, label_smoothing, reduction="none")
    return loss(y_true, y_pred)


def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0
) -> Any:
    """Binary cross-entropy, the mean over the last axis: (N, ..., K) -> (N, ...)."""
    loss = BinaryCrossentropy(from_logits, label_smoothing, reduction="none")
    return loss(y_true, y_pred)


def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """``(y - t)^2``, the mean over the last axis: (N, ..., K) -> (N, ...)."""
    return MeanSquaredError(reduction="none")(y_true, y_pred)


def mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    """``|y - t|``, the mean over the last axis: (N, ..., K) -> (N, ...)."""
    return MeanAbsoluteError(reduction="none")(y_true, y_pred)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> Any:
    """Huber's loss, the mean over the last axis: (N, ..., K) -> (N, ...)."""
    return Huber(delta, reduction="none")(y_true, y_pred)
