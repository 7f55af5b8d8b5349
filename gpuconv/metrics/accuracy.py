"""How often the outputs are right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module
from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.losses.targets import (
    bring_together,
    check_one_hot_shape,
    class_numbers,
    common_shape,
    known_shape,
)
from gpuconv.metrics.base import MeanMetric, Metric

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class BinaryAccuracy(MeanMetric):
    """How often ``y > threshold`` equals the label, 0 or 1.

    Args:
        name: key in logs.
        threshold: outputs above it count as 1.

    Shapes: both (N, ...), a last axis of extent 1 may be missing in either.
    """

    def __init__(self, name: str | None = None, threshold: float = 0.5) -> None:
        super().__init__(name)
        number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
        if not number or math.isnan(threshold):
            raise InvalidArgumentError(f"threshold must be a number. Received: {shown(threshold)}")
        self.threshold = float(threshold)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        shape = common_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        return (y_pred.reshape(shape) > self.threshold) == y_true.reshape(shape)


class SparseCategoricalAccuracy(MeanMetric):
    """How often the largest output is that of the label, a class number.

    Shapes: outputs (N, ..., K), labels (N, ...) or (N, ..., 1), integers in [0, K).
    """

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return y_pred.argmax(axis=-1) == class_numbers(y_true, known_shape(y_pred.shape, y_true))


class CategoricalAccuracy(MeanMetric):
    """How often the largest output is where the largest of the one-hot labels is.

    Shapes: both (N, ..., K).
    """

    def values(self, y_true: Array, y_pred: Array) -> Array:
        check_one_hot_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        return y_pred.argmax(axis=-1) == y_true.argmax(axis=-1)


class AccuracyByShape(Metric):
    """The accuracy that fits the first batch; what the word ``"accuracy"`` stands for.

    Outputs whose last axis has extent 1 (and vectors): :class:`BinaryAccuracy`. Labels with an
    axis less, or with a last axis of extent 1: :class:`SparseCategoricalAccuracy`. Otherwise
    :class:`CategoricalAccuracy`. As in Keras 3.15.
    """

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(name)
        self._chosen: MeanMetric | None = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        if self._chosen is None:
            self._chosen = accuracy_for(tuple(y_true.shape), tuple(y_pred.shape))
        self._chosen.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        """Return the fraction of right outputs; 0 before the first batch."""
        return 0.0 if self._chosen is None else self._chosen.result()

    def reset_state(self) -> None:
        if self._chosen is not None:
            self._chosen.reset_state()


def accuracy_for(labels_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> MeanMetric:
    """Return the accuracy metric for these shapes, see :class:`AccuracyByShape`."""
    if len(y_shape) < 2 or y_shape[-1] == 1:
        return BinaryAccuracy()
    if len(labels_shape) < len(y_shape) or labels_shape[-1] == 1:
        return SparseCategoricalAccuracy()
    return CategoricalAccuracy()


class SparseTopKCategoricalAccuracy(MeanMetric):
    """How often fewer than ``k`` outputs are larger than that of the label, a class number.

    An output that ties with the k-th largest thus counts; one that is not finite does not.

    Args:
        k: at least 1.
        name: key in logs.

    Shapes: outputs (N, ..., K), labels (N, ...) or (N, ..., 1), integers in [0, K).
    """

    def __init__(self, k: int = 5, name: str = "sparse_top_k_categorical_accuracy") -> None:
        super().__init__(name)
        self.k = _at_least_one(k)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        numbers = class_numbers(y_true, known_shape(y_pred.shape, y_true))
        return _in_top_k(numbers, y_pred, self.k)


class TopKCategoricalAccuracy(MeanMetric):
    """:class:`SparseTopKCategoricalAccuracy` for one-hot labels.

    Args:
        k: at least 1.
        name: key in logs.

    Shapes: both (N, ..., K).
    """

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy") -> None:
        super().__init__(name)
        self.k = _at_least_one(k)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        check_one_hot_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        return _in_top_k(y_true.argmax(axis=-1), y_pred, self.k)


def _in_top_k(numbers: Array, y: Array, k: int) -> Array:
    xp = array_module(y)
    of_label = xp.take_along_axis(y, numbers[..., None], axis=-1)
    larger = (y > of_label).sum(axis=-1)
    return xp.logical_and(larger < k, xp.isfinite(of_label[..., 0]))


def _at_least_one(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidArgumentError(f"k must be an integer of at least 1. Received: {k!r}")
    return k
