"""``fit``: which samples, in which order, with which weights, and what the history says of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import (
    Regression,
    assert_same_weights,
    images,
    labels,
    linear_model,
    set_uniform_weights,
    small_cnn,
    snapshot,
    uniform,
)

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.callbacks import Callback, History
from gpuconv.layers import Dense, Flatten, Rescaling
from gpuconv.optimizers import SGD

SPARSE = "sparse_categorical_crossentropy"
X = uniform((7, 4), 11)
Y = np.array([0, 2, 1, 1, 0, 2, 2])


def compiled(rate: float = 0.5, metrics: Any = ("accuracy",)) -> Sequential:
    model = linear_model()
    model.compile(SGD(rate), SPARSE, list(metrics))
    return model


def reference(model: Sequential) -> Regression:
    return Regression(*model.get_weights())


def assert_weights(model: Sequential, regression: Regression) -> None:
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel, regression.kernel, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bias, regression.bias, rtol=1e-12, atol=1e-14)


class Recorder(Callback):
    """Keeps what the batches of training looked like, by wrapping the model's step."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, Any, Any]] = []
        self.events: list[str] = []

    def on_train_begin(self, logs: Any) -> None:
        step = type(self.model).train_step

        def recorded(x: Any, y: Any, sample_weight: Any = None) -> Any:
            self.batches.append((x, y, sample_weight))
            return step(self.model, x, y, sample_weight)

        self.model.train_step = recorded  # type: ignore[method-assign]

    def on_train_end(self, logs: Any) -> None:
        del self.model.train_step  # the class's own again


# --- numbers ----------------------------------------------------------------------------------


def test_losses_accuracies_and_weights_against_plain_loops() -> None:
    model = compiled()
    plain = reference(model)
    expected = [plain.epoch(X, Y, 3, 0.5) for _ in range(3)]  # batches of 3, 3 and 1
    history = model.fit(X, Y, batch_size=3, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [e[0] for e in expected], rtol=1e-12)
    assert history.history["accuracy"] == [e[1] for e in expected]
    assert_weights(model, plain)


def test_a_short_last_batch_counts_by_its_size() -> None:
    model = compiled(rate=0.0)  # the weights stay: the mean of the batches is that of the data
    plain = reference(model)
    history = model.fit(X, Y, batch_size=3, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(plain.loss(X, Y), rel=1e-12)
    means = [plain.loss(X[i : i + 3], Y[i : i + 3]) for i in (0, 3, 6)]
    assert abs(np.mean(means) - plain.loss(X, Y)) > 1e-3  # what it must not be


def test_sample_weights() -> None:
    weights = np.array([1.0, 0.0, 2.5, 0.5, 1.0, 3.0, 0.25])
    model = compiled()
    plain = reference(model)
    expected = [plain.epoch(X, Y, 3, 0.5, weights)[0] for _ in range(2)]
    history = model.fit(
        X, Y, batch_size=3, epochs=2, shuffle=False, sample_weight=weights, verbose=0
    )
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-12)
    assert_weights(model, plain)


@pytest.mark.parametrize("form", ["numbers", "column", "one-hot"])
def test_class_weights(form: str) -> None:
    table = {0: 0.25, 2: 4.0}  # class 1 weighs 1
    weights = np.array([table.get(int(label), 1.0) for label in Y])
    model = compiled()
    plain = reference(model)
    expected = [plain.epoch(X, Y, 3, 0.5, weights)[0] for _ in range(2)]
    targets: Any = Y
    if form == "column":
        targets = Y[:, None]
    if form == "one-hot":
        targets = np.eye(3)[Y]
        model.compile(SGD(0.5), "categorical_crossentropy", ["accuracy"])
    history = model.fit(
        X, targets, batch_size=3, epochs=2, shuffle=False, class_weight=table, verbose=0
    )
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-12)
    assert_weights(model, plain)


def test_class_weights_and_sample_weights_multiply() -> None:
    given = np.array([1.0, 0.5, 2.5, 0.5, 1.0, 3.0, 0.25])
    model = compiled()
    plain = reference(model)
    weights = given * np.array([[0.25, 1.0, 4.0][label] for label in Y])
    plain.epoch(X, Y, 7, 0.5, weights)
    table = {0: 0.25, 2: 4}
    model.fit(X, Y, sample_weight=given, class_weight=table, shuffle=False, verbose=0)
    assert_weights(model, plain)


def test_class_weights_do_not_reach_the_validation() -> None:
    model = compiled(rate=0.0)
    plain = reference(model)
    table = {0: 10.0, 1: 10.0, 2: 10.0}
    history = model.fit(X, Y, validation_data=(X, Y), class_weight=table, verbose=0).history
    assert history["val_loss"][0] == pytest.approx(plain.loss(X, Y), rel=1e-12)
    assert history["loss"][0] == pytest.approx(10 * plain.loss(X, Y), rel=1e-6)


# --- the history ------------------------------------------------------------------------------


def test_keys_and_their_order() -> None:
    model = compiled(metrics=["accuracy", "sparse_top_k_categorical_accuracy"])
    history = model.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0)
    assert isinstance(history, History)
    assert list(history.history) == [
        "loss",
        "accuracy",
        "sparse_top_k_categorical_accuracy",
        "val_loss",
        "val_accuracy",
        "val_sparse_top_k_categorical_accuracy",
    ]
    assert all(
        len(values) == 2 and all(type(v) is float for v in values)
        for values in history.history.values()
    )
    assert history.epoch == [0, 1]
    assert dict(history.params) == {"epochs": 2, "steps": 1, "verbose": 0}
    assert history.model is model


def test_initial_epoch_counts_on() -> None:
    model = compiled()
    history = model.fit(X, Y, initial_epoch=3, epochs=5, verbose=0)
    assert history.epoch == [3, 4]
    assert len(history.history["loss"]) == 2
    assert model.fit(X, Y, initial_epoch=5, epochs=5, verbose=0).history == {}
    assert model.fit(X, Y, epochs=0, verbose=0).history == {}


def test_validation_every_other_epoch() -> None:
    model = compiled()
    seen: list[int] = []

    class Watch(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            if "val_loss" in logs:
                seen.append(epoch)

    history = model.fit(
        X, Y, epochs=5, validation_data=(X, Y), validation_freq=2, callbacks=Watch(), verbose=0
    )
    assert seen == [1, 3]
    assert len(history.history["val_loss"]) == 2
    assert len(history.history["loss"]) == 5


def test_metrics_start_anew_each_epoch_and_for_the_validation() -> None:
    model = compiled(rate=0.0)
    wrong = (np.argmin(model.predict(X, verbose=0), axis=1)).astype(np.int64)
    history = model.fit(X, Y, epochs=2, validation_data=(X, wrong), verbose=0).history
    hits = reference(model).hits(X, Y) / 7
    assert history["accuracy"] == [hits, hits]
    assert history["val_accuracy"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("units", "loss", "targets", "expected"),
    [
        (1, "binary_crossentropy", [0, 1, 1, 0], 0.75),  # outputs above 0.5: 1, 1, 1, 0
        (3, SPARSE, [0, 1, 0, 1], 0.5),  # largest outputs: 0, 1, 2, 0
        (3, "categorical_crossentropy", [0, 1, 2, 1], 0.75),
    ],
)
def test_accuracy_in_its_three_forms(units: int, loss: str, targets: Any, expected: float) -> None:
    activation = "sigmoid" if units == 1 else "softmax"
    model = Sequential([Dense(units, activation=activation, use_bias=False, input_shape=(3,))])
    model.set_weights([np.array([[3.0], [2.0], [-3.0]]) if units == 1 else np.eye(3) * 3])
    x = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0.5]])
    if units == 1:
        x = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    y = np.eye(3)[targets] if loss == "categorical_crossentropy" else np.array(targets)
    model.compile(SGD(0.0), loss, ["accuracy"])
    history = model.fit(x, y, batch_size=3, verbose=0).history
    assert history["accuracy"] == [expected]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float32", "bool"])
def test_labels_of_any_dtype_and_as_a_column(dtype: str) -> None:
    y = (Y % 2).astype(dtype)
    model, other = compiled(), compiled()
    a = model.fit(X, y, shuffle=False, verbose=0).history
    b = other.fit(X, y[:, None], shuffle=False, verbose=0).history
    assert a == b
    assert_same_weights(model, snapshot(other))


# --- validation data --------------------------------------------------------------------------


def test_validation_split_takes_the_last_samples_before_shuffling() -> None:
    model = compiled(rate=0.0)
    plain = reference(model)
    recorder = Recorder()
    history = model.fit(
        X, Y, batch_size=2, epochs=3, validation_split=0.3, callbacks=recorder, verbose=0
    ).history
    np.testing.assert_allclose(history["val_loss"], [plain.loss(X[4:], Y[4:])] * 3, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], [plain.loss(X[:4], Y[:4])] * 3, rtol=1e-12)
    for epoch in range(3):
        used = np.concatenate([y for _, y, _ in recorder.batches[2 * epoch : 2 * epoch + 2]])
        assert sorted(used) == sorted(Y[:4])


@pytest.mark.parametrize(
    ("samples", "split", "train"), [(10, 0.2, 8), (7, 0.1, 6), (3, 0.5, 1), (1000, 0.001, 999)]
)
def test_the_training_part_is_rounded_down(samples: int, split: float, train: int) -> None:
    model = compiled(rate=0.0)
    recorder = Recorder()
    x, y = uniform((samples, 4), 5), labels(samples, 3, 6)
    model.fit(
        x, y, batch_size=5000, validation_split=split, callbacks=recorder, shuffle=False, verbose=0
    )
    assert [len(batch[1]) for batch in recorder.batches] == [train]


def test_validation_split_parts_the_weights_too() -> None:
    weights = np.arange(1.0, 8.0)
    model = compiled(rate=0.0)
    plain = reference(model)
    history = model.fit(
        X, Y, sample_weight=weights, validation_split=0.3, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(plain.loss(X[:4], Y[:4], weights[:4]), rel=1e-12)
    assert history["val_loss"][0] == pytest.approx(plain.loss(X[4:], Y[4:], weights[4:]), rel=1e-12)


@pytest.mark.parametrize("form", ["tuple", "list", "weights", "batches", "generator", "object"])
def test_forms_of_validation_data(form: str) -> None:
    model = compiled(rate=0.0)
    plain = reference(model)
    weights = np.arange(1.0, 8.0)
    parts = [(X[:3], Y[:3]), (X[3:6], Y[3:6]), (X[6:], Y[6:])]

    class Anew:
        def __iter__(self) -> Iterator[Any]:
            return iter(parts)

    data: Any = {
        "tuple": (X, Y),
        "list": [X, Y],
        "weights": (X, Y, weights),
        "batches": parts,
        "generator": (part for part in parts),
        "object": Anew(),
    }[form]
    epochs = 1 if form == "generator" else 3
    history = model.fit(X, Y, epochs=epochs, validation_data=data, verbose=0).history
    expected = plain.loss(X, Y, weights if form == "weights" else None)
    np.testing.assert_allclose(history["val_loss"], [expected] * epochs, rtol=1e-12)


def test_two_or_three_batches_in_a_list_are_not_taken_for_inputs_and_targets() -> None:
    model = compiled(rate=0.0)
    expected = reference(model).loss(X[:6], Y[:6])
    data = [(X[:3], Y[:3]), (X[3:6], Y[3:6])]
    history = model.fit(X, Y, validation_data=data, verbose=0).history
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-12)


def test_validation_data_come_before_the_split() -> None:
    model = compiled(rate=0.0)
    plain = reference(model)
    history = model.fit(X, Y, validation_data=(X[:2], Y[:2]), validation_split=0.5, verbose=0)
    assert history.history["val_loss"][0] == pytest.approx(plain.loss(X[:2], Y[:2]), rel=1e-12)
    assert history.history["loss"][0] == pytest.approx(plain.loss(X, Y), rel=1e-12)


def test_the_batch_size_of_the_validation() -> None:
    counts: list[int] = []

    class Count(Callback):
        def on_test_begin(self, logs: Any) -> None:
            counts.append(0)

        def on_test_batch_end(self, batch: int, logs: Any) -> None:
            counts[-1] += 1

    def run(**more: Any) -> None:
        options: dict[str, Any] = {"validation_data": (X, Y), "callbacks": Count(), **more}
        compiled().fit(X, Y, batch_size=3, verbose=0, **options)

    run()
    run(validation_batch_size=2)
    assert counts == [3, 4]


# --- order ------------------------------------------------------------------------------------


def run_with_seed(seed: int) -> tuple[dict[str, Any], list[Any]]:
    gc.set_seed(seed)
    model = Sequential(
        [
            Flatten(input_shape=(6, 6, 2)),
            Dense(8, activation="relu"),
            gc.layers.Dropout(0.3),
            Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", SPARSE, ["accuracy"])
    history = model.fit(images(40), labels(40, 3, 9), batch_size=7, epochs=3, verbose=0)
    return history.history, model.get_weights()


def test_the_same_seed_gives_the_same_bits() -> None:
    (first, weights), (again, other) = run_with_seed(5), run_with_seed(5)
    assert first == again
    for a, b in zip(weights, other, strict=True):
        np.testing.assert_array_equal(a, b)
    third, _ = run_with_seed(6)
    assert third["loss"] != first["loss"]


def test_each_epoch_has_its_own_order_of_all_samples() -> None:
    gc.set_seed(0)
    model = compiled(rate=0.0)
    recorder = Recorder()
    x = np.arange(40.0).reshape(10, 4)
    model.fit(x, labels(10, 3, 1), batch_size=4, epochs=4, callbacks=recorder, verbose=0)
    orders = []
    for epoch in range(4):
        batches = recorder.batches[3 * epoch : 3 * epoch + 3]
        orders.append(tuple(int(row[0]) // 4 for part, _, _ in batches for row in part))
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 4


def test_without_shuffling_the_order_is_the_users() -> None:
    model = compiled(rate=0.0)
    recorder = Recorder()
    model.fit(X, Y, batch_size=3, epochs=2, shuffle=False, callbacks=recorder, verbose=0)
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in recorder.batches]), [*X, *X])


def test_inputs_targets_and_weights_stay_together() -> None:
    gc.set_seed(3)
    model = compiled(rate=0.0)
    recorder = Recorder()
    x = np.repeat(np.arange(20.0)[:, None], 4, axis=1)
    y, w = np.arange(20) % 3, np.arange(20.0) / 2
    model.fit(x, y, batch_size=6, sample_weight=w, callbacks=recorder, verbose=0)
    for part, targets, weights in recorder.batches:
        np.testing.assert_array_equal(targets, part[:, 0].astype(int) % 3)
        np.testing.assert_array_equal(weights, part[:, 0] / 2)


# --- how long ---------------------------------------------------------------------------------


def test_steps_per_epoch_of_arrays() -> None:
    recorder = Recorder()
    compiled().fit(
        X,
        Y,
        batch_size=2,
        steps_per_epoch=2,
        epochs=3,
        callbacks=recorder,
        shuffle=False,
        verbose=0,
    )
    assert [len(x) for x, _, _ in recorder.batches] == [2] * 6


def test_steps_of_an_epoch_round_up() -> None:
    model = Sequential([Dense(2, activation="softmax", input_shape=(1,))])
    model.compile("sgd", SPARSE)
    x = np.broadcast_to(np.zeros(1, np.uint8), (50_000, 1))
    steps: list[Any] = []

    class Look(Callback):
        def on_train_begin(self, logs: Any) -> None:
            steps.append(self.params["steps"])
            self.model.stop_training = True

    model.fit(x, np.zeros(50_000, np.int8), callbacks=Look(), verbose=0)
    assert steps == [1563]


class StopAt(Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)
        self.epoch = 0
        self.ended: list[int] = []
        self.batches = 0

    def on_epoch_begin(self, epoch: int, logs: Any) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any) -> None:
        self.batches += 1
        if (self.epoch, batch) == self.at:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self.ended.append(epoch)


def test_stop_training_ends_after_the_current_batch() -> None:
    stop = StopAt(1, 0)
    history = compiled().fit(X, Y, batch_size=3, epochs=9, callbacks=[stop], verbose=0)
    assert stop.batches == 4
    assert stop.ended == [0]  # an epoch that was cut short has no end
    assert history.epoch == [0]


def test_stop_training_in_the_last_batch_completes_the_epoch() -> None:
    stop = StopAt(1, 2)
    model = compiled()
    history = model.fit(X, Y, batch_size=3, epochs=9, callbacks=[stop], verbose=0)
    assert stop.batches == 6
    assert history.epoch == [0, 1]
    assert len(model.fit(X, Y, epochs=2, verbose=0).epoch) == 2  # it starts anew


def test_batch_logs_are_the_means_so_far() -> None:
    model = compiled(rate=0.0)
    plain = reference(model)
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            assert list(logs) == ["loss", "accuracy"]
            seen.append(logs["loss"])

    model.fit(X, Y, batch_size=3, shuffle=False, callbacks=Watch(), verbose=0)
    np.testing.assert_allclose(seen, [plain.loss(X[:n], Y[:n]) for n in (3, 6, 7)], rtol=1e-12)


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
