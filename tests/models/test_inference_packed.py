"""Inference models: their weights can only be read, and what engines made of them stays right."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import set_uniform_weights, uniform

import gpuconv as gc
from gpuconv.backends import registry
from gpuconv.layers import BatchNormalization, Conv2D, Dense, Flatten, ReLU
from gpuconv.parameter import Parameter

SHAPE = (2, 9, 9, 16)


class Noting:
    """Stands for an engine: notes what it is asked to prepare, and returns a copy."""

    name = "cpu:noting"

    def __init__(self) -> None:
        self.prepared: list[Any] = []

    def prepare_weights(self, w: Any) -> Any:
        self.prepared.append(w.copy())
        return self.prepared[-1]


def trained() -> gc.Sequential:
    model = gc.Sequential(
        [
            Conv2D(32, 3, padding="same", use_bias=False, input_shape=SHAPE[1:]),
            BatchNormalization(),
            ReLU(),
            Conv2D(20, 1),
            Flatten(),
            Dense(200),
        ]
    )
    set_uniform_weights(model, 3)
    return model


def unprepared(model: gc.Model, x: Any) -> Any:
    """What a model predicts whose weights nobody keeps."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters:
        parameter._fixed = False
    return twin.predict_on_batch(x)


def check(model: gc.Model) -> Any:
    """The model predicts, twice, what its weights say; with the same bits."""
    x = uniform(SHAPE, 9).astype("float32")
    expected = unprepared(model, x)
    for _ in range(2):
        np.testing.assert_array_equal(model.predict_on_batch(x), expected)
    return expected


def kernels(model: gc.Model) -> list[Parameter]:
    return [p for p in model.parameters if p.name == "kernel"]


def new_weights(model: gc.Model) -> list[Any]:
    return [a * 0.5 + 0.25 for a in model.get_weights()]


@pytest.mark.parametrize("engine", ["cpu:numpy", "cpu:jit"])
def test_the_same_bits_as_without_kept_weights(engine: str) -> None:
    with gc.use_backend(engine):
        model = trained().optimize_for_inference()
        check(model)
        for batch in (1, 5):  # other sizes, the same weights
            x = uniform((batch, *SHAPE[1:]), 2).astype("float32")
            np.testing.assert_array_equal(model.predict_on_batch(x), unprepared(model, x))


def test_nobody_writes_the_weights_unnoticed() -> None:
    model = trained()
    fast = model.optimize_for_inference()
    for fixed, free in zip(kernels(fast), kernels(model), strict=True):
        assert fixed.fixed
        assert not free.fixed
        with pytest.raises(ValueError, match="read-only"):
            fixed.value[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            fixed.value *= 2
        free.value[...] = 0


def test_assigned_weights_are_used() -> None:
    fast = trained().optimize_for_inference()
    before = check(fast)
    for kernel in kernels(fast):
        kernel.assign(kernel.numpy() * 0.5)
        assert not np.array_equal(check(fast), before)
        with pytest.raises(ValueError, match="read-only"):
            kernel.value[...] = 0
    before = check(fast)
    fast.set_weights(new_weights(fast))
    assert not np.array_equal(check(fast), before)
    for kernel in kernels(fast):  # another array, which only looks the same
        kernel.value = np.ones_like(kernel.value)
    check(fast)
    for kernel in kernels(fast):
        with pytest.raises(ValueError, match="read-only"):
            kernel.value[...] = 0


def test_loaded_weights_are_used(tmp_path: Path) -> None:
    fast = trained().optimize_for_inference()
    check(fast)
    other = copy.deepcopy(fast)
    other.set_weights(new_weights(fast))
    other.save_weights(tmp_path / "weights.safetensors")
    fast.load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(check(fast), check(other))


def test_a_step_of_an_optimizer_is_noticed() -> None:
    fast = trained().optimize_for_inference()
    before = check(fast)
    fast.trainable = True
    fast.compile(optimizer=gc.optimizers.SGD(0.1), loss="mse")
    x, y = uniform(SHAPE, 9).astype("float32"), np.zeros((2, 200), "float32")
    fast.train_on_batch(x, y)
    assert not np.array_equal(check(fast), before)


def test_copies_and_files_hold_no_kept_weights(tmp_path: Path) -> None:
    fast = trained().optimize_for_inference()
    small = len(pickle.dumps(fast))
    expected = check(fast)
    assert len(pickle.dumps(fast)) < small + 1000
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert all(p._prepared == {} for p in twin.parameters)
        np.testing.assert_array_equal(check(twin), expected)
        twin.set_weights(new_weights(twin))
        assert not np.array_equal(check(twin), expected)
    np.testing.assert_array_equal(check(fast), expected)
    fast.save(tmp_path / "model.safetensors")
    loaded = gc.load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(check(loaded), expected)


def test_weights_are_prepared_once_for_each_engine() -> None:
    parameter, engine = Parameter(np.arange(4.0)), Noting()
    contract: Any = engine
    assert parameter.prepared_by(contract) is parameter.value
    parameter.fix()
    assert parameter.prepared_by(contract) is parameter.prepared_by(contract)
    assert len(engine.prepared) == 1
    assert parameter.prepared_by(registry.engine("cpu:numpy")) is parameter.value
    parameter.assign(np.ones(4))
    np.testing.assert_array_equal(parameter.prepared_by(contract), np.ones(4))
    parameter.prepared_by(contract)
    assert len(engine.prepared) == 2


def test_a_view_of_another_array_is_copied_when_it_is_fixed() -> None:
    whole = np.zeros((2, 3))
    parameter, engine = Parameter(whole[1]), Noting()
    parameter.fix()
    whole[...] = 1
    contract: Any = engine
    np.testing.assert_array_equal(parameter.prepared_by(contract), np.zeros(3))
