"""Sums over all axes but the last: moments, parameter gradients, bias gradients.

``x`` is (M, C), one number a channel and pixel, read once. A task is a stretch of rows::

    x      | c0 c1 c2 c0 c1 c2 ... |      long rows (see ``rows``), one after the other
           | c0 c1 c2 c0 c1 c2 ... |
           |  ...                  |
    sums   | c0 c1 c2 c0 c1 c2 ... |      in the number's own precision; after 32 rows the sums of
                                          each channel continue in float64

    partial[task] = float64 sums          added up in the order of the tasks

Moments in one pass: each task subtracts a centre from its rows, the mean of the first few of them,
and sums ``d = x - centre`` and ``d^2``. From these, ::

    mean = centre + sum(d) / n,   sum((x - mean)^2) = sum(d^2) - sum(d)^2 / n

Nothing is lost where the mean dwarfs the deviation: the subtraction takes care of it. What the
last difference cancels is bounded, because the rows that gave the centre are among those that are
summed: if k of n rows have their mean at a distance e from that of all, ``sum((x - mean)^2)`` is at
least ``k e^2``, so the first term is at most ``1 + n/k`` (here 17) times the result, and about the
result itself unless the first rows are outliers. Tasks are joined as in Chan, Golub and LeVeque
1983, "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of
from gpuconv_kernels.host.target import ITEMSIZE, inlined, wide_loops

Array = Any

PLAIN: Final = "plain"
"""Sums of ``x``."""
DEVIATIONS: Final = "deviations"
"""Sums of ``x - centre`` and of its square, with a centre of each task's own, which is returned."""
PRODUCTS: Final = "products"
"""Sums of ``dy`` and of ``dy (x - centre)``, with a given centre."""

LONG_ROWS: Final = 64
"""Long rows of a task: some 64 thousand numbers, unless there are many channels."""
_HEAD: Final = 4
"""Long rows whose mean is a task's centre."""
SLAB: Final = 32
"""Long rows that are summed in the number's own precision."""
_TOGETHER: Final = 4
"""Long rows that are read at a time: sums are loaded and stored once for all of them."""


def sum_channels(x: Array, sums: Array) -> None:
    """Write ``sums`` (C,) of ``x`` (..., C) of any strides; zeros where there are no rows."""
    partial, _ = _partial_sums(PLAIN, x)
    join_plain(partial[:, 0], sums)


def join_plain(partial: Array, sums: Array) -> None:
    """Write ``sums`` (C,) of those of each task, (tasks, C) in float64."""
    sums.reshape(-1)[...] = partial[0] if len(partial) == 1 else np.add.reduce(partial, axis=0)


def moments(x: Array, mean: Array, variance: Array) -> None:
    """Write mean and biased variance of ``x`` (..., C) over all axes but the last.

    ``mean`` and ``variance`` are C-contiguous and hold C numbers. Both are 0 for no rows.
    """
    partial, of_a_task = _partial_sums(DEVIATIONS, x)
    rows = math.prod(x.shape[:-1])
    run(
        joined(name_of(x.dtype)),
        1,
        address(partial),
        len(partial),
        rows,
        of_a_task,
        x.shape[-1],
        address(mean),
        address(variance),
    )


def parameter_sums(dy: Array, x: Array, mean: Array) -> Array:
    """Sums of ``dy`` and of ``dy (x - mean)`` over each task's rows, (tasks, 2, C) in float64."""
    return _partial_sums(PRODUCTS, dy, x, mean)[0]


def _partial_sums(
    kind: str, x: Array, second: Array | None = None, mean: Array | None = None
) -> tuple[Array, Array]:
    """Return the sums of each task, (tasks, numbers, C) in float64, and the rows of a task."""
    channels = x.shape[-1]
    rows = math.prod(x.shape[:-1])
    fold = fold_of(channels, x.dtype)
    of_a_task = LONG_ROWS * fold
    tasks = -(-rows // of_a_task) if channels else 0
    shape = (max(tasks, 1), _NUMBERS[kind], channels)
    partial = np.empty(shape) if tasks else np.zeros(shape)
    if tasks:
        x = np.ascontiguousarray(x)
        second = x if second is None else np.ascontiguousarray(second)
        mean = partial if mean is None else np.ascontiguousarray(mean, x.dtype)
        run(
            sums(name_of(x.dtype), kind),
            tasks,
            address(x),
            address(second),
            address(mean),
            address(partial),
            rows,
            channels,
            fold,
        )
    return partial, of_a_task


_NUMBERS = {PLAIN: 1, DEVIATIONS: 3, PRODUCTS: 2}


@functools.cache
def sums(dtype: str, kind: str) -> Any:
    """Return the compiled kernel."""
    return Kernel(define(dtype, kind), dtype, kind)


def define(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`sums`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    plain, own_centre = kind == PLAIN, kind == DEVIATIONS
    add_row, find_centre = _add_row(dtype, kind), _find_centre(dtype)
    add_rows = _add_rows(dtype, kind)
    numbers = _NUMBERS[kind]

    def sum_rows(counter, tasks, x, second, mean, partial, rows, channels, fold):  # type: ignore[no-untyped-def]
        width = fold * channels
        centre = np.zeros(width, number)
        first_sums, second_sums = np.zeros(width, number), np.zeros(width, number)
        if not plain and not own_centre:
            means = array(mean, channels)
            for i in range(width):
                centre[i] = means[i % channels]
        task = take(counter)
        while task < tasks:
            begin = task * LONG_ROWS * width
            count = min(LONG_ROWS * width, rows * channels - begin)
            a, b = x + begin * itemsize, second + begin * itemsize
            results = partial + task * numbers * channels * 8
            clear(results, numbers * channels * 8)
            if own_centre:
                find_centre(a, min(count, _HEAD * width), centre, first_sums, results, channels)
            to = results + 8 * channels if own_centre else results
            for slab in range(0, count, SLAB * width):
                end = min(slab + SLAB * width, count)
                whole = (end - slab) // (_TOGETHER * width) * _TOGETHER * width
                for i in range(slab, slab + whole, _TOGETHER * width):
                    add_rows(a + i * itemsize, b + i * itemsize, centre, first_sums, second_sums)
                for i in range(slab + whole, end, width):
                    here = min(width, end - i)
                    add_row(
                        a + i * itemsize, b + i * itemsize, here, centre, first_sums, second_sums
                    )
                flush(first_sums, to, channels)
                if not plain:
                    flush(second_sums, to + 8 * channels, channels)
            task = take(counter)

    return sum_rows


_wide = view("float64")


@inlined
def flush(sums, to, channels):  # type: ignore[no-untyped-def]
    """Add what the copies of each channel hold to the results, and begin anew."""
    results = _wide(to, channels)
    for copy in range(0, len(sums), channels):
        of_copy = sums[copy : copy + channels]
        for c in range(channels):
            results[c] += of_copy[c]
            of_copy[c] = 0


def _find_centre(dtype: str) -> Any:
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type

    @inlined
    def find(x, count, centre, sums, to, channels):  # type: ignore[no-untyped-def]
        """The mean of the first rows, or 0 where that is no number; the results begin with it."""
        width = len(centre)
        for i in range(0, count, width):
            here = min(width, count - i)
            row = array(x + i * itemsize, here)
            for j in range(here):
                sums[j] += row[j]
        flush(sums, to, channels)
        results = _wide(to, channels)
        for c in range(channels):
            rounded = number(results[c] / (count // channels))
            if not abs(rounded) < np.inf:
                rounded = number(0)
            results[c] = rounded
        for copy in range(0, width, channels):
            for c in range(channels):
                centre[copy + c] = results[c]

    return find


def _add_row(dtype: str, kind: str) -> Any:
    array = view(dtype)
    plain, deviations = kind == PLAIN, kind == DEVIATIONS

    @inlined
    def add(a, b, width, centre, first, second):  # type: ignore[no-untyped-def]
        """Add one row, or the beginning of one, to the sums."""
        a0 = array(a, width)
        if plain:
            for i in range(width):
                first[i] += a0[i]
        elif deviations:
            for i in range(width):
                d = a0[i] - centre[i]
                first[i] += d
                second[i] += d * d
        else:
            b0 = array(b, width)
            for i in range(width):
                first[i] += a0[i]
                second[i] += a0[i] * (b0[i] - centre[i])

    return add


def _add_rows(dtype: str, kind: str) -> Any:
    itemsize, array = ITEMSIZE[dtype], view(dtype)
    plain, deviations = kind == PLAIN, kind == DEVIATIONS
    widen = wide_loops(dtype)

    @inlined
    def add(a, b, centre, first, second):  # type: ignore[no-untyped-def]
        """Add so many rows, one after the other: with the same bits as row by row."""
        widen()
        width = len(first)
        step = width * itemsize
        a0, a1 = array(a, width), array(a + step, width)
        a2, a3 = array(a + 2 * step, width), array(a + 3 * step, width)
        if plain:
            for i in range(width):
                first[i] = (((first[i] + a0[i]) + a1[i]) + a2[i]) + a3[i]
        elif deviations:
            for i in range(width):
                d0, d1 = a0[i] - centre[i], a1[i] - centre[i]
                d2, d3 = a2[i] - centre[i], a3[i] - centre[i]
                first[i] = (((first[i] + d0) + d1) + d2) + d3
                second[i] = (((second[i] + d0 * d0) + d1 * d1) + d2 * d2) + d3 * d3
        else:
            b0, b1 = array(b, width), array(b + step, width)
            b2, b3 = array(b + 2 * step, width), array(b + 3 * step, width)
            for i in range(width):
                first[i] = (((first[i] + a0[i]) + a1[i]) + a2[i]) + a3[i]
                second[i] = (
                    ((second[i] + a0[i] * (b0[i] - centre[i])) + a1[i] * (b1[i] - centre[i]))
                    + a2[i] * (b2[i] - centre[i])
                ) + a3[i] * (b3[i] - centre[i])

    return add


@functools.cache
def joined(dtype: str) -> Any:
    """Return the kernel, of one task, that makes mean and variance of the sums of all parts."""
    return Kernel(define_joined(dtype), dtype)


def define_joined(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`joined`."""
    array = view(dtype)

    def join(  # type: ignore[no-untyped-def]
        counter, tasks, partial, parts, rows, of_a_part, channels, mean, variance,
    ):  # fmt: skip
        if take(counter) >= tasks:
            return
        total = max(rows, 1)
        means, variances = array(mean, channels), array(variance, channels)
        centre, spread = np.zeros(channels), np.zeros(channels)
        for part in range(parts):
            n = max(min(of_a_part, rows - part * of_a_part), 1)
            begin = partial + part * 3 * channels * 8
            first, sums = _wide(begin, channels), _wide(begin + 8 * channels, channels)
            for c in range(channels):
                first[c] += sums[c] / n  # the part's mean
                centre[c] += first[c] * (n / total)
        for part in range(parts):
            n = max(min(of_a_part, rows - part * of_a_part), 1)
            begin = partial + part * 3 * channels * 8
            first, sums = _wide(begin, channels), _wide(begin + 8 * channels, channels)
            squares = _wide(begin + 16 * channels, channels)
            for c in range(channels):
                apart = first[c] - centre[c]
                spread[c] += squares[c] - sums[c] * (sums[c] / n) + apart * apart * n
        for c in range(channels):
            means[c] = centre[c]
            # Rounding may leave it just below zero; NaN stays.
            variances[c] = 0.0 if spread[c] <= 0.0 else spread[c] / total

    return join
