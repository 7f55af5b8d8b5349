"""What a normalisation by channel multiplies and adds: a few numbers a channel, in one kernel.

With NumPy these would be a dozen calls on arrays of C numbers, which together take longer than a
pass over a small image. The vectors come out repeated to long rows (see ``rows``)::

    forward       mean     factor            shift
    backward      mean     factor            slope                      shift
                           r scale           sum(dy (x-mean)) r^2 / n   sum(dy) / n

where ``r = 1 / sqrt(variance + epsilon)``, rounded to the arrays' precision as NumPy would do it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of
from gpuconv_kernels.host.target import ITEMSIZE, inlined

Array = Any


def forward_table(
    dtype: Any,
    mean: Array,
    variance: Array,
    scale: Array | None,
    offset: Array | None,
    epsilon: float,
) -> Array:
    """Return mean, factor and shift, (3, fold, C), of vectors of C numbers each."""
    channels = mean.size
    table = np.empty((3, fold_of(channels, dtype), channels), dtype)
    vectors = [_plain(v, dtype) for v in (mean, variance, scale, offset)]
    run(
        forward(name_of(dtype)),
        1,
        *map(_place, vectors),
        float(epsilon),
        channels,
        table.shape[1],
        address(table),
    )
    return table


def backward_table(
    partial: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    epsilon: float,
    count: int,
    dscale: Array,
    doffset: Array,
) -> Array:
    """Write ``dscale`` and ``doffset``, C numbers each; return what :func:`define_backward` lists.

    Args:
        partial: sums of dy and of dy (x - mean), (parts, 2, C), which is used up.
        mean, variance, scale, epsilon: as in :func:`forward_table`.
        count: rows that the moments were taken of; 0: they are constants, and the table holds
            only mean and factor.
        dscale, doffset: C-contiguous.
    """
    dtype, channels = dscale.dtype, dscale.size
    vectors = [_plain(v, dtype) for v in (mean, variance, scale)]
    table = np.empty((4 if count else 2, fold_of(channels, dtype), channels), dtype)
    run(
        backward(name_of(dtype)),
        1,
        address(partial),
        len(partial),
        *map(_place, vectors),
        float(epsilon),
        count,
        channels,
        table.shape[1],
        address(dscale),
        address(doffset),
        address(table),
    )
    return table


def _plain(vector: Array | None, dtype: Any) -> Array | None:
    return None if vector is None else np.ascontiguousarray(vector, dtype)


def _place(vector: Array | None) -> int:
    return 0 if vector is None else address(vector)


@functools.cache
def forward(dtype: str) -> Any:
    """Return the compiled kernel, of one task."""
    return Kernel(define_forward(dtype), dtype)


def define_forward(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`forward_table`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    repeat = _repeat(dtype)

    def tabulate_forward(  # type: ignore[no-untyped-def]
        counter, tasks, mean, variance, scale, offset, epsilon, channels, fold, table
    ):
        if take(counter) >= tasks:
            return
        width = fold * channels * itemsize
        means, variances = array(mean, channels), array(variance, channels)
        centre, factor = array(table, channels), array(table + width, channels)
        shift = array(table + 2 * width, channels)
        scales, offsets = array(scale, channels), array(offset, channels)
        for c in range(channels):
            r = number(1.0 / math.sqrt(np.float64(variances[c]) + epsilon))
            centre[c] = means[c]
            factor[c] = r * scales[c] if scale else r
            # Adding -0.0 changes nothing, not even the sign of a zero.
            shift[c] = offsets[c] if offset else number(-0.0)
        repeat(table, 3, channels, fold)

    return tabulate_forward


@functools.cache
def backward(dtype: str) -> Any:
    """Return the compiled kernel, of one task."""
    return Kernel(define_backward(dtype), dtype)


def define_backward(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`backward_table`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    repeat = _repeat(dtype)

    def tabulate_backward(  # type: ignore[no-untyped-def]
        counter, tasks, partial, parts, mean, variance, scale, epsilon, count, channels, fold,
        dscale, doffset, table,
    ):  # fmt: skip
        if take(counter) >= tasks:
            return
        width = fold * channels * itemsize
        totals = _wide(partial, 2 * channels)
        for part in range(1, parts):
            more = _wide(partial + part * 2 * channels * 8, 2 * channels)
            for i in range(2 * channels):
                totals[i] += more[i]
        means, variances = array(mean, channels), array(variance, channels)
        scales = array(scale, channels)
        dscales, doffsets = array(dscale, channels), array(doffset, channels)
        centre, factor = array(table, channels), array(table + width, channels)
        for c in range(channels):
            r = number(1.0 / math.sqrt(np.float64(variances[c]) + epsilon))
            plain, weighted = totals[c], totals[channels + c]
            dscales[c] = weighted * np.float64(r)
            doffsets[c] = plain
            centre[c] = means[c]
            factor[c] = r * scales[c] if scale else r
            if count:
                at = c * itemsize
                slope = array(table + 2 * width + at, 1)
                shift = array(table + 3 * width + at, 1)
                slope[0] = weighted * (np.float64(r) * np.float64(r)) / count
                shift[0] = plain / count
        repeat(table, 4 if count else 2, channels, fold)

    return tabulate_backward


_wide = view("float64")


def _repeat(dtype: str) -> Any:
    itemsize, array = ITEMSIZE[dtype], view(dtype)

    @inlined
    def repeat(table, vectors, channels, fold):  # type: ignore[no-untyped-def]
        """Copy the first pixel's numbers of each vector to the other pixels of the long row."""
        for vector in range(vectors):
            first = table + vector * fold * channels * itemsize
            source = array(first, channels)
            for pixel in range(1, fold):
                target = array(first + pixel * channels * itemsize, channels)
                for c in range(channels):
                    target[c] = source[c]

    return repeat
