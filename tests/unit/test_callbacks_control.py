"""Callbacks that steer a run: schedules, NaN, functions, Ctrl-C, and the list that calls them."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callback_driver import FakeModel, drive

from gpuconv.callbacks import (
    Callback,
    History,
    LambdaCallback,
    LearningRateScheduler,
    StopOnInterrupt,
    TerminateOnNaN,
)
from gpuconv.callbacks.base import CallbackList
from gpuconv.errors import InvalidArgumentError, UnknownArgumentError
from gpuconv.optimizers.schedules import ExponentialDecay, PiecewiseConstantDecay

# --- LearningRateScheduler --------------------------------------------------------------------


def scheduled(schedule: Any, epochs: int = 3, start: float = 1.0) -> list[float]:
    history = History()
    drive([LearningRateScheduler(schedule), history], [{"loss": 1.0}] * epochs, FakeModel(start))
    return list(history.history["learning_rate"])


def test_the_schedule_gets_the_epoch_from_zero_and_the_rate_so_far() -> None:
    assert scheduled(lambda epoch, rate: rate / 2 if epoch else rate) == [1.0, 0.5, 0.25]
    assert scheduled(lambda epoch, rate: np.float32(rate + epoch)) == [1.0, 2.0, 4.0]


def test_the_schedule_may_take_the_epoch_alone() -> None:
    assert scheduled(lambda epoch: 1 / (epoch + 1)) == [1.0, 0.5, 1 / 3]
    assert scheduled(PiecewiseConstantDecay([0.5], [3.0, 2.0])) == [3.0, 2.0, 2.0]
    assert scheduled(max) == [1.0, 1.0, 2.0]  # a built-in that does not tell its arguments


def test_the_rate_is_set_before_the_epoch() -> None:
    seen: list[float] = []
    model = FakeModel(1.0)
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(model.optimizer.learning_rate)
    )
    drive([LearningRateScheduler(lambda epoch: 0.5), watch], [{"loss": 1.0}], model, steps=1)
    assert seen == [0.5]


def test_the_schedule_says_so_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    drive(LearningRateScheduler(lambda epoch: 0.125, verbose=1), [{"loss": 1.0}])
    assert capsys.readouterr().out == "Epoch 1: learning rate 0.125\n"


def test_a_run_that_goes_on_within_an_epoch_does_not_schedule_it_twice() -> None:
    halving = LearningRateScheduler(lambda epoch, rate: rate / 2)
    drive(halving, [{"loss": 1.0}] * 2, model := FakeModel(1.0))
    assert model.optimizer.learning_rate == 0.25
    again = LearningRateScheduler(lambda epoch, rate: rate / 2)
    again.model = model  # type: ignore[assignment]
    again.on_train_begin({})
    again.set_state(halving.get_state())
    again.on_epoch_begin(1, {})
    assert model.optimizer.learning_rate == 0.25
    again.on_epoch_begin(2, {})
    assert model.optimizer.learning_rate == 0.125


@pytest.mark.parametrize("rate", [None, "0.1", -1.0, math.nan, math.inf, True, [0.1]])
def test_a_schedule_must_return_a_rate(rate: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Received: .* for epoch 0"):
        scheduled(lambda epoch: rate)


def test_a_schedule_must_be_a_function() -> None:
    with pytest.raises(InvalidArgumentError, match=r"Received: 0\.1"):
        LearningRateScheduler(0.1)  # type: ignore[arg-type]


def test_two_schedules_are_refused_before_the_first_epoch() -> None:
    model = FakeModel(ExponentialDecay(1.0, 10, 0.5))
    with pytest.raises(InvalidArgumentError, match="LearningRateScheduler needs"):
        drive(LearningRateScheduler(lambda epoch: 0.1), [{"loss": 1.0}], model)
    assert model.weight[0] == -1.0


# --- TerminateOnNaN ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_stops_at_the_first_loss_that_is_no_number(
    loss: float, capsys: pytest.CaptureFixture[str]
) -> None:
    history, terminate = History(), TerminateOnNaN()
    batches: list[int] = []
    count = LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
    drive([terminate, history, count], [{"loss": 1.0}, {"loss": loss}, {"loss": 1.0}])
    assert terminate.stopped_at == (1, 0)
    assert history.epoch == [0]
    assert batches == [0, 1, 2, 0]
    assert capsys.readouterr().out == (
        f"Epoch 2/3, batch 1/3: the loss is {loss}, training stops\n"
    )


def test_a_finite_loss_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    terminate = TerminateOnNaN()
    assert drive(terminate, [{"loss": 1e30}, {}]).weight[0] == 1.0
    assert terminate.stopped_at is None
    assert capsys.readouterr().out == ""


# --- LambdaCallback ---------------------------------------------------------------------------


def test_functions_are_called_at_their_moments() -> None:
    calls: list[Any] = []
    drive(
        LambdaCallback(
            on_train_begin=lambda logs: calls.append("begin"),
            on_epoch_begin=lambda epoch, logs: calls.append(epoch),
            on_train_batch_end=lambda batch, logs: calls.append((batch, logs["loss"])),
            on_epoch_end=None,
            on_train_end=lambda logs: calls.append("end"),
        ),
        [{"loss": 0.5}] * 2,
        steps=1,
    )
    assert calls == ["begin", 0, (0, 0.5), 1, (0, 0.5), "end"]


def test_unknown_moments_are_refused() -> None:
    with pytest.raises(UnknownArgumentError, match=r"Did you mean 'on_epoch_end'\? Received: "):
        LambdaCallback(on_epoch_ends=print)
    with pytest.raises(UnknownArgumentError, match="Received: get_state="):
        LambdaCallback(get_state=dict)
    with pytest.raises(InvalidArgumentError, match="on_epoch_end must be a function"):
        LambdaCallback(on_epoch_end=3)  # type: ignore[arg-type]


# --- the list ---------------------------------------------------------------------------------


class Named(Callback):
    def __init__(self, name: str, calls: list[str], broken: bool = False) -> None:
        self.name, self.calls, self.broken = name, calls, broken

    def on_train_end(self, logs: Any) -> None:
        self.calls.append(self.name)
        if self.broken:
            raise OSError(self.name)


class Late(Named):
    called_last = True


def test_callbacks_are_called_in_order_and_late_ones_last() -> None:
    calls: list[str] = []
    several = [Late("late", calls), Named("a", calls), Named("b", calls)]
    listeners = CallbackList(several, FakeModel(), {"epochs": 1})  # type: ignore[arg-type]
    listeners.call("on_train_end", {})
    assert calls == ["a", "b", "late"]
    assert several[0].peers == [several[1], several[2], several[0]]


def test_closing_reaches_all_callbacks_even_when_one_fails() -> None:
    calls: list[str] = []
    several = [Named("a", calls), Named("b", calls, broken=True), Named("c", calls)]
    listeners = CallbackList(several, FakeModel(), {"epochs": 1})  # type: ignore[arg-type]
    with pytest.raises(OSError, match="b"):
        listeners.finish("on_train_end", {})
    assert calls == ["a", "b", "c"]


def test_history_goes_on_from_its_state() -> None:
    first = History()
    drive(first, [{"loss": 2.0}, {"loss": 1.0, "val_loss": 3.0}])
    second = History()
    second.set_state(first.get_state())
    second.on_epoch_end(2, {"loss": 0.5})
    assert second.history == {"loss": [2.0, 1.0, 0.5], "val_loss": [3.0]}
    assert second.epoch == [0, 1, 2]
    assert first.epoch == [0, 1]


# --- StopOnInterrupt --------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from callback_driver import drive
from gpuconv.callbacks import LambdaCallback, StopOnInterrupt

stop, presses = StopOnInterrupt(), int(sys.argv[2])

def press(batch, logs):
    if batch == 1:
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

ended = []
listen = LambdaCallback(
    on_train_batch_begin=press, on_train_batch_end=lambda batch, logs: ended.append(batch)
)
before = signal.getsignal(signal.SIGINT)
try:
    drive([stop, listen], [{"loss": 1.0}] * 2, steps=4)
    print("returned")
except KeyboardInterrupt:
    print("interrupted")
print(ended, stop.interrupted, signal.getsignal(signal.SIGINT) is before)
"""


def pressed(presses: int) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(presses)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.skipif(os.name != "posix", reason="os.kill sends no SIGINT here")
def test_the_first_ctrl_c_ends_the_batch_and_the_second_everything() -> None:
    assert pressed(0) == ["returned", "[0, 1, 2, 3, 0, 1, 2, 3] False True"]
    assert pressed(1) == ["Stopped by Ctrl-C", "returned", "[0, 1] True True"]
    assert pressed(2) == ["Stopped by Ctrl-C", "interrupted", "[0] True True"]


def interrupt_now() -> None:
    signal.raise_signal(signal.SIGINT)


def test_during_validation_it_says_that_the_validation_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop = StopOnInterrupt()
    stop.model = FakeModel()  # type: ignore[assignment]
    stop.on_train_begin({})
    try:
        interrupt_now()
        stop.on_test_batch_end(0, {})
        stop.on_test_batch_end(1, {})
    finally:
        stop.on_train_end({})
    assert stop.model.stop_training
    assert capsys.readouterr().out == (
        "Ctrl-C: training stops after this validation; again to stop at once\n"
    )


def test_an_object_can_be_used_again() -> None:
    stop = StopOnInterrupt()
    once = LambdaCallback(on_epoch_end=lambda epoch, logs: interrupt_now())
    assert drive([stop, once], [{"loss": 1.0}] * 3).weight[0] == 0.0
    assert stop.interrupted
    assert drive(stop, [{"loss": 1.0}] * 3).weight[0] == 2.0
    assert not stop.interrupted


def test_the_handler_is_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)

    def fail(epoch: int, logs: Any) -> None:
        assert signal.getsignal(signal.SIGINT) != before
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        drive([StopOnInterrupt(), LambdaCallback(on_epoch_end=fail)], [{"loss": 1.0}])
    assert signal.getsignal(signal.SIGINT) == before


def test_does_nothing_outside_the_main_thread() -> None:
    before, weights = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(
        target=lambda: weights.append(drive(StopOnInterrupt(), [{"loss": 1.0}]).weight[0])
    )
    thread.start()
    thread.join(timeout=30)
    assert weights == [0.0]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_program_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = StopOnInterrupt()
        press = LambdaCallback(on_epoch_begin=lambda epoch, logs: interrupt_now())
        assert drive([stop, press], [{"loss": 1.0}] * 2).weight[0] == 1.0
        assert not stop.interrupted
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
