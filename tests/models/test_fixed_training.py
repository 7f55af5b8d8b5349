"""Calls in a graph that always, or never, run as in training; and weights in Keras's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.errors import FileFormatError, InvalidArgumentError, NotBuiltError
from gpuconv.models import clone_model

X = np.random.default_rng(0).normal(3.0, 2.0, (8, 4)).astype("float32")
Y = np.arange(8) % 2


def with_base(training: bool | None) -> tuple[gc.Model, layers.BatchNormalization]:
    norm = layers.BatchNormalization()
    base = gc.Sequential([layers.Dense(3, input_shape=(4,)), norm])
    inputs = gc.Input((4,))
    outputs = layers.Dense(2, activation="softmax")(base(inputs, training=training))
    model = gc.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, norm


def test_a_base_in_inference_mode_keeps_its_statistics_and_learns(tmp_path: Path) -> None:
    model, norm = with_base(False)
    before = norm.gamma.numpy()
    model.fit(X, Y, epochs=2, verbose=0)
    np.testing.assert_array_equal(norm.moving_mean, np.zeros(3))
    assert not np.array_equal(norm.gamma.numpy(), before)
    model.save(tmp_path / "m.safetensors")
    again = gc.load_model(tmp_path / "m.safetensors")
    again.fit(X, Y, verbose=0)
    assert all(not w.numpy().any() for w in again.weights if w.name == "moving_mean")
    moving, norm = with_base(None)
    moving.fit(X, Y, verbose=0)
    assert np.asarray(norm.moving_mean).any()


def test_dropout_that_drops_in_inference_too() -> None:
    inputs = gc.Input((50,))
    dropped = layers.Dropout(0.5, seed=1)(inputs, training=True)
    x = np.ones((2, 50), "float32")
    for model in (gc.Model(inputs, dropped), gc.Model(inputs, dropped).optimize_for_inference()):
        first, second = (model.predict(x, verbose=0) for _ in range(2))
        assert set(np.unique(first)) == {0.0, 2.0}
        assert not np.array_equal(first, second)


def test_weights_in_keras_order_of_words() -> None:
    model, _ = with_base(None)
    assert [w.name for w in model.weights] == [
        "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias",
    ]  # fmt: skip
    assert [w.name for w in model.non_trainable_weights] == ["moving_mean", "moving_variance"]
    model.layers[1].trainable = False
    assert len(model.trainable_weights) == 2
    assert len(model.non_trainable_weights) == 6


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_weights_alone(tmp_path: Path, name: str) -> None:
    model, other = with_base(None)[0], with_base(None)[0]
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / name)
    with pytest.raises(FileExistsError):
        model.save_weights(tmp_path / name, overwrite=False)
    other.load_weights(tmp_path / name)
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))
    assert other.optimizer is not None
    assert other.optimizer.iterations == 0
    small = gc.Sequential([layers.Dense(3, input_shape=(4,))])
    with pytest.raises(FileFormatError, match="do not belong"):
        small.load_weights(tmp_path / name)
    with pytest.raises(NotBuiltError):
        gc.Sequential([layers.Dense(3)]).load_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        small.load_weights(tmp_path / "none")


def test_weights_of_keras_are_told_by_their_content(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    model, other = with_base(None)[0], with_base(None)[0]
    gc.io.save_keras_weights(model, tmp_path / "w.weights.h5")
    (tmp_path / "w.weights.h5").rename(tmp_path / "w")
    other.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_clone_has_weights_of_its_own() -> None:
    model = with_base(False)[0]
    twin = clone_model(model)
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]
    assert not np.array_equal(twin.get_weights()[0], model.get_weights()[0])
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.predict(X, verbose=0), model.predict(X, verbose=0))
    with pytest.raises(InvalidArgumentError):
        clone_model(layers.Dense(3))  # type: ignore[arg-type]


def test_validation_steps_and_batch_callbacks() -> None:
    class Counting(gc.callbacks.Callback):
        batches = 0
        tests = 0

        def on_batch_end(self, batch: int, logs: object) -> None:
            self.batches += 1

        def on_test_batch_end(self, batch: int, logs: object) -> None:
            self.tests += 1

    model, counting = with_base(None)[0], Counting()
    endless = iter(lambda: (X, Y), None)
    model.fit(
        X, Y, 4, epochs=2, validation_data=endless, validation_steps=3,
        callbacks=[counting], verbose=0,
    )  # fmt: skip
    assert (counting.batches, counting.tests) == (4, 6)


def test_outputs_of_layers_and_numbers() -> None:
    inputs = gc.Input((4,))
    both = (1.0 - inputs) * 2 + 3 - 0.5 * inputs / 4 + (-inputs) - 1
    model = gc.Model(inputs, 10 + both)
    np.testing.assert_allclose(model.predict(X, verbose=0), 14 - 3.125 * X, rtol=1e-5, atol=1e-5)
    for wrong in ("a", None, True, X):
        with pytest.raises(InvalidArgumentError):
            inputs * wrong
    with pytest.raises(InvalidArgumentError):
        inputs / 0


def test_a_layer_as_an_activation() -> None:
    dense = layers.Dense(3, activation=layers.LeakyReLU(0.5))
    assert dense.get_config()["activation"] == {"name": "leaky_relu", "alpha": 0.5}


def test_keras_positions_are_not_taken_for_others() -> None:
    with pytest.raises(InvalidArgumentError, match="save_best_only"):
        gc.callbacks.ModelCheckpoint("m.keras", "val_loss", 1, True)  # type: ignore[arg-type]
