"""EarlyStopping and ReduceLROnPlateau decide as Keras's do, on sequences drawn by hypothesis."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from gpuconv import callbacks  # noqa: E402
from gpuconv.optimizers import SGD  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Eighths are exact in float32, in which Keras compares.
values = st.lists(st.integers(0, 16).map(lambda n: n / 8), min_size=1, max_size=14)
deltas = st.sampled_from([0.0, 0.125, 0.25, -0.25])
modes = st.sampled_from(["auto", "min", "max"])


class Model:
    """What both libraries' callbacks use of a model; its weight is the epoch's number."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.metrics: list[Any] = []
        self.named_metrics: dict[str, Any] = {}
        self.stop_training = False
        self.weights = [-1]

    def get_weights(self) -> list[int]:
        return list(self.weights)

    def set_weights(self, weights: list[int]) -> None:
        self.weights = list(weights)


def run(callback: Any, optimizer: Any, numbers: list[float]) -> tuple[list[float], int]:
    """Return the learning rate after each epoch that was run, and the final weight."""
    model, rates = Model(optimizer), []
    if isinstance(callback, callbacks.Callback):
        callback.model = model  # type: ignore[assignment]
    else:
        callback._model = model
    callback.on_train_begin({})
    for epoch, number in enumerate(numbers):
        model.weights = [epoch]
        callback.on_epoch_end(epoch, {"val_loss": number})
        rates.append(float(model.optimizer.learning_rate))
        if model.stop_training:
            break
    callback.on_train_end({})
    return rates, model.weights[0]


@settings(max_examples=150, deadline=None)
@given(
    values, deltas, modes, st.integers(0, 4), st.sampled_from([None, 0.5, 1.0]), st.integers(0, 3)
)
def test_early_stopping(
    numbers: list[float],
    min_delta: float,
    mode: str,
    patience: int,
    baseline: float | None,
    start: int,
) -> None:
    arguments: dict[str, Any] = {
        "min_delta": min_delta,
        "mode": mode,
        "patience": patience,
        "baseline": baseline,
        "start_from_epoch": start,
        "restore_best_weights": True,
    }
    ours = run(callbacks.EarlyStopping(**arguments), SGD(1.0), numbers)
    assert ours == run(keras.callbacks.EarlyStopping(**arguments), SGD(1.0), numbers)


@settings(max_examples=150, deadline=None)
@given(values, deltas, modes, st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.25]))
def test_reduce_lr_on_plateau(
    numbers: list[float],
    min_delta: float,
    mode: str,
    patience: int,
    cooldown: int,
    min_lr: float,
) -> None:
    arguments: dict[str, Any] = {
        "factor": 0.5,
        "min_delta": min_delta,
        "mode": mode,
        "patience": patience,
        "cooldown": cooldown,
        "min_lr": min_lr,
    }
    ours = run(callbacks.ReduceLROnPlateau(**arguments), SGD(1.0), numbers)
    theirs = keras.callbacks.ReduceLROnPlateau(**arguments)
    assert ours == run(theirs, keras.optimizers.SGD(1.0), numbers)
