"""``evaluate`` and ``predict``: what they return, for every form of data; that nothing moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from model_makers import (
    Regression,
    assert_same_weights,
    images,
    labels,
    linear_model,
    small_cnn,
    snapshot,
    uniform,
)

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.callbacks import Callback
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.layers import BatchNormalization, Dense, Dropout, Flatten
from gpuconv.losses import Loss
from gpuconv.metrics import ConfusionMatrix

SPARSE = "sparse_categorical_crossentropy"
X = uniform((7, 4), 11)
Y = np.array([0, 2, 1, 1, 0, 2, 2])


def compiled(metrics: Any = ("accuracy",)) -> Sequential:
    model = linear_model()
    model.compile("sgd", SPARSE, list(metrics))
    return model


# --- evaluate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_mean_over_the_samples_whatever_the_batches(batch_size: int) -> None:
    model = compiled()
    plain = Regression(*model.get_weights())
    loss, accuracy = model.evaluate(X, Y, batch_size=batch_size, verbose=0)
    assert loss == pytest.approx(plain.loss(X, Y), rel=1e-12)
    assert accuracy == plain.hits(X, Y) / 7


def test_what_is_returned() -> None:
    model = compiled()
    assert isinstance(model.evaluate(X, Y, verbose=0), list)
    named = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(named) == ["loss", "accuracy"]
    assert all(type(value) is float for value in named.values())
    assert list(named.values()) == model.evaluate(X, Y, verbose=0)
    assert type(compiled(metrics=[]).evaluate(X, Y, verbose=0)) is float


def test_sample_weights_weigh_the_loss() -> None:
    model = compiled()
    plain = Regression(*model.get_weights())
    weights = np.arange(7.0)
    loss, accuracy = model.evaluate(X, Y, batch_size=3, sample_weight=weights, verbose=0)
    assert loss == pytest.approx(plain.loss(X, Y, weights), rel=1e-12)
    assert accuracy == plain.hits(X, Y) / 7  # metrics do not use them, as in Keras


def test_steps_and_batches_of_an_iterable() -> None:
    model = compiled()
    plain = Regression(*model.get_weights())
    loss, _ = model.evaluate(X, Y, batch_size=2, steps=2, verbose=0)
    assert loss == pytest.approx(plain.loss(X[:4], Y[:4]), rel=1e-12)

    def batches() -> Iterator[Any]:
        yield X[:3], Y[:3]
        yield X[3:], Y[3:]

    assert model.evaluate(batches(), verbose=0) == model.evaluate(X, Y, batch_size=4, verbose=0)
    assert model.evaluate(gc.tensor(X), gc.tensor(Y), verbose=0) == model.evaluate(X, Y, verbose=0)


def test_a_metric_of_several_numbers() -> None:
    model = compiled(metrics=["accuracy", ConfusionMatrix(3)])
    _, accuracy, matrix = model.evaluate(X, Y, batch_size=3, verbose=0)
    plain = Regression(*model.get_weights())
    expected = np.zeros((3, 3), np.int64)
    for sample, label in zip(X, Y, strict=True):
        expected[label, np.argmax(plain.probabilities(sample))] += 1
    np.testing.assert_array_equal(matrix, expected)
    assert accuracy == np.trace(expected) / 7


def moving_model() -> Sequential:
    model = Sequential(
        [
            Flatten(input_shape=(6, 6, 2)),
            BatchNormalization(),
            Dropout(0.5),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", SPARSE, ["accuracy"])
    return model


def test_evaluation_and_prediction_change_nothing() -> None:
    model = moving_model()
    x, y = images(20), labels(20, 3, 4)
    model.fit(x, y, verbose=0)
    before = snapshot(model)
    streams = {name: stream.state for name, stream in model.random_streams().items()}
    runs = [(model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert_same_weights(model, before)
    assert {n: s.state for n, s in model.random_streams().items()} == streams
    assert all(parameter.grad is None for parameter in model.parameters)


def test_errors_of_evaluate() -> None:
    model = small_cnn()
    model.compile("sgd", SPARSE)
    x, y = images(6), labels(6, 3, 4)
    for error, arguments, message in [
        (ShapeError, (x[..., :1], y), "expected 2 channels"),
        (ShapeError, (x, y[:3]), "x with 6, y with 3"),
        (InvalidArgumentError, (x, y + 9), "labels must lie"),
        (InvalidArgumentError, (x * math.nan, y), "finite"),
        (InvalidArgumentError, (x[:0], y[:0]), "at least one sample"),
        (InvalidArgumentError, (x,), "y, the targets"),
        (DTypeError, (x.astype(str), y), "numbers"),
    ]:
        with pytest.raises(error, match=message) as raised:
            model.evaluate(*arguments, verbose=0)
        assert "Received:" in str(raised.value)
    for options in ({"batch_size": 0}, {"steps": 0}, {"steps": 9}, {"verbose": "loud"}):
        with pytest.raises(InvalidArgumentError, match="Received:"):
            model.evaluate(x, y, **options)


# --- predict ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_predictions_against_plain_loops(batch_size: int | None) -> None:
    model = linear_model()
    plain = Regression(*model.get_weights())
    found = model.predict(X, batch_size=batch_size, verbose=0)
    np.testing.assert_allclose(found, [plain.probabilities(s) for s in X], rtol=1e-12)
    assert found.dtype == np.float64


def test_forms_of_inputs() -> None:
    model = small_cnn()
    x = images(7)
    expected = model.predict(x, verbose=0)
    assert type(expected) is np.ndarray
    for given in (
        gc.tensor(x),
        x.tolist(),
        np.asfortranarray(x),
        x.astype(">f4"),
        [(x[:4], np.zeros(4)), (x[4:], np.zeros(3))],
        iter([x[:4], x[4:]]),
    ):
        np.testing.assert_array_equal(model.predict(given, verbose=0), expected)
    np.testing.assert_array_equal(model.predict_on_batch(x), expected)
    np.testing.assert_array_equal(model.predict(x, batch_size=2, steps=2, verbose=0), expected[:4])


def test_integers_are_cast_batch_by_batch() -> None:
    model = small_cnn()
    x = (images(5) * 100).astype(np.int16)
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), model.predict(x.astype(np.float32), verbose=0)
    )


def test_predict_builds_a_model_and_needs_no_compile() -> None:
    model = Sequential([Flatten(), Dense(2)])
    assert model.predict(images(3), verbose=0).shape == (3, 2)


def test_the_inputs_are_not_modified_and_the_result_is_the_callers() -> None:
    x = images(5)
    x.flags.writeable = False
    model = Sequential([Flatten(input_shape=(6, 6, 2))])
    found = model.predict(x, verbose=0)
    found[...] = 0
    assert np.abs(x).min() > 0


def test_errors_of_predict() -> None:
    model = small_cnn()
    for error, x, message in [
        (ShapeError, images(4)[..., :1], "expected 2 channels"),
        (ShapeError, images(4)[0], "4 dimensions"),
        (DTypeError, images(4).astype(str), "numbers"),
        (InvalidArgumentError, images(4)[:0], "at least one sample"),
    ]:
        with pytest.raises(error, match=message):
            model.predict(x, verbose=0)


# --- what is heard and shown ------------------------------------------------------------------


def test_the_moments_of_evaluate_and_predict() -> None:
    heard: list[str] = []

    class Listen(Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                heard.append(name)
            return super().__getattribute__(name)

    model = compiled()
    model.evaluate(X, Y, batch_size=4, callbacks=[Listen()], verbose=0)
    batches = ["on_test_batch_begin", "on_test_batch_end"] * 2
    assert heard == ["on_test_begin", *batches, "on_test_end"]
    heard.clear()
    model.predict(X, batch_size=4, callbacks=Listen(), verbose=0)
    batches = ["on_predict_batch_begin", "on_predict_batch_end"] * 2
    assert heard == ["on_predict_begin", *batches, "on_predict_end"]


def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled()
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    model.fit(X, Y, verbose=0)
    model.train_on_batch(X, Y)
    assert capsys.readouterr().out == ""
    model.evaluate(X, Y)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "loss: " in said
    assert "accuracy: " in said
    model.predict(X)
    assert capsys.readouterr().out == ""
    model.fit(X, Y, epochs=2, validation_data=(X, Y), verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert all("val_accuracy" in line for line in lines)


def test_a_loss_of_the_users_own() -> None:
    class Cubic(Loss):
        """The mean of ``(y - t)**3``."""

        def check_targets(self, labels: Any, y_shape: Any) -> None:
            if tuple(labels.shape[1:]) != tuple(y_shape[1:]):
                raise ShapeError(f"targets like the outputs. Received: {labels.shape}")

        def differentiate(self, labels: Any, y: Any) -> Any:
            away = y - labels
            return (away**3).mean(
                axis=-1
            ), lambda scale: 3 * away**2 * scale[:, None] / away.shape[-1]

    model = linear_model()
    model.compile(gc.optimizers.SGD(0.1), Cubic())
    targets = uniform((7, 3), 2)
    expected = float(np.mean((model.predict(X, verbose=0) - targets) ** 3))
    assert model.evaluate(X, targets, verbose=0) == pytest.approx(expected, rel=1e-12)
    before = model.get_weights()
    model.fit(X, targets, verbose=0)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    with pytest.raises(ShapeError, match="targets like the outputs"):
        model.fit(X, targets[:, :2], verbose=0)


def test_keras_words_for_weights_and_numbers():
    model = gc.Sequential([gc.layers.Dense(3, input_shape=(4,), activation="softmax")])
    assert model.metrics_names == []
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    assert model.metrics_names == ["loss", "accuracy"]
    x, y = np.zeros((2, 4), "float32"), np.zeros(2, "int64")
    assert len(model.evaluate(x, y, verbose=0)) == len(model.metrics_names)
    assert [v.name for v in model.trainable_variables] == ["kernel", "bias"]
    model.trainable = False
    assert model.trainable_variables == []
