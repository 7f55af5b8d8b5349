"""Ends training when the loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.callbacks.base import Callback, Logs


class TerminateOnNaN(Callback):
    """Stops training as soon as the loss is NaN or infinite, and prints where that began.

    The loss is looked at in each batch, before the weights are changed, so each batch waits for the
    device. If it is not finite, the batch is run once more to find the first layer that gave such
    numbers.

    Attributes:
        stopped_at: ``(epoch, batch)``, both from 0, or None.
        began_in: the first layer whose output was not finite, by its path; ``"the inputs"`` or
            ``"the loss"`` if it was none; None while all is well.
    """

    def __init__(self) -> None:
        self.stopped_at: tuple[int, int] | None = None
        self.began_in: str | None = None
        self._epoch = 0

    def on_train_begin(self, logs: Logs) -> None:
        self.stopped_at = self.began_in = None
        self.model.watches_loss = True

    def on_train_end(self, logs: Logs) -> None:
        self.model.watches_loss = False

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        loss: Any = logs.get("loss")
        if loss is None or math.isfinite(loss):
            return
        self.stopped_at = (self._epoch, batch)
        self.began_in = self.model.not_finite
        self.model.stop_training = True
        steps = self.params.get("steps")
        print(
            f"Epoch {self._epoch + 1}/{self.params['epochs']}, batch {batch + 1}"
            f"{f'/{steps}' if steps else ''}: the loss is {loss}, training stops"
            f"{f'; the first such numbers came from {self.began_in}' if self.began_in else ''}"
        )
