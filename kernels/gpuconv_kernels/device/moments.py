"""Mean and variance over any axes, reading the array once.

A thread takes four numbers at a time, forms their mean and the sum M of their squared deviations,
and merges that with what it has; then threads merge with threads in shared memory, and
splits with splits in a second kernel. All is one formula (Chan, Golub and LeVeque 1983, "Algorithms
for computing the sample variance")::

    n = n_a + n_b,   d = mean_b - mean_a
    mean = mean_a + d n_b / n,   M = M_a + M_b + d^2 n_a n_b / n

            4 rows        threads of a column        splits
    x  ->  (4, mean, M) -> (n, mean, M) ------> (n, mean, M) --> mean, M/n
             registers      shared memory         second kernel

A mean is kept as an origin, which is one of the numbers, and the mean distance from it. Where the
mean dwarfs the deviations the distances are exact and small, so that no digits are lost to it; the
variance of equal numbers is exactly 0. The mean converges as numbers come in: its error does not
grow with their count, a million of float32 included. The order is fixed: see ``reductions`` for
the bricks of threads. An infinity or NaN makes both NaN. Counts are kept in the array's dtype.

Shared memory: four numbers a thread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.functions import quiet
from gpuconv_kernels.device.launch import launch
from gpuconv_kernels.device.reductions import (
    MIN_BLOCKS,
    THREADS,
    Bricks,
    bricks,
    division,
    unsigned,
    zero,
)
from gpuconv_kernels.device.runs import Runs, Scratch, chain, runs_of
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, types

Array = Any
Axes = tuple[int, ...]
Parts = tuple[Array, Array, Array]
"""Origins, mean distances from them, and M."""


def moments_elements(shape: tuple[int, ...], axes: Axes) -> int:
    """Elements of the scratch array that :func:`moments` needs."""
    if math.prod(shape) == 0:
        return 0
    scratch = Scratch(None, counting=True)
    _run(None, shape, axes, (None, None), scratch)
    return scratch.used


def moments(x: Array, mean: Array, variance: Array, axes: Axes, partial: Array | None) -> None:
    """Write mean and biased variance of ``x`` over ``axes``; both are 0 where nothing is averaged.

    Args:
        x: of any shape.
        mean, variance: outputs of the shape of ``x`` with extents of 1 at ``axes``.
        axes: to average over; negative ones count from the end.
        partial: scratch of at least :func:`moments_elements` elements, or None where that is 0.

    Raises:
        ValueError: the scratch array is too small.
    """
    if x.size == 0:
        zero(mean)
        zero(variance)
        return
    _run(x, x.shape, axes, (mean, variance), Scratch(partial))


def _run(
    x: Array, shape: tuple[int, ...], axes: Axes, to: tuple[Array, Array], scratch: Scratch
) -> None:
    """Sum one run of axes after the other; the first step reads ``x``, the last writes ``to``."""
    runs, order = _order(shape, axes)
    found: Parts = (x, x, x)
    count = 1
    for step, (outer, reduced, inner) in enumerate(chain(runs.extents, order)):
        end = to if step == len(order) - 1 else None
        if step > 0:
            found = _merge(found, end, (outer, reduced, inner), count, count, count, scratch)
        else:
            cut = bricks(outer, reduced, inner)
            whole = cut.splits == 1
            found = _moments(x, end if whole else None, (outer, reduced, inner), cut, scratch)
            if not whole:
                rest = reduced - (cut.splits - 1) * cut.chunk
                around = (outer, cut.splits, inner)
                found = _merge(found, end, around, cut.chunk, rest, reduced, scratch)
        count *= reduced


@functools.lru_cache(maxsize=1024)
def _order(shape: tuple[int, ...], axes: Axes) -> tuple[Runs, tuple[int, ...]]:
    """The runs, and the order in which the reduced ones go: the longest first."""
    runs = runs_of(shape, axes)
    reduced = [j for j, inside in enumerate(runs.sets[0]) if inside]
    if not reduced:  # nothing to average over but extents of 1: append one
        runs, reduced = Runs((*runs.extents, 1), ()), [len(runs.extents)]
    return runs, tuple(sorted(reduced, key=lambda j: -runs.extents[j]))


def _moments(
    x: Array, to: tuple[Array, Array] | None, around: tuple[int, int, int], cut: Bricks, s: Scratch
) -> Parts:
    """The first step: write the moments themselves, or parts for :func:`_merge`."""
    outer, reduced, inner = around
    parts = _parts(to, outer * cut.splits * inner, s)
    if not s.counting:
        launch(
            _moment_kernel(x.dtype.name, to is not None),
            cut.grid,
            cut.block,
            x,
            *parts,
            outer,
            np.int64(reduced),
            inner,
            np.int64(cut.chunk),
            cut.splits,
        )
    return parts


def _merge(
    found: Parts,
    to: tuple[Array, Array] | None,
    around: tuple[int, int, int],
    each: int,
    rest: int,
    total: int,
    s: Scratch,
) -> Parts:
    """A further step, over parts of ``each`` numbers, the last of ``rest``."""
    outer, reduced, inner = around
    parts = _parts(to, outer * inner, s)
    if not s.counting:
        number = found[0].dtype.type
        cut = bricks(outer, reduced, inner, 1)
        launch(
            _merge_kernel(found[0].dtype.name, to is not None),
            cut.grid,
            cut.block,
            *found,
            *parts,
            outer,
            np.int64(reduced),
            inner,
            number(each),
            number(rest),
        )
    return parts


def _parts(to: tuple[Array, Array] | None, count: int, scratch: Scratch) -> Parts:
    if to is not None:  # mean and variance: no origin is written
        return to[0], to[0], to[1]
    return scratch.part(count), *scratch.pair(count)


@functools.cache
def _functions(dtype: str) -> tuple[Any, Any]:
    """``four(a, b, c, d)``: mean and M of four numbers; ``merge(n_a, m_a, n_b, m_b, d)``.

    ``merge`` takes ``d = mean_b - mean_a`` and returns n, what mean_a moves by, and M.
    """
    quarter = np.dtype(dtype).type(0.25)

    def four(a, b, c, d):  # type: ignore[no-untyped-def]
        mean = ((a + b) + (c + d)) * quarter
        a, b, c, d = a - mean, b - mean, c - mean, d - mean
        return mean, (a * a + b * b) + (c * c + d * d)

    def merge(n_a, m_a, n_b, m_b, d):  # type: ignore[no-untyped-def]
        n = n_a + n_b
        move = d * (n_b / n)
        return n, move, m_a + m_b + d * n_a * move

    return quiet(four), quiet(merge)


def _moment_source(dtype: str, last: bool) -> Callable[..., None]:
    number = np.dtype(dtype).type
    four, merge = _functions(dtype)
    none, n_1, n_4 = number(0), number(1), number(4)

    def moment_bricks(  # type: ignore[no-untyped-def]
        x, origins, means, squares, outer, reduced, inner, chunk, splits
    ):
        held_n = cuda.shared.array(THREADS, number)
        held_origin = cuda.shared.array(THREADS, number)
        held_mean = cuda.shared.array(THREADS, number)
        held_m = cuda.shared.array(THREADS, number)
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        tile, split = division(cuda.blockIdx.x, splits)
        deep, wide = division(tile, division(inner + across - 1, across)[0])
        i, o = wide * across + tx, deep * cuda.blockDim.z + tz
        row = split * chunk + ty
        stop = min((split + 1) * chunk, reduced)

        n, origin, mean, m = none, none, none, none
        if i < inner and o < outer and row < stop:
            at = (o * reduced + row) * inner + i
            step = np.int64(down) * inner
            origin = x[unsigned(at)]
            while row + 3 * down < stop:
                a, b = x[unsigned(at)], x[unsigned(at + step)]
                c, d = x[unsigned(at + 2 * step)], x[unsigned(at + 3 * step)]
                mean_4, m_4 = four(a - origin, b - origin, c - origin, d - origin)
                n, move, m = merge(n, m, n_4, m_4, mean_4 - mean)
                mean += move
                at += 4 * step
                row += 4 * down
            while row < stop:
                n, move, m = merge(n, m, n_1, none, x[unsigned(at)] - origin - mean)
                mean += move
                at += step
                row += down

        slot = (tz * down + ty) * across + tx
        held_n[slot] = n
        held_origin[slot] = origin
        held_mean[slot] = mean
        held_m[slot] = m
        cuda.syncthreads()
        half = down // 2
        while half > 0:
            other = slot + half * across
            if ty < half and held_n[other] > none:
                distance = (held_origin[other] - origin) + (held_mean[other] - mean)
                n, move, m = merge(n, m, held_n[other], held_m[other], distance)
                mean += move
                held_n[slot] = n
                held_mean[slot] = mean
                held_m[slot] = m
            cuda.syncthreads()
            half //= 2
        if i < inner and o < outer and ty == 0:
            to = unsigned((o * splits + split) * inner + i)
            if last:
                means[to] = origin + mean
                squares[to] = m / n
            else:
                origins[to] = origin
                means[to] = mean
                squares[to] = m

    return moment_bricks


def _merge_source(dtype: str, last: bool) -> Callable[..., None]:
    number = np.dtype(dtype).type
    _, merge = _functions(dtype)
    none = number(0)

    def merge_bricks(  # type: ignore[no-untyped-def]
        from_origins,
        from_means,
        from_squares,
        origins,
        means,
        squares,
        outer,
        reduced,
        inner,
        each,
        rest,
    ):
        held_n = cuda.shared.array(THREADS, number)
        held_origin = cuda.shared.array(THREADS, number)
        held_mean = cuda.shared.array(THREADS, number)
        held_m = cuda.shared.array(THREADS, number)
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        deep, wide = division(cuda.blockIdx.x, division(inner + across - 1, across)[0])
        i, o = wide * across + tx, deep * cuda.blockDim.z + tz

        n, origin, mean, m = none, none, none, none
        if i < inner and o < outer and ty < reduced:
            origin = from_origins[unsigned((o * reduced + ty) * inner + i)]
            for row in range(ty, reduced, down):
                at = unsigned((o * reduced + row) * inner + i)
                count = rest if row == reduced - 1 else each
                distance = (from_origins[at] - origin) + (from_means[at] - mean)
                n, move, m = merge(n, m, count, from_squares[at], distance)
                mean += move

        slot = (tz * down + ty) * across + tx
        held_n[slot] = n
        held_origin[slot] = origin
        held_mean[slot] = mean
        held_m[slot] = m
        cuda.syncthreads()
        half = down // 2
        while half > 0:
            other = slot + half * across
            if ty < half and held_n[other] > none:
                distance = (held_origin[other] - origin) + (held_mean[other] - mean)
                n, move, m = merge(n, m, held_n[other], held_m[other], distance)
                mean += move
                held_n[slot] = n
                held_mean[slot] = mean
                held_m[slot] = m
            cuda.syncthreads()
            half //= 2
        if i < inner and o < outer and ty == 0:
            to = unsigned(o * inner + i)
            if last:
                means[to] = origin + mean
                squares[to] = m / n
            else:
                origins[to] = origin
                means[to] = mean
                squares[to] = m

    return merge_bricks


@functools.cache
def _moment_kernel(dtype: str, last: bool) -> Any:
    return compiled(_moment_source(dtype, last), THREADS, MIN_BLOCKS)


@functools.cache
def _merge_kernel(dtype: str, last: bool) -> Any:
    return compiled(_merge_source(dtype, last), THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    short, long = types.int32, types.int64
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        number = array.dtype
        for last in (False, True):
            yield KernelSpec(
                f"moment_bricks[{dtype},{last}]",
                _moment_source(dtype, last),
                (*(array,) * 4, short, long, short, long, short),
                THREADS,
                min_blocks=MIN_BLOCKS,
            )
            yield KernelSpec(
                f"merge_bricks[{dtype},{last}]",
                _merge_source(dtype, last),
                (*(array,) * 6, short, long, short, number, number),
                THREADS,
                min_blocks=MIN_BLOCKS,
            )
