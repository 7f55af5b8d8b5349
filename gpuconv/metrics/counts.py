"""True and false positives and negatives, and the score that is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.losses.targets import align_weights, bring_together, common_shape, known_shape
from gpuconv.metrics.base import Metric
from gpuconv.metrics.confusion import Precision

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class _Count(Precision):
    """Base: how many outputs are above the threshold or not, of labels that are 1 or not."""

    def _picked(self, positive: Array, predicted: Array) -> Array:
        raise TypeError(f"{type(self).__name__} must define _picked")

    def counted(self, positive: Array, predicted: Array) -> Array:
        return self._picked(positive, predicted)

    def result(self) -> Any:
        """Return a float, or an array (T,) for a list of several thresholds; weights summed."""
        total = np.broadcast_to(to_numpy(self._total), (len(self._levels),))
        return float(total[0]) if len(total) == 1 else np.array(total)


class TruePositives(_Count):
    """How many labels of 1 have an output above the threshold.

    Arguments and shapes as in :class:`~gpuconv.metrics.Precision`.
    """

    def _picked(self, positive: Array, predicted: Array) -> Array:
        return positive & predicted


class FalsePositives(_Count):
    """How many labels of 0 have an output above the threshold; arguments as in Precision."""

    def _picked(self, positive: Array, predicted: Array) -> Array:
        return ~positive & predicted


class TrueNegatives(_Count):
    """How many labels of 0 have no output above the threshold; arguments as in Precision."""

    def _picked(self, positive: Array, predicted: Array) -> Array:
        return ~positive & ~predicted


class FalseNegatives(_Count):
    """How many labels of 1 have no output above the threshold; arguments as in Precision."""

    def _picked(self, positive: Array, predicted: Array) -> Array:
        return positive & ~predicted


class AUC(Metric):
    """Area under the curve of true against false positives (ROC), or precision against recall.

    As in Keras 3.15: at ``num_thresholds`` thresholds evenly from 0 to 1, interpolated between
    them; for ``"PR"`` as Davis and Goadrich (2006) do.

    Args:
        num_thresholds: at least 2; default 200.
        curve: ``"ROC"`` or ``"PR"``.
        name: key in logs.

    Shapes: probabilities and labels 0 or 1, both (N, ...); a last axis of extent 1 may be missing
    in either.
    """

    def __init__(
        self, num_thresholds: int = 200, curve: str = "ROC", name: str | None = None
    ) -> None:
        super().__init__(name)
        whole = isinstance(num_thresholds, int) and not isinstance(num_thresholds, bool)
        if not whole or num_thresholds < 2:
            raise InvalidArgumentError(
                f"num_thresholds must be an integer of at least 2. Received: {num_thresholds!r}"
            )
        self.num_thresholds = num_thresholds
        self.curve = one_of(curve, ("ROC", "PR"), "curve")
        self._above: Any = 0.0

    @property
    def _levels(self) -> np.ndarray[Any, Any]:
        levels = np.linspace(0.0, 1.0, self.num_thresholds)
        levels[0], levels[-1] = -1e-7, 1 + 1e-7
        return levels

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        shape = common_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        xp = array_module(y_pred)
        positive = y_true.reshape(-1) != 0
        levels = xp.asarray(self._levels)
        weights = xp.ones(positive.shape, "float64")
        if sample_weight is not None:
            aligned = align_weights(sample_weight, shape)
            weights = xp.broadcast_to(aligned, shape).reshape(-1).astype("float64")
        # Above how many thresholds an output lies; summed from the last one down.
        passed = xp.searchsorted(levels, y_pred.reshape(-1).astype("float64"), side="left")
        bins = self.num_thresholds + 1
        hits = xp.bincount(passed, weights * positive, minlength=bins)
        false = xp.bincount(passed, weights * ~positive, minlength=bins)
        counts = xp.stack([hits, false])[:, ::-1].cumsum(axis=1)[:, ::-1]
        self._above = self._above + counts

    def result(self) -> float:
        """Return the area; 0 before the first batch."""
        if isinstance(self._above, float):
            return 0.0
        counts = to_numpy(self._above)
        hits, false = counts[:, 1:]
        positives, negatives = counts[:, 0]
        if self.curve == "ROC":
            recall, fallout = _ratio(hits, positives), _ratio(false, negatives)
            return float(((fallout[:-1] - fallout[1:]) * (recall[:-1] + recall[1:])).sum() / 2)
        chosen = hits + false
        more_hits, more = hits[:-1] - hits[1:], np.maximum(chosen[:-1] - chosen[1:], 0)
        slope = _ratio(more_hits, more)
        intercept = hits[1:] - slope * chosen[1:]
        both = (chosen[:-1] > 0) & (chosen[1:] > 0)
        ratio = np.where(both, _ratio(chosen[:-1], np.maximum(chosen[1:], 0)), 1.0)
        parts = slope * (more_hits + intercept * np.log(ratio))
        return float(_ratio(parts, np.full(len(parts), max(positives, 0.0))).sum())

    def reset_state(self) -> None:
        self._above = 0.0


class F1Score(Metric):
    """``2 * precision * recall / (precision + recall)`` of each class, as in Keras 3.15.

    Args:
        average: None (default): one number a class; ``"macro"``: their mean; ``"weighted"``: their
            mean by how often a class occurs; ``"micro"``: one number from all counts together.
        threshold: outputs above it are 1; None (default): the largest output of a sample is.
        name: key in logs.

    Shapes: one-hot labels and outputs (N, K).
    """

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        allowed = ("micro", "macro", "weighted")
        self.average = None if average is None else one_of(average, allowed, "average")
        if threshold is not None and not (
            isinstance(threshold, (int, float)) and 0 < threshold <= 1
        ):
            raise InvalidArgumentError(
                f"threshold must be a number above 0, at most 1. Received: {threshold!r}"
            )
        self.threshold = threshold
        self._hits: Any = 0.0
        self._predicted: Any = 0.0
        self._occurring: Any = 0.0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred, sample_weight, _ = bring_together(y_true, y_pred, sample_weight)
        shape = common_shape(tuple(y_true.shape), known_shape(y_pred.shape, y_true))
        y_true, y_pred = y_true.reshape(-1, shape[-1]) != 0, y_pred.reshape(-1, shape[-1])
        xp = array_module(y_pred)
        if self.threshold is None:
            predicted = y_pred.argmax(axis=-1)[:, None] == xp.arange(shape[-1])
        else:
            predicted = y_pred > self.threshold
        weights = xp.ones((len(y_true), 1), "float64")
        if sample_weight is not None:
            weights = weights * align_weights(sample_weight, shape[:-1]).reshape(-1, 1)
        self._hits = self._hits + ((y_true & predicted) * weights).sum(axis=0)
        self._predicted = self._predicted + (predicted * weights).sum(axis=0)
        self._occurring = self._occurring + (y_true * weights).sum(axis=0)

    def result(self) -> Any:
        """Return a float, or an array (K,) without ``average``; 0 for 0/0."""
        hits, predicted, occurring = (
            np.atleast_1d(to_numpy(a)) for a in (self._hits, self._predicted, self._occurring)
        )
        if self.average == "micro":
            return float(_ratio(2 * hits.sum(), predicted.sum() + occurring.sum()))
        scores = _ratio(2 * hits, predicted + occurring)
        if self.average == "macro":
            return float(scores.mean())
        if self.average == "weighted":
            return float((scores * _ratio(occurring, occurring.sum())).sum())
        return scores

    def reset_state(self) -> None:
        self._hits = self._predicted = self._occurring = 0.0


def _ratio(above: Any, below: Any) -> Any:
    """``above / below``, and 0 where that is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)
