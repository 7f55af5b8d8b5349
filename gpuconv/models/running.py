"""Loss and metrics over the batches seen so far, accumulated on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import metrics
from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.backends.base import Array
from gpuconv.callbacks.base import LazyLogs


class Running:
    """The sample-weighted mean of the loss (a short last batch counts by its size), and metrics.

    Nothing is read from the device until a number is asked for.
    """

    def __init__(self, several: Sequence[metrics.Metric]) -> None:
        self.metrics = list(several)
        self.samples = 0
        self._loss: Any = 0.0
        for metric in self.metrics:
            metric.reset_state()

    def update(self, loss: Array, predictions: Array, batch: Any) -> None:
        """Count one batch ``(x, y, sample_weight)``; metrics ignore the weights, as in Keras."""
        count = int(predictions.shape[0])
        self.samples += count
        self._loss = self._loss + array_module(loss).asarray(loss, dtype="float64") * count
        for metric in self.metrics:
            metric.update_state(batch[1], predictions)

    def loss(self) -> float:
        """Mean loss so far."""
        return float(to_numpy(self._loss)) / max(self.samples, 1)

    def logs(self, prefix: str = "") -> dict[str, Any]:
        """Return all numbers by name; a metric of several numbers gives an array."""
        return {name: read() for name, read in self._readers(prefix).items()}

    def lazy_logs(self) -> LazyLogs:
        """Return the same, read when looked up."""
        return LazyLogs(self._readers(""))

    def result(self, as_dict: bool) -> Any:
        """Return what ``evaluate`` does: a dict, the loss, or ``[loss, metric, ...]``."""
        logs = self.logs()
        if as_dict:
            return logs
        return list(logs.values()) if self.metrics else logs["loss"]

    def _readers(self, prefix: str) -> dict[str, Any]:
        readers: dict[str, Any] = {f"{prefix}loss": self.loss}
        for metric in self.metrics:
            readers[f"{prefix}{metric.name}"] = _reader(metric)
        return readers


def _reader(metric: metrics.Metric) -> Any:
    def read() -> Any:
        value = metric.result()
        return float(value) if np.ndim(value) == 0 else value

    return read
