"""Lowers the learning rate when a number has stopped getting better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.callbacks.base import Logs
from gpuconv.callbacks.monitor import MonitorCallback, as_number
from gpuconv.callbacks.rates import rate_of, require_settable_rate, set_rate
from gpuconv.errors import InvalidArgumentError
from gpuconv.geometry import as_int


class ReduceLROnPlateau(MonitorCallback):
    """Multiplies the learning rate by a factor when a number stays on a plateau, as in Keras.

    Adds ``learning_rate``, the rate of the epoch that ends, to the logs.

    Args:
        monitor, mode, min_delta: which number, and what counts as better; see
            :class:`~gpuconv.callbacks.monitor.MonitorCallback`.
        factor: ``new = max(old * factor, min_lr)``; in [0, 1).
        patience: epochs without improvement after which the rate is lowered.
        cooldown: epochs after that in which nothing is counted.
        min_lr: the rate does not fall below it.
        verbose: 1 prints when the rate changes.

    Raises:
        InvalidArgumentError: an impossible value; when training begins: the optimizer follows a
            schedule.
    """

    purpose = "leaves the learning rate as it is"

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        *,
        verbose: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = as_number(factor, "factor")
        if not 0 <= self.factor < 1:
            raise InvalidArgumentError(f"factor must be in [0, 1). Received: {factor!r}")
        self.patience = as_int(patience, "patience", 0)
        self.cooldown = as_int(cooldown, "cooldown", 0)
        self.min_lr = as_number(min_lr, "min_lr")
        if self.min_lr < 0:
            raise InvalidArgumentError(f"min_lr must be at least 0. Received: {min_lr!r}")
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.wait = 0
        self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs) -> None:
        require_settable_rate(self)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        logs["learning_rate"] = rate_of(self)
        value = self.current(logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        old = rate_of(self)
        if old <= self.min_lr:
            return
        new = max(old * self.factor, self.min_lr)
        set_rate(self, new)
        self.wait = 0
        self.cooldown_counter = self.cooldown
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {old:g} -> {new:g}")

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.best, self.wait = state["best"], state["wait"]
        self.cooldown_counter = state["cooldown_counter"]
