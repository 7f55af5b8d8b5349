"""Cross-entropy between classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuconv.backends.arrays import array_module
from gpuconv.dispatch import engine_for
from gpuconv.losses.base import EPSILON, Backward, Loss
from gpuconv.losses.targets import (
    check_class_numbers,
    check_class_shape,
    check_fraction,
    check_one_hot_shape,
    known_shape,
)

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


class _Crossentropy(Loss):
    @property
    def accepts_softmax_fusion(self) -> bool:
        return not self.from_logits


class SparseCategoricalCrossentropy(_Crossentropy):
    """``-log p[label]`` for labels that are class numbers.

    With ``from_logits=False`` the outputs are scores that are normalised to probabilities
    first, as in Keras 3.15: ``p = y / sum(y)``, clipped to [1e-7, 1 - 1e-7]. The gradient is
    that of this whole function: it is zero where the clip binds. A model whose last layer is a
    softmax trains with softmax and loss fused into the form for logits, whose gradient
    ``p - onehot`` neither vanishes nor overflows.

    Args:
        from_logits: the outputs are logits; the loss is then ``log(sum(exp(y))) - y[label]``.
        reduction, name: see :class:`Loss`.

    Shapes: outputs (N, ..., K), labels (N, ...) or (N, ..., 1), integers in [0, K).
    """

    def __init__(
        self,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        self.from_logits = bool(from_logits)

    def check_targets(self, labels: Array, y_shape: Sequence[int | None]) -> None:
        shape = known_shape(y_shape, labels)
        check_class_shape(tuple(labels.shape), shape)
        check_class_numbers(labels, shape[-1])

    def differentiate(self, labels: Array, y: Array) -> tuple[Array, Backward]:
        numbers = labels.reshape(-1).astype("int64", copy=False)
        if self.from_logits:
            return _from_logits(numbers, y)
        xp = array_module(y)
        rows = y.reshape(-1, y.shape[-1])
        at_label = (xp.arange(rows.shape[0]), numbers)
        total = rows.sum(axis=1)
        p = rows[at_label] / total
        losses = -xp.log(xp.clip(p, EPSILON, 1 - EPSILON))

        def backward(scale: Array) -> Array:
            # -log(y[k] / sum(y)): 1/sum(y) for every class, less 1/y[k] at the label.
            free = xp.logical_and(p >= EPSILON, p <= 1 - EPSILON)
            scale = xp.where(free, scale.reshape(-1), 0)
            dy = xp.empty(rows.shape, y.dtype)
            dy[...] = (scale / total)[:, None]
            dy[at_label] -= scale / xp.where(free, rows[at_label], 1)
            return dy.reshape(y.shape)

        return losses.reshape(y.shape[:-1]), backward


class CategoricalCrossentropy(_Crossentropy):
    """``-sum(labels * log p)`` for labels that are one-hot or probabilities.

    Normalisation, clip, gradient and fusion with a softmax as in
    :class:`SparseCategoricalCrossentropy`.

    Args:
        from_logits: the outputs are logits; ``log p`` is then their log-softmax.
        label_smoothing: ``s`` in [0, 1]: labels become ``labels * (1 - s) + s / K``.
        reduction, name: see :class:`Loss`.

    Shapes: outputs and labels (N, ..., K).
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

    def check_targets(self, labels: Array, y_shape: Sequence[int | None]) -> None:
        check_one_hot_shape(tuple(labels.shape), known_shape(y_shape, labels))

    def differentiate(self, labels: Array, y: Array) -> tuple[Array, Backward]:
        targets = labels.astype(y.dtype, copy=False)
        if self.label_smoothing:
            smoothing = self.label_smoothing
            targets = targets * (1 - smoothing) + smoothing / y.shape[-1]
        if self.from_logits:
            return _from_logits(targets.reshape(-1, y.shape[-1]), y)
        xp = array_module(y)
        total = y.sum(axis=-1, keepdims=True)
        p = y / total
        losses = -(targets * xp.log(xp.clip(p, EPSILON, 1 - EPSILON))).sum(axis=-1)

        def backward(scale: Array) -> Array:
            free = xp.logical_and(p >= EPSILON, p <= 1 - EPSILON)
            dp = xp.where(free, -targets / xp.where(free, p, 1), 0)
            dp -= (dp * p).sum(axis=-1, keepdims=True)
            dp *= scale[..., None] / total
            return dp

        return losses, backward


def _from_logits(targets: Array, y: Array) -> tuple[Array, Backward]:
    """Cross-entropy of logits (N, ..., K) with targets (M,) or (M, K), M rows in all."""
    engine = engine_for(y)
    losses, p = engine.softmax_cross_entropy(y.reshape(-1, y.shape[-1]), targets)

    def backward(scale: Array) -> Array:
        return engine.softmax_cross_entropy_backward(p, targets, scale.reshape(-1)).reshape(y.shape)

    return losses.reshape(y.shape[:-1]), backward
