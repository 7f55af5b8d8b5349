"""Softmax over the last axis and its cross-entropy, a row at a time.

A row of K numbers stays in the L1 cache while everything that it needs is done::

    x, a row of K  -->  its largest m  -->  y = exp(x - m)  -->  total  -->  y / total
                                                                  |
    loss of the row  <--  log(total) - (x - m) at the class  <----+

What is computed, and what becomes of NaN and infinity, is documented in ``array.softmax``. NaN need
not be looked for: it reaches the total, whatever the largest number was. Sums run in parts (see
``row_reduction``) and ``exp`` is our own, so results differ from NumPy's by rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.host.exponential import exponential
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.row_reduction import add_up, largest
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE

Array = Any

TASK: Final = 32 * 1024
"""Numbers of a task, about; one, if the rows are longer."""
_NO_LOSS, _CLASSES, _PROBABILITIES = 0, 1, 2


def softmax(x: Array, y: Array) -> None:
    """Write the softmax ``y`` (C-contiguous) of ``x`` (..., K) of any strides."""
    _forward(x, y, None, y)


def softmax_cross_entropy(logits: Array, targets: Array, losses: Array, y: Array) -> None:
    """Write the loss of each row (M,) and the softmax ``y`` (M, K).

    Args:
        logits: (M, K), of any strides.
        targets: class numbers (M,) in [0, K), or probabilities (M, K).
        losses, y: C-contiguous, in the dtype of ``logits``.
    """
    _forward(logits, y, targets, losses)


def softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    """Write ``dx = y * (dy - sum(dy * y))``, C-contiguous."""
    _backward(y, dy, None, dx)


def softmax_cross_entropy_backward(
    probabilities: Array, targets: Array, scale: Array, dx: Array
) -> None:
    """Write ``dx = scale[:, None] * (probabilities * sum(targets) - targets)``, (M, K)."""
    _backward(probabilities, targets, scale, dx)


def _forward(x: Array, y: Array, targets: Array | None, losses: Array) -> None:
    if y.size == 0:
        return
    x = np.ascontiguousarray(x)
    mode, targets = _kind_of(targets, y)
    _run(forward_kernel(name_of(y.dtype)), y, mode, x, y, targets, losses)


def _backward(p: Array, second: Array, scale: Array | None, dx: Array) -> None:
    if dx.size == 0:
        return
    p = np.ascontiguousarray(p)
    if scale is None:
        mode, second, scale = _NO_LOSS, np.ascontiguousarray(second), p
    else:
        mode, second = _kind_of(second, dx)
        scale = np.ascontiguousarray(scale, dx.dtype)
    _run(backward_kernel(name_of(dx.dtype)), dx, mode, p, second, scale, dx)


def _kind_of(targets: Array | None, like: Array) -> tuple[int, Array]:
    if targets is None:
        return _NO_LOSS, like
    if targets.ndim > 1:
        return _PROBABILITIES, np.ascontiguousarray(targets, like.dtype)
    classes = np.ascontiguousarray(targets, np.int64)
    # Read as unsigned, a negative number is a large one.
    if classes.size and classes.view(np.uint64).max() >= like.shape[-1]:
        raise IndexError(
            f"class numbers must be in [0, {like.shape[-1]}). "
            f"Received: {classes.min()} to {classes.max()}"
        )
    return _CLASSES, classes


def _run(kernel: Any, like: Array, mode: int, *arrays: Array) -> None:
    classes = like.shape[-1]
    rows = math.prod(like.shape[:-1])
    of_a_task = max(TASK // classes, 1)
    run(kernel, -(-rows // of_a_task), mode, *map(address, arrays), rows, classes, of_a_task)


@functools.cache
def forward_kernel(dtype: str) -> Any:
    """Return the compiled kernel of :func:`softmax` and :func:`softmax_cross_entropy`."""
    return Kernel(define_forward(dtype), dtype)


def define_forward(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`forward_kernel`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    integers = view("int64")
    greatest, total_of, exp = largest(dtype), add_up(dtype), exponential(dtype)

    def forward(  # type: ignore[no-untyped-def]
        counter, tasks, mode, x, y, targets, losses, rows, classes, of_a_task
    ):
        terms = np.empty(classes, number)
        loss, numbers = array(losses, rows), integers(targets, rows)
        task = take(counter)
        while task < tasks:
            for row in range(task * of_a_task, min(task * of_a_task + of_a_task, rows)):
                begin = row * classes * itemsize
                source, target = array(x + begin, classes), array(y + begin, classes)
                peak = greatest(x + begin, classes)
                for k in range(classes):
                    target[k] = exp(source[k] - peak)
                total = total_of(y + begin, classes)
                if mode == _CLASSES:
                    loss[row] = number(np.log(total)) - (source[numbers[row]] - peak)
                elif mode == _PROBABILITIES:
                    share, log_total = array(targets + begin, classes), number(np.log(total))
                    for k in range(classes):
                        terms[k] = (source[k] - peak - log_total) * share[k]
                    loss[row] = -total_of(terms.ctypes.data, classes)
                for k in range(classes):
                    target[k] /= total
            task = take(counter)

    return forward


@functools.cache
def backward_kernel(dtype: str) -> Any:
    """Return the compiled kernel of both gradients."""
    return Kernel(define_backward(dtype), dtype)


def define_backward(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`backward_kernel`."""
    itemsize, array = ITEMSIZE[dtype], view(dtype)
    integers, total_of = view("int64"), add_up(dtype)

    def backward(  # type: ignore[no-untyped-def]
        counter, tasks, mode, p, second, scale, dx, rows, classes, of_a_task
    ):
        factors, numbers = array(scale, rows), integers(second, rows)
        task = take(counter)
        while task < tasks:
            for row in range(task * of_a_task, min(task * of_a_task + of_a_task, rows)):
                begin = row * classes * itemsize
                y, target = array(p + begin, classes), array(dx + begin, classes)
                factor = factors[row]
                if mode == _CLASSES:
                    for k in range(classes):
                        target[k] = y[k] * factor
                    target[numbers[row]] -= factor
                elif mode == _PROBABILITIES:
                    share = array(second + begin, classes)
                    mass = total_of(second + begin, classes)
                    for k in range(classes):
                        target[k] = (y[k] * mass - share[k]) * factor
                else:
                    dy = array(second + begin, classes)
                    for k in range(classes):
                        target[k] = dy[k] * y[k]
                    total = total_of(dx + begin, classes)
                    for k in range(classes):
                        target[k] = (dy[k] - total) * y[k]
            task = take(counter)

    return backward
