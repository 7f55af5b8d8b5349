"""Softmax over the last axis and its cross-entropy, stable for large inputs.

Shapes: M rows of K classes. Every function returns new C-contiguous arrays in the dtype of
its first argument and leaves its arguments alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]


def softmax(x: NDArray) -> NDArray:
    """``exp(x) / sum(exp(x))`` over the last axis, (..., K) -> (..., K)."""
    y = _shifted(x)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy: NDArray, y: NDArray) -> NDArray:
    """``y * (dy - sum(dy * y))`` over the last axis, (..., K) -> (..., K)."""
    dx: NDArray = np.empty(y.shape, y.dtype)
    np.multiply(dy, y, out=dx)
    total = dx.sum(axis=-1, keepdims=True)
    np.subtract(dy, total, out=dx)
    dx *= y
    return dx


def softmax_cross_entropy(logits: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
    """Return the loss of each row (M,) and the softmax (M, K).

    Args:
        logits: (M, K).
        targets: class numbers (M,) in [0, K), or probabilities (M, K); the loss is then
            ``-sum(targets * log_softmax(logits))``, whatever the row of targets sums to.
    """
    shifted = _shifted(logits)
    probabilities = np.exp(shifted)
    total = probabilities.sum(axis=1)
    log_total = np.log(total)
    if targets.ndim == 1:
        losses = log_total - shifted[np.arange(len(targets)), targets]
    else:
        shifted -= log_total[:, None]
        shifted *= targets
        losses = -shifted.sum(axis=1)
    probabilities /= total[:, None]
    return losses, probabilities


def softmax_cross_entropy_backward(
    probabilities: NDArray, targets: NDArray, scale: NDArray
) -> NDArray:
    """``scale[:, None] * (probabilities * sum(targets) - targets)``, (M, K).

    Args:
        probabilities: (M, K), as :func:`softmax_cross_entropy` returned them.
        targets: the same as there; a class number stands for a one-hot row.
        scale: (M,) gradient with respect to each row's loss.
    """
    dx: NDArray = np.empty(probabilities.shape, probabilities.dtype)
    if targets.ndim == 1:
        np.multiply(probabilities, scale[:, None], out=dx)
        dx[np.arange(len(targets)), targets] -= scale
    else:
        mass = targets.sum(axis=1, keepdims=True)
        np.multiply(probabilities, mass, out=dx, casting="same_kind")
        np.subtract(dx, targets, out=dx, casting="same_kind")
        dx *= scale[:, None]
    return dx


def _shifted(x: NDArray) -> NDArray:
    """``x - max(x)`` over the last axis: exp then cannot overflow."""
    y: NDArray = np.empty(x.shape, x.dtype)
    np.subtract(x, x.max(axis=-1, keepdims=True), out=y)
    return y
