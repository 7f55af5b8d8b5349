"""Penalties on weights: they count in every loss that is shown, and move the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_makers import Regression, labels, set_uniform_weights, uniform

from gpuconv import Sequential
from gpuconv.layers import Conv2D, Dense, Flatten
from gpuconv.optimizers import SGD, Adam
from gpuconv.regularizers import L1, L1L2, L2

SPARSE = "sparse_categorical_crossentropy"
X = uniform((7, 4), 11)
Y = np.array([0, 2, 1, 1, 0, 2, 2])


def regularized(kernel: Any = None, bias: Any = None, rate: float = 0.1) -> Sequential:
    model = Sequential(
        [
            Dense(
                3,
                activation="softmax",
                dtype="float64",
                kernel_regularizer=kernel,
                bias_regularizer=bias,
                input_shape=(4,),
            )
        ]
    )
    set_uniform_weights(model, 1)
    model.compile(SGD(rate), SPARSE)
    return model


def penalty(w: np.ndarray[Any, Any], l1: float, l2: float) -> float:
    return float(sum(l1 * abs(v) + l2 * v * v for v in w.reshape(-1)))


@pytest.mark.parametrize(
    ("kernel", "bias", "of_kernel", "of_bias"),
    [
        (L2(0.3), None, (0, 0.3), (0, 0)),
        (L1(0.2), None, (0.2, 0), (0, 0)),
        (L1L2(0.1, 0.2), L2(0.5), (0.1, 0.2), (0, 0.5)),
        ("l2", "l1", (0, 0.01), (0.01, 0)),
    ],
)
def test_losses_and_weights_against_plain_loops(
    kernel: Any, bias: Any, of_kernel: Any, of_bias: Any
) -> None:
    model = regularized(kernel, bias)
    plain = Regression(*model.get_weights())
    losses = []
    for _ in range(3):
        total = 0.0
        for start in (0, 3, 6):
            x, y = X[start : start + 3], Y[start : start + 3]
            added = penalty(plain.kernel, *of_kernel) + penalty(plain.bias, *of_bias)
            total += (plain.loss(x, y) + added) * len(x)
            steps = [
                0.1 * (l1 * np.sign(w) + 2 * l2 * w)
                for w, (l1, l2) in ((plain.kernel, of_kernel), (plain.bias, of_bias))
            ]
            plain.step(x, y, 0.1)
            plain.kernel -= steps[0]
            plain.bias -= steps[1]
        losses.append(total / 7)
    history = model.fit(X, Y, batch_size=3, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-12)
    np.testing.assert_allclose(model.get_weights()[0], plain.kernel, rtol=1e-12)
    np.testing.assert_allclose(model.get_weights()[1], plain.bias, rtol=1e-12, atol=1e-15)


def test_the_penalty_counts_in_validation_and_evaluation() -> None:
    model, without = regularized(L2(0.3), rate=0.0), regularized(rate=0.0)
    added = penalty(model.get_weights()[0], 0, 0.3)
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    expected = without.evaluate(X, Y, verbose=0) + added
    assert history["loss"][0] == pytest.approx(expected, rel=1e-12)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-12)
    assert model.evaluate(X, Y, batch_size=2, verbose=0) == pytest.approx(expected, rel=1e-12)
    assert model.test_on_batch(X, Y) == pytest.approx(expected, rel=1e-12)


def test_sample_weights_do_not_scale_the_penalty() -> None:
    model = regularized(L2(0.3), rate=0.0)
    added = penalty(model.get_weights()[0], 0, 0.3)
    loss = model.evaluate(X, Y, sample_weight=np.zeros(7), verbose=0)
    assert loss == pytest.approx(added, rel=1e-12)


def test_without_data_to_fit_a_penalty_shrinks_the_weights() -> None:
    model = regularized(L2(0.5))
    kernel = model.get_weights()[0]
    model.fit(X, Y, sample_weight=np.zeros(7), epochs=2, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], kernel * 0.9**2, rtol=1e-12)


def test_in_convolutions_and_with_other_optimizers() -> None:
    x, y = uniform((12, 6, 6, 2), 8), labels(12, 3, 9)

    def trained(strength: float) -> float:
        model = Sequential(
            [
                Conv2D(4, 3, kernel_regularizer=L2(strength), input_shape=(6, 6, 2)),
                Flatten(),
                Dense(3, activation="softmax"),
            ]
        )
        set_uniform_weights(model, 3)
        model.compile(Adam(0.01), SPARSE)
        model.fit(x, y, epochs=5, shuffle=False, verbose=0)
        return float((model.get_weights()[0] ** 2).sum())

    sizes = [trained(strength) for strength in (0.0, 0.1, 1.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_penalty_survives_saving() -> None:
    model = regularized(L1L2(0.1, 0.2), L2(0.5))
    twin = Sequential.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    twin.compile("sgd", SPARSE)
    assert twin.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
