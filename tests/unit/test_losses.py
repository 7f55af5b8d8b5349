"""Losses: golden numbers, the float64 reference, gradients by differences, labels, weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.tensors import Tensor, tensor
from gpuconv.testing import assert_close, check_directional
from gpuconv.testing.reference import losses as reference

NDArray = np.ndarray[Any, Any]

PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.5, 0.89, 0.6], [0.05, 0.01, 0.94]], "float32")
LOGITS = np.array([[8, 1, 1], [0, 9, 1], [2, 3, 5]], "float32")
LABELS = np.array([0, 1, 2])
WEIGHTS = np.array([1.2, 3.4, 5.6], "float32")


# --- golden numbers ------------------------------------------------------------------------


def test_golden_sparse_categorical_crossentropy() -> None:
    of_probabilities = losses.SparseCategoricalCrossentropy()
    of_logits = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(of_probabilities(LABELS, PROBABILITIES)) == pytest.approx(0.3239, abs=1e-4)
    assert float(of_logits(LABELS, LOGITS)) == pytest.approx(0.0573, abs=1e-4)
    np.testing.assert_allclose(
        of_logits.per_sample(LABELS, LOGITS), [0.001822, 0.000459, 0.169846], atol=5e-7
    )


def test_golden_sample_weights() -> None:
    of_probabilities = losses.SparseCategoricalCrossentropy()
    of_logits = losses.SparseCategoricalCrossentropy(from_logits=True)
    weighted = of_probabilities(LABELS, PROBABILITIES, sample_weight=WEIGHTS)
    assert float(weighted) == pytest.approx(1.0696, abs=5e-5)
    weighted = of_logits(LABELS, LOGITS, sample_weight=WEIGHTS)
    assert float(weighted) == pytest.approx(0.31829, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (losses.SparseCategoricalCrossentropy(), [1, 2]),
        (losses.CategoricalCrossentropy(), [[0, 1, 0], [0, 0, 1]]),
    ],
)
def test_golden_pair_of_rows(loss: losses.Loss, labels: Any) -> None:
    value = loss(labels, [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    assert float(value) == pytest.approx(1.177, abs=5e-4)


def test_two_rows_by_hand() -> None:
    y, labels = [[0.6, 0.4], [0.4, 0.6]], [[0.0, 1.0], [0.0, 0.0]]
    assert float(losses.BinaryCrossentropy()(labels, y)) == pytest.approx(0.8149, abs=1e-4)
    assert float(losses.MeanSquaredError()(labels, y)) == pytest.approx(0.31, abs=1e-6)
    assert float(losses.MeanAbsoluteError()(labels, y)) == pytest.approx(0.55, abs=1e-6)
    assert float(losses.Huber()(labels, y)) == pytest.approx(0.155, abs=1e-6)


# --- every loss against the reference ------------------------------------------------------


def outputs(rng: np.random.Generator, shape: tuple[int, ...], kind: str, dtype: str) -> NDArray:
    if kind == "logits":
        return (4 * rng.standard_normal(shape)).astype(dtype)
    return rng.uniform(0.02, 0.98, shape).astype(dtype)


CASES: dict[str, tuple[losses.Loss, str, str, Any]] = {
    "sparse": (
        losses.SparseCategoricalCrossentropy(),
        "numbers",
        "probabilities",
        reference.sparse_categorical_crossentropy,
    ),
    "sparse-logits": (
        losses.SparseCategoricalCrossentropy(from_logits=True),
        "numbers",
        "logits",
        lambda t, y: reference.sparse_categorical_crossentropy(t, y, from_logits=True),
    ),
    "categorical": (
        losses.CategoricalCrossentropy(),
        "one-hot",
        "probabilities",
        reference.categorical_crossentropy,
    ),
    "categorical-smooth": (
        losses.CategoricalCrossentropy(label_smoothing=0.3),
        "one-hot",
        "probabilities",
        lambda t, y: reference.categorical_crossentropy(t, y, label_smoothing=0.3),
    ),
    "categorical-logits-smooth": (
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3),
        "one-hot",
        "logits",
        lambda t, y: reference.categorical_crossentropy(t, y, True, 0.3),
    ),
    "categorical-soft-labels": (
        losses.CategoricalCrossentropy(from_logits=True),
        "any",
        "logits",
        lambda t, y: reference.categorical_crossentropy(t, y, True),
    ),
    "binary": (
        losses.BinaryCrossentropy(),
        "zero-one",
        "probabilities",
        reference.binary_crossentropy,
    ),
    "binary-logits-smooth": (
        losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
        "zero-one",
        "logits",
        lambda t, y: reference.binary_crossentropy(t, y, True, 0.2),
    ),
    "squared": (losses.MeanSquaredError(), "any", "logits", reference.mean_squared_error),
    "absolute": (losses.MeanAbsoluteError(), "any", "logits", reference.mean_absolute_error),
    "huber": (
        losses.Huber(delta=0.7),
        "any",
        "logits",
        lambda t, y: reference.huber(t, y, 0.7),
    ),
}

SHAPES = [(5, 4), (1, 2), (3, 2, 4), (2, 3, 2, 5)]


def targets(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray:
    if kind == "numbers":
        return rng.integers(0, shape[-1], shape[:-1])
    if kind == "one-hot":
        numbers = rng.integers(0, shape[-1], shape[:-1])
        return reference.one_hot(numbers, shape[-1])
    if kind == "zero-one":
        return rng.integers(0, 2, shape).astype("float64")
    return rng.random(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_values_equal_the_reference(name: str, shape: tuple[int, ...], dtype: str) -> None:
    loss, labels_kind, outputs_kind, expected = CASES[name]
    rng = np.random.default_rng(0)
    y, labels = outputs(rng, shape, outputs_kind, dtype), targets(rng, shape, labels_kind)
    weights = rng.random(shape[0])
    each = expected(labels, y.astype("float64"))
    got = loss.per_sample(labels, y)
    assert got.dtype == dtype
    assert_close(got, each, shape[-1])
    plain, weighted = loss(labels, y), loss(labels, y, sample_weight=weights)
    for value in (plain, weighted):
        assert isinstance(value, np.ndarray)
        assert (value.shape, value.dtype) == ((), dtype)
    assert_close(plain, np.array(reference.reduce_loss(each)), y.size)
    assert_close(weighted, np.array(reference.reduce_loss(each, weights)), y.size)
    value, dy = loss.forward(labels, y, weights)
    assert value == weighted
    assert (dy.shape, dy.dtype) == (shape, dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_derivatives(name: str, shape: tuple[int, ...]) -> None:
    loss, labels_kind, outputs_kind, _ = CASES[name]
    rng = np.random.default_rng(1)
    y, labels = outputs(rng, shape, outputs_kind, "float64"), targets(rng, shape, labels_kind)
    weights = rng.random(shape[:-1])
    _, dy = loss.forward(labels, y, weights)
    check_directional(
        lambda x: loss(labels, x, weights), lambda upstream: upstream * dy, y, tolerance=1e-6
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none"]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions(name: str, reduction: str, weighted: bool) -> None:
    original, labels_kind, outputs_kind, _ = CASES[name]
    loss = losses.get(losses.serialize(original))
    loss.reduction = reduction
    rng = np.random.default_rng(2)
    y, labels = (
        outputs(rng, (3, 2, 4), outputs_kind, "float64"),
        targets(rng, (3, 2, 4), labels_kind),
    )
    weights = rng.random(3) if weighted else None
    each = loss.per_sample(labels, y)
    all_weights = np.ones((3, 2)) if weights is None else np.repeat(weights[:, None], 2, axis=1)
    expected = {
        "sum_over_batch_size": (all_weights * each).sum() / 6,
        "mean": (all_weights * each).sum() / 6,
        "mean_with_sample_weight": (all_weights * each).sum() / all_weights.sum(),
        "sum": (all_weights * each).sum(),
        "none": all_weights * each,
    }[reduction]
    value, dy = loss.forward(labels, y, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    check_directional(lambda x: np.sum(loss(labels, x, weights)), lambda up: up * dy, y)


# --- the exact function of probabilities ---------------------------------------------------


def test_gradient_through_normalisation_in_closed_form() -> None:
    """d(-log(y_k / s))/dy_j = 1/s - [j = k] / y_k."""
    y = np.array([[1.0, 2.0, 5.0]])
    _, dy = losses.SparseCategoricalCrossentropy().forward([1], y)
    np.testing.assert_allclose(dy, [[1 / 8, 1 / 8 - 1 / 2, 1 / 8]], rtol=1e-13)
    _, one_hot = losses.CategoricalCrossentropy().forward([[0.0, 1.0, 0.0]], y)
    np.testing.assert_allclose(one_hot, dy, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_clip_binds_the_value_and_stops_the_gradient(dtype: str) -> None:
    y = np.array([[0.0, 1.0], [1.0, 0.0]], dtype)
    loss = losses.SparseCategoricalCrossentropy(reduction="none")
    value, dy = loss.forward([0, 0], y)
    high = 1 - np.asarray(1e-7, dtype)
    np.testing.assert_allclose(value, [-np.log(1e-7), -np.log(high)], rtol=1e-6)
    np.testing.assert_array_equal(dy, np.zeros((2, 2)))
    value, dy = losses.CategoricalCrossentropy(reduction="none").forward(np.eye(2)[[0, 0]], y)
    np.testing.assert_allclose(value, [-np.log(1e-7), -np.log(high)], rtol=1e-6)
    np.testing.assert_array_equal(dy, np.zeros((2, 2)))
    value, dy = losses.BinaryCrossentropy(reduction="none").forward([[1], [0]], y[:, :1] * 0)
    np.testing.assert_allclose(value, [-np.log(1e-7), -np.log(high)], rtol=1e-6)
    np.testing.assert_array_equal(dy, np.zeros((2, 1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_of_any_size(dtype: str) -> None:
    y = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    value, dy = losses.SparseCategoricalCrossentropy(True, "none").forward([0, 0], y)
    np.testing.assert_array_equal(value, [0, 2e4])
    np.testing.assert_array_equal(dy, [[0, 0], [-1, 1]])
    value, dy = losses.BinaryCrossentropy(True, reduction="none").forward([[1, 1], [1, 0]], y)
    np.testing.assert_array_equal(value, [5e3, 1e4])
    np.testing.assert_array_equal(dy, [[0, -0.5], [-0.5, 0.5]])


def test_binary_gradient_keeps_its_digits_for_small_probabilities() -> None:
    y = np.array([[-40.0], [-20.0]], "float32")
    _, dy = losses.BinaryCrossentropy(True, reduction="sum").forward([[0], [0]], y)
    np.testing.assert_allclose(dy, np.exp(y), rtol=1e-6)


@pytest.mark.parametrize("labels_kind", ["numbers", "one-hot"])
def test_the_twin_for_logits(labels_kind: str) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, 5))
    labels = targets(rng, (4, 5), labels_kind)
    cls: Any = {
        "numbers": losses.SparseCategoricalCrossentropy,
        "one-hot": losses.CategoricalCrossentropy,
    }[labels_kind]
    loss = cls(reduction="sum", name="mine")
    twin = loss.with_logits()
    assert loss.accepts_softmax_fusion
    assert not twin.accepts_softmax_fusion
    assert twin.get_config() == {**loss.get_config(), "from_logits": True}
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(twin(labels, logits), loss(labels, p), rtol=1e-12)
    # Through the softmax the two gradients are the same.
    _, dp = loss.forward(labels, p)
    through = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(twin.forward(labels, logits)[1], through, atol=1e-12)
    with pytest.raises(InvalidArgumentError, match="Received: "):
        twin.with_logits()
    with pytest.raises(InvalidArgumentError, match="Received: "):
        losses.BinaryCrossentropy().with_logits()


# --- shapes of labels ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool", "float32"])
def test_class_numbers_in_any_dtype_with_or_without_a_last_axis(dtype: str) -> None:
    labels = np.array([0, 1, 1]).astype(dtype)
    loss = losses.SparseCategoricalCrossentropy()
    expected = loss(np.array([0, 1, 1]), PROBABILITIES)
    assert loss(labels, PROBABILITIES) == expected
    assert loss(labels[:, None], PROBABILITIES) == expected
    assert loss(labels.tolist(), PROBABILITIES) == expected


def test_a_missing_last_axis_is_added_instead_of_broadcast() -> None:
    rng = np.random.default_rng(4)
    t, y = rng.random(4), rng.random((4, 1))
    loss = losses.MeanSquaredError()
    expected = ((t - y[:, 0]) ** 2).mean()
    value, dy = loss.forward(t, y)
    assert dy.shape == (4, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(loss(t[:, None], y[:, 0]), expected, rtol=1e-13)
    np.testing.assert_allclose(loss(t, y[:, 0]), expected, rtol=1e-13)
    assert loss.per_sample(t, y[:, 0]).shape == (4,)
    image, pixels = rng.random((2, 3, 4, 1)), rng.random((2, 3, 4))
    assert loss.per_sample(pixels, image).shape == (2, 3)
    assert loss.forward(pixels, image)[1].shape == (2, 3, 4, 1)
    np.testing.assert_array_equal(
        loss.forward(pixels, image)[1][..., 0], loss.forward(pixels, image[..., 0])[1]
    )


@pytest.mark.parametrize(
    ("loss", "labels", "shape", "message"),
    [
        (losses.SparseCategoricalCrossentropy(), (5,), (4, 3), "as many samples"),
        (losses.SparseCategoricalCrossentropy(), (4, 3), (4, 3), "One-hot labels belong"),
        (losses.SparseCategoricalCrossentropy(), (4, 2), (4, 3), r"class numbers must have"),
        (losses.SparseCategoricalCrossentropy(), (4,), (4,), "axis of classes"),
        (losses.SparseCategoricalCrossentropy(), (4,), (4, 5, 3), "class numbers must have"),
        (losses.CategoricalCrossentropy(), (4,), (4, 3), "sparse categorical form"),
        (losses.CategoricalCrossentropy(), (4, 1), (4, 3), "sparse categorical form"),
        (losses.CategoricalCrossentropy(), (4, 2), (4, 3), "one-hot labels"),
        (losses.CategoricalCrossentropy(), (4,), (4,), "one-hot labels"),
        (losses.BinaryCrossentropy(), (4, 1), (4, 3), "the shape of the outputs"),
        (losses.BinaryCrossentropy(), (4,), (4, 3), "the shape of the outputs"),
        (losses.MeanSquaredError(), (3,), (4, 3), "as many samples"),
        (losses.MeanSquaredError(), (), (4, 3), "axis of samples"),
        (losses.Huber(), (4, 3, 1, 1), (4, 3), "the shape of the outputs"),
    ],
)
def test_shapes_that_do_not_belong_together(
    loss: losses.Loss, labels: tuple[int, ...], shape: tuple[int, ...], message: str
) -> None:
    y = np.full(shape, 0.5, "float32")
    with pytest.raises(ShapeError, match=f"{message}.*Received: "):
        loss.forward(np.zeros(labels, "int64"), y)
    if labels:
        with pytest.raises(ShapeError, match=f"{message}.*Received: "):
            loss.check_targets(np.zeros(labels, "int64"), shape)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0.5, 1.0], [np.nan, 0.0], [0, 255]])
@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_that_are_no_class_numbers(labels: Any, from_logits: bool) -> None:
    loss = losses.SparseCategoricalCrossentropy(from_logits)
    with pytest.raises(InvalidArgumentError, match=r"(labels must lie|must be integers).*Received"):
        loss.forward(labels, np.full((2, 3), 0.3, "float32"))


def test_targets_of_a_whole_data_set_are_checked_at_once() -> None:
    loss = losses.SparseCategoricalCrossentropy()
    labels = np.arange(1000) % 10
    loss.check_targets(labels, (None, 10))
    loss.check_targets(labels[:, None], (None, 10))
    with pytest.raises(InvalidArgumentError, match=r"labels must lie in \[0, 9\).*from 0 to 9"):
        loss.check_targets(labels, (None, 9))
    with pytest.raises(ShapeError):
        loss.check_targets(labels.reshape(100, 10), (None, 10))
    losses.CategoricalCrossentropy().check_targets(np.zeros((7, 3)), (None, 3))
    losses.BinaryCrossentropy().check_targets(np.zeros(7), (None, 1))
    with pytest.raises(ShapeError):
        losses.BinaryCrossentropy().check_targets(np.zeros((7, 2)), (None, 1))


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool"])
def test_outputs_of_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(DTypeError, match="Received: "):
        losses.MeanSquaredError().forward(np.zeros((2, 1)), np.zeros((2, 1), dtype))


# --- sample weights ------------------------------------------------------------------------


def test_weights_by_sample_and_by_position() -> None:
    rng = np.random.default_rng(5)
    labels, y = rng.integers(0, 4, (3, 2)), rng.random((3, 2, 4)) + 0.1
    loss = losses.SparseCategoricalCrossentropy(reduction="none")
    each = loss(labels, y)
    by_sample = rng.random(3)
    for weights in (by_sample, by_sample[:, None]):
        np.testing.assert_allclose(loss(labels, y, weights), each * by_sample[:, None])
    by_position = rng.random((3, 2))
    np.testing.assert_allclose(loss(labels, y, by_position), each * by_position)
    np.testing.assert_allclose(loss(labels, y, by_position[..., None]), each * by_position)
    np.testing.assert_allclose(loss(labels, y, 2.0), each * 2)
    np.testing.assert_allclose(loss(labels, y, [1, 0, 2]), each * np.array([[1], [0], [2]]))


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1,), (3, 2, 2), (2, 3)])
def test_weights_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"sample weights must be.*Received: "):
        losses.SparseCategoricalCrossentropy()(
            np.zeros((3, 2), "int64"), np.ones((3, 2, 4)), np.ones(shape)
        )


def test_weights_that_are_all_zero() -> None:
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    value, dy = loss.forward(np.zeros((2, 1)), np.ones((2, 1)), np.zeros(2))
    assert value == 0
    np.testing.assert_array_equal(dy, np.zeros((2, 1)))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_has_no_loss(name: str) -> None:
    loss, labels_kind, _, _ = CASES[name]
    labels = np.zeros((0,) if labels_kind == "numbers" else (0, 3))
    value, dy = loss.forward(labels, np.zeros((0, 3), "float32"))
    assert value == 0
    assert dy.shape == (0, 3)


# --- containers, names, configurations -----------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_arguments_stay_as_they_are(name: str) -> None:
    loss, labels_kind, outputs_kind, _ = CASES[name]
    rng = np.random.default_rng(6)
    y = outputs(rng, (4, 3, 6), outputs_kind, "float32").transpose(1, 0, 2)[:, ::2, ::-1]
    labels = targets(rng, y.shape, labels_kind)
    weights = rng.random(3)
    kept = [a.copy() for a in (labels, y, weights)]
    for a in (labels, y, weights):
        a.flags.writeable = False
    value, dy = loss.forward(labels, y, weights)
    for a, b in zip((labels, y, weights), kept, strict=True):
        np.testing.assert_array_equal(a, b)
    again, contiguous = loss.forward(labels, np.ascontiguousarray(y), weights)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    np.testing.assert_allclose(dy, contiguous, rtol=1e-5, atol=1e-8)


def test_tensors_give_tensors() -> None:
    loss = losses.SparseCategoricalCrossentropy()
    expected = loss.forward(LABELS, PROBABILITIES)
    value, dy = loss.forward(tensor(LABELS), tensor(PROBABILITIES), tensor(np.ones(3)))
    assert isinstance(value, Tensor)
    assert isinstance(dy, Tensor)
    assert float(value.numpy()) == pytest.approx(float(expected[0]))
    np.testing.assert_allclose(dy.numpy(), expected[1], rtol=1e-6)
    assert isinstance(loss(LABELS, tensor(PROBABILITIES)), Tensor)
    assert isinstance(loss(tensor(LABELS), PROBABILITIES), np.ndarray)


def test_functions_give_the_losses_of_the_samples() -> None:
    rng = np.random.default_rng(7)
    p, labels, one_hot = rng.random((4, 3)) + 0.1, rng.integers(0, 3, 4), np.eye(3)
    f = losses
    for got, expected in (
        (f.sparse_categorical_crossentropy(labels, p), f.get("sparse_categorical_crossentropy")),
        (f.categorical_crossentropy(one_hot[labels], p), f.get("categorical_crossentropy")),
        (f.sparse_categorical_crossentropy(labels, p, True), f.SparseCategoricalCrossentropy(True)),
    ):
        truth = one_hot[labels] if isinstance(expected, f.CategoricalCrossentropy) else labels
        np.testing.assert_array_equal(got, expected.per_sample(truth, p))
    for got, expected in (
        (f.binary_crossentropy(one_hot[labels], p / 2, label_smoothing=0.1), f.get("bce")),
        (f.mean_squared_error(one_hot[labels], p / 2), f.get("mse")),
        (f.mean_absolute_error(one_hot[labels], p / 2), f.get("mae")),
        (f.huber(one_hot[labels], p / 2, delta=0.3), f.Huber(0.3)),
    ):
        if isinstance(expected, f.BinaryCrossentropy):
            expected = f.BinaryCrossentropy(label_smoothing=0.1)
        np.testing.assert_array_equal(got, expected.per_sample(one_hot[labels], p / 2))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("sparse_categorical_crossentropy", losses.SparseCategoricalCrossentropy),
        ("SparseCategoricalCrossentropy", losses.SparseCategoricalCrossentropy),
        ("categorical_crossentropy", losses.CategoricalCrossentropy),
        ("binary_crossentropy", losses.BinaryCrossentropy),
        ("bce", losses.BinaryCrossentropy),
        ("mean_squared_error", losses.MeanSquaredError),
        ("mse", losses.MeanSquaredError),
        ("MSE", losses.MeanSquaredError),
        ("mean_absolute_error", losses.MeanAbsoluteError),
        ("mae", losses.MeanAbsoluteError),
        ("huber", losses.Huber),
    ],
)
def test_names(name: str, cls: type[losses.Loss]) -> None:
    assert type(losses.get(name)) is cls


def test_configurations() -> None:
    loss = losses.CategoricalCrossentropy(True, 0.1, None, "mine")
    stored = json.loads(json.dumps(losses.serialize(loss)))
    assert stored == {
        "class_name": "CategoricalCrossentropy",
        "config": {
            "from_logits": True,
            "label_smoothing": 0.1,
            "reduction": "none",
            "name": "mine",
        },
    }
    assert losses.get(stored).get_config() == loss.get_config()
    assert losses.Huber().name == "huber"
    assert losses.SparseCategoricalCrossentropy().name == "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.get("crossentropy"), InvalidArgumentError, "Did you mean"),
        (lambda: losses.get(np.subtract), InvalidArgumentError, "expected a loss"),
        (lambda: losses.Huber(delta=0), InvalidArgumentError, "delta must be"),
        (lambda: losses.Huber(dleta=1.0), UnknownArgumentError, "Did you mean 'delta'"),
        (lambda: losses.MeanSquaredError(reduction="avg"), InvalidArgumentError, "reduction must"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=1.5), InvalidArgumentError, "in .0, 1"),
        (lambda: losses.Loss(), TypeError, "abstract"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
