"""Further losses that compare outputs and labels element by element, as in Keras 3.15."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuconv.backends.arrays import array_module
from gpuconv.errors import InvalidArgumentError
from gpuconv.losses.base import EPSILON
from gpuconv.losses.elementwise import ElementwiseLoss
from gpuconv.losses.targets import check_fraction

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class LogCosh(ElementwiseLoss):
    """``log(cosh(y - t))``, the mean over the last axis: a parabola that becomes straight."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        error = y - targets
        size = xp.abs(error)
        losses = size + xp.log1p(xp.exp(-2 * size)) - math.log(2)
        return losses, lambda: xp.tanh(error)


class Poisson(ElementwiseLoss):
    """``y - t log(y + 1e-7)``, the mean over the last axis: for counts ``t``."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        return y - targets * xp.log(y + EPSILON), lambda: 1 - targets / (y + EPSILON)


class MeanAbsolutePercentageError(ElementwiseLoss):
    """``100 |y - t| / max(|t|, 1e-7)``, the mean over the last axis."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        error = y - targets
        factor = 100 / xp.maximum(xp.abs(targets), EPSILON)
        return xp.abs(error) * factor, lambda: xp.sign(error) * factor


class MeanSquaredLogarithmicError(ElementwiseLoss):
    """``(log(1 + y) - log(1 + t))^2``, the mean over the last axis.

    What is below 1e-7 counts as 1e-7; the gradient is zero there.
    """

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        above = xp.maximum(y, EPSILON)
        error = xp.log1p(above) - xp.log1p(xp.maximum(targets, EPSILON))
        return error * error, lambda: 2 * error / (1 + above) * (y >= EPSILON)


class Hinge(ElementwiseLoss):
    """``max(1 - t y, 0)``, the mean over the last axis, for labels -1 and 1.

    Labels that are all 0 or 1 stand for -1 and 1, as in Keras.
    """

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        signs = _as_signs(targets)
        short = xp.maximum(1 - signs * y, 0)
        return short, lambda: -signs * (short > 0)


class SquaredHinge(ElementwiseLoss):
    """``max(1 - t y, 0)^2``, the mean over the last axis; labels as for :class:`Hinge`."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        signs = _as_signs(targets)
        short = xp.maximum(1 - signs * y, 0)
        return short * short, lambda: -2 * signs * short


class KLDivergence(ElementwiseLoss):
    """``t log(t / y)``, summed over the last axis: of probabilities (Kullback and Leibler 1951).

    Both are kept within [1e-7, 1]; the gradient is zero where the bound holds.
    """

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        t, p = xp.clip(targets, EPSILON, 1), xp.clip(y, EPSILON, 1)
        classes = y.shape[-1]  # the mean over them becomes their sum
        free = (y >= EPSILON) & (y <= 1)
        return classes * t * xp.log(t / p), lambda: -classes * t / p * free


class BinaryFocalCrossentropy(ElementwiseLoss):
    """``a (1 - q)^gamma`` times the binary cross-entropy; ``q`` is the probability of the label.

    The mean over the last axis (Lin et al. 2017): what is right already counts less.

    Args:
        apply_class_balancing: whether ``a`` is ``alpha`` for label 1 and ``1 - alpha`` for 0,
            in place of 1.
        alpha: in [0, 1].
        gamma: at least 0; 0 is the plain cross-entropy.
        from_logits: the outputs are logits, whose sigmoid is the probability.
        label_smoothing: ``s`` in [0, 1]: labels become ``labels * (1 - s) + s / 2``.
        reduction, name: see :class:`~gpuconv.losses.Loss`.

    Probabilities are kept within [1e-7, 1 - 1e-7]; the gradient is zero where the bound holds.
    """

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        self.apply_class_balancing = bool(apply_class_balancing)
        self.alpha = check_fraction(alpha, "alpha")
        if not (isinstance(gamma, (int, float)) and not isinstance(gamma, bool) and gamma >= 0):
            raise InvalidArgumentError(f"gamma must be a number of at least 0. Received: {gamma!r}")
        self.gamma = float(gamma)
        self.from_logits = bool(from_logits)
        self.label_smoothing = check_fraction(label_smoothing, "label_smoothing")

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        t = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        probability = 1 / (1 + xp.exp(-xp.clip(y, -80, 80))) if self.from_logits else y
        p = xp.clip(probability, EPSILON, 1 - EPSILON)
        wrong = 1 - (t * p + (1 - t) * (1 - p))
        entropy = -(t * xp.log(p) + (1 - t) * xp.log(1 - p))
        balance = t * self.alpha + (1 - t) * (1 - self.alpha) if self.apply_class_balancing else 1.0
        focus = balance * wrong**self.gamma

        def derivative() -> Array:
            dp = focus * (p - t) / (p * (1 - p))
            if self.gamma:
                dp -= balance * self.gamma * wrong ** (self.gamma - 1) * (2 * t - 1) * entropy
            dp = dp * ((probability >= EPSILON) & (probability <= 1 - EPSILON))
            return dp * p * (1 - p) if self.from_logits else dp

        return focus * entropy, derivative


def _as_signs(targets: Array) -> Array:
    xp = array_module(targets)
    binary = ((targets == 0) | (targets == 1)).all()
    return xp.where(binary, 2 * targets - 1, targets)
