"""Means: of given values, and of the errors of outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gpuconv import losses
from gpuconv.backends.arrays import device_of, to_device
from gpuconv.containers import unwrap
from gpuconv.metrics.base import MeanMetric, Metric, RunningMean

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class Mean(Metric):
    """The weighted mean of the values that :meth:`update_state` is given."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._mean = RunningMean()

    def update_state(self, values: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """Take in one value (), or values (N, ...), with their weights.

        Raises:
            ShapeError: the weights do not belong to the values.
        """
        array, _ = unwrap(values)
        if sample_weight is not None:
            sample_weight = to_device(unwrap(sample_weight)[0], device_of(array))
        self._mean.add(array, sample_weight)

    def __call__(self, values: Any, sample_weight: Any = None) -> float:  # type: ignore[override]
        """Take in values and return the mean of all."""
        self.update_state(values, sample_weight)
        return self.result()

    def result(self) -> float:
        """Return the weighted mean of all values since the last reset."""
        return self._mean.result()

    def reset_state(self) -> None:
        self._mean = RunningMean()


class MeanSquaredError(MeanMetric):
    """Mean of ``(y - t)^2``; shapes as in :class:`gpuconv.losses.MeanSquaredError`."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return losses.MeanSquaredError().per_sample(y_true, y_pred)


class MeanAbsoluteError(MeanMetric):
    """Mean of ``|y - t|``; shapes as in :class:`gpuconv.losses.MeanAbsoluteError`."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return losses.MeanAbsoluteError().per_sample(y_true, y_pred)


class RootMeanSquaredError(Metric):
    """Root of the mean of ``(y - t)^2``; shapes as in :class:`gpuconv.losses.MeanSquaredError`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._squares = MeanSquaredError()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._squares.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        """Return the root of the weighted mean over all samples since the last reset."""
        return math.sqrt(self._squares.result())

    def reset_state(self) -> None:
        self._squares.reset_state()


class _Crossentropy(MeanMetric):
    """Base of cross-entropies as metrics: those of ``gpuconv.losses``, which see."""

    _loss: type[losses.Loss]

    def __init__(self, name: str | None = None, from_logits: bool = False) -> None:
        super().__init__(name)
        self.from_logits = bool(from_logits)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        loss: Any = self._loss
        return loss(from_logits=self.from_logits).per_sample(y_true, y_pred)


class BinaryCrossentropy(_Crossentropy):
    """Mean of :class:`gpuconv.losses.BinaryCrossentropy`."""

    _loss = losses.BinaryCrossentropy


class CategoricalCrossentropy(_Crossentropy):
    """Mean of :class:`gpuconv.losses.CategoricalCrossentropy`."""

    _loss = losses.CategoricalCrossentropy


class SparseCategoricalCrossentropy(_Crossentropy):
    """Mean of :class:`gpuconv.losses.SparseCategoricalCrossentropy`."""

    _loss = losses.SparseCategoricalCrossentropy
