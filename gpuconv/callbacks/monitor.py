"""What callbacks share that watch one number: which one, and which direction is better."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any, ClassVar

import numpy as np

from gpuconv import metrics
from gpuconv.callbacks.base import Callback, Logs
from gpuconv.errors import InvalidArgumentError, one_of

_HIGHER_IS_BETTER = (
    metrics.AccuracyByShape,
    metrics.BinaryAccuracy,
    metrics.CategoricalAccuracy,
    metrics.Precision,
    metrics.Recall,
    metrics.SparseCategoricalAccuracy,
    metrics.SparseTopKCategoricalAccuracy,
    metrics.TopKCategoricalAccuracy,
)
_HIGHER_WORDS = re.compile(r"accuracy|precision|recall|(^|_)(acc|auc)(_|\d|$)", re.IGNORECASE)


class MonitorCallback(Callback):
    """Base of callbacks that watch one number of the logs.

    Args:
        monitor: its name, such as ``"val_loss"``.
        mode: ``"min"``, ``"max"``, or ``"auto"``: max for metrics of accuracy, precision and
            recall, by their class or by ``accuracy``, ``acc``, ``auc``, ``precision`` or
            ``recall`` in the name; else min.
        min_delta: a change counts as better only if it is larger than this.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    purpose: ClassVar[str]
    """What is not done when the number is missing, for the warning."""

    def __init__(self, monitor: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgumentError(
                f"monitor must be a name such as 'val_loss'. Received: {monitor!r}"
            )
        self.monitor = monitor
        self.mode = one_of(mode, ("auto", "min", "max"), "mode")
        self.min_delta = abs(as_number(min_delta, "min_delta"))

    def current(self, logs: Logs) -> float | None:
        """Return the monitored number, or None with a warning if the logs lack it.

        Raises:
            InvalidArgumentError: it is not one number, as for a confusion matrix.
        """
        value: Any = logs.get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not among the logs "
                f"({', '.join(logs) or 'none'}), and so {self.purpose}.",
                stacklevel=2,
            )
            return None
        if np.ndim(value) != 0:
            raise InvalidArgumentError(
                f"{type(self).__name__} can watch a single number only. "
                f"Received: {self.monitor} of shape {np.shape(value)}"
            )
        return float(value)

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether ``value`` is better than ``reference`` by more than ``min_delta``; NaN never."""
        if math.isnan(value):
            return False
        if reference is None:
            return True
        if self._higher_is_better():
            return value - self.min_delta > reference
        return value + self.min_delta < reference

    def _higher_is_better(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        metric = self.model.named_metrics.get(name)
        return isinstance(metric, _HIGHER_IS_BETTER) or _HIGHER_WORDS.search(name) is not None


def as_number(value: Any, name: str) -> float:
    """Return ``value`` as a float.

    Raises:
        InvalidArgumentError: not a finite number.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not (
        isinstance(value, bool)
    )
    if not number or not math.isfinite(value):
        raise InvalidArgumentError(f"{name} must be a finite number. Received: {value!r}")
    return float(value)
