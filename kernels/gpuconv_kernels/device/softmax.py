"""Softmax over the last axis and its cross-entropy, stable for large inputs.

M rows of K classes. A row belongs to a group of threads, as many as the least power of 2 that is
not below K, at most a block; a block of 256 takes 256/group rows. Element k of a row goes to
thread k mod group, so that neighbours read neighbours::

    group of 4, K = 6:   k  0 1 2 3 4 5        shared memory, a tree over the group:
                     thread 0 1 2 3 0 1          |m0 m1 m2 m3| -> |m0,m2 m1,m3| -> |m|

    1. maximum of the row             (read)
    2. sum of exp(x - maximum)        (read, the exponentials are written to the result)
    3. division by the sum            (read and written; what step 2 wrote is still in cache)

The maximum is subtracted first, so nothing overflows. NaN is passed on: a row with NaN, with +inf
or of -inf only is NaN, as in NumPy. A class number outside [0, K) cannot raise an error on a
device; it makes the row's loss and gradient NaN and reads nothing.

Shared memory: one number a thread. Limits: M and K below 2^31, K at least 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.functions import exp, log, quiet
from gpuconv_kernels.device.launch import ceil_div, launch
from gpuconv_kernels.device.reductions import MIN_BLOCKS, unsigned
from gpuconv_kernels.device.target import (
    SIMULATED,
    KernelSpec,
    compiled,
    cuda,
    flat,
    inlined,
    types,
)

Array = Any

_THREADS = 32 if SIMULATED else 256


def softmax(x: Array, y: Array) -> None:
    """Write ``exp(x) / sum(exp(x))`` over the last axis into ``y``, (..., K); not in place."""
    _by_rows(_softmax_kernel(x.dtype.name), x.shape, x, y)


def softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    """Write ``y * (dy - sum(dy * y))`` over the last axis into ``dx``, (..., K)."""
    _by_rows(_backward_kernel(dy.dtype.name), dy.shape, dy, y, dx)


def softmax_cross_entropy(
    logits: Array, targets: Array, losses: Array, probabilities: Array
) -> None:
    """Write the loss of each row (M,) and the softmax (M, K).

    Args:
        logits: (M, K).
        targets: class numbers (M,) of an integer dtype, or probabilities (M, K); the loss is then
            ``-sum(targets * log_softmax(logits))``, whatever the row of targets sums to.
        losses, probabilities: outputs in the dtype of ``logits``.
    """
    kernel = _entropy_kernel(logits.dtype.name, len(targets.shape) == 1)
    _by_rows(kernel, logits.shape, logits, targets, losses, probabilities)


def softmax_cross_entropy_backward(
    probabilities: Array, targets: Array, scale: Array, dlogits: Array
) -> None:
    """Write ``scale[:, None] * (probabilities * sum(targets) - targets)``, (M, K).

    Args:
        probabilities: (M, K), as :func:`softmax_cross_entropy` wrote them.
        targets: the same as there; a class number stands for a one-hot row.
        scale: (M,) gradient with respect to each row's loss.
        dlogits: output; may be ``probabilities``.
    """
    kernel = _entropy_backward_kernel(probabilities.dtype.name, len(targets.shape) == 1)
    _by_rows(kernel, probabilities.shape, probabilities, targets, scale, dlogits)


def _by_rows(kernel: Any, shape: tuple[int, ...], *arrays: Array) -> None:
    classes, rows = shape[-1], 1
    for extent in shape[:-1]:
        rows *= extent
    if rows * classes == 0:
        return
    group = int(min(1 << (classes - 1).bit_length(), _THREADS))
    deep = _THREADS // group
    launch(kernel, ceil_div(rows, deep), (group, deep), *arrays, rows, classes)


@quiet
def larger(a, b):  # type: ignore[no-untyped-def]
    """The larger number, NaN if either is."""
    return b if b > a or b != b else a


@quiet
def shifted_exp(x, top):  # type: ignore[no-untyped-def]
    """``exp(x - top)``."""
    return exp(x - top)


@inlined
def largest_of_row(held, slot, value):  # type: ignore[no-untyped-def]
    """The largest ``value`` of the threads of a row; ``held`` is needed until all have read it."""
    held[slot] = value
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if cuda.threadIdx.x < half:
            held[slot] = larger(held[slot], held[slot + half])
        cuda.syncthreads()
        half //= 2
    return held[slot - cuda.threadIdx.x]


@inlined
def sum_of_row(held, slot, value):  # type: ignore[no-untyped-def]
    """The sum of ``value`` over the threads of a row, in a fixed order; ``held`` as above."""
    held[slot] = value
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if cuda.threadIdx.x < half:
            held[slot] += held[slot + half]
        cuda.syncthreads()
        half //= 2
    return held[slot - cuda.threadIdx.x]


def _softmax(dtype: str) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero, lowest = number(0), number(-np.inf)

    def softmax_rows(x, y, rows, classes):  # type: ignore[no-untyped-def]
        held = cuda.shared.array(_THREADS, number)
        group, t = cuda.blockDim.x, cuda.threadIdx.x
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        slot = cuda.threadIdx.y * group + t
        base = np.int64(row) * classes
        inside = row < rows

        top = lowest
        if inside:
            for k in range(t, classes, group):
                top = larger(top, x[unsigned(base + k)])
        top = largest_of_row(held, slot, top)
        cuda.syncthreads()  # all have read the maximum before sums take its place

        total = zero
        if inside:
            for k in range(t, classes, group):
                value = shifted_exp(x[unsigned(base + k)], top)
                y[unsigned(base + k)] = value
                total += value
        total = sum_of_row(held, slot, total)
        if inside:
            for k in range(t, classes, group):
                y[unsigned(base + k)] /= total

    return softmax_rows


def _backward(dtype: str) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero = number(0)

    def softmax_backward_rows(dy, y, dx, rows, classes):  # type: ignore[no-untyped-def]
        held = cuda.shared.array(_THREADS, number)
        group, t = cuda.blockDim.x, cuda.threadIdx.x
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        slot = cuda.threadIdx.y * group + t
        base = np.int64(row) * classes
        inside = row < rows

        total = zero
        if inside:
            for k in range(t, classes, group):
                total += dy[unsigned(base + k)] * y[unsigned(base + k)]
        total = sum_of_row(held, slot, total)
        if inside:
            for k in range(t, classes, group):
                at = unsigned(base + k)
                dx[at] = y[at] * (dy[at] - total)

    return softmax_backward_rows


def _entropy(dtype: str, by_number: bool) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero, lowest, nan = number(0), number(-np.inf), number(np.nan)

    @quiet
    def term(target, x, top, log_total):  # type: ignore[no-untyped-def]
        return target * (log_total - (x - top))

    def cross_entropy_rows(  # type: ignore[no-untyped-def]
        logits, targets, losses, probabilities, rows, classes
    ):
        held = cuda.shared.array(_THREADS, number)
        group, t = cuda.blockDim.x, cuda.threadIdx.x
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        slot = cuda.threadIdx.y * group + t
        base = np.int64(row) * classes
        inside = row < rows

        top = lowest
        if inside:
            for k in range(t, classes, group):
                top = larger(top, logits[unsigned(base + k)])
        top = largest_of_row(held, slot, top)
        cuda.syncthreads()  # all have read the maximum before sums take its place

        total = zero
        if inside:
            for k in range(t, classes, group):
                value = shifted_exp(logits[unsigned(base + k)], top)
                probabilities[unsigned(base + k)] = value
                total += value
        total = sum_of_row(held, slot, total)
        cuda.syncthreads()  # the same before losses take the place of sums

        log_total = log(total) if inside else zero
        loss = zero
        if inside:
            for k in range(t, classes, group):
                at = unsigned(base + k)
                probabilities[at] /= total
                if not by_number:
                    loss += term(number(targets[at]), logits[at], top, log_total)
        if by_number:
            if inside and t == 0:
                k = np.int64(targets[unsigned(row)])
                if k < 0 or k >= classes:
                    losses[unsigned(row)] = nan
                else:
                    losses[unsigned(row)] = log_total - (logits[unsigned(base + k)] - top)
        else:
            loss = sum_of_row(held, slot, loss)
            if inside and t == 0:
                losses[unsigned(row)] = loss

    return cross_entropy_rows


def _entropy_backward(dtype: str, by_number: bool) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero, one, nan = number(0), number(1), number(np.nan)

    def class_number_gradient_rows(  # type: ignore[no-untyped-def]
        probabilities, targets, scale, dlogits, rows, classes
    ):
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row < rows:
            target = np.int64(targets[unsigned(row)])
            factor = number(scale[unsigned(row)])
            if target < 0 or target >= classes:
                factor = nan
            base = np.int64(row) * classes
            for k in range(cuda.threadIdx.x, classes, cuda.blockDim.x):
                hit = one if k == target else zero
                at = unsigned(base + k)
                dlogits[at] = factor * (probabilities[at] - hit)

    def cross_entropy_gradient_rows(  # type: ignore[no-untyped-def]
        probabilities, targets, scale, dlogits, rows, classes
    ):
        held = cuda.shared.array(_THREADS, number)
        group, t = cuda.blockDim.x, cuda.threadIdx.x
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        slot = cuda.threadIdx.y * group + t
        base = np.int64(row) * classes
        inside = row < rows

        mass = zero
        if inside:
            for k in range(t, classes, group):
                mass += number(targets[unsigned(base + k)])
        mass = sum_of_row(held, slot, mass)
        if inside:
            factor = number(scale[unsigned(row)])
            for k in range(t, classes, group):
                at = unsigned(base + k)
                dlogits[at] = factor * (probabilities[at] * mass - number(targets[at]))

    return class_number_gradient_rows if by_number else cross_entropy_gradient_rows


@functools.cache
def _softmax_kernel(dtype: str) -> Any:
    return compiled(_softmax(dtype), _THREADS, MIN_BLOCKS)


@functools.cache
def _backward_kernel(dtype: str) -> Any:
    return compiled(_backward(dtype), _THREADS, MIN_BLOCKS)


@functools.cache
def _entropy_kernel(dtype: str, by_number: bool) -> Any:
    return compiled(_entropy(dtype, by_number), _THREADS, MIN_BLOCKS)


@functools.cache
def _entropy_backward_kernel(dtype: str, by_number: bool) -> Any:
    return compiled(_entropy_backward(dtype, by_number), _THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    short = types.int32
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        yield KernelSpec(
            f"softmax_rows[{dtype}]",
            _softmax(dtype),
            (array, array, short, short),
            _THREADS,
            min_blocks=MIN_BLOCKS,
        )
        yield KernelSpec(
            f"softmax_backward_rows[{dtype}]",
            _backward(dtype),
            (array, array, array, short, short),
            _THREADS,
            min_blocks=MIN_BLOCKS,
        )
        for by_number, targets in ((True, flat("int64")), (False, array)):
            form = "class numbers" if by_number else "probabilities"
            arguments = (array, targets, array, array, short, short)
            yield KernelSpec(
                f"cross_entropy_rows[{dtype},{form}]",
                _entropy(dtype, by_number),
                arguments,
                _THREADS,
                min_blocks=MIN_BLOCKS,
            )
            yield KernelSpec(
                f"cross_entropy_backward_rows[{dtype},{form}]",
                _entropy_backward(dtype, by_number),
                arguments,
                _THREADS,
                min_blocks=MIN_BLOCKS,
            )
