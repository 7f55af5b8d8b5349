"""The reference's dense, softmax, losses, norms and upsampling against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv.testing import check_directional, numerical_gradient, reference


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_dense(rng: np.random.Generator) -> None:
    x, w, bias = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5)), np.arange(5.0)
    np.testing.assert_allclose(reference.dense(x, w, bias), x @ w + bias, rtol=1e-12)
    check_directional(
        reference.dense,
        lambda dy: reference.dense_backward(dy, x, w),
        [x, w, bias],
        ["x", "w", "b"],
    )


def test_softmax(rng: np.random.Generator) -> None:
    assert reference.softmax(np.log([[1.0, 2.0, 5.0]]))[0] == pytest.approx([0.125, 0.25, 0.625])
    assert reference.log_softmax(np.array([[1000.0, 0.0]])).tolist() == [[0.0, -1000.0]]
    x = rng.standard_normal((2, 3, 4))
    y = reference.softmax(x)
    check_directional(reference.softmax, lambda dy: reference.softmax_backward(dy, y), x)


@pytest.mark.parametrize(
    ("kind", "alpha", "x", "y"),
    [
        ("relu", 0.0, [-2, 0, 3], [0, 0, 3]),
        ("relu6", 0.0, [-2, 5, 7], [0, 5, 6]),
        ("leaky_relu", 0.1, [-2, 3], [-0.2, 3]),
        ("elu", 2.0, [-math.log(2), 3], [-1, 3]),
        ("selu", 0.0, [-math.log(2), 1], [-0.8790496704, 1.0507009874]),
        ("sigmoid", 0.0, [0, math.log(3), -1e3], [0.5, 0.75, 0]),
        ("hard_sigmoid", 0.0, [-4, 0, 1.5, 4], [0, 0.5, 0.75, 1]),
        ("tanh", 0.0, [0, math.log(2)], [0, 0.6]),
        ("exponential", 0.0, [0, math.log(2), 1e3], [1, 2, math.inf]),
        ("gelu", 0.0, [0, 1, -1], [0, 0.8413447461, -0.1586552539]),
        ("gelu_tanh", 0.0, [0, 1], [0, 0.8411919906]),
        ("silu", 0.0, [0, math.log(3)], [0, 0.75 * math.log(3)]),
        ("hard_silu", 0.0, [-4, 1.5, 4], [0, 1.125, 4]),
        ("mish", 0.0, [0, math.log(2)], [0, 0.8 * math.log(2)]),
        ("softplus", 0.0, [0, 1e3], [math.log(2), 1e3]),
        ("softsign", 0.0, [-3, 1], [-0.75, 0.5]),
    ],
)
def test_activation_values(kind: str, alpha: float, x: list[float], y: list[float]) -> None:
    found = reference.activation(np.array([*x, math.nan]), kind, alpha)
    assert found[:-1].tolist() == pytest.approx(y, abs=1e-9)
    assert math.isnan(found[-1])


@pytest.mark.parametrize("kind", reference.FUNCTIONS)
def test_activation_derivatives(kind: str, rng: np.random.Generator) -> None:
    x = 4 * rng.standard_normal(40)
    backward = reference.activation_backward(np.ones(40), x, kind, 0.3)
    slopes = numerical_gradient(lambda v: reference.activation(v, kind, 0.3).sum(), x)
    np.testing.assert_allclose(backward, slopes, rtol=1e-7, atol=1e-8)


def test_sparse_categorical_crossentropy_golden() -> None:
    p = np.array([[0.9, 0.05, 0.05], [0.5, 0.89, 0.6], [0.05, 0.01, 0.94]])
    logits = np.array([[8.0, 1, 1], [0, 9, 1], [2, 3, 5]])
    labels, weights = np.array([0, 1, 2]), np.array([1.2, 3.4, 5.6])
    from_p = reference.sparse_categorical_crossentropy(labels, p)
    from_logits = reference.sparse_categorical_crossentropy(labels[:, None], logits, True)
    assert from_logits.tolist() == pytest.approx([0.001822, 0.000459, 0.169846], abs=1e-6)
    assert reference.reduce_loss(from_p) == pytest.approx(0.3239, abs=1e-4)
    assert reference.reduce_loss(from_logits) == pytest.approx(0.0573, abs=1e-4)
    assert reference.reduce_loss(from_p, weights) == pytest.approx(1.0696, abs=1e-4)
    assert reference.reduce_loss(from_logits, weights) == pytest.approx(0.31829, abs=1e-5)
    q = np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    found = reference.reduce_loss(reference.sparse_categorical_crossentropy(np.array([1, 2]), q))
    assert found == pytest.approx(1.177, abs=1e-3)


def test_categorical_crossentropy_smooths_and_clips() -> None:
    certain = np.array([[1.0, 0.0]])
    assert reference.categorical_crossentropy(certain[:, ::-1], certain).item() == pytest.approx(
        -math.log(1e-7)
    )
    found = reference.categorical_crossentropy(
        np.array([[1.0, 0.0]]), np.array([[0.8, 0.2]]), label_smoothing=0.2
    )
    assert found.item() == pytest.approx(-0.9 * math.log(0.8) - 0.1 * math.log(0.2))


def test_binary_crossentropy() -> None:
    targets, p = np.array([[1.0, 0.0]]), np.array([[0.8, 0.4]])
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    logits = np.log(p / (1 - p))
    assert reference.binary_crossentropy(targets, p).item() == pytest.approx(expected)
    assert reference.binary_crossentropy(targets, logits, True).item() == pytest.approx(expected)
    smooth = reference.binary_crossentropy(targets[:, :1], p[:, :1], label_smoothing=0.5)
    assert smooth.item() == pytest.approx(-0.75 * math.log(0.8) - 0.25 * math.log(0.2))


def test_regression_losses() -> None:
    targets, outputs = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[0.5, -3.0], [1.0, 2.0]])
    assert reference.mean_squared_error(targets, outputs).tolist() == [9.25 / 2, 0]
    assert reference.mean_absolute_error(targets, outputs).tolist() == [3.5 / 2, 0]
    assert reference.huber(targets, outputs).tolist() == [(0.125 + 2.5) / 2, 0]
    assert reference.huber(targets, outputs, delta=2.0).tolist() == [(0.125 + 4.0) / 2, 0]
    # Weights of the samples, for losses of several positions a sample.
    assert reference.reduce_loss(np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([1.0, 0.5])) == 2.5


def test_batch_norm() -> None:
    x = np.array([[1.0, 10.0], [3.0, 10.0]]).reshape(2, 1, 1, 2)
    gamma, beta = np.array([2.0, 5.0]), np.array([0.5, -1.0])
    y, mean, variance = reference.batch_norm(x, gamma, beta, 3.0)
    assert (mean.tolist(), variance.tolist()) == ([2, 10], [1, 0])
    assert y.ravel().tolist() == [-0.5, -1, 1.5, -1]
    again = reference.batch_norm_inference(x, gamma, beta, mean, variance, 3.0)
    np.testing.assert_allclose(again, y, rtol=1e-15)


def test_layer_norm() -> None:
    x = np.array([[1.0, 3.0], [10.0, 10.0]])
    y = reference.layer_norm(x, np.array([1.0, 2.0]), np.array([0.0, 1.0]), 3.0)
    assert y.tolist() == [[-0.5, 2.0], [0.0, 1.0]]
    x = x.reshape(1, 2, 2)
    y = reference.layer_norm(x, np.ones(2), np.zeros(2), 0.0, axes=(1,))
    assert y.tolist() == [[[-1, -1], [1, 1]]]
    y = reference.layer_norm(x, np.ones((2, 2)), np.zeros((2, 2)), 0.0, axes=(1, 2))
    np.testing.assert_allclose(y, (x - x.mean()) / x.std())


def test_group_norm(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 6))
    gamma, beta = np.arange(1.0, 7), np.arange(6.0)
    y = reference.group_norm(x, gamma, beta, 2, 0.01)
    for n in range(2):
        for group in (slice(0, 3), slice(3, 6)):
            part = x[n, ..., group]
            normal = (part - part.mean()) / np.sqrt(part.var() + 0.01)
            np.testing.assert_allclose(y[n, ..., group], normal * gamma[group] + beta[group])


def test_upsample_nearest(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 2, 4))
    y = reference.upsample_nearest(x, (2, 3))
    np.testing.assert_array_equal(y, x.repeat(2, axis=1).repeat(3, axis=2))


def test_upsample_bilinear() -> None:
    x = np.array([0.0, 1.0]).reshape(1, 2, 1)
    assert reference.upsample_bilinear(x, 2).ravel().tolist() == [0, 0.25, 0.75, 1]
    thirds = reference.upsample_bilinear(x, 3).ravel()
    assert thirds == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    plane = np.array([[0.0, 4.0], [8.0, 12.0]]).reshape(1, 2, 2, 1)
    y = reference.upsample_bilinear(plane, 2)[0, ..., 0]
    assert y[1].tolist() == [2, 3, 5, 6]
    assert y[:, 0].tolist() == [0, 2, 6, 8]
