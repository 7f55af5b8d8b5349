"""A learning rate that a function decides for each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpuconv.callbacks.base import Callback, Logs
from gpuconv.callbacks.rates import rate_of, require_settable_rate, set_rate
from gpuconv.errors import InvalidArgumentError


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch, as in Keras.

    Adds ``learning_rate``, the rate of the epoch that ends, to the logs.

    Args:
        schedule: ``schedule(epoch, learning_rate)`` or ``schedule(epoch)``; gets the epoch, from
            0, and the rate so far, and returns the rate.
        verbose: 1 prints the rate of each epoch.

    Raises:
        InvalidArgumentError: not a function; when training begins: the optimizer follows a
            schedule of its own; in training: the function returned no number of at least 0.
    """

    def __init__(self, schedule: Callable[..., float], *, verbose: int = 0) -> None:
        if not callable(schedule):
            raise InvalidArgumentError(
                f"schedule must be a function of epoch and learning rate. Received: {schedule!r}"
            )
        self.schedule = schedule
        self.verbose = verbose
        self._takes_rate = _takes_two(schedule)
        self._epoch: int | None = None  # whose rate is set

    def on_train_begin(self, logs: Logs) -> None:
        require_settable_rate(self)
        self._epoch = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        if epoch == self._epoch:  # a run that goes on within an epoch has its rate already
            return
        old = rate_of(self)
        rate = self.schedule(epoch, old) if self._takes_rate else self.schedule(epoch)
        number = isinstance(rate, (int, float, np.integer, np.floating)) and not (
            isinstance(rate, bool)
        )
        if not number or not 0 <= rate < np.inf:
            raise InvalidArgumentError(
                f"schedule must return a learning rate, a number of at least 0. "
                f"Received: {rate!r} for epoch {epoch}"
            )
        set_rate(self, float(rate))
        self._epoch = epoch
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {float(rate):g}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        logs["learning_rate"] = rate_of(self)

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self._epoch}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._epoch = state["epoch"]


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0, 0.0)
    except TypeError:
        return False
    except ValueError:  # a built-in function does not tell its arguments
        return True
    return True
