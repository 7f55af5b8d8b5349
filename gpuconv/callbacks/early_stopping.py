"""Ends training when a number has stopped getting better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuconv.callbacks.base import Logs
from gpuconv.callbacks.monitor import MonitorCallback, as_number
from gpuconv.geometry import as_int


class EarlyStopping(MonitorCallback):
    """Stops training when a monitored number has not improved for some epochs, as in Keras.

    After each epoch ``wait`` rises by one; an epoch that improves on the best one (and on the
    baseline, if there is one) sets it to 0; else training stops when ``wait >= patience``, but
    never in the first epoch.

    Args:
        monitor, mode, min_delta: which number, and what counts as better; see
            :class:`~gpuconv.callbacks.monitor.MonitorCallback`.
        patience: epochs without improvement after which training stops; default 0.
        baseline: a value that must be improved on.
        restore_best_weights: whether the model gets the weights of its best epoch when training
            ends, for whatever reason; they are kept on the host meanwhile.
        start_from_epoch: epochs before this one (from 0) are not looked at.
        verbose: 1 prints when training is stopped and weights are put back.

    Attributes:
        best, best_epoch: the best value, None before there is one, and its epoch, from 0.
        stopped_epoch: the epoch, from 0, after which training was stopped; 0 if it was not.
        wait: epochs since the last improvement.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    purpose = "never stops early"

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        *,
        verbose: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = as_int(patience, "patience", 0)
        self.baseline = None if baseline is None else as_number(baseline, "baseline")
        self.restore_best_weights = bool(restore_best_weights)
        self.start_from_epoch = as_int(start_from_epoch, "start_from_epoch", 0)
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: list[np.ndarray[Any, Any]] | None = None

    def on_train_begin(self, logs: Logs) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)  # even if this value is NaN there must be something to go back to
        self.wait += 1
        if self.improves(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        if self.verbose and self.stopped_epoch:
            print(f"Epoch {self.stopped_epoch + 1}: stopped, {self.monitor} no longer improves")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            if self.verbose:
                print(f"The weights are those after epoch {self.best_epoch + 1}, the best one")

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def get_state(self) -> dict[str, Any]:
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.wait, self.best = state["wait"], state["best"]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"] if self.restore_best_weights else None
