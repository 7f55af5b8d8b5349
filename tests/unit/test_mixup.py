"""Mixup against a loop over the samples, its statistics, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv.random
from gpuconv.backends.simulated import SimulatedArray, to_simulated
from gpuconv.data.mixup import mixup
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.random import SeedStream
from gpuconv.tensors import Tensor


def batch(n: int = 6) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 4, 3, 2)).astype(np.float32), rng.integers(0, 5, n)


def weights_and_partners(n: int, seed: int) -> tuple[list[float], list[int]]:
    """What a batch of ``n`` is blended with, read off one-hot vectors of the sample numbers."""
    blended = mixup(np.zeros((n, 1)), np.eye(n), 0.7, seed=seed)[1]
    weights, partners = [], []
    for i, row in enumerate(blended):
        weights.append(float(row[i]))
        others = [j for j in range(n) if j != i and row[j] != 0]
        assert len(others) <= 1
        partners.append(others[0] if others else i)
        assert row.sum() == pytest.approx(1)
    return weights, partners


def test_against_a_loop() -> None:
    x, labels = batch()
    weights, partners = weights_and_partners(6, seed=3)
    assert sorted(partners) == list(range(6))
    mixed, soft = mixup(x, labels, 0.7, num_classes=5, seed=3)
    assert mixed.shape == x.shape
    assert soft.shape == (6, 5)
    assert mixed.dtype == soft.dtype == np.float32
    for i, (w, j) in enumerate(zip(weights, partners, strict=True)):
        expected = np.zeros(5)
        expected[labels[i]] += w
        expected[labels[j]] += 1 - w
        np.testing.assert_allclose(soft[i], expected, atol=1e-6)
        np.testing.assert_allclose(mixed[i], w * x[i] + (1 - w) * x[j], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_weights_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    n = 4000
    # Sample i is 1 where its partner is 0, or both are 1: the mean of w is seen where they differ.
    y = np.arange(n) % 2.0
    blended = mixup(np.zeros((n, 1)), y, alpha, seed=1)[1]
    mixed = blended[(blended != 0) & (blended != 1)]
    assert abs(mixed.mean() - 0.5) < 0.05
    assert abs(mixed.var() - 1 / (4 * (2 * alpha + 1))) < 0.02


def test_alpha_zero_blends_nothing() -> None:
    x, labels = batch()
    mixed, soft = mixup(x, labels, 0, num_classes=5)
    np.testing.assert_array_equal(mixed, x)
    np.testing.assert_array_equal(soft, np.eye(5)[labels])


def test_forms_of_labels_agree() -> None:
    x, labels = batch()
    expected = mixup(x, labels, num_classes=5, seed=2)[1]
    for y in (labels[:, None], labels.astype(np.uint8)):
        np.testing.assert_array_equal(mixup(x, y, num_classes=5, seed=2)[1], expected)
    one_hot = np.eye(5, dtype=int)[labels]
    np.testing.assert_array_equal(mixup(x, one_hot, seed=2)[1], expected)
    np.testing.assert_array_equal(mixup(x, one_hot, num_classes=5, seed=2)[1], expected)


def test_inputs_stay_as_they_are_and_integers_become_floats() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 3), dtype=np.uint8)
    y = np.eye(4)
    before = x.copy(), y.copy()
    mixed, soft = mixup(x, y, seed=0)
    assert mixed.dtype == np.float32
    assert soft.dtype == np.float64
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_seeds() -> None:
    x, labels = batch()

    def draw(seed: Any = None) -> np.ndarray[Any, Any]:
        return mixup(x, labels, num_classes=5, seed=seed)[0]

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    stream, other = SeedStream(3), SeedStream(3)
    first, second = draw(stream), draw(stream)
    assert not np.array_equal(first, second)
    other.state = (3, 1)
    np.testing.assert_array_equal(draw(other), second)
    gpuconv.random.set_seed(8)
    first, second = draw(), draw()
    assert not np.array_equal(first, second)
    gpuconv.random.set_seed(8)
    np.testing.assert_array_equal(draw(), first)


def test_containers_and_devices() -> None:
    x, labels = batch()
    expected = mixup(x, labels, num_classes=5, seed=1)
    mixed, soft = mixup(Tensor(x), Tensor(labels), num_classes=5, seed=1)
    assert isinstance(mixed, Tensor)
    assert isinstance(soft, Tensor)
    np.testing.assert_array_equal(mixed.numpy(), expected[0])
    there = mixup(to_simulated(x), to_simulated(labels), num_classes=5, seed=1)
    for ours, host in zip(there, expected, strict=True):
        assert isinstance(ours, SimulatedArray)
        np.testing.assert_array_equal(ours.get(), host)


def test_refusals() -> None:
    x, labels = batch()
    for alpha in (-1, float("nan"), float("inf"), "0.2", True, None):
        with pytest.raises(InvalidArgumentError, match="alpha must be a number"):
            mixup(x, labels, alpha, num_classes=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="pass num_classes"):
        mixup(x, labels)
    with pytest.raises(InvalidArgumentError, match=r"labels must lie in \[0, 3\).*to 4"):
        mixup(x, np.array([0, 1, 2, 4, 0, 1]), num_classes=3)
    with pytest.raises(ShapeError, match="same number of samples"):
        mixup(x, labels[:-1], num_classes=5)
    with pytest.raises(ShapeError, match="num_classes=4"):
        mixup(x, np.eye(6), num_classes=4)
    with pytest.raises(InvalidArgumentError, match="seed must be an integer"):
        mixup(x, labels, num_classes=5, seed=-1)
    with pytest.raises(DTypeError):
        mixup(x, np.array(["a"] * 6))
