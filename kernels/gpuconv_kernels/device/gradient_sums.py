"""The sums of dy and of dy xhat, along several runs of axes, for the gradient of normalisation.

::

    gradient sums     dy, x -> sum(dy), sum(dy xhat) along one run     reads dy and x
    pair sums         those, over splits and the remaining runs        small

The sums for the parameters and those for dx run over different axes, but both may include a run:
H*W for GroupNorm, all but C for BatchNorm. The first kernel then sums along it for both, since
``scale`` is the same all along it. LayerNorm has no such run and sums twice: once along a row, each
number times its scale, and once down the rows.

The bricks of threads, the tree in shared memory and the splits are those of ``reductions``; two
numbers a thread. No atomics: the same bits every time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import launch
from gpuconv_kernels.device.normalization import LAYERS, inverse_function, kept_runs
from gpuconv_kernels.device.reductions import MIN_BLOCKS, THREADS, bricks, division, unsigned
from gpuconv_kernels.device.runs import (
    Operand,
    Runs,
    Scratch,
    index_function,
    inner_extents,
    runs_of,
    stride_function,
)
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, types

Array = Any
Axes = tuple[int, ...]
Pair = tuple[Array, Array]
"""Sums of dy and of dy xhat."""


@dataclass(frozen=True)
class Plan:
    """Which runs are summed in which order.

    Attributes:
        runs: with the axes of the moments and those of the parameters as sets.
        first: the run along which the parameters' sums begin.
        shared: whether the sums for dx begin with it too.
        parameters: the runs that follow for the parameters.
        moments: those that follow for dx, or all of them unless ``shared``.
        through: whether dx needs sums at all.
        outside: whether ``scale`` is the same wherever dx sums, and so stands before all of dx.
    """

    runs: Runs
    first: int
    shared: bool
    parameters: tuple[int, ...]
    moments: tuple[int, ...]
    through: bool
    outside: bool


@functools.lru_cache(maxsize=1024)
def plan_sums(shape: tuple[int, ...], axes: Axes, parameter_axes: Axes, through: bool) -> Plan:
    """Choose the order; ``through``: whether dx needs the sums over ``axes`` too."""
    runs = runs_of(shape, axes, parameter_axes)
    of_moments, of_parameters = _members(runs)
    if not of_parameters or (through and not of_moments):
        # Nothing to sum over but extents of 1: one such run, for both.
        runs = Runs((*runs.extents, 1), tuple((*each, True) for each in runs.sets))
        of_moments, of_parameters = _members(runs)
    both = of_moments & of_parameters if through else frozenset()
    first = runs.longest(both or of_parameters)
    rest_of_moments = of_moments - {first} if both else of_moments
    return Plan(
        runs,
        first,
        bool(both),
        _longest_first(runs, of_parameters - {first}),
        _longest_first(runs, rest_of_moments),
        through,
        of_moments <= of_parameters,
    )


def _members(runs: Runs) -> tuple[frozenset[int], frozenset[int]]:
    a, b = (frozenset(j for j, inside in enumerate(each) if inside) for each in runs.sets)
    return a, b


def _longest_first(runs: Runs, some: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(some, key=lambda j: (-runs.extents[j], j)))


def all_sums(
    plan: Plan,
    dy: Array,
    x: Array,
    statistics: Pair,
    scale: Array | None,
    epsilon: float,
    to: Pair,
    scratch: Scratch,
) -> Pair:
    """Write the parameters' sums into ``to`` and return those for dx."""
    extents = plan.runs.extents
    begun = scratch.pair(_size(extents, plan.first)) if plan.parameters else to
    _sum_gradient(plan, plan.first, dy, x, statistics, None, epsilon, begun, scratch)
    if plan.parameters:
        _finish(plan, begun, (plan.first,), plan.parameters, None, to, scratch)
    if not plan.through:
        return None, None
    weight = None if plan.outside else scale
    done, left = (plan.first,), plan.moments
    if not plan.shared:
        j = plan.runs.longest(plan.moments)
        begun = scratch.pair(_size(extents, j))
        _sum_gradient(plan, j, dy, x, statistics, weight, epsilon, begun, scratch)
        done, left, weight = (j,), tuple(k for k in plan.moments if k != j), None
    if not left:
        return begun
    sums = scratch.pair(_size(extents, *done, *left))
    _finish(plan, begun, done, left, weight, sums, scratch)
    return sums


def _size(extents: tuple[int, ...], *done: int) -> int:
    """Elements that are left when some runs have been summed."""
    return math.prod(extent for j, extent in enumerate(extents) if j not in done)


def _sum_gradient(
    plan: Plan,
    j: int,
    dy: Array,
    x: Array,
    statistics: Pair,
    weight: Array | None,
    epsilon: float,
    to: Pair,
    scratch: Scratch,
) -> None:
    """Sum dy and dy xhat, times ``weight`` if given, along run ``j``."""
    outer, reduced, inner = plan.runs.around(j)
    cut = bricks(outer, reduced, inner)
    target = scratch.pair(outer * cut.splits * inner) if cut.splits > 1 else to
    if not scratch.counting:
        of_statistics, of_parameters = (Operand.of(kept, j) for kept in kept_runs(plan.runs))
        launch(
            _gradient_kernel(
                x.dtype.name, of_statistics, None if weight is None else of_parameters
            ),
            cut.grid,
            cut.block,
            dy,
            x,
            *statistics,
            x if weight is None else weight,
            *target,
            x.dtype.type(epsilon),
            outer,
            np.int64(reduced),
            inner,
            np.int64(cut.chunk),
            cut.splits,
            *inner_extents(plan.runs.extents, j),
        )
    if cut.splits > 1:
        _sum_pair(target, None, None, (outer, cut.splits, inner), (1, 1, 1, 1), to, scratch)


def _finish(
    plan: Plan,
    found: Pair,
    done: tuple[int, ...],
    left: tuple[int, ...],
    weight: Array | None,
    to: Pair,
    scratch: Scratch,
) -> None:
    """Sum what is ``done`` along some runs along those that are ``left``, weighted at first."""
    extents = tuple(1 if j in done else e for j, e in enumerate(plan.runs.extents))
    if weight is not None:
        j = plan.runs.longest(left)
        left = (j, *(k for k in left if k != j))
    for step, j in enumerate(left):
        runs = Runs(extents, plan.runs.sets)
        around = runs.around(j)
        target = to if step == len(left) - 1 else scratch.pair(around[0] * around[2])
        if weight is not None and step == 0:
            operand = Operand.of(kept_runs(runs)[1], j)
            others = inner_extents(extents, j)
            _sum_pair(found, weight, operand, around, others, target, scratch)
        else:
            _sum_pair(found, None, None, around, (1, 1, 1, 1), target, scratch)
        extents = (*extents[:j], 1, *extents[j + 1 :])
        found = target


def _sum_pair(
    found: Pair,
    weight: Array | None,
    operand: Operand | None,
    around: tuple[int, int, int],
    others: tuple[int, int, int, int],
    to: Pair,
    scratch: Scratch,
) -> None:
    if scratch.counting:
        return
    outer, reduced, inner = around
    cut = bricks(outer, reduced, inner, 1)
    launch(
        _pair_kernel(found[0].dtype.name, operand),
        cut.grid,
        cut.block,
        *found,
        found[0] if operand is None else weight,
        *to,
        outer,
        np.int64(reduced),
        inner,
        *others,
    )


# --- kernels ---------------------------------------------------------------------------


def _gradient_source(
    dtype: str, statistics: Operand, weights: Operand | None
) -> Callable[..., None]:
    number, inverse = np.dtype(dtype).type, inverse_function(dtype)
    zero_, one = number(0), number(1)
    statistic_at, statistic_stride = index_function(statistics), stride_function(statistics)
    weighted_by = weights or statistics
    weight_at, weight_stride = index_function(weighted_by), stride_function(weighted_by)
    varies, has_weight = statistics.along, weights is not None

    def gradient_bricks(  # type: ignore[no-untyped-def]
        dy,
        x,
        mean,
        variance,
        scale,
        plain,
        weighted,
        epsilon,
        outer,
        reduced,
        inner,
        chunk,
        splits,
        o1,
        o2,
        i1,
        i2,
    ):
        held_plain = cuda.shared.array(THREADS, number)
        held_weighted = cuda.shared.array(THREADS, number)
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        tile, split = division(cuda.blockIdx.x, splits)
        deep, wide = division(tile, division(inner + across - 1, across)[0])
        i, o = wide * across + tx, deep * cuda.blockDim.z + tz
        inside = i < inner and o < outer

        sum_g, sum_product, factor = zero_, zero_, one
        if inside:
            row = split * chunk + ty
            stop = min((split + 1) * chunk, reduced)
            at = (o * reduced + row) * inner + i
            step = np.int64(down) * inner
            s_step = down * statistic_stride(inner, i1, i2)
            w_step = down * weight_stride(inner, i1, i2)
            s = statistic_at(o, i, reduced, inner, o1, o2, i1, i2)
            w = weight_at(o, i, reduced, inner, o1, o2, i1, i2)
            if varies:
                s += row * statistic_stride(inner, i1, i2)
            if has_weight:
                w += row * weight_stride(inner, i1, i2)
            if varies or has_weight:
                for _ in range(row, stop, down):
                    g = dy[unsigned(at)]
                    if has_weight:
                        g *= scale[unsigned(w)]
                        w += w_step
                    deviation = x[unsigned(at)] - mean[unsigned(s)]
                    if varies:
                        deviation *= inverse(variance[unsigned(s)], epsilon)
                        s += s_step
                    sum_g += g
                    sum_product += g * deviation
                    at += step
            else:
                centre = mean[unsigned(s)]
                sum_g_2, sum_product_2 = zero_, zero_
                while row + down < stop:
                    g, g_2 = dy[unsigned(at)], dy[unsigned(at + step)]
                    d, d_2 = x[unsigned(at)] - centre, x[unsigned(at + step)] - centre
                    sum_g += g
                    sum_g_2 += g_2
                    sum_product += g * d
                    sum_product_2 += g_2 * d_2
                    at += 2 * step
                    row += 2 * down
                if row < stop:
                    g = dy[unsigned(at)]
                    sum_g += g
                    sum_product += g * (x[unsigned(at)] - centre)
                sum_g += sum_g_2
                sum_product += sum_product_2
            if not varies:
                factor = inverse(variance[unsigned(s)], epsilon)

        slot = (tz * down + ty) * across + tx
        held_plain[slot] = sum_g
        held_weighted[slot] = sum_product
        cuda.syncthreads()
        half = down // 2
        while half > 0:
            if ty < half:
                held_plain[slot] += held_plain[slot + half * across]
                held_weighted[slot] += held_weighted[slot + half * across]
            cuda.syncthreads()
            half //= 2
        if inside and ty == 0:
            to = unsigned((o * splits + split) * inner + i)
            plain[to] = held_plain[slot]
            weighted[to] = held_weighted[slot] * factor

    return gradient_bricks


def _pair_source(dtype: str, weights: Operand | None) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero_ = number(0)
    weighted_by = weights or Operand((), False, ())
    weight_at, weight_stride = index_function(weighted_by), stride_function(weighted_by)
    has_weight = weights is not None

    def pair_bricks(  # type: ignore[no-untyped-def]
        from_plain,
        from_weighted,
        scale,
        plain,
        weighted,
        outer,
        reduced,
        inner,
        o1,
        o2,
        i1,
        i2,
    ):
        held_plain = cuda.shared.array(THREADS, number)
        held_weighted = cuda.shared.array(THREADS, number)
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        deep, wide = division(cuda.blockIdx.x, division(inner + across - 1, across)[0])
        i, o = wide * across + tx, deep * cuda.blockDim.z + tz
        inside = i < inner and o < outer

        a, b = zero_, zero_
        if inside:
            w_step = weight_stride(inner, i1, i2)
            w = weight_at(o, i, reduced, inner, o1, o2, i1, i2)
            for row in range(ty, reduced, down):
                at = unsigned((o * reduced + row) * inner + i)
                if has_weight:
                    weight = scale[unsigned(w + row * w_step)]
                    a += weight * from_plain[at]
                    b += weight * from_weighted[at]
                else:
                    a += from_plain[at]
                    b += from_weighted[at]

        slot = (tz * down + ty) * across + tx
        held_plain[slot] = a
        held_weighted[slot] = b
        cuda.syncthreads()
        half = down // 2
        while half > 0:
            if ty < half:
                held_plain[slot] += held_plain[slot + half * across]
                held_weighted[slot] += held_weighted[slot + half * across]
            cuda.syncthreads()
            half //= 2
        if inside and ty == 0:
            to = unsigned(o * inner + i)
            plain[to] = held_plain[slot]
            weighted[to] = held_weighted[slot]

    return pair_bricks


@functools.cache
def _gradient_kernel(dtype: str, statistics: Operand, weights: Operand | None) -> Any:
    return compiled(_gradient_source(dtype, statistics, weights), THREADS, MIN_BLOCKS)


@functools.cache
def _pair_kernel(dtype: str, weights: Operand | None) -> Any:
    return compiled(_pair_source(dtype, weights), THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use for the layers."""
    short, long = types.int32, types.int64
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        number = array.dtype
        bricks_ = (short, long, short, long, short, *(short,) * 4)
        for name, statistics, weights in _gradient_forms():
            yield KernelSpec(
                f"gradient_bricks[{dtype},{name}]",
                _gradient_source(dtype, statistics, weights),
                (*(array,) * 7, number, *bricks_),
                THREADS,
                min_blocks=MIN_BLOCKS,
            )
        for name, weights in (("plain", None), ("group", _GROUP_WEIGHTS)):
            yield KernelSpec(
                f"pair_bricks[{dtype},{name}]",
                _pair_source(dtype, weights),
                (*(array,) * 5, short, long, *(short,) * 5),
                THREADS,
                min_blocks=MIN_BLOCKS,
            )


_GROUP_WEIGHTS = Operand((False, False, True), True, ())
"""GroupNorm's scale where sums over H*W are summed on over the channels of a group."""


def _gradient_forms() -> Iterator[tuple[str, Operand, Operand | None]]:
    for name in ("batch", "group", "instance"):
        yield name, LAYERS[name][0], None
    by_row, by_column = LAYERS["layer"]
    yield "layer", by_row, None
    yield "layer,scaled", by_row, by_column
    yield "layer,parameters", Operand((), True, (False,)), None
