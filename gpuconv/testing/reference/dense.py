"""Dense layers and softmax, over the last axis."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.testing.reference.extents import F64, as_f64


def dense(x: F64, w: F64, bias: F64 | None = None) -> F64:
    """``x`` (..., I), ``w`` (I, F), ``bias`` (F,) -> (..., F)."""
    x, w = as_f64(x), as_f64(w)
    y: F64 = np.zeros((*x.shape[:-1], w.shape[1]))
    for position in np.ndindex(*x.shape[:-1]):
        for i in range(w.shape[0]):
            y[position] += x[position][i] * w[i]
        if bias is not None:
            y[position] += bias
    return y


def dense_backward(dy: F64, x: F64, w: F64) -> tuple[F64, F64, F64]:
    """Return ``dx`` (..., I), ``dw`` (I, F) and ``dbias`` (F,)."""
    dy, x, w = as_f64(dy), as_f64(x), as_f64(w)
    dx, dw, dbias = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[1])
    for position in np.ndindex(*x.shape[:-1]):
        for i in range(w.shape[0]):
            dx[position][i] = (dy[position] * w[i]).sum()
            dw[i] += x[position][i] * dy[position]
        dbias += dy[position]
    return dx, dw, dbias


def log_softmax(x: F64) -> F64:
    """``x - log(sum(exp(x)))`` over the last axis, shifted by the maximum."""
    y: F64 = np.empty(x.shape)
    for position in np.ndindex(*x.shape[:-1]):
        row = [float(v) for v in x[position]]
        top = max(row)
        log_sum = top + math.log(math.fsum(math.exp(v - top) for v in row))
        y[position] = [v - log_sum for v in row]
    return y


def softmax(x: F64) -> F64:
    """``exp(x) / sum(exp(x))`` over the last axis."""
    return np.exp(log_softmax(x))


def softmax_backward(dy: F64, y: F64) -> F64:
    """``dy`` times the Jacobian ``diag(y) - y y^T`` of each row."""
    dy, y = as_f64(dy), as_f64(y)
    dx: F64 = np.empty(y.shape)
    for position in np.ndindex(*y.shape[:-1]):
        row = y[position]
        dx[position] = (np.diag(row) - np.outer(row, row)) @ dy[position]
    return dx
