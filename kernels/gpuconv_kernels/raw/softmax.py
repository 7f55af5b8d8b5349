"""Launchers of softmax.cu: softmax and softmax + cross-entropy over rows."""

from __future__ import annotations

import math
from typing import Any

from gpuconv_kernels.raw.runtime import Runtime, row_block

Array = Any


def softmax(rt: Runtime, x: Array) -> Array:
    """Softmax over the last axis, (..., K) -> (..., K)."""
    y = rt.empty(x.shape, x.dtype)
    _launch(rt, "softmax", x.shape, (x, y))
    return y


def softmax_backward(rt: Runtime, dy: Array, y: Array) -> Array:
    """``y * (dy - sum(dy * y))`` over the last axis, (..., K) -> (..., K)."""
    dx = rt.empty(y.shape, y.dtype)
    _launch(rt, "softmax_backward", y.shape, (dy, y, dx))
    return dx


def softmax_cross_entropy(rt: Runtime, logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the loss of each row (M,) and the softmax (M, K).

    Args:
        rt: where to run.
        logits: (M, K).
        targets: class numbers (M,) as int64, or probabilities (M, K) in the dtype of the logits.
    """
    losses = rt.empty(logits.shape[:1], logits.dtype)
    probabilities = rt.empty(logits.shape, logits.dtype)
    arguments = (logits, *_kinds(targets), losses, probabilities)
    _launch(rt, "softmax_cross_entropy", logits.shape, arguments)
    return losses, probabilities


def softmax_cross_entropy_backward(
    rt: Runtime, probabilities: Array, targets: Array, scale: Array
) -> Array:
    """``scale[:, None] * (probabilities * sum(targets) - targets)``, (M, K)."""
    dx = rt.empty(probabilities.shape, probabilities.dtype)
    arguments = (probabilities, *_kinds(targets), scale, dx)
    _launch(rt, "softmax_cross_entropy_backward", dx.shape, arguments)
    return dx


def _kinds(targets: Array) -> tuple[Array | None, Array | None]:
    return (targets, None) if targets.ndim == 1 else (None, targets)


def _launch(rt: Runtime, kernel: str, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    classes = shape[-1]
    rows = math.prod(shape[:-1])
    if rows and classes:
        block = row_block(classes, widest=256)
        rt.launch(kernel, (-(-rows // block[1]),), block, (*arguments, rows, classes))
