"""What all metrics share: a name, and numbers that pile up on the device from batch to batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from gpuconv.backends.arrays import array_module
from gpuconv.configurable import Configurable, snake_case
from gpuconv.losses.targets import align_weights, bring_together

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class Metric(Configurable, ABC):
    """Base class of everything that is computed over several batches.

    Args:
        name: key in logs; by default the class name in snake_case.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)

    @abstractmethod
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take in a batch. Nothing waits for the device unless the class says so.

        Args:
            y_true: labels, in the shape that the class documents.
            y_pred: outputs of the model; arrays, Tensors or nested lists.
            sample_weight: one number for each sample (N,), or for each value.

        Raises:
            ShapeError: the shapes do not belong together.
            InvalidArgumentError: labels on the host are out of range.
        """

    @abstractmethod
    def result(self) -> Any:
        """Return the value over all batches since the last reset, on the host."""

    @abstractmethod
    def reset_state(self) -> None:
        """Forget all batches."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Take in a batch and return the value over all batches."""
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()


class RunningMean:
    """A weighted mean that is summed up on the device, in float64."""

    def __init__(self) -> None:
        self._total: Any = 0.0
        self._weight: Any = 0.0

    def add(self, values: Array, weights: Array | None = None) -> None:
        """Add values (N, ...), each sample with the mean of its values, or one value ().

        Raises:
            ShapeError: the weights do not belong to the values.
        """
        shape = tuple(values.shape)
        if 0 in shape:
            return
        each = math.prod(shape[1:])
        if weights is None:
            self._total = self._total + values.sum(dtype="float64") / each
            self._weight = self._weight + (shape[0] if shape else 1)
            return
        weights = align_weights(weights, shape).astype("float64")
        everywhere = array_module(values).broadcast_to(weights, shape)
        self._total = self._total + (values * weights).sum(dtype="float64") / each
        self._weight = self._weight + everywhere.sum() / each

    def result(self) -> float:
        """Return the mean; 0 if nothing or only weights of 0 were added."""
        weight = float(self._weight)
        return float(self._total) / weight if weight else 0.0


class MeanMetric(Metric):
    """Base of metrics that are the mean of one value a sample: subclasses define :meth:`values`."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._mean = RunningMean()

    @abstractmethod
    def values(self, y_true: Array, y_pred: Array) -> Array:
        """Return the values of the samples, (N,) or (N, ...); the arrays are on one device."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        self._mean.add(self.values(y_true, y_pred), sample_weight)

    def result(self) -> float:
        """Return the weighted mean over all samples since the last reset."""
        return self._mean.result()

    def reset_state(self) -> None:
        self._mean = RunningMean()
