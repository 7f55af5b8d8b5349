"""Frozen layers: what stays, what is not computed, and what BatchNormalization does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import images, labels, set_uniform_weights, uniform

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.backends import registry
from gpuconv.backends.base import Engine
from gpuconv.layers import BatchNormalization, Conv2D, Dense, Flatten, MaxPooling2D, ReLU

SPARSE = "sparse_categorical_crossentropy"
COUNTED = ("conv_backward_input", "conv_backward_weight", "max_pool_backward", "gemm")
X, Y = images(8), labels(8, 3, 4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """What the CPU's engines compute of gradients: (method, shape of the result)."""
    made: list[tuple[str, tuple[int, ...]]] = []

    def counted(method: Any, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            made.append((name, tuple(result.shape)))
            return result

        return call

    assert set(COUNTED) <= Engine.__abstractmethods__
    for engine in registry.engine_names("cpu"):
        cls = type(registry.engine(engine))
        for name in COUNTED:
            monkeypatch.setattr(cls, name, counted(getattr(cls, name), name))
    return made


def network() -> Sequential:
    """Convolutions (6,6,2) -> (6,6,3) -> (6,6,4), pooling, and two dense layers."""
    model = Sequential(
        [
            Conv2D(3, 3, padding="same", activation="relu", input_shape=(6, 6, 2)),
            Conv2D(4, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(5, activation="relu"),
            Dense(3, activation="softmax"),
        ]
    )
    set_uniform_weights(model, 40)
    model.compile("adam", SPARSE)
    return model


def changed(model: Sequential, before: dict[str, Any]) -> set[str]:
    """Names of the layers whose arrays are not bit for bit what they were."""
    now = model.state()
    return {name.split("/")[0] for name in now if not np.array_equal(now[name], before[name])}


def copies(model: Sequential) -> dict[str, Any]:
    return {name: array.copy() for name, array in model.state().items()}


EVERY = {"conv2d", "conv2d_1", "dense", "dense_1"}


@pytest.mark.parametrize("frozen", [[], ["conv2d"], ["conv2d_1", "dense"], ["dense_1"]])
def test_frozen_layers_stay_bit_for_bit(frozen: list[str]) -> None:
    model = network()
    for name in frozen:
        model.get_layer(name).trainable = False
    before = copies(model)
    model.fit(X, Y, batch_size=3, epochs=2, verbose=0)
    assert changed(model, before) == EVERY - set(frozen)
    assert all(p.grad is None for p in model.parameters)


def test_the_others_learn_as_they_would_by_hand() -> None:
    """The gradients of the layers that learn are those of the whole network."""
    model, whole = network(), network()
    model.get_layer("conv2d_1").trainable = False
    y, dy = model(X), uniform((8, 3), 3).astype(np.float32)
    assert y.shape == dy.shape
    for each in (model, whole):
        _, backward = each.forward(X, training=True)
        backward(dy)
    for mine, full in zip(model.parameters, whole.parameters, strict=True):
        if mine.trainable:
            np.testing.assert_array_equal(mine.grad, full.grad)
        else:
            assert mine.grad is None
            assert full.grad is not None


def test_it_takes_effect_at_once_and_can_be_undone() -> None:
    model = network()
    model.fit(X, Y, verbose=0)  # compiled and trained before
    model.trainable = False
    before = copies(model)
    model.fit(X, Y, verbose=0)
    assert changed(model, before) == set()
    model.get_layer("dense").trainable = True
    model.fit(X, Y, verbose=0)
    assert changed(model, before) == {"dense"}
    model.trainable = True
    model.fit(X, Y, verbose=0)
    assert changed(model, before) == EVERY


def test_all_learn_but_nobody_needs_the_inputs_gradient(calls: list[Any]) -> None:
    network().train_on_batch(X, Y)
    made = [call for call in calls if call[0] != "gemm"]
    assert made == [
        ("max_pool_backward", (8, 6, 6, 4)),
        ("conv_backward_weight", (3, 3, 3, 4)),
        ("conv_backward_input", (8, 6, 6, 3)),
        ("conv_backward_weight", (3, 3, 2, 3)),
    ]


def test_nothing_below_the_lowest_layer_that_learns_is_computed(calls: list[Any]) -> None:
    model = network()
    for name in ("conv2d", "conv2d_1", "dense"):
        model.get_layer(name).trainable = False
    model.train_on_batch(X, Y)
    assert [call for call in calls if call[0] != "gemm"] == []
    assert [shape for name, shape in calls if name == "gemm"] == [(5, 3)]  # dense_1's kernel


def test_a_frozen_layer_in_the_middle_passes_gradients_but_makes_none(calls: list[Any]) -> None:
    model = network()
    model.get_layer("conv2d_1").trainable = False
    model.train_on_batch(X, Y)
    assert [call for call in calls if call[0] != "gemm"] == [
        ("max_pool_backward", (8, 6, 6, 4)),
        ("conv_backward_input", (8, 6, 6, 3)),
        ("conv_backward_weight", (3, 3, 2, 3)),
    ]


def test_a_frozen_base_under_a_new_head(calls: list[Any]) -> None:
    base = Sequential(network().layers[:4], name="base")
    base.trainable = False
    model = Sequential([base, Dense(3, activation="softmax")])
    model.compile("sgd", SPARSE)
    before = copies(model)
    model.fit(X, Y, epochs=2, verbose=0)
    assert changed(model, before) == {"dense"}
    assert {name for name, _ in calls} == {"gemm"}
    assert {shape for _, shape in calls} == {(36, 3)}


def test_inside_a_nested_model_too_it_stops_at_the_lowest_that_learns(calls: list[Any]) -> None:
    inner = Sequential(network().layers[:4], name="inner")
    inner.get_layer("conv2d").trainable = False
    model = Sequential([inner, Dense(3, activation="softmax")])
    model.compile("sgd", SPARSE)
    model.train_on_batch(X, Y)
    assert [call for call in calls if call[0] != "gemm"] == [
        ("max_pool_backward", (8, 6, 6, 4)),
        ("conv_backward_weight", (3, 3, 3, 4)),
    ]


def test_a_model_of_which_nothing_learns_can_still_run(calls: list[Any]) -> None:
    model = network()
    model.trainable = False
    history = model.fit(X, Y, epochs=2, shuffle=False, verbose=0).history  # in the same order
    assert history["loss"][0] == history["loss"][1]
    assert calls == []


def test_by_hand_the_gradient_still_reaches_the_input() -> None:
    model, whole = network(), network()
    model.trainable = False
    dy = uniform((8, 3), 3).astype(np.float32)
    _, backward = model.forward(X, training=True)
    _, full = whole.forward(X, training=True)
    np.testing.assert_array_equal(backward(dy), full(dy))
    assert backward(dy, input_gradient=False) is None


# --- BatchNormalization -----------------------------------------------------------------------


def normalized() -> Sequential:
    model = Sequential(
        [
            BatchNormalization(input_shape=(6, 6, 2)),
            ReLU(),
            Flatten(),
            Dense(3, activation="softmax"),
        ]
    )
    set_uniform_weights(model, 70)
    model.compile("sgd", SPARSE)
    return model


def test_a_frozen_normalisation_uses_and_keeps_its_statistics() -> None:
    model = normalized()
    layer: Any = model.layers[0]
    layer.trainable = False
    before = copies(model)
    y = layer(X, training=True)
    s = before["batch_normalization/gamma"] / np.sqrt(layer.moving_variance + 1e-3)
    expected = (X - layer.moving_mean) * s + before["batch_normalization/beta"]
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-6)
    model.fit(X, Y, epochs=2, verbose=0)
    assert changed(model, before) == {"dense"}
    layer.trainable = True
    assert np.abs(layer(X, training=True).mean(axis=(0, 1, 2)) - layer.beta.value).max() < 1e-5
    model.fit(X, Y, verbose=0)
    assert changed(model, before) == {"batch_normalization", "dense"}


def test_a_frozen_model_freezes_its_normalisations() -> None:
    model = normalized()
    model.trainable = False
    before = copies(model)
    model.fit(X, Y, verbose=0)
    assert changed(model, before) == set()
    np.testing.assert_array_equal(model(X, training=True), model(X))


# --- with what else a model has ---------------------------------------------------------------


def test_regularizers_of_frozen_layers_count_for_nothing() -> None:
    def make() -> Sequential:
        model = Sequential([Flatten(input_shape=(6, 6, 2)), Dense(3, kernel_regularizer="l2")])
        model.add(Dense(3, activation="softmax"))
        set_uniform_weights(model, 5)
        model.compile("sgd", SPARSE)
        return model

    model, frozen = make(), make()
    frozen.layers[1].trainable = False
    kernel = model.get_weights()[0]
    difference = model.evaluate(X, Y, verbose=0) - frozen.evaluate(X, Y, verbose=0)
    assert difference == pytest.approx(0.01 * float((kernel**2).sum()), rel=1e-4)


def test_freezing_is_saved(tmp_path: Path) -> None:
    model = network()
    model.get_layer("conv2d").trainable = False
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.safetensors")
    loaded: Any = gc.load_model(tmp_path / "m.safetensors")
    assert [layer.trainable for layer in loaded.layers] == [False, *[True] * 5]
    before = copies(loaded)
    loaded.fit(X, Y, verbose=0)
    assert changed(loaded, before) == EVERY - {"conv2d"}


def test_a_layer_that_is_thawed_goes_on_with_its_optimizer_state() -> None:
    model = network()
    layer = model.get_layer("dense")
    model.fit(X, Y, epochs=2, verbose=0)
    layer.trainable = False
    model.fit(X, Y, verbose=0)
    layer.trainable = True
    before = copies(model)
    model.fit(X, Y, verbose=0)
    assert "dense" in changed(model, before)
