"""Normalisation by one mean and variance a channel (BatchNorm), and its gradient.

The formulas are those of ``array.normalization``, which serves the other cases; here every pass
reads and writes each array once::

    forward                                       backward
    1. moments: reads x          (channel_sums)   1. sums of dy and dy (x - mean): reads dy and x
    2. y = (x - mean) factor + offset             2. dx = (dy - shift - (x - mean) slope) factor

The second pass begins where the first has ended: that part of the arrays is still in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.host.channel_sums import moments, parameter_sums, sum_channels
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.normalization_tables import backward_table, forward_table
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of
from gpuconv_kernels.host.target import ITEMSIZE

__all__ = ["by_channel", "covers", "moments", "normalize", "normalize_backward", "sum_channels"]

Array = Any

TASK: Final = 64 * 1024
"""Numbers of a task, about: some 50 us, more than it costs to hand it to another thread."""


def covers(x: Array, *axes: tuple[int, ...]) -> bool:
    """Whether the kernels of this file serve sums of ``x`` over these axes: all but the last."""
    others = tuple(range(x.ndim - 1))
    for some in axes:
        if some != others and tuple(sorted(axis % x.ndim for axis in some)) != others:
            return False
    return True


def by_channel(x: Array, *vectors: Array | None) -> bool:
    """Whether :func:`normalize` serves these vectors: one number for each channel of ``x``."""
    channels = x.shape[-1]
    for v in vectors:  # noqa: SIM110  # a generator takes longer than what it looks at
        if v is not None and not v.size == v.shape[-1] == channels:
            return False
    return True


def normalize(
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    offset: Array | None,
    epsilon: float,
    y: Array,
) -> None:
    """Write ``y = (x - mean) / sqrt(variance + epsilon) * scale + offset``.

    ``x`` (..., C) has any strides, ``y`` is C-contiguous; the vectors hold C numbers.
    """
    if y.size:
        table = forward_table(y.dtype, mean, variance, scale, offset, epsilon)
        _map("forward", y, (x,), table)


def normalize_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    epsilon: float,
    batch_statistics: bool,
    dx: Array | None,
    dscale: Array,
    doffset: Array,
) -> None:
    """Write the gradients of :func:`normalize`; ``dx`` is None where it is not wanted.

    Args:
        dy, x: (..., C), of any strides.
        mean, variance, scale: C numbers each; ``scale`` may be None.
        epsilon: as in :func:`normalize`.
        batch_statistics: whether the moments are those of ``x`` rather than constants.
        dx: as ``x``, C-contiguous, or None.
        dscale, doffset: C numbers each, C-contiguous.
    """
    dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
    count = max(x.size // max(mean.size, 1), 1) if batch_statistics else 0
    partial = parameter_sums(dy, x, mean)
    table = backward_table(partial, mean, variance, scale, epsilon, count, dscale, doffset)
    if dx is not None and dx.size:
        _map("backward" if batch_statistics else "scale", dx, (dy, x), table)


def _map(kind: str, result: Array, sources: tuple[Array, ...], table: Array) -> None:
    channels = result.shape[-1]
    width = fold_of(channels, result.dtype) * channels
    task = max(TASK // width, 1) * width
    kept = [np.ascontiguousarray(source) for source in sources]
    run(
        mapping(name_of(result.dtype), kind),
        -(-result.size // task),
        address(kept[0]),
        address(kept[-1]),
        address(result),
        address(table),
        result.size,
        width,
        task,
    )


@functools.cache
def mapping(dtype: str, kind: str) -> Any:
    """Return the compiled kernel; ``kind`` is forward, backward or scale."""
    return Kernel(define(dtype, kind), dtype, kind)


def define(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`mapping`."""
    itemsize, array = ITEMSIZE[dtype], view(dtype)
    forward, backward = kind == "forward", kind == "backward"

    def normalize_rows(counter, tasks, a, b, result, vectors, size, width, piece):  # type: ignore[no-untyped-def]
        v0, v1 = array(vectors, width), array(vectors + width * itemsize, width)
        v2 = array(vectors + 2 * width * itemsize, width)
        v3 = array(vectors + 3 * width * itemsize, width)
        task = take(counter)
        while task < tasks:
            first = (tasks - 1 - task) * piece
            for start in range(first, min(first + piece, size), width):
                count = min(width, size - start)
                x, y = array(a + start * itemsize, count), array(result + start * itemsize, count)
                if forward:
                    for i in range(count):
                        y[i] = (x[i] - v0[i]) * v1[i] + v2[i]
                elif backward:
                    z = array(b + start * itemsize, count)
                    for i in range(count):
                        y[i] = (x[i] - (z[i] - v0[i]) * v2[i] - v3[i]) * v1[i]
                else:
                    for i in range(count):
                        y[i] = x[i] * v1[i]
            task = take(counter)

    return normalize_rows
