"""Losses of gpuconv.losses.distances: formulas in plain Python, gradients by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuconv import losses
from gpuconv.errors import InvalidArgumentError
from gpuconv.testing import check_directional

NDArray = np.ndarray[Any, Any]


def kept(p: float) -> float:
    return min(max(p, 1e-7), 1 - 1e-7)


def focal(t: float, p: float, gamma: float, alpha: float | None = None) -> float:
    p = kept(p)
    right = p if t == 1 else 1 - p
    balance = 1.0 if alpha is None else (alpha if t == 1 else 1 - alpha)
    return -balance * (1 - right) ** gamma * math.log(right)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


Formula = Callable[[float, float], float]
CASES: dict[str, tuple[losses.Loss, str, str, Formula]] = {
    "log_cosh": (losses.LogCosh(), "any", "logits", lambda t, y: math.log(math.cosh(y - t))),
    "poisson": (
        losses.Poisson(),
        "any",
        "probabilities",
        lambda t, y: y - t * math.log(y + 1e-7),
    ),
    "mape": (
        losses.MeanAbsolutePercentageError(),
        "any",
        "logits",
        lambda t, y: 100 * abs(y - t) / abs(t),
    ),
    "msle": (
        losses.MeanSquaredLogarithmicError(),
        "any",
        "probabilities",
        lambda t, y: (math.log1p(y) - math.log1p(t)) ** 2,
    ),
    "hinge": (
        losses.Hinge(),
        "signs",
        "logits",
        lambda t, y: max(1 - t * y, 0.0),
    ),
    "squared_hinge": (
        losses.SquaredHinge(),
        "signs",
        "logits",
        lambda t, y: max(1 - t * y, 0.0) ** 2,
    ),
    "focal": (
        losses.BinaryFocalCrossentropy(gamma=1.5),
        "zero-one",
        "probabilities",
        lambda t, y: focal(t, y, 1.5),
    ),
    "focal-balanced-logits": (
        losses.BinaryFocalCrossentropy(True, alpha=0.3, from_logits=True),
        "zero-one",
        "logits",
        lambda t, y: focal(t, sigmoid(y), 2.0, 0.3),
    ),
    "focal-0": (
        losses.BinaryFocalCrossentropy(gamma=0),
        "zero-one",
        "probabilities",
        lambda t, y: focal(t, y, 0.0),
    ),
}


def example(labels: str, outputs: str, seed: int = 0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    shape = (3, 2, 4)
    y = 3 * rng.standard_normal(shape) if outputs == "logits" else rng.uniform(0.02, 0.98, shape)
    if labels == "any":
        return rng.uniform(0.1, 1.0, shape), y
    zero_one = rng.integers(0, 2, shape).astype(float)
    return (2 * zero_one - 1 if labels == "signs" else zero_one), y


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    loss, labels, outputs, formula = CASES[name]
    t, y = example(labels, outputs)
    expected = np.vectorize(formula)(t, y).mean(axis=-1)
    np.testing.assert_allclose(loss.per_sample(t, y), expected, rtol=1e-10)
    single = loss.per_sample(t, y.astype("float32"))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=2e-4)


@pytest.mark.parametrize("name", [*CASES, "kl_divergence"])
def test_gradients(name: str) -> None:
    loss, labels, outputs, _ = CASES.get(name, (losses.KLDivergence(), "any", "probabilities", 0))
    t, y = example(labels, outputs, 1)
    weights = np.array([0.5, 2.0, 1.0])
    _, dy = loss.forward(t, y, weights)
    check_directional(lambda x: loss(t, x, weights), lambda up: up * dy, y, tolerance=1e-6)


def test_kl_divergence_is_summed_over_the_classes() -> None:
    t, p = np.array([[0.2, 0.8], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.25, 0.75]])
    expected = [0.2 * math.log(0.4) + 0.8 * math.log(1.6), math.log(4)]
    np.testing.assert_allclose(losses.KLDivergence().per_sample(t, p), expected, atol=3e-6)


def test_labels_of_hinge_may_be_zero_and_one() -> None:
    y = np.array([[0.5, -2.0], [3.0, 0.2]])
    zero_one, signs = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]])
    for loss in (losses.Hinge(), losses.SquaredHinge()):
        assert loss(zero_one, y) == loss(signs, y)
    assert losses.Hinge()(signs, y) == pytest.approx((0.5 + 0.0 + 4.0 + 0.8) / 4)


def test_large_numbers_stay_finite() -> None:
    value, dy = losses.LogCosh().forward([[0.0]], np.array([[1e4]], "float32"))
    assert float(value) == pytest.approx(1e4 - math.log(2))
    assert dy[0, 0] == 1
    loss = losses.BinaryFocalCrossentropy(from_logits=True)
    value, dy = loss.forward([[1.0, 0.0]], np.array([[-1e4, 1e4]], "float32"))
    assert np.isfinite(value)
    assert np.isfinite(dy).all()


def test_by_name_and_back() -> None:
    for name in (
        "log_cosh",
        "mape",
        "msle",
        "hinge",
        "kld",
        "poisson",
        "binary_focal_crossentropy",
    ):
        loss = losses.get(name)
        assert losses.get(losses.serialize(loss)).get_config() == loss.get_config()
    with pytest.raises(InvalidArgumentError, match="gamma"):
        losses.BinaryFocalCrossentropy(gamma=-1.0)
