"""What all losses share: sample weights, the reduction, and the way from labels to gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from gpuconv.backends.arrays import array_module
from gpuconv.configurable import Configurable, snake_case
from gpuconv.containers import require_float
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.losses.targets import align_weights, bring_together

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Backward = Callable[["Array"], "Array"]
"""Takes the gradient with respect to each sample's loss, returns the one for the outputs."""

EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1, as in Keras 3.15."""

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")

L = TypeVar("L", bound="Loss")


class Loss(Configurable, ABC):
    """Base class; a subclass defines :meth:`check_targets` and :meth:`differentiate`.

    Args:
        reduction: with ``l`` the losses of the samples and ``w`` their weights (1 if none):
            ``"sum_over_batch_size"`` or ``"mean"`` is ``sum(w l)`` by the number of losses,
            whatever the weights are; ``"mean_with_sample_weight"`` is ``sum(w l) / sum(w)``;
            ``"sum"`` is ``sum(w l)``; ``"none"`` or None is ``w l``. As in Keras 3.15.
        name: key in logs; by default the class name in snake_case.

    A loss may have more values than samples: outputs (N, H, W, K) give losses (N, H, W), and
    all of them count.
    """

    from_logits = False

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None):
        self.reduction = one_of("none" if reduction is None else reduction, REDUCTIONS, "reduction")
        self.name = name or snake_case(type(self).__name__)

    # --- for users -------------------------------------------------------------------------

    def __call__(self, labels: Any, y: Any, sample_weight: Any = None) -> Any:
        """Return the value alone; arguments and errors as in :meth:`forward`."""
        labels, y, sample_weight, wrap = bring_together(labels, y, sample_weight)
        require_float(y, "y")
        value, _ = self._reduce(self.per_sample(labels, y), sample_weight)
        return wrap(value)

    def forward(self, labels: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return ``(value, dy)``: the loss and its gradient with respect to the outputs.

        Args:
            labels: what the outputs should be, in the shape that the class documents.
            y: outputs of the model, float32 or float64: an array, Tensor or nested lists.
            sample_weight: one number for each sample (N,), or for each value of the loss.

        Returns:
            A 0-d array of y's dtype on y's device (the weighted losses themselves with
            ``reduction="none"``, and ``dy`` that of their sum), and an array like ``y``. Both
            are Tensors if ``y`` is one. Nothing waits for the device.

        Raises:
            ShapeError: labels or weights do not fit the outputs.
            DTypeError: the outputs are not float32 or float64.
            InvalidArgumentError: labels on the host are out of range.
        """
        labels, y, sample_weight, wrap = bring_together(labels, y, sample_weight)
        require_float(y, "y")
        value, dy = self.compute(labels, y, sample_weight)
        return wrap(value), wrap(dy)

    # --- on arrays -------------------------------------------------------------------------

    def compute(
        self, labels: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """:meth:`forward` for arrays that are on one device already."""
        self.check_targets(labels, y.shape)
        losses, backward = self.differentiate(labels, y)
        value, scale = self._reduce(losses, sample_weight)
        return value, backward(scale)

    def per_sample(self, labels: Array, y: Array) -> Array:
        """Return the losses before weights and reduction, (N,) or (N, ...)."""
        self.check_targets(labels, y.shape)
        return self.differentiate(labels, y)[0]

    @abstractmethod
    def check_targets(self, labels: Array, y_shape: Sequence[int | None]) -> None:
        """Check the shape of labels, and the values of those that lie on the host.

        Args:
            labels: an array.
            y_shape: shape of the outputs; None for an unknown number of samples.

        Raises:
            ShapeError: labels and outputs do not belong together.
            InvalidArgumentError: a label is out of range.
        """

    @abstractmethod
    def differentiate(self, labels: Array, y: Array) -> tuple[Array, Backward]:
        """Return the losses of the samples, and the function that gives their gradient.

        Args:
            labels: checked labels on the device of ``y``.
            y: (N, ...) outputs.
        """

    @property
    def accepts_softmax_fusion(self) -> bool:
        """Whether :meth:`with_logits` may replace a softmax followed by this loss."""
        return False

    def with_logits(self: L) -> L:
        """Return the same loss for logits instead of probabilities.

        Raises:
            InvalidArgumentError: it is not a cross-entropy of probabilities.
        """
        if not self.accepts_softmax_fusion:
            raise InvalidArgumentError(
                f"only a categorical cross-entropy with from_logits=False has a form for logits. "
                f"Received: {self!r}"
            )
        return type(self).from_config({**self.get_config(), "from_logits": True})

    def _reduce(self, losses: Array, sample_weight: Array | None) -> tuple[Array, Array]:
        """Return the reduced value and its gradient with respect to each of ``losses``."""
        xp = array_module(losses)
        shape, dtype = tuple(losses.shape), losses.dtype
        weights = None
        if sample_weight is not None:
            weights = align_weights(sample_weight, shape).astype(dtype, copy=False)
            losses = losses * weights
        if self.reduction in ("sum", "none"):
            factor = 1.0
        elif self.reduction == "mean_with_sample_weight" and weights is not None:
            total = xp.broadcast_to(weights, shape).sum()
            factor = xp.where(total == 0, 0, 1 / xp.where(total == 0, 1, total))
        else:
            factor = 1.0 / max(1, math.prod(shape))
        value = losses if self.reduction == "none" else losses.sum() * factor
        scale = xp.empty(shape, dtype)
        scale[...] = factor if weights is None else weights * factor
        return xp.asarray(value, dtype), scale
