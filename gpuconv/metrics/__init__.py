"""Metrics: ``update_state`` batch by batch, then ``result``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.configurable import Registry
from gpuconv.metrics.accuracy import (
    AccuracyByShape,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from gpuconv.metrics.base import MeanMetric, Metric
from gpuconv.metrics.confusion import ConfusionMatrix, Precision, Recall
from gpuconv.metrics.counts import (
    AUC,
    F1Score,
    FalseNegatives,
    FalsePositives,
    TrueNegatives,
    TruePositives,
)
from gpuconv.metrics.means import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Mean,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
)
from gpuconv.metrics.overlap import MeanIoU

__all__ = [
    "AUC",
    "AccuracyByShape",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "ConfusionMatrix",
    "F1Score",
    "FalseNegatives",
    "FalsePositives",
    "Mean",
    "MeanAbsoluteError",
    "MeanIoU",
    "MeanMetric",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "TrueNegatives",
    "TruePositives",
    "get",
    "register",
    "serialize",
]

_registry: Registry[Metric] = Registry("metric", Metric)
_registry.register(AccuracyByShape, "accuracy", "acc")
_registry.register(BinaryAccuracy)
_registry.register(SparseCategoricalAccuracy)
_registry.register(CategoricalAccuracy)
_registry.register(TopKCategoricalAccuracy, "top_k_categorical_accuracy")
_registry.register(SparseTopKCategoricalAccuracy, "sparse_top_k_categorical_accuracy")
_registry.register(ConfusionMatrix)
_registry.register(Precision)
_registry.register(Recall)
_registry.register(Mean)
_registry.register(MeanSquaredError, "mean_squared_error", "mse", "MSE")
_registry.register(MeanAbsoluteError, "mean_absolute_error", "mae", "MAE")

for _cls in (TruePositives, FalsePositives, TrueNegatives, FalseNegatives, AUC, MeanIoU):
    _registry.register(_cls)
_registry.register(BinaryCrossentropy)
_registry.register(CategoricalCrossentropy)
_registry.register(SparseCategoricalCrossentropy)
_registry.register(F1Score, "f1_score")
_registry.register(RootMeanSquaredError, "root_mean_squared_error", "rmse")

register = _registry.register


def get(identifier: Metric | str | Mapping[str, Any] | type[Metric]) -> Metric:
    """Return a metric.

    Args:
        identifier: a name such as ``"accuracy"`` or ``"mae"``, under which the metric then
            appears in logs; a dict from :func:`serialize`, a :class:`Metric` or its class.

    Raises:
        InvalidArgumentError: none of these, or an unknown name.
    """
    metric = _registry.get(identifier)
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


def serialize(metric: Metric) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(metric)
