"""Ctrl-C during training: stop after the current batch instead of in the middle of it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from gpuconv.callbacks.base import Callback, Logs


class StopOnInterrupt(Callback):
    """Lets the first Ctrl-C stop training after the current batch, and a second one at once.

    After the first one ``fit`` returns as usual and the weights are those after a whole batch;
    a validation that is running is completed first. The second one raises KeyboardInterrupt.
    Between ``on_train_begin`` and ``on_train_end`` the callback replaces the program's handler of
    SIGINT. Python allows that in the main thread only; elsewhere, and in programs that ignore
    SIGINT, the callback does nothing.

    Attributes:
        interrupted: whether the last run was stopped by Ctrl-C.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._announced = False
        self._installed = False
        self._previous: Any = None

    def on_train_begin(self, logs: Logs) -> None:
        self.interrupted = False
        self._announced = False
        if threading.current_thread() is not threading.main_thread():
            return
        self._previous = signal.getsignal(signal.SIGINT)
        if self._previous != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._on_signal)
            self._installed = True

    def on_train_end(self, logs: Logs) -> None:
        if self._installed:
            self._installed = False
            # None stands for a handler that was not set by Python and cannot be set by it.
            known = signal.SIG_DFL if self._previous is None else self._previous
            signal.signal(signal.SIGINT, known)
        self._announce("Stopped by Ctrl-C")

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self._announce("Stopped by Ctrl-C")

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        self._announce("Ctrl-C: training stops after this validation; again to stop at once")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.model.stop_training = True

    def _announce(self, message: str) -> None:
        # Not in the handler: it may have interrupted a print, and those do not nest.
        if self.interrupted and not self._announced:
            self._announced = True
            print(message)
