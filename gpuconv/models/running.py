"""Losses and metrics over the batches seen so far, accumulated on the device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuconv import metrics
from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.callbacks.base import LazyLogs
from gpuconv.models.objectives import Objectives


class Running:
    """The sample-weighted means of the losses (a short last batch counts by its size), and metrics.

    Nothing is read from the device until a number is asked for.
    """

    def __init__(self, objectives: Objectives) -> None:
        self.objectives = objectives
        self.samples = 0
        self._losses: list[Any] = [0.0] * len(objectives.loss_names)
        objectives.reset_metrics()

    def update(self, losses: Any, predictions: Any, batch: Any) -> None:
        """Count one batch ``(x, y, sample_weight)``; metrics ignore the weights, as in Keras."""
        count = int((predictions[0] if self.objectives.many else predictions).shape[0])
        self.samples += count
        for number, loss in enumerate(losses if isinstance(losses, tuple) else (losses,)):
            counted = array_module(loss).asarray(loss, dtype="float64") * count
            self._losses[number] = self._losses[number] + counted
        self.objectives.update_metrics(batch[1], predictions)

    def logs(self, prefix: str = "") -> dict[str, Any]:
        """Return all numbers by name; a metric of several numbers gives an array."""
        return {name: read() for name, read in self._readers(prefix).items()}

    def lazy_logs(self) -> LazyLogs:
        """Return the same, read when looked up."""
        return LazyLogs(self._readers(""))

    def result(self, as_dict: bool) -> Any:
        """Return what ``evaluate`` does: a dict, the loss, or a list of all numbers."""
        logs = self.logs()
        if as_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    def _readers(self, prefix: str) -> dict[str, Any]:
        readers: dict[str, Any] = {}
        for number, name in enumerate(self.objectives.loss_names):
            readers[f"{prefix}{name}"] = functools.partial(self._loss, number)
        for name in self.objectives.metric_names:
            metric = self.objectives.metrics[name]
            readers[f"{prefix}{name}"] = functools.partial(_value, metric)
        return readers

    def _loss(self, number: int) -> float:
        return float(to_numpy(self._losses[number])) / max(self.samples, 1)


def _value(metric: metrics.Metric) -> Any:
    value = metric.result()
    return float(value) if np.ndim(value) == 0 else value
