"""Counts, AUC, F1, intersection over union and root mean square, by hand and by sorting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv import losses, metrics
from gpuconv.errors import InvalidArgumentError

LABELS = np.array([1, 1, 0, 0, 1, 0])
OUTPUTS = np.array([0.9, 0.4, 0.6, 0.1, 0.7, 0.2])


def test_counts() -> None:
    made = {
        metrics.TruePositives: 2,
        metrics.FalsePositives: 1,
        metrics.TrueNegatives: 2,
        metrics.FalseNegatives: 1,
    }
    for cls, expected in made.items():
        metric = cls()
        metric.update_state(LABELS[:4], OUTPUTS[:4, None])
        metric.update_state(LABELS[4:, None], OUTPUTS[4:])
        assert metric.result() == expected, cls
        metric.reset_state()
        assert metric.result() == 0
    weighted = metrics.TruePositives()
    assert weighted(LABELS, OUTPUTS, [2, 1, 1, 1, 0.5, 1]) == 2.5
    at_two = metrics.FalseNegatives(thresholds=[0.3, 0.8])
    np.testing.assert_array_equal(at_two(LABELS, OUTPUTS), [0, 2])


def by_pairs(labels: np.ndarray, outputs: np.ndarray) -> float:  # type: ignore[type-arg]
    """The area under ROC: how often a positive lies above a negative."""
    pairs = [(p, n) for p in outputs[labels == 1] for n in outputs[labels == 0]]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


def test_area_under_roc() -> None:
    assert metrics.AUC()(LABELS, OUTPUTS) == pytest.approx(by_pairs(LABELS, OUTPUTS))
    rng = np.random.default_rng(0)
    labels, outputs = rng.integers(0, 2, 300), rng.integers(0, 100, 300) / 100 + 0.005
    metric = metrics.AUC(num_thresholds=101)  # one between all that occur
    for part in range(3):
        metric.update_state(labels[part::3], outputs[part::3])
    assert metric.result() == pytest.approx(by_pairs(labels, outputs))


def test_area_under_precision_and_recall() -> None:
    # All right: the area is 1. No skill: precision is the share of positives at any recall.
    assert metrics.AUC(curve="PR")([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(1)
    even = metrics.AUC(curve="PR")([0, 1] * 4, np.repeat([0.2, 0.4, 0.6, 0.8], 2))
    assert even == pytest.approx(0.5)
    with pytest.raises(InvalidArgumentError):
        metrics.AUC(curve="up")
    with pytest.raises(InvalidArgumentError):
        metrics.AUC(num_thresholds=1)


def test_f1_score() -> None:
    labels = np.eye(3)[[0, 0, 1, 2, 2]]
    outputs = np.eye(3)[[0, 1, 1, 2, 0]] * 0.5
    # Precision and recall of the classes: 1/2 and 1/2, 1/2 and 1, 1 and 1/2.
    each = [0.5, 2 / 3, 2 / 3]
    np.testing.assert_allclose(metrics.F1Score()(labels, outputs), each)
    assert metrics.F1Score("macro")(labels, outputs) == pytest.approx(np.mean(each))
    assert metrics.F1Score("weighted")(labels, outputs) == pytest.approx(
        np.dot(each, [2, 1, 2]) / 5
    )
    assert metrics.F1Score("micro")(labels, outputs) == pytest.approx(0.6)
    above = metrics.F1Score(threshold=0.6)(labels, outputs)
    np.testing.assert_array_equal(above, [0, 0, 0])
    assert metrics.F1Score("micro")(labels, outputs, [1, 0, 1, 1, 0]) == 1


def test_mean_iou() -> None:
    labels, outputs = [0, 0, 1, 1], [0, 1, 0, 1]
    assert metrics.MeanIoU(num_classes=3)(labels, outputs) == pytest.approx(1 / 3)
    scores = np.eye(3)[outputs] * 0.9
    assert metrics.MeanIoU(num_classes=3)(labels, scores) == pytest.approx(1 / 3)
    assert metrics.MeanIoU(num_classes=2).result() == 0


def test_root_mean_squared_error() -> None:
    metric = metrics.get("root_mean_squared_error")
    metric.update_state([[0.0, 1.0]], [[3.0, 1.0]])
    metric.update_state([[0.0, 0.0]], [[0.0, 1.0]])
    assert metric.result() == pytest.approx(math.sqrt(10 / 4))


def test_crossentropies_are_those_of_the_losses() -> None:
    y = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    assert metrics.get("sparse_categorical_crossentropy")([0, 2], y) == pytest.approx(
        -(math.log(0.7) + math.log(0.4)) / 2
    )
    assert metrics.CategoricalCrossentropy(from_logits=True)(np.eye(3)[:2], y) == pytest.approx(
        float(losses.CategoricalCrossentropy(from_logits=True)(np.eye(3)[:2], y))
    )
    assert metrics.BinaryCrossentropy()([[1.0]], [[0.25]]) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    "name",
    ["auc", "f1_score", "mean_io_u", "true_positives", "false_negatives", "binary_crossentropy"],
)
def test_configuration(name: str) -> None:
    metric = metrics.MeanIoU(2) if name == "mean_io_u" else metrics.get(name)
    assert metric.name == name
    assert metrics.get(metrics.serialize(metric)).get_config() == metric.get_config()
