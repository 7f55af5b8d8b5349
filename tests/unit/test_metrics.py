"""Metrics against counting by hand, over several batches."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gpuconv import metrics
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.tensors import tensor

NDArray = np.ndarray[Any, Any]


# --- accuracy ------------------------------------------------------------------------------

SCORES = np.array([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0]], "float32")
"""Largest at 1, 0, 2, and 0: the first of two that tie."""


def test_sparse_categorical_accuracy() -> None:
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([1, 0, 0, 1], SCORES) == 0.5
    metric.reset_state()
    assert metric(np.array([[1], [0], [2], [0]]), SCORES) == 1.0
    metric.update_state([0, 1, 1, 2], SCORES)
    assert metric.result() == 0.5
    metric.reset_state()
    assert metric.result() == 0.0
    assert metric([1, 0, 0, 1], SCORES, sample_weight=[1, 2, 3, 4]) == pytest.approx(0.3)


def test_categorical_accuracy() -> None:
    metric = metrics.CategoricalAccuracy()
    assert metric(np.eye(3)[[1, 0, 0, 0]], SCORES) == 0.75


def test_binary_accuracy() -> None:
    y = np.array([[0.5], [0.51], [0.2], [0.9]], "float32")
    metric = metrics.BinaryAccuracy()
    assert metric([[0], [1], [0], [0]], y) == 0.75
    metric.reset_state()
    assert metric([0, 1, 0, 0], y) == 0.75
    assert metrics.BinaryAccuracy(threshold=0.1)([1, 1, 1, 0], y) == 0.75
    several = np.array([[0.9, 0.1], [0.9, 0.9]])
    assert metrics.BinaryAccuracy()([[1, 1], [1, 1]], several) == 0.75
    assert metrics.BinaryAccuracy()([[1, 1], [1, 1]], several, [3.0, 1.0]) == pytest.approx(2.5 / 4)


def test_positions_count_like_samples() -> None:
    labels = np.array([[0, 1], [1, 1]])
    scores = np.zeros((2, 2, 2))
    scores[..., 1] = [[1, 1], [1, -1]]
    assert metrics.SparseCategoricalAccuracy()(labels, scores) == 0.5
    weights = [[1.0, 3.0], [4.0, 2.0]]
    assert metrics.SparseCategoricalAccuracy()(labels, scores, weights) == 0.7
    assert metrics.SparseCategoricalAccuracy()(labels, scores, [1.0, 3.0]) == 0.5


@pytest.mark.parametrize(
    ("labels", "shape", "expected"),
    [
        ((4, 1), (4, 1), metrics.BinaryAccuracy),
        ((4,), (4, 1), metrics.BinaryAccuracy),
        ((4,), (4,), metrics.BinaryAccuracy),
        ((4, 3, 3, 1), (4, 3, 3, 1), metrics.BinaryAccuracy),
        ((4,), (4, 3), metrics.SparseCategoricalAccuracy),
        ((4, 1), (4, 3), metrics.SparseCategoricalAccuracy),
        ((4, 5, 5), (4, 5, 5, 3), metrics.SparseCategoricalAccuracy),
        ((4, 3), (4, 3), metrics.CategoricalAccuracy),
        ((4, 5, 3), (4, 5, 3), metrics.CategoricalAccuracy),
    ],
)
def test_accuracy_resolves_by_shape(
    labels: tuple[int, ...], shape: tuple[int, ...], expected: type[metrics.MeanMetric]
) -> None:
    rng = np.random.default_rng(0)
    y, truth = rng.random(shape), rng.integers(0, 2, labels)
    metric = metrics.get("accuracy")
    assert metric.result() == 0.0
    assert metric.name == "accuracy"
    assert metric(truth, y) == expected()(truth, y)
    metric.reset_state()
    assert metric.result() == 0.0
    assert metric(truth, y) == expected()(truth, y)
    assert metric.name == "accuracy"


# --- top k ---------------------------------------------------------------------------------


def test_top_k_against_sorting() -> None:
    rng = np.random.default_rng(1)
    y, labels = rng.random((50, 8)), rng.integers(0, 8, 50)
    best = np.argsort(-y, axis=1)
    for k in (1, 2, 5, 8, 100):
        expected = np.mean([label in row[:k] for label, row in zip(labels, best, strict=True)])
        assert metrics.SparseTopKCategoricalAccuracy(k=k)(labels, y) == pytest.approx(expected)
        assert metrics.TopKCategoricalAccuracy(k=k)(np.eye(8)[labels], y) == pytest.approx(expected)


def test_top_k_counts_ties_and_not_what_is_not_finite() -> None:
    y = np.array([[3.0, 2.0, 2.0, 1.0], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
    metric = metrics.SparseTopKCategoricalAccuracy(k=2)
    assert metric([2], y[:1]) == 1.0
    metric.reset_state()
    assert metric([3], y[:1]) == 0.0
    assert metric([0, 0], y[1:]) == 0.0


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_top_k_needs_a_whole_k(k: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"k must be.*Received: "):
        metrics.TopKCategoricalAccuracy(k=k)


# --- means ---------------------------------------------------------------------------------


def test_mean() -> None:
    mean = metrics.Mean()
    assert mean.result() == 0.0
    assert mean(3.0) == 3.0
    assert mean([1.0, 2.0]) == 2.0
    mean.reset_state()
    mean.update_state(0.5, sample_weight=32)
    mean.update_state(np.float32(2.0), sample_weight=8)
    assert mean.result() == pytest.approx(0.8)
    mean.reset_state()
    assert mean([1.0, 5.0], sample_weight=[0.0, 0.0]) == 0.0
    mean.update_state(np.zeros(0))
    assert mean([[1.0, 3.0], [5.0, 7.0]], [1.0, 3.0]) == 5.0


def test_sums_keep_their_digits() -> None:
    """In float32 the count would stop growing at 2**24."""
    mean = metrics.Mean()
    mean.update_state(np.float32(1.0), sample_weight=2.0**24)
    for _ in range(8):
        mean.update_state(np.float32(2.0), sample_weight=1.0)
    assert mean.result() - 1 == pytest.approx(8 / 2**24, rel=1e-6)


def test_errors_of_outputs() -> None:
    t, y = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[1.0, 1.0], [0.0, 6.0]])
    assert metrics.MeanSquaredError()(t, y) == pytest.approx((1 + 0 + 4 + 9) / 4)
    assert metrics.MeanAbsoluteError()(t, y) == pytest.approx((1 + 0 + 2 + 3) / 4)
    assert metrics.MeanSquaredError()(t, y, [1, 3]) == pytest.approx((0.5 + 3 * 6.5) / 4)
    assert metrics.MeanAbsoluteError()(t[:, 0], y[:, :1]) == pytest.approx(1.5)


# --- confusion -----------------------------------------------------------------------------


def test_confusion_matrix_counts() -> None:
    matrix = metrics.ConfusionMatrix(3)
    np.testing.assert_array_equal(matrix.result(), np.zeros((3, 3), "int64"))
    matrix.update_state([1, 0, 0, 1], SCORES)
    expected = [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(matrix.result(), expected)
    assert matrix.result().dtype == np.int64
    matrix.update_state(np.array([[2], [2]]), SCORES[:2])
    np.testing.assert_array_equal(matrix.result(), [[1, 0, 1], [1, 1, 0], [1, 1, 0]])
    matrix.reset_state()
    matrix.update_state(np.eye(3)[[1, 0, 0, 1]], SCORES)
    np.testing.assert_array_equal(matrix.result(), expected)
    matrix.reset_state()
    matrix.update_state([1, 0, 0, 1], np.array([1, 0, 2, 0]))
    np.testing.assert_array_equal(matrix.result(), expected)


def test_confusion_matrix_of_two_classes_of_positions_and_with_weights() -> None:
    binary = metrics.ConfusionMatrix(2)
    binary.update_state([0, 1, 1], np.array([[0.6], [0.7], [0.2]]))
    np.testing.assert_array_equal(binary.result(), [[0, 1], [1, 1]])
    positions = metrics.ConfusionMatrix(3)
    positions.update_state(np.array([[1, 0], [0, 1]]), SCORES.reshape(2, 2, 3))
    np.testing.assert_array_equal(positions.result(), [[1, 0, 1], [1, 1, 0], [0, 0, 0]])
    weighted = metrics.ConfusionMatrix(3)
    weighted.update_state([1, 0, 0, 1], SCORES, sample_weight=[0.5, 1.0, 2.0, 4.0])
    np.testing.assert_array_equal(weighted.result(), [[1, 0, 2], [4, 0.5, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "y", "error"),
    [
        ([0, 3], SCORES[:2], InvalidArgumentError),
        ([0, -1], SCORES[:2], InvalidArgumentError),
        ([0, 1, 2], SCORES[:2], ShapeError),
        ([[0, 1], [1, 0]], SCORES[:2], ShapeError),
        ([0, 1], SCORES[:2, :2], ShapeError),
        ([0, 1], np.array([0.5, 0.5]), ShapeError),
        ([0, 1], np.array([0, 5]), InvalidArgumentError),
    ],
)
def test_confusion_matrix_refuses(labels: Any, y: NDArray, error: type[Exception]) -> None:
    with pytest.raises(error, match="Received: "):
        metrics.ConfusionMatrix(3).update_state(labels, y)


def test_precision_and_recall_by_hand() -> None:
    labels = np.array([0, 1, 1, 1, 0])
    y = np.array([[0.9], [0.8], [0.4], [0.7], [0.5]], "float32")
    # Above 0.5: samples 0, 1 and 3, of which two are right; three labels are 1.
    assert metrics.Precision()(labels, y) == pytest.approx(2 / 3)
    assert metrics.Recall()(labels, y) == pytest.approx(2 / 3)
    assert metrics.Precision(thresholds=0.6)(labels, y) == pytest.approx(2 / 3)
    np.testing.assert_allclose(metrics.Precision([0.3, 0.85, 0.95])(labels, y), [0.6, 0, 0])
    np.testing.assert_allclose(metrics.Recall([0.3, 0.75, 0.95])(labels, y), [1, 1 / 3, 0])
    weights = [1, 2, 3, 4, 5]
    assert metrics.Precision()(labels, y, weights) == pytest.approx(6 / 7)
    assert metrics.Recall()(labels, y, weights) == pytest.approx(6 / 9)
    recall = metrics.Recall()
    recall.update_state(labels[:2], y[:2])
    recall.update_state(labels[2:], y[2:])
    assert recall.result() == pytest.approx(2 / 3)
    recall.reset_state()
    assert recall.result() == 0.0


def test_precision_of_one_class_and_of_all() -> None:
    labels = np.eye(3)[[0, 1, 2, 1]]
    y = np.array([[0.9, 0, 0.6], [0, 0.9, 0.6], [0, 0.6, 0.9], [0, 0.2, 0.9]])
    assert metrics.Precision(class_id=1)(labels, y) == 0.5
    assert metrics.Recall(class_id=1)(labels, y) == 0.5
    assert metrics.Precision(class_id=2)(labels, y) == 0.25
    assert metrics.Precision()(labels, y) == pytest.approx(3 / 7)
    assert metrics.Recall()(labels, y) == 0.75
    assert metrics.Precision(class_id=2)(labels, y, [1, 0, 0, 0]) == 0.0


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: metrics.Precision(thresholds=1.5), InvalidArgumentError),
        (lambda: metrics.Recall(thresholds=[]), InvalidArgumentError),
        (lambda: metrics.Recall(thresholds="half"), InvalidArgumentError),
        (lambda: metrics.Recall(thresholds=[0.5, None]), InvalidArgumentError),
        (lambda: metrics.Recall(class_id="3"), InvalidArgumentError),
        (lambda: metrics.Recall(class_id=1.5), InvalidArgumentError),
        (lambda: metrics.BinaryAccuracy(threshold="half"), InvalidArgumentError),
        (lambda: metrics.BinaryAccuracy(threshold=float("nan")), InvalidArgumentError),
        (lambda: metrics.Recall(class_id=-1), InvalidArgumentError),
        (lambda: metrics.Recall(class_id=3)(np.ones((2, 3)), np.ones((2, 3))), ShapeError),
        (lambda: metrics.Precision()(np.ones(2), np.ones((2, 3))), ShapeError),
        (lambda: metrics.ConfusionMatrix(1), InvalidArgumentError),
        (lambda: metrics.CategoricalAccuracy()([0, 1], SCORES[:2]), ShapeError),
        (lambda: metrics.SparseCategoricalAccuracy()([0], SCORES), ShapeError),
        (lambda: metrics.SparseCategoricalAccuracy()([0, 9, 1, 1], SCORES), InvalidArgumentError),
        (lambda: metrics.SparseCategoricalAccuracy()([0] * 4, SCORES, [1, 2]), ShapeError),
        (lambda: metrics.BinaryAccuracy()([[0, 1]], [[0.1]]), ShapeError),
        (lambda: metrics.BinaryAccuracy(treshold=0.5), UnknownArgumentError),
        (lambda: metrics.get("accurracy"), InvalidArgumentError),
        (lambda: metrics.get(None), InvalidArgumentError),
    ],
)
def test_bad_input(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Received: "):
        make()


# --- names, configurations, containers -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("accuracy", metrics.AccuracyByShape),
        ("acc", metrics.AccuracyByShape),
        ("binary_accuracy", metrics.BinaryAccuracy),
        ("sparse_categorical_accuracy", metrics.SparseCategoricalAccuracy),
        ("categorical_accuracy", metrics.CategoricalAccuracy),
        ("top_k_categorical_accuracy", metrics.TopKCategoricalAccuracy),
        ("sparse_top_k_categorical_accuracy", metrics.SparseTopKCategoricalAccuracy),
        ("precision", metrics.Precision),
        ("recall", metrics.Recall),
        ("mean", metrics.Mean),
        ("mse", metrics.MeanSquaredError),
        ("mean_absolute_error", metrics.MeanAbsoluteError),
    ],
)
def test_names_and_configurations(name: str, cls: type[metrics.Metric]) -> None:
    metric = metrics.get(name)
    assert type(metric) is cls
    assert metric.name == name
    stored = json.loads(json.dumps(metrics.serialize(metric)))
    again = metrics.get(stored)
    assert type(again) is cls
    assert again.get_config() == metric.get_config()
    if name not in ("acc", "mse"):
        assert cls().name == name


def test_configurations_keep_their_arguments() -> None:
    for metric in (
        metrics.ConfusionMatrix(4, name="errors"),
        metrics.Precision([0.2, 0.4], class_id=1),
        metrics.TopKCategoricalAccuracy(3, "top3"),
        metrics.BinaryAccuracy(threshold=0.0),
    ):
        stored = json.loads(json.dumps(metrics.serialize(metric)))
        assert metrics.get(stored).get_config() == metric.get_config()


def test_tensors_and_arrays_that_may_not_be_written() -> None:
    labels, y = np.array([1, 0, 0, 1]), SCORES.copy()[:, ::-1]
    labels.flags.writeable = y.flags.writeable = False
    plain = metrics.SparseCategoricalAccuracy()(labels, y)
    assert metrics.SparseCategoricalAccuracy()(tensor(labels), tensor(y)) == plain
    assert isinstance(plain, float)
