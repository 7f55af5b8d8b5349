"""Bad input to ``fit``: the error says what was expected, and comes before anything changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from model_makers import assert_same_weights, images, linear_model, small_cnn, snapshot, uniform

from gpuconv import Sequential
from gpuconv.callbacks import Callback
from gpuconv.errors import (
    DTypeError,
    GpuconvError,
    InvalidArgumentError,
    NotBuiltError,
    ShapeError,
)
from gpuconv.layers import Dense, GlobalAveragePooling2D

SPARSE = "sparse_categorical_crossentropy"
X = images(12)
Y = np.arange(12) % 3


class MustNotRun(Callback):
    def on_train_begin(self, logs: Any) -> None:
        raise AssertionError("training began")


def refuse(
    error: type[GpuconvError],
    message: str,
    x: Any = X,
    y: Any = Y,
    model: Sequential | None = None,
    **options: Any,
) -> None:
    """``fit`` raises this error, says what it received, and changes nothing."""
    if model is None:
        model = small_cnn()
        model.compile("adam", SPARSE, ["accuracy"])
    before = snapshot(model)
    given: dict[str, Any] = {"verbose": 0, "callbacks": [MustNotRun()], **options}
    with pytest.raises(error, match=message) as raised:
        model.fit(x, y, **given)
    assert "Received:" in str(raised.value)
    assert_same_weights(model, before)
    assert model.optimizer is not None
    assert model.optimizer.iterations == 0
    assert all(parameter.grad is None for parameter in model.parameters)


def replaced(array: np.ndarray[Any, Any], index: Any, value: float) -> np.ndarray[Any, Any]:
    changed = array.copy()
    changed[index] = value
    return changed


# --- inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[..., 0], r"expected an input of 4 dimensions.*Received: shape \(None, 6, 6\)"),
        (X[..., None], "expected an input of 4 dimensions"),
        (X[..., :1], r"expected 2 channels.*Received: shape \(None, 6, 6, 1\)"),
        (np.concatenate([X, X], axis=-1), "expected 2 channels"),
        (X[:, :2], "kernel must fit"),
        (np.zeros((12, 9, 9, 2)), "expected 16 features"),
        (np.zeros((12, 2, 6, 6)), "expected 2 channels"),
        (np.float32(3), "at least one axis"),
    ],
)
def test_inputs_of_a_wrong_shape(x: Any, message: str) -> None:
    refuse(ShapeError, message, x)


@pytest.mark.parametrize(
    "x",
    [
        X.astype(object),
        X.astype(str),
        X.astype(np.complex64),
        np.full(X.shape, "2024-01-01", "datetime64[D]"),
        np.full(X.shape, b"a"),
        [["a", "b"]] * 12,
    ],
)
def test_inputs_that_are_no_numbers(x: Any) -> None:
    refuse(DTypeError, "x", x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(value: float) -> None:
    at = (11, 5, 4, 1)
    refuse(InvalidArgumentError, rf"{value} at x\[11, 5, 4, 1\]", replaced(X, at, value))
    refuse(InvalidArgumentError, "finite", X.astype(np.float64) * np.float64(value))
    y = replaced(Y.astype(np.float64), 7, value)
    refuse(InvalidArgumentError, rf"{value} at y\[7\]", y=y)
    weights = replaced(np.ones(12), 3, value)
    refuse(InvalidArgumentError, rf"{value} at sample_weight\[3\]", sample_weight=weights)
    held_out = (replaced(X, at, value), Y)
    refuse(InvalidArgumentError, "finite", validation_data=held_out)


def test_ragged_lists() -> None:
    refuse(ShapeError, "x", [[1.0, 2.0], [3.0]] * 6)


@pytest.mark.parametrize("x", [None, 3, "data", {"a": X}, object()])
def test_things_that_are_no_data(x: Any) -> None:
    refuse(GpuconvError, "real numbers|at least one axis", x)


def test_several_inputs_for_a_model_with_one() -> None:
    refuse(InvalidArgumentError, "has one input. Received: a list of 2 arrays", [X, X])
    model = small_cnn()
    for call in (model.predict, model.predict_on_batch):
        with pytest.raises(InvalidArgumentError, match="has one input"):
            call([X, X])


# --- lengths ----------------------------------------------------------------------------------


def test_lengths_that_differ() -> None:
    refuse(ShapeError, "x with 12, y with 11", y=Y[:11])
    refuse(ShapeError, "x with 12, sample_weight with 13", sample_weight=np.ones(13))
    refuse(ShapeError, "x with 12, y with 3", validation_data=(X, Y[:3]))
    refuse(ShapeError, "one number a sample", sample_weight=np.ones((12, 2)))


def test_no_data() -> None:
    refuse(InvalidArgumentError, "at least one sample", X[:0], Y[:0])
    refuse(InvalidArgumentError, "at least one sample", validation_data=(X[:0], Y[:0]))
    refuse(InvalidArgumentError, "y, the targets, must be given", y=None)
    model = small_cnn()
    model.compile("sgd", SPARSE)
    with pytest.raises(InvalidArgumentError, match="at least one batch"):
        model.fit(iter([]), verbose=0)


# --- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (replaced(Y, 5, 3), InvalidArgumentError, r"in \[0, 3\).*labels from 0 to 3"),
        (replaced(Y, 5, -1), InvalidArgumentError, r"in \[0, 3\).*labels from -1 to 2"),
        (Y + 0.5, InvalidArgumentError, "must be integers"),
        (np.eye(3)[Y], ShapeError, "One-hot labels belong to the categorical form"),
        (np.stack([Y, Y], axis=1), ShapeError, "class numbers must have the shape"),
        (Y.astype(str), DTypeError, "y: expected real numbers"),
        (Y.astype(object), DTypeError, "y"),
        (["a"] * 12, DTypeError, "y"),
        (np.int64(3), ShapeError, "at least one axis"),
    ],
)
def test_labels_that_do_not_fit(y: Any, error: type[GpuconvError], message: str) -> None:
    refuse(error, message, y=y)
    refuse(error, message, validation_data=(X, y))


def test_a_wrong_label_far_behind() -> None:
    y = np.zeros(5000, np.int64)
    y[4321] = 3
    model = linear_model()
    model.compile("sgd", SPARSE)
    refuse(InvalidArgumentError, r"in \[0, 3\)", np.zeros((5000, 4)), y, model)


def test_labels_for_the_other_losses() -> None:
    model = small_cnn()
    model.compile("sgd", "categorical_crossentropy")
    refuse(ShapeError, "Class numbers belong to the sparse categorical form", model=model)
    model.compile("sgd", "mse")
    refuse(ShapeError, "must have the shape of the outputs", model=model)


def test_targets_that_only_a_metric_cannot_take() -> None:
    model = small_cnn()
    model.compile("adam", "mse", ["mae", "sparse_categorical_accuracy"])
    refuse(ShapeError, "class numbers must have the shape", y=np.eye(3)[Y], model=model)
    model.compile("adam", SPARSE, ["categorical_accuracy"])
    refuse(ShapeError, "Class numbers belong to the sparse", model=model)
    refuse(ShapeError, "Class numbers belong to the sparse", model=model, validation_data=(X, Y))


def test_labels_of_a_map_are_checked_too() -> None:
    model = Sequential([Dense(3, activation="softmax", input_shape=(6, 6, 2))])
    model.compile("sgd", SPARSE)
    y = np.zeros((12, 6, 6), np.int64)
    y[11, 5, 5] = 7
    refuse(InvalidArgumentError, r"in \[0, 3\)", y=y, model=model)


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1. Received: 0"),
        ({"batch_size": -3}, "batch_size must be an integer"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"batch_size": True}, "batch_size must be an integer"),
        ({"batch_size": "32"}, "batch_size must be an integer"),
        ({"epochs": -1}, "epochs must be an integer of at least 0. Received: -1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"epochs": None}, "epochs must be an integer"),
        ({"initial_epoch": -1}, "initial_epoch must be"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1"),
        ({"steps_per_epoch": 2}, "steps_per_epoch must be at most 1"),
        ({"validation_freq": 0}, "validation_freq must be"),
        ({"validation_batch_size": 0}, "validation_batch_size must be"),
        ({"validation_split": 1}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": 1.0}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": 1.5}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": -0.1}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": math.nan}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": "0.1"}, "validation_split must be a number between 0 and 1"),
        ({"validation_split": 1e-20}, "leaves 12 of 12 samples for training"),
        ({"validation_split": 0.95}, "leaves 0 of 12 samples for training"),
        ({"verbose": 3}, "verbose must be 0"),
        ({"verbose": "yes"}, "verbose must be 0"),
        ({"callbacks": [3]}, "callbacks must be objects"),
        ({"callbacks": "early"}, "callbacks must be objects"),
        ({"validation_data": (X,)}, r"validation_data must be \(x, y\)"),
        ({"validation_data": (X, Y, Y, Y)}, r"validation_data must be \(x, y\)"),
        ({"class_weight": {}}, "class_weight must be a dict"),
        ({"class_weight": {0: -1.0}}, "class_weight must be a dict"),
        ({"class_weight": {0: math.nan}}, "class_weight must be a dict"),
        ({"class_weight": {0.5: 1.0}}, "class_weight must be a dict"),
        ({"class_weight": {-1: 1.0}}, "class_weight must be a dict"),
        ({"class_weight": {"cat": 1.0}}, "class_weight must be a dict"),
        ({"class_weight": {0: "heavy"}}, "class_weight must be a dict"),
        ({"class_weight": {0: None}}, "class_weight must be a dict"),
        ({"class_weight": [1.0, 2.0]}, "class_weight must be a dict"),
        ({"class_weight": 3.0}, "class_weight must be a dict"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    refuse(InvalidArgumentError, message, **options)


def test_a_split_of_one_sample() -> None:
    refuse(InvalidArgumentError, "both need at least one", X[:1], Y[:1], validation_split=0.5)


def test_a_split_of_an_iterable() -> None:
    batches = [(X, Y)]
    refuse(
        InvalidArgumentError, "validation_split needs arrays", batches, None, validation_split=0.5
    )


def test_targets_beside_an_iterable() -> None:
    refuse(InvalidArgumentError, "an iterable brings its own y", [(X, Y)], Y)


def test_a_generator_cannot_be_read_twice() -> None:
    message = "gives its batches only once"
    refuse(InvalidArgumentError, message, (b for b in [(X, Y)]), None, epochs=2)
    refuse(InvalidArgumentError, message, validation_data=(b for b in [(X, Y)]), epochs=2)


def test_a_bad_batch_of_an_iterable_stops_before_its_step() -> None:
    model = small_cnn()
    model.compile("sgd", SPARSE)
    good = (X[:4], Y[:4])
    once = small_cnn()
    once.compile("sgd", SPARSE)
    once.train_on_batch(*good)
    for bad, message in [
        ((replaced(X, 0, math.nan), Y), "finite"),
        ((X, Y + 1), r"labels must lie in \[0, 3\)"),
        ((X[..., :1], Y), "expected 2 channels"),
        ((X, Y[:5]), "same number of samples"),
        ((X, Y, Y, Y), r"must be \(x, y\)"),
    ]:
        model.set_weights(small_cnn().get_weights())
        with pytest.raises(GpuconvError, match=message):
            model.fit(iter([good, bad]), verbose=0)
        assert_same_weights(model, snapshot(once))


def test_class_weights_of_a_map() -> None:
    model = Sequential([Dense(3, activation="softmax", input_shape=(6, 6, 2))])
    model.compile("sgd", SPARSE)
    before = snapshot(model)
    with pytest.raises(ShapeError, match="class_weight needs one class for each sample"):
        model.fit(X, np.zeros((12, 6, 6), int), class_weight={0: 2.0}, verbose=0)
    assert_same_weights(model, before)


# --- compile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_a_model_that_is_not_compiled(call: str) -> None:
    model = small_cnn()
    before = snapshot(model)
    with pytest.raises(NotBuiltError, match="call compile"):
        getattr(model, call)(X, Y)
    model.compile("sgd")
    with pytest.raises(NotBuiltError, match="has no loss yet"):
        getattr(model, call)(X, Y)
    assert_same_weights(model, before)
    assert model.predict(X, verbose=0).shape == (12, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adm", SPARSE), r"no optimizer has this name.*Did you mean 'adam'\? Received: 'adm'"),
        (("adam", "mean_square_error"), "no loss .*Did you mean 'mean_squared_error'"),
        (("adam", "sparse_categorical_crossentrpy"), f"Did you mean '{SPARSE}'"),
        (("adam", SPARSE, ["acuracy"]), "no metric .*Did you mean 'accuracy'"),
        ((3, SPARSE), "expected an? optimizer"),
        (("adam", 3), "expected a loss"),
        (("adam", SPARSE, [3]), "expected a metric"),
        (("adam", SPARSE, ["accuracy", "accuracy"]), "different names"),
    ],
)
def test_unknown_words_in_compile(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        small_cnn().compile(*arguments)


def test_a_metric_that_takes_the_name_of_the_loss() -> None:
    from gpuconv.metrics import MeanAbsoluteError

    with pytest.raises(InvalidArgumentError, match="none 'loss'"):
        small_cnn().compile("sgd", SPARSE, [MeanAbsoluteError(name="loss")])


def test_compile_that_fails_leaves_what_was_there() -> None:
    model = small_cnn()
    model.compile("adam", SPARSE, ["accuracy"])
    optimizer, loss, metrics = model.optimizer, model.loss, model.metrics
    for arguments in (("adm", "mse"), ("sgd", "ms"), ("sgd", "mse", ["mea"])):
        with pytest.raises(InvalidArgumentError):
            model.compile(*arguments)
        assert (model.optimizer, model.loss, model.metrics) == (optimizer, loss, metrics)


def test_compile_defaults_to_rmsprop() -> None:
    from gpuconv.optimizers import RMSprop

    model = small_cnn()
    model.compile(loss=SPARSE)
    assert isinstance(model.optimizer, RMSprop)


# --- the state after an error -----------------------------------------------------------------


def test_an_error_within_an_epoch_reaches_the_user_and_closes_the_run() -> None:
    ended: list[str] = []

    class Breaks(Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            raise OSError("disk full")

        def on_train_end(self, logs: Any) -> None:
            ended.append("closed")

    model = small_cnn()
    model.compile("sgd", SPARSE)
    with pytest.raises(OSError, match="disk full"):
        model.fit(X, Y, callbacks=Breaks(), verbose=0)
    assert ended == ["closed"]
    assert len(model.fit(X, Y, verbose=0).history["loss"]) == 1


def test_shapes_that_the_layers_take_but_the_targets_do_not() -> None:
    model = Sequential([GlobalAveragePooling2D(input_shape=(6, 6, 2)), Dense(1)])
    model.compile("sgd", "mse")
    refuse(
        ShapeError, "labels must have the shape of the outputs", y=uniform((12, 2), 1), model=model
    )
    assert len(model.fit(X, uniform((12,), 1), verbose=0).history["loss"]) == 1
