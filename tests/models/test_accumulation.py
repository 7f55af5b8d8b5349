"""Gradients that are added up over several batches before the weights change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import images, labels, small_cnn

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError

X, Y = images(24), labels(24, 3, 5)


def compiled(optimizer: Any) -> gc.Sequential:
    model = small_cnn("float64")
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fitted(model: gc.Sequential, batch_size: int, epochs: int = 2) -> list[Any]:
    model.fit(X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: gc.optimizers.SGD(0.1, momentum=0.9, **more),
        lambda **more: gc.optimizers.SGD(0.1, **more),
        lambda **more: gc.optimizers.Adam(0.01, global_clipnorm=0.1, **more),
        lambda **more: gc.optimizers.AdamW(
            gc.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5), **more
        ),
    ],
)
def test_small_batches_act_as_a_large_one(make: Any) -> None:
    large = compiled(make())
    small = compiled(make(gradient_accumulation_steps=3))
    for a, b in zip(fitted(large, 12), fitted(small, 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert small.optimizer is not None
    assert small.optimizer.iterations == 4


def test_nothing_changes_before_the_last_of_them() -> None:
    model = compiled(gc.optimizers.SGD(0.1, gradient_accumulation_steps=3))
    before = model.get_weights()
    for number in range(3):
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        model.train_on_batch(X[number::3], Y[number::3])
        assert all(p.grad is None for p in model.parameters)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("how", ["file", "deepcopy"])
def test_a_sum_that_is_not_complete_is_kept(how: str, tmp_path: Path) -> None:
    def adam() -> Any:
        return gc.optimizers.Adam(0.01, gradient_accumulation_steps=4)

    whole, parts = compiled(adam()), compiled(adam())
    for number in range(6):
        whole.train_on_batch(X[number::6], Y[number::6])
        parts.train_on_batch(X[number::6], Y[number::6])
    if how == "file":
        parts.save(tmp_path / "m.safetensors")
        parts = gc.load_model(tmp_path / "m.safetensors")
    else:
        parts = copy.deepcopy(parts)
    for number in range(2):
        whole.train_on_batch(X[number::6], Y[number::6])
        parts.train_on_batch(X[number::6], Y[number::6])
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.optimizer is not None
    assert parts.optimizer.iterations == 2


@pytest.mark.parametrize("steps", [1, 0, -2, 2.5, "4", True])
def test_what_is_refused(steps: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="gradient_accumulation_steps"):
        gc.optimizers.SGD(gradient_accumulation_steps=steps)
