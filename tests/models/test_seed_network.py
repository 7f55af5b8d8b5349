"""Ten steps of the network that most tutorials begin with, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_makers import labels, set_uniform_weights, uniform
from plain_network import PlainSeedNetwork

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.layers import Conv2D, Dense, Flatten, MaxPooling2D
from gpuconv.optimizers import Adam

SPARSE = "sparse_categorical_crossentropy"
STEPS, BATCH, RATE = 10, 8, 0.001

# Losses of the ten steps, recorded from float64; the plain network gives them too.
CURVE = [
    2.426801204608153,
    2.370830007006942,
    1.6465861642542015,
    2.7077826396372116,
    2.7174847122648886,
    1.4000733109367278,
    1.707078709597145,
    1.4584383992581147,
    1.696705153544551,
    1.5595740660784994,
]
ACCURACIES = [0.0, 0.125, 0.25, 0.0, 0.0, 0.875, 0.625, 0.625, 0.5, 0.375]


def seed_network(dtype: str) -> Sequential:
    """The network as in the study notes."""
    model = Sequential(name="seed")
    model.add(Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3), dtype=dtype))
    model.add(MaxPooling2D((2, 2), dtype=dtype))
    model.add(Conv2D(64, (3, 3), activation="relu", dtype=dtype))
    model.add(MaxPooling2D((2, 2), dtype=dtype))
    model.add(Conv2D(64, (3, 3), activation="relu", dtype=dtype))
    model.add(Flatten(dtype=dtype))
    model.add(Dense(64, activation="relu", dtype=dtype))
    model.add(Dense(10, activation="softmax", dtype=dtype))
    set_uniform_weights(model, 1000)
    model.compile(Adam(RATE), SPARSE, ["accuracy"])
    return model


def data() -> tuple[Any, Any]:
    """Images that carry their label: 40 of them, seen twice in ten steps."""
    y = labels(40, 10, 500)
    x = uniform((40, 32, 32, 3), 501, 0, 1)
    x += np.sin(np.arange(32) * (y[:, None] + 1) / 3)[:, :, None, None]
    return x.astype(np.float32), y


def curve(model: Sequential) -> list[list[float]]:
    x, y = data()
    batches = [slice(i * BATCH % 40, i * BATCH % 40 + BATCH) for i in range(STEPS)]
    return [model.train_on_batch(x[part], y[part]) for part in batches]


def test_the_recorded_curve_in_float64() -> None:
    found = curve(seed_network("float64"))
    np.testing.assert_allclose([loss for loss, _ in found], CURVE, rtol=1e-9)
    assert [accuracy for _, accuracy in found] == ACCURACIES


def test_the_recorded_curve_in_float32() -> None:
    found = curve(seed_network("float32"))
    np.testing.assert_allclose([loss for loss, _ in found], CURVE, rtol=5e-5)
    assert [accuracy for _, accuracy in found] == ACCURACIES


def test_the_curve_and_the_weights_of_a_network_written_a_second_time() -> None:
    model = seed_network("float64")
    plain = PlainSeedNetwork(model.get_weights(), RATE)
    x, y = data()
    for i in range(4):
        part = slice(i * BATCH, i * BATCH + BATCH)
        loss, accuracy = model.train_on_batch(x[part], y[part])
        expected, hits = plain.step(x[part], y[part])
        assert loss == pytest.approx(expected, rel=1e-10)
        assert accuracy == hits
        assert loss == pytest.approx(CURVE[i], rel=1e-9)
    for mine, theirs in zip(model.get_weights(), plain.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


def test_the_network_of_the_zoo_is_the_same() -> None:
    model, notes = gc.zoo.seed_network(), seed_network("float32")
    model.set_weights(notes.get_weights())
    model.compile(Adam(RATE), SPARSE, ["accuracy"])
    assert curve(model) == curve(notes)
    assert model.count_params() == 122_570
    assert gc.zoo.seed_network((18, 20, 1), classes=4).output_shape == (None, 4)


def test_the_same_bits_every_time() -> None:
    a, b = seed_network("float32"), seed_network("float32")
    assert curve(a) == curve(b)
    for mine, theirs in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_network_for_digits_learns_some_of_them() -> None:
    (x, y), (test_x, test_y) = gc.data.load_digits()
    gc.set_seed(0)
    model = gc.zoo.digits_network()
    assert model.count_params() == 45_258
    model.compile(Adam(0.002), SPARSE, ["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    assert model.evaluate(test_x, test_y, verbose=0)[1] > 0.9
