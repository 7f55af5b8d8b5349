"""Drives callbacks through epochs whose logs are given, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.callbacks.base import Callback, CallbackList
from gpuconv.optimizers import SGD
from gpuconv.random import SeedStream


class FakeModel:
    """What callbacks use of a model. Its one weight is the number of the last epoch begun."""

    def __init__(self, learning_rate: Any = 1.0) -> None:
        self.metrics: list[Any] = []
        self.optimizer = SGD(learning_rate)
        self.stop_training = False
        self.resume_at: tuple[int, int] | None = None
        self.watches_loss = False
        self.not_finite: str | None = None
        self.shuffle_stream = SeedStream(0)
        self.weight = np.full(1, -1.0)
        self.saved: list[tuple[str, bool]] = []

    @property
    def named_metrics(self) -> dict[str, Any]:
        return {metric.name: metric for metric in self.metrics}

    def get_weights(self) -> list[np.ndarray[Any, Any]]:
        return [self.weight.copy()]

    def set_weights(self, weights: Sequence[np.ndarray[Any, Any]]) -> None:
        self.weight[...] = weights[0]

    def save(self, path: Any, include_optimizer: bool = True) -> None:
        Path(path).write_text(str(self.weight[0]))
        self.saved.append((str(path), include_optimizer))


def drive(
    callbacks: Callback | list[Callback],
    logs: Sequence[Mapping[str, Any]],
    model: FakeModel | None = None,
    steps: int = 3,
    initial_epoch: int = 0,
) -> FakeModel:
    """Call the moments of ``fit``: one epoch of ``steps`` batches for each entry of ``logs``."""
    model = FakeModel() if model is None else model
    several = callbacks if isinstance(callbacks, list) else [callbacks]
    epochs = initial_epoch + len(logs)
    listeners = CallbackList(several, model, {"epochs": epochs, "steps": steps})  # type: ignore[arg-type]
    model.stop_training = False
    try:
        listeners.call("on_train_begin", {})
        for epoch in range(initial_epoch, epochs):
            if model.stop_training:
                break
            listeners.call("on_epoch_begin", epoch, {})
            model.weight[...] = epoch
            numbers = dict(logs[epoch - initial_epoch])
            for batch in range(steps):
                if model.stop_training:
                    return model
                listeners.call("on_train_batch_begin", batch, {})
                listeners.call("on_train_batch_end", batch, numbers)
            listeners.call("on_epoch_end", epoch, numbers)
    finally:
        listeners.finish("on_train_end", {})
    return model
