"""Softmax and its cross-entropy against plain loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.testing import assert_close, check_directional
from gpuconv.testing.reference.dense import log_softmax
from gpuconv_kernels.array import softmax as kernels

NDArray = np.ndarray[Any, Any]


def logits_for(rng: np.random.Generator, rows: int, classes: int, dtype: str) -> NDArray:
    return (3 * rng.standard_normal((rows, classes))).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (0, 3), (2, 3, 5), (6, 1000)])
def test_softmax_equals_loops(shape: tuple[int, ...], dtype: str) -> None:
    x = (3 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    y = kernels.softmax(x)
    assert y.dtype == dtype
    assert_close(y, np.exp(log_softmax(x.astype("float64"))), shape[-1], scale=1.0)


def test_softmax_is_stable_for_large_inputs() -> None:
    x = np.array([[1e4, 1e4, -1e4], [-1e30, -1e30, -1e30]], "float32")
    np.testing.assert_array_equal(kernels.softmax(x)[0], np.array([0.5, 0.5, 0], "float32"))
    np.testing.assert_allclose(kernels.softmax(x)[1], 1 / 3, rtol=1e-6)


def test_nan_stays_in_its_row() -> None:
    y = kernels.softmax(np.array([[np.nan, 1.0], [0.0, 0.0]]))
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1], [0.5, 0.5])


def test_views_of_any_strides_give_contiguous_results_and_stay_unmodified() -> None:
    base = np.random.default_rng(1).standard_normal((6, 5))
    x, kept = base.T[::2], base.copy()
    x.flags.writeable = False
    y = kernels.softmax(x)
    dx = kernels.softmax_backward(x, y[:, ::-1])
    losses, p = kernels.softmax_cross_entropy(x, np.array([0, 5, 2]))
    assert all(a.flags.c_contiguous for a in (y, dx, losses, p))
    np.testing.assert_array_equal(base, kept)
    np.testing.assert_array_equal(y, kernels.softmax(np.ascontiguousarray(x)))
    np.testing.assert_array_equal(p, y)


def test_softmax_backward_is_the_derivative() -> None:
    x = np.random.default_rng(2).standard_normal((3, 4, 5))
    y = kernels.softmax(x)
    check_directional(kernels.softmax, lambda dy: kernels.softmax_backward(dy, y), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("integers", ["int64", "int32", "uint8"])
def test_cross_entropy_of_class_numbers(dtype: str, integers: str) -> None:
    rng = np.random.default_rng(3)
    logits = logits_for(rng, 9, 6, dtype)
    labels = rng.integers(0, 6, 9).astype(integers)
    losses, p = kernels.softmax_cross_entropy(logits, labels)
    logarithms = log_softmax(logits.astype("float64"))
    assert losses.dtype == p.dtype == dtype
    assert_close(losses, -logarithms[np.arange(9), labels], 6)
    assert_close(p, np.exp(logarithms), 6, scale=1.0)


def test_cross_entropy_is_stable_where_probabilities_vanish() -> None:
    logits = np.array([[0.0, 500.0], [0.0, -500.0]], "float32")
    losses, p = kernels.softmax_cross_entropy(logits, np.array([0, 0]))
    np.testing.assert_array_equal(losses, [500.0, 0.0])
    np.testing.assert_array_equal(p, [[0, 1], [1, 0]])


def test_one_hot_rows_equal_class_numbers() -> None:
    rng = np.random.default_rng(4)
    logits = logits_for(rng, 8, 5, "float64")
    labels = rng.integers(0, 5, 8)
    scale = rng.random(8)
    numbers = kernels.softmax_cross_entropy(logits, labels)
    rows = kernels.softmax_cross_entropy(logits, np.eye(5)[labels])
    for a, b in zip(numbers, rows, strict=True):
        assert_close(a, b, 5)
    assert_close(
        kernels.softmax_cross_entropy_backward(numbers[1], labels, scale),
        kernels.softmax_cross_entropy_backward(numbers[1], np.eye(5)[labels], scale),
        5,
    )


@pytest.mark.parametrize("kind", ["class numbers", "probabilities", "rows of any sum"])
def test_cross_entropy_backward_is_the_derivative(kind: str) -> None:
    rng = np.random.default_rng(5)
    logits = logits_for(rng, 6, 4, "float64")
    targets: NDArray = rng.random((6, 4))
    if kind == "class numbers":
        targets = rng.integers(0, 4, 6)
    elif kind == "probabilities":
        targets /= targets.sum(axis=1, keepdims=True)
    _, p = kernels.softmax_cross_entropy(logits, targets)
    check_directional(
        lambda x: kernels.softmax_cross_entropy(x, targets)[0],
        lambda dy: kernels.softmax_cross_entropy_backward(p, targets, dy),
        logits,
    )


def test_float32_stays_float32_with_wider_targets() -> None:
    logits = np.zeros((2, 3), "float32")
    targets = np.full((2, 3), 1 / 3, "float64")
    losses, p = kernels.softmax_cross_entropy(logits, targets)
    dx = kernels.softmax_cross_entropy_backward(p, targets, np.ones(2))
    assert losses.dtype == p.dtype == dx.dtype == np.float32
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(dx, 0, atol=1e-7)


def test_no_rows() -> None:
    losses, p = kernels.softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, "int64"))
    assert losses.shape == (0,)
    assert p.shape == (0, 3)
    dx = kernels.softmax_cross_entropy_backward(p, np.zeros(0, "int64"), losses)
    assert dx.shape == (0, 3)
