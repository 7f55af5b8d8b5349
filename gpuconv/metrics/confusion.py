"""Which outputs are wrong in which way: the confusion matrix, precision and recall."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int, entries_of
from gpuconv.losses.targets import (
    align_weights,
    bring_together,
    check_class_numbers,
    check_fraction,
    common_shape,
    known_shape,
)
from gpuconv.metrics.base import Metric

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class ConfusionMatrix(Metric):
    """Counts (K, K) of samples by true class (row) and predicted class (column).

    Args:
        num_classes: K, at least 2.
        name: key in logs.

    Shapes: labels are class numbers (N, ...) or (N, ..., 1), or one-hot like the outputs.
    Outputs are scores (N, ..., K), of which the largest counts; or, for two classes,
    probabilities (N, ..., 1) of class 1, which counts above 0.5; or, if they are integers,
    class numbers. Weights are summed instead of counted. An update waits for the device.
    """

    def __init__(self, num_classes: int, name: str | None = None) -> None:
        super().__init__(name)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise InvalidArgumentError(
                f"num_classes must be an integer of at least 2. Received: {num_classes!r}"
            )
        self.num_classes = num_classes
        self._counts: Array | None = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        known_shape(y_pred.shape, y_true)
        one_hot = y_true.shape == y_pred.shape and y_pred.shape[-1] == self.num_classes
        predicted = self._predicted(y_pred)
        if one_hot and y_pred.dtype.kind == "f":
            y_true = y_true.argmax(axis=-1)
        if y_true.shape == (*predicted.shape, 1):
            y_true = y_true[..., 0]
        if y_true.shape != predicted.shape:
            raise ShapeError(
                f"labels must be one for each prediction. "
                f"Received: {tuple(y_true.shape)} labels, {tuple(predicted.shape)} predictions"
            )
        check_class_numbers(y_true, self.num_classes)
        check_class_numbers(predicted, self.num_classes)
        xp = array_module(y_pred)
        cells = y_true.astype("int64") * self.num_classes + predicted.astype("int64")
        weights = None
        if sample_weight is not None:
            aligned = align_weights(sample_weight, tuple(predicted.shape))
            weights = xp.broadcast_to(aligned, predicted.shape).reshape(-1).astype("float64")
        counts = xp.bincount(cells.reshape(-1), weights, minlength=self.num_classes**2)
        self._counts = counts if self._counts is None else self._counts + counts

    def _predicted(self, y: Array) -> Array:
        """Return class numbers from scores, probabilities or class numbers."""
        if y.dtype.kind != "f":
            return y
        if y.ndim > 1 and y.shape[-1] == self.num_classes:
            return y.argmax(axis=-1)
        if y.ndim > 1 and y.shape[-1] == 1 and self.num_classes == 2:
            return (y[..., 0] > 0.5).astype("int64")
        raise ShapeError(
            f"expected outputs of {self.num_classes} classes in the last axis, or integers. "
            f"Received: {y.dtype} outputs of shape {tuple(y.shape)}"
        )

    def result(self) -> np.ndarray[Any, Any]:
        """Return the (K, K) matrix: int64, or float64 with weights."""
        shape = (self.num_classes, self.num_classes)
        if self._counts is None:
            return np.zeros(shape, "int64")
        return np.array(to_numpy(self._counts)).reshape(shape)

    def reset_state(self) -> None:
        self._counts = None


class _ThresholdMetric(Metric):
    """Base of precision and recall: true positives by some total, at one or more thresholds."""

    def __init__(
        self,
        thresholds: float | Sequence[float] | None = None,
        class_id: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        several = entries_of(thresholds)
        self.thresholds: float | list[float] | None = None
        if several:
            self.thresholds = [check_fraction(t, "each of thresholds") for t in several]
        elif thresholds is not None:
            self.thresholds = check_fraction(thresholds, "thresholds, or each of them,")
        self.class_id = None if class_id is None else as_int(class_id, "class_id", 0)
        self._hits: Any = 0.0
        self._total: Any = 0.0

    @property
    def _levels(self) -> list[float]:
        if isinstance(self.thresholds, list):
            return self.thresholds
        return [0.5 if self.thresholds is None else self.thresholds]

    @abstractmethod
    def counted(self, positive: Array, predicted: Array) -> Array:
        """Return what the true positives are divided by, of (M,) labels and (T, M) outputs."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        shape = common_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        y_true, y_pred = y_true.reshape(shape), y_pred.reshape(shape)
        if self.class_id is not None:
            if self.class_id >= shape[-1]:
                raise ShapeError(
                    f"class_id {self.class_id} needs more classes in the last axis. "
                    f"Received: outputs of shape {shape}"
                )
            y_true, y_pred = y_true[..., self.class_id], y_pred[..., self.class_id]
        xp = array_module(y_pred)
        positive = y_true.reshape(-1) != 0
        levels = xp.asarray(self._levels, dtype=y_pred.dtype if _is_float(y_pred) else "float64")
        predicted = y_pred.reshape(1, -1) > levels[:, None]
        weights = xp.ones((), "float64")
        if sample_weight is not None:
            aligned = align_weights(sample_weight, tuple(y_pred.shape))
            weights = xp.broadcast_to(aligned, y_pred.shape).reshape(-1).astype("float64")
        self._hits = self._hits + (xp.logical_and(positive, predicted) * weights).sum(axis=1)
        self._total = self._total + (self.counted(positive, predicted) * weights).sum(axis=1)

    def result(self) -> Any:
        """Return a float, or an array (T,) for a list of several thresholds; 0 for 0/0."""
        hits = np.broadcast_to(to_numpy(self._hits), (len(self._levels),))
        total = np.broadcast_to(to_numpy(self._total), (len(self._levels),))
        ratios = np.divide(hits, total, out=np.zeros(len(hits)), where=total != 0)
        return float(ratios[0]) if len(ratios) == 1 else ratios

    def reset_state(self) -> None:
        self._hits = self._total = 0.0


class Precision(_ThresholdMetric):
    """Of the outputs above the threshold, the part whose label is 1.

    Args:
        thresholds: a number in [0, 1] or a list of them; None stands for 0.5.
        class_id: look at this entry of the last axis only; None takes all entries.
        name: key in logs.

    Shapes: both (N, ...), a last axis of extent 1 may be missing in either.
    """

    def counted(self, positive: Array, predicted: Array) -> Array:
        return predicted


class Recall(_ThresholdMetric):
    """Of the labels that are 1, the part whose output is above the threshold.

    Arguments and shapes as in :class:`Precision`.
    """

    def counted(self, positive: Array, predicted: Array) -> Array:
        return array_module(positive).broadcast_to(positive, predicted.shape)


def _is_float(array: Array) -> bool:
    return bool(array.dtype.kind == "f")
