"""At which moments fit, evaluate and predict call callbacks, also when something fails."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.callbacks import (
    BackupAndRestore,
    Callback,
    LambdaCallback,
    LearningRateScheduler,
    StopOnInterrupt,
    TerminateOnNaN,
)
from gpuconv.errors import FileFormatError, InvalidArgumentError
from gpuconv.models.finite import first_not_finite

X = np.linspace(-1, 1, 10, dtype="float32").reshape(5, 2)
Y = X.sum(axis=1, keepdims=True)
MOMENTS = [name for name in vars(Callback) if name.startswith("on_")]


class Listener(Callback):
    """Writes down every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.logs: dict[str, list[str]] = {}

    def __getattribute__(self, name: str) -> Any:
        if name not in MOMENTS:
            return super().__getattribute__(name)

        def listen(*arguments: Any) -> None:
            number = "" if len(arguments) == 1 else f" {arguments[0]}"
            self.calls.append(name.removeprefix("on_") + number)
            self.logs[name] = list(arguments[-1])

        return listen


def compiled() -> gc.Sequential:
    model = gc.Sequential([layers.Dense(1, input_shape=(2,))])
    model.compile("sgd", "mse", ["mae"])
    return model


def failing(*moments: str) -> LambdaCallback:
    def fail(*arguments: Any) -> None:
        raise OSError("failed")

    return LambdaCallback(**dict.fromkeys(moments, fail))


def test_the_moments_of_fit() -> None:
    listener = Listener()
    compiled().fit(X, Y, 3, 2, 0, listener, validation_data=(X[:1], Y[:1]), validation_freq=2)
    batches = ["train_batch_begin 0", "train_batch_end 0", "train_batch_begin 1",
               "train_batch_end 1"]  # fmt: skip
    assert listener.calls == [
        "train_begin",
        "epoch_begin 0", *batches, "epoch_end 0",
        "epoch_begin 1", *batches,
        "test_begin", "test_batch_begin 0", "test_batch_end 0", "test_end", "epoch_end 1",
        "train_end",
    ]  # fmt: skip
    assert listener.logs["on_train_batch_end"] == ["loss", "mae"]
    assert listener.logs["on_epoch_end"] == ["loss", "mae", "val_loss", "val_mae"]


def test_the_moments_of_evaluate_and_predict() -> None:
    listener, model = Listener(), compiled()
    model.evaluate(X, Y, 3, verbose=0, callbacks=listener)
    model.predict(X, 3, verbose=0, callbacks=listener)
    assert listener.calls == [
        "test_begin", "test_batch_begin 0", "test_batch_end 0",
        "test_batch_begin 1", "test_batch_end 1", "test_end",
        "predict_begin", "predict_batch_begin 0", "predict_batch_end 0",
        "predict_batch_begin 1", "predict_batch_end 1", "predict_end",
    ]  # fmt: skip
    assert listener.logs["on_test_end"] == ["loss", "mae"]


def test_an_error_still_ends_everything() -> None:
    listener, model = Listener(), compiled()
    broken = failing("on_test_batch_end", "on_predict_batch_end")
    with pytest.raises(OSError, match="failed"):
        model.fit(X, Y, 5, 1, 0, [listener, broken], validation_data=(X, Y))
    with pytest.raises(OSError, match="failed"):
        model.evaluate(X, Y, 5, verbose=0, callbacks=[listener, broken])
    assert listener.logs["on_test_end"] == []  # no numbers: they would not be those of all data
    with pytest.raises(OSError, match="failed"):
        model.predict(X, 5, verbose=0, callbacks=[listener, broken])
    assert listener.calls == [
        "train_begin", "epoch_begin 0", "train_batch_begin 0", "train_batch_end 0",
        "test_begin", "test_batch_begin 0", "test_batch_end 0", "test_end", "train_end",
        "test_begin", "test_batch_begin 0", "test_batch_end 0", "test_end",
        "predict_begin", "predict_batch_begin 0", "predict_batch_end 0", "predict_end",
    ]  # fmt: skip


def test_a_failing_end_does_not_keep_others_from_theirs() -> None:
    listener, model = Listener(), compiled()
    broken = failing("on_train_end", "on_test_end", "on_predict_end")
    with pytest.raises(OSError, match="failed"):
        model.fit(X, Y, 5, 1, 0, [broken, listener])
    with pytest.raises(OSError, match="failed"):
        model.evaluate(X, Y, 5, verbose=0, callbacks=[broken, listener])
    with pytest.raises(OSError, match="failed"):
        model.predict(X, 5, verbose=0, callbacks=[broken, listener])
    assert {"train_end", "test_end", "predict_end"} <= set(listener.calls)


def test_an_epoch_that_is_cut_short_has_no_end() -> None:
    listener, model = Listener(), compiled()

    def stop(batch: int, logs: Any) -> None:
        model.stop_training = True

    history = model.fit(X, Y, 2, 3, 0, [listener, LambdaCallback(on_train_batch_end=stop)])
    assert listener.calls == [
        "train_begin", "epoch_begin 0", "train_batch_begin 0", "train_batch_end 0", "train_end",
    ]  # fmt: skip
    assert history.epoch == []


def test_the_handler_of_ctrl_c_is_put_back_when_the_start_fails(tmp_path: Path) -> None:
    (tmp_path / "backup.safetensors").write_bytes(b"nonsense")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(FileFormatError):
        compiled().fit(X, Y, verbose=0, callbacks=[StopOnInterrupt(), BackupAndRestore(tmp_path)])
    assert signal.getsignal(signal.SIGINT) == before


def test_the_history_has_the_learning_rate() -> None:
    halving = LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = compiled().fit(X, Y, epochs=2, verbose=0, callbacks=halving).history
    assert history["learning_rate"] == [0.005, 0.0025]


def test_a_loss_that_overflows_ends_training(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled()
    model.compile(gc.optimizers.SGD(1e30), "mse")
    terminate = TerminateOnNaN()
    with np.errstate(all="ignore"):
        history = model.fit(X, Y, 1, 5, 0, terminate)
    assert terminate.stopped_at is not None
    assert len(history.epoch) == terminate.stopped_at[0]
    assert "training stops" in capsys.readouterr().out


class Spoiling(gc.layers.Layer):
    """Gives NaN in the third batch of a training."""

    def run(self, x: Any, training: bool) -> Any:
        self.batches = getattr(self, "batches", 0) + training
        y = x * np.nan if training and self.batches >= 3 else x
        return y, lambda dy, input_gradient=True: dy if input_gradient else None


@pytest.mark.parametrize("where", ["layer", "model inside", "loss"])
def test_a_loss_that_is_no_number_is_traced_to_where_it_began(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiling = Spoiling(name="spoiling")
    middle: Any = gc.layers.Activation("relu", name="harmless")
    if where == "layer":
        middle = spoiling
    if where == "model inside":
        middle = gc.Sequential([gc.layers.Activation("tanh"), spoiling], name="block")
    model = gc.Sequential([gc.layers.Dense(3, input_shape=(2,)), middle, gc.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    given: dict[str, Any] = {"x": x, "y": y, "batch_size": 2, "shuffle": False}
    if where == "loss":
        y[4:6] = 1e25  # whose square is too large
    terminate = TerminateOnNaN()
    with np.errstate(all="ignore"):
        model.fit(**given, verbose=0, callbacks=terminate)
    expected = {
        "layer": "spoiling",
        "model inside": "block/spoiling",
        "loss": "the loss",
    }[where]
    assert terminate.began_in == expected
    assert f"came from {expected}" in capsys.readouterr().out
    assert not model.watches_loss
    assert first_not_finite(model, x * np.inf) == "the inputs"


def test_the_shown_lines_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled()
    history = model.fit(X, Y, 3, 2, 2, validation_split=0.2).history
    model.evaluate(X, Y, verbose=2)
    model.predict(X, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == [
        "Epoch 1/2", "Epoch 2/2", "Evaluate", "Predict",
    ]  # fmt: skip
    assert lines[1].split(" - ")[2:] == [
        "2 steps",
        *(f"{name}: {history[name][1]:.4f}" for name in ("loss", "mae", "val_loss", "val_mae")),
    ]


@pytest.mark.parametrize("verbose", [3, "loud", None])
def test_verbose_is_checked_before_the_first_step(verbose: Any) -> None:
    model, listener = compiled(), Listener()
    with pytest.raises(InvalidArgumentError, match="verbose must be"):
        model.fit(X, Y, verbose=verbose, callbacks=listener)
    with pytest.raises(InvalidArgumentError, match="verbose must be"):
        model.evaluate(X, Y, verbose=verbose)
    with pytest.raises(InvalidArgumentError, match="verbose must be"):
        model.predict(X, verbose=verbose)
    assert listener.calls == []
