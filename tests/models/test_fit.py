"""``fit``: which samples, in which order, with which weights, and what the history says of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
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
    reference,
    snapshot,
    uniform,
)

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.callbacks import Callback, History
from gpuconv.layers import Dense, Flatten
from gpuconv.optimizers import SGD

SPARSE = "sparse_categorical_crossentropy"


def test_the_words_of_fit_and_their_defaults() -> None:
    parameters = list(inspect.signature(Sequential.fit).parameters.values())[3:]
    assert {p.name: p.default for p in parameters} == {
        "batch_size": None,  # stands for 32
        "epochs": 1,
        "verbose": "auto",
        "callbacks": None,
        "validation_split": 0.0,
        "validation_data": None,
        "shuffle": True,
        "class_weight": None,
        "sample_weight": None,
        "initial_epoch": 0,
        "steps_per_epoch": None,
        "validation_steps": None,
        "validation_batch_size": None,
        "validation_freq": 1,
    }


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
    # In order, an epoch goes on where the last one stopped, as in Keras; 7 samples are 4 batches.
    assert [len(x) for x, _, _ in recorder.batches] == [2, 2, 2, 1, 2, 2]
    seen = np.concatenate([x for x, _, _ in recorder.batches])
    np.testing.assert_array_equal(seen, np.concatenate([X, X[:4]]))


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
