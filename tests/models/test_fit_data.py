"""``fit``: every form of data, its memory, and what one step computes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import (
    Recorder,
    X,
    Y,
    assert_same_weights,
    assert_weights,
    compiled,
    images,
    labels,
    linear_model,
    reference,
    set_uniform_weights,
    small_cnn,
    snapshot,
    uniform,
)

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.layers import Dense, Flatten, Rescaling
from gpuconv.optimizers import SGD

SPARSE = "sparse_categorical_crossentropy"

# --- kinds of data ----------------------------------------------------------------------------


def test_batches_of_an_iterable() -> None:
    model, other = compiled(), compiled()
    parts = [(X[:3], Y[:3]), (X[3:6], Y[3:6]), (X[6:], Y[6:])]
    a = model.fit(parts, epochs=2, verbose=0).history
    b = other.fit(X, Y, batch_size=3, epochs=2, shuffle=False, verbose=0).history
    assert a == b
    assert_same_weights(model, snapshot(other))


def test_a_generator_with_steps_per_epoch() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield X[:3], Y[:3], np.ones(3)
            yield X[3:], Y[3:], np.zeros(4)

    model = compiled()
    plain = reference(model)
    for _ in range(3):
        plain.step(X[:3], Y[:3], 0.5)
    history = model.fit(endless(), epochs=3, steps_per_epoch=2, verbose=0)
    assert len(history.history["loss"]) == 3
    assert_weights(model, plain)


def test_a_generator_that_runs_dry_warns_and_keeps_what_was_learned() -> None:
    model = compiled()
    batches = ((X, Y) for _ in range(5))
    with pytest.warns(UserWarning, match="ran out of data"):
        history = model.fit(batches, epochs=4, steps_per_epoch=2, verbose=0)
    assert history.epoch == [0, 1, 2]
    assert model.optimizer is not None
    assert model.optimizer.iterations == 5


@pytest.mark.parametrize("form", ["tensor", "list", "memmap", "slices", "fortran", "big endian"])
def test_every_form_of_data_gives_the_same_bits(form: str, tmp_path: Path) -> None:
    class Slices:
        """Like a data set in a file: shape, dtype and slices, no more."""

        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, rows: slice) -> Any:
            assert isinstance(rows, slice)
            return self.array[rows]

    def stored(array: Any, name: str) -> Any:
        path = tmp_path / name
        kept = np.memmap(path, array.dtype, "w+", shape=array.shape)
        kept[...] = array
        kept.flush()
        return np.memmap(path, array.dtype, "r", shape=array.shape)

    x, y = X.astype(np.float32), Y
    given: Any = {
        "tensor": lambda: (gc.tensor(x), gc.tensor(y)),
        "list": lambda: (x.tolist(), y.tolist()),
        "memmap": lambda: (stored(x, "x"), stored(y, "y")),
        "slices": lambda: (Slices(x), Slices(y)),
        "fortran": lambda: (np.asfortranarray(x), y),
        "big endian": lambda: (x.astype(">f4"), y.astype(">i8")),
    }[form]()
    model, plain = compiled(), compiled()
    options: dict[str, Any] = {
        "batch_size": 2,
        "epochs": 2,
        "validation_split": 0.3,
        "shuffle": True,
        "verbose": 0,
    }
    gc.set_seed(1)
    expected = plain.fit(x, y, **options).history
    gc.set_seed(1)
    assert model.fit(*given, **options).history == expected
    assert_same_weights(model, snapshot(plain))


def test_bytes_stay_bytes_until_the_batch() -> None:
    x = (uniform((20, 6, 6, 2), 4) * 100 + 100).astype(np.uint8)
    model = Sequential([Rescaling(1 / 255, input_shape=(6, 6, 2)), Flatten(), Dense(3)])
    model.add(gc.layers.Softmax())
    model.compile("sgd", SPARSE)
    recorder = Recorder()
    model.fit(x, labels(20, 3, 5), batch_size=8, callbacks=recorder, verbose=0)
    assert [part.dtype for part, _, _ in recorder.batches] == [np.uint8] * 3
    assert x.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_data_set_is_not_copied(dtype: str, shuffle: bool) -> None:
    x = np.ones((4000, 64, 64), dtype)  # 16 MB or 131 MB
    y = np.zeros(4000, np.int64)
    model = Sequential([Flatten(input_shape=(64, 64)), Dense(2, activation="softmax")])
    model.compile("sgd", SPARSE)
    model.train_on_batch(x[:50], y[:50])  # kernels are compiled here, not while memory is watched
    tracemalloc.start()
    try:
        model.fit(
            x,
            y,
            batch_size=50,
            steps_per_epoch=4,
            validation_data=(x[:100], y[:100]),
            shuffle=shuffle,
            verbose=0,
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20  # batches, gradients and the blocks of the check for NaN


def test_read_only_and_strided_arrays_are_used_and_not_modified() -> None:
    wide = np.zeros((14, 8))
    wide[::2, ::2] = X
    wide.flags.writeable = False
    y = np.repeat(Y, 2)[::2]
    y.flags.writeable = False
    before = wide.copy()
    model, plain = compiled(), compiled()
    a = model.fit(wide[::2, ::2], y, batch_size=3, shuffle=False, epochs=2, verbose=0).history
    b = plain.fit(X, Y, batch_size=3, shuffle=False, epochs=2, verbose=0).history
    assert a == b
    np.testing.assert_array_equal(wide, before)


def test_gradients_that_were_left_behind_do_not_count() -> None:
    model, plain = small_cnn(), small_cnn()
    x, y = images(4), np.array([0, 1, 2, 0])
    _, backward = model.forward(x, training=True)
    backward(np.full((4, 3), 100, np.float32))
    for each in (model, plain):
        each.compile("sgd", SPARSE)
        each.train_on_batch(x, y)
    assert_same_weights(model, snapshot(plain))
    assert all(parameter.grad is None for parameter in model.parameters)


# --- what the loss is -------------------------------------------------------------------------


def test_softmax_and_crossentropy_are_trained_as_one() -> None:
    """Where the probability of the label vanishes, the two steps one by one have no gradient."""
    model = Sequential([Dense(2, activation="softmax", use_bias=False, input_shape=(1,))])
    model.set_weights([np.array([[200.0, 0.0]])])
    model.compile(SGD(1.0), SPARSE)
    loss = model.train_on_batch(np.ones((1, 1)), np.array([1]))
    assert loss == pytest.approx(200.0)
    np.testing.assert_allclose(model.get_weights()[0], [[199.0, 1.0]])


def test_logits_and_probabilities_train_alike() -> None:
    x, y = images(9), labels(9, 3, 2)
    fused, logits, apart = (Sequential([Flatten(input_shape=(6, 6, 2))]) for _ in range(3))
    fused.add(Dense(3, activation="softmax"))
    logits.add(Dense(3))
    apart.add(Dense(3))
    apart.add(gc.layers.Softmax())
    for model in (fused, logits, apart):
        set_uniform_weights(model, 8)
        loss = gc.losses.SparseCategoricalCrossentropy(from_logits=model is logits)
        model.compile("sgd", loss, ["accuracy"])
    runs = [m.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history
            for m in (fused, logits, apart)]  # fmt: skip
    assert runs[0] == runs[1] == runs[2]
    assert_same_weights(fused, snapshot(logits))


def test_train_on_batch_returns_the_loss_and_metrics_of_the_batch() -> None:
    model = compiled()
    plain = reference(model)
    loss, accuracy = model.train_on_batch(X, Y)
    assert loss == pytest.approx(plain.loss(X, Y), rel=1e-12)
    assert accuracy == plain.hits(X, Y) / 7
    plain.step(X, Y, 0.5)
    assert_weights(model, plain)
    assert model.test_on_batch(X, Y, return_dict=True) == {
        "loss": pytest.approx(plain.loss(X, Y), rel=1e-12),
        "accuracy": plain.hits(X, Y) / 7,
    }
    without = linear_model()
    without.compile("sgd", SPARSE)
    assert isinstance(without.train_on_batch(X, Y), float)
