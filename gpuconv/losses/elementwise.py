"""Losses that compare outputs and labels element by element and average the last axis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpuconv.backends.arrays import array_module
from gpuconv.errors import InvalidArgumentError
from gpuconv.losses.base import EPSILON, Backward, Loss
from gpuconv.losses.targets import check_fraction, common_shape, known_shape

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class ElementwiseLoss(Loss):
    """Base class; a subclass defines :meth:`elements`.

    Shapes: outputs and labels of one shape (N, ..., K), losses (N, ...); a last axis of extent
    1 may be missing in either. Vectors (N,) count as one value a sample.
    """

    @abstractmethod
    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        """Return the loss of each element, and the function that gives its derivative."""

    def check_targets(self, labels: Array, y_shape: Sequence[int | None]) -> None:
        common_shape(tuple(labels.shape), known_shape(y_shape, labels))

    def differentiate(self, labels: Array, y: Array) -> tuple[Array, Backward]:
        shape = common_shape(tuple(labels.shape), tuple(y.shape))
        targets = labels.reshape(shape).astype(y.dtype, copy=False)
        elements, derivative = self.elements(targets, y.reshape(shape))

        def backward(scale: Array) -> Array:
            dy = derivative()
            dy *= scale[..., None] / max(1, shape[-1])
            return dy.reshape(y.shape)

        return elements.mean(axis=-1), backward


class BinaryCrossentropy(ElementwiseLoss):
    """``-(t log p + (1 - t) log(1 - p))``, the mean over the last axis.

    With ``from_logits=False`` the outputs are probabilities, clipped to [1e-7, 1 - 1e-7] as in
    Keras 3.15; the gradient is zero where the clip binds.

    Args:
        from_logits: the outputs are logits, ``p`` their sigmoid, in a form that is stable for
            large ones.
        label_smoothing: ``s`` in [0, 1]: labels become ``labels * (1 - s) + s / 2``.
        reduction, name: see :class:`Loss`.
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        self.from_logits = bool(from_logits)
        self.label_smoothing = check_fraction(label_smoothing, "label_smoothing")

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            decay = xp.exp(-xp.abs(y))
            losses = xp.maximum(y, 0) - y * targets + xp.log1p(decay)
            return losses, lambda: xp.where(y >= 0, 1, decay) / (1 + decay) - targets
        p = xp.clip(y, EPSILON, 1 - EPSILON)
        losses = -(targets * xp.log(p) + (1 - targets) * xp.log(1 - p))
        free = xp.logical_and(y >= EPSILON, y <= 1 - EPSILON)
        return losses, lambda: xp.where(free, (p - targets) / (p * (1 - p)), 0)


class MeanSquaredError(ElementwiseLoss):
    """``(y - t)^2``, the mean over the last axis."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        error = y - targets
        return error * error, lambda: 2 * error


class MeanAbsoluteError(ElementwiseLoss):
    """``|y - t|``, the mean over the last axis; the derivative at 0 is 0."""

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        error = y - targets
        return xp.abs(error), lambda: xp.sign(error)


class Huber(ElementwiseLoss):
    """``e^2 / 2`` for ``|e| <= delta``, else ``delta |e| - delta^2 / 2``, with ``e = y - t``.

    The mean over the last axis (Huber 1964).

    Args:
        delta: positive; where the parabola goes over into straight lines.
        reduction, name: see :class:`Loss`.
    """

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        if not (isinstance(delta, (int, float)) and not isinstance(delta, bool) and delta > 0):
            raise InvalidArgumentError(f"delta must be a positive number. Received: {delta!r}")
        self.delta = float(delta)

    def elements(self, targets: Array, y: Array) -> tuple[Array, Callable[[], Array]]:
        xp = array_module(y)
        error = y - targets
        size = xp.abs(error)
        straight = self.delta * size - 0.5 * self.delta**2
        losses = xp.where(size <= self.delta, 0.5 * error * error, straight)
        return losses, lambda: xp.clip(error, -self.delta, self.delta)
