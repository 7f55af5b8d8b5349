"""What ``fit``, ``evaluate`` and ``predict`` show while they run: a bar, or plain lines."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, ClassVar

import numpy as np

from gpuconv.callbacks.base import Callback, Logs
from gpuconv.errors import InvalidArgumentError


def progress_callback(verbose: Any, what: str) -> list[Callback]:
    """Return the callbacks that show how a run goes on.

    Args:
        verbose: 0 shows nothing, 1 a bar, 2 one line for each epoch. ``"auto"`` is 1 on a
            terminal; elsewhere 2, and 0 for ``predict``.
        what: ``"fit"``, ``"evaluate"`` or ``"predict"``.

    Raises:
        InvalidArgumentError: another ``verbose``.
    """
    if isinstance(verbose, str) and verbose == "auto":
        terminal = sys.stdout is not None and sys.stdout.isatty()
        chosen = 1 if terminal else 0 if what == "predict" else 2
    elif isinstance(verbose, (int, np.integer)) and verbose in (0, 1, 2):
        chosen = int(verbose)
    else:
        raise InvalidArgumentError(
            f"verbose must be 0 (silent), 1 (a bar), 2 (a line an epoch) or 'auto'. "
            f"Received: {verbose!r}"
        )
    if chosen == 0:
        return []
    if chosen == 2:
        return [ProgressLines(what)]
    from gpuconv.callbacks.progress_bar import ProgressBar

    return [ProgressBar(what)]


class Progress(Callback):
    """Base of both ways to show progress: knows which part of the run it is in.

    A part is an epoch with its validation, an evaluation, or a prediction.

    Args:
        what: ``"fit"``, ``"evaluate"`` or ``"predict"``.
    """

    shows_steps: ClassVar[bool] = True
    """Whether the steps are said when a part ends."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.title: str | None = None  # of the part that is running, such as "Epoch 3/10"
        self.steps = 0
        self.started = 0.0

    # --- what a subclass writes ---------------------------------------------------------

    def opened(self) -> None:
        """Called when a part begins."""

    def stepped(self, logs: Logs) -> None:
        """Called after each of its batches."""

    def validated(self, steps: int) -> None:
        """Called within an epoch when validation begins, and after each of its batches."""

    def closed(self, title: str, items: list[str]) -> None:
        """Called when a part ends, with everything that is to be said about it."""

    # --- moments ------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._open(f"Epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self._step(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._close(logs)

    def on_train_end(self, logs: Logs) -> None:
        if self.title is not None:
            self._close(None)

    def on_test_begin(self, logs: Logs) -> None:
        if self.what == "fit":
            self.validated(0)
        else:
            self._open("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        if self.what == "fit":
            self.validated(batch + 1)
        else:
            self._step(batch, logs)

    def on_test_end(self, logs: Logs) -> None:
        if self.what != "fit":
            self._close(logs or None)

    def on_predict_begin(self, logs: Logs) -> None:
        self._open("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        self._step(batch, logs)

    def on_predict_end(self, logs: Logs) -> None:
        whole = self.total is None or self.steps >= self.total
        self._close({} if whole else None)

    # --- parts --------------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        """Number of batches of a part, if it is known."""
        return self.params.get("steps")

    def _open(self, title: str) -> None:
        self.title = title
        self.steps = 0
        self.started = time.perf_counter()
        self.opened()

    def _step(self, batch: int, logs: Logs) -> None:
        self.steps = batch + 1
        self.stepped(logs)

    def _close(self, logs: Logs | None) -> None:
        """End a part; None for one that was cut short, whose numbers may not be readable."""
        if self.title is None:
            return
        title, self.title = self.title, None
        took = seconds(time.perf_counter() - self.started)
        if logs is None:
            of = "" if self.total is None else f"{self.steps} of "
            done = of + _steps(self.steps if self.total is None else self.total)
            self.closed(title, [took, f"cut short after {done}"])
        else:
            steps = [_steps(self.steps)] if self.shows_steps else []
            self.closed(title, [took, *steps, *numbers(logs)])


class ProgressLines(Progress):
    """Prints one line a part: ``Epoch 3/10 - 1.2s - 45 steps - loss: 0.1234``."""

    def closed(self, title: str, items: list[str]) -> None:
        print(" - ".join([title, *items]), flush=True)


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def numbers(logs: Logs) -> list[str]:
    """Return ``"name: number"`` for each single number; arrays are left out."""
    values = ((name, logs[name]) for name in logs)
    return [f"{name}: {number(float(v))}" for name, v in values if np.ndim(v) == 0]


def number(value: float) -> str:
    """Return a number with four digits after the point, small and large ones with an exponent."""
    usual = value == 0 or 1e-3 <= abs(value) < 1e6 or not math.isfinite(value)
    return f"{value:.4f}" if usual else f"{value:.4e}"


def seconds(value: float) -> str:
    """Return a duration: ``1.2s``, ``3m 05s``, ``2h 07m``."""
    if value < 59.95:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"
