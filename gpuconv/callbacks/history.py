"""What ``fit`` returns: the numbers of every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.callbacks.base import Callback, Logs


class History(Callback):
    """Collects the logs of every epoch.

    Attributes:
        history: name -> list of numbers, one for each epoch that has it.
        epoch: the epoch numbers, from 0.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs) -> None:
        self.history, self.epoch = {}, []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def get_state(self) -> dict[str, Any]:
        return {"history": self.history, "epoch": self.epoch}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.epoch = list(state["epoch"])
