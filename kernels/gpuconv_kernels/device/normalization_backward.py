"""The gradient of normalisation; ``array.normalization`` derives its formulas.

With ``g = scale dy``, ``r = 1/sqrt(variance + epsilon)``, ``xhat = r (x - mean)`` and sums over the
m elements that share one mean::

    dscale = sum(dy xhat)    doffset = sum(dy)    dx = r (g - sum(g)/m - xhat sum(g xhat)/m)

    sums              dy, x -> the four sums    ``gradient_sums``; reads dy and x
    input gradient    dy, x, sums -> dx         reads dy and x, writes dx

dy and x are read twice in all (three times for LayerNorm, whose sums share no axis). The second
kernel deals x out in bricks as ``normalization`` does, and has no shared memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.gradient_sums import Plan, all_sums, plan_sums
from gpuconv_kernels.device.normalization import (
    LAYERS,
    inverse_function,
    kept_runs,
    launch_bricks,
    step_run,
)
from gpuconv_kernels.device.reductions import MIN_BLOCKS, THREADS, division, unsigned, zero
from gpuconv_kernels.device.runs import Operand, Scratch, index_function, stride_function
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, types

Array = Any
Axes = tuple[int, ...]
Pair = tuple[Array, Array]
"""Sums of dy and of dy xhat."""


def normalize_backward_elements(
    shape: tuple[int, ...],
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    input_gradient: bool,
) -> int:
    """Elements of the scratch array that :func:`normalize_backward` needs."""
    if math.prod(shape) == 0:
        return 0
    scratch = Scratch(None, counting=True)
    plan = plan_sums(tuple(shape), axes, parameter_axes, batch_statistics and input_gradient)
    all_sums(plan, None, None, (None, None), None, 0.0, (None, None), scratch)
    return scratch.used


def normalize_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    dx: Array | None,
    dscale: Array,
    doffset: Array,
    epsilon: float,
    axes: Axes,
    parameter_axes: Axes,
    batch_statistics: bool,
    partial: Array | None,
) -> None:
    """Write the gradients of ``normalize``.

    Args:
        dy, x: of one shape.
        mean, variance: of the shape of ``x`` with extents of 1 at ``axes``.
        scale: broadcast to ``x``, without extents at ``parameter_axes``; or None.
        dx: output of the shape of ``x``, which may be ``dy``; None if it is not wanted.
        dscale, doffset: outputs of the shape of ``x`` with extents of 1 at ``parameter_axes``.
        epsilon: as in ``normalize``.
        axes: over which the moments were taken.
        parameter_axes: over which dscale and doffset are summed.
        batch_statistics: whether the moments are those of ``x`` rather than constants.
        partial: scratch of at least :func:`normalize_backward_elements` elements, or None where
            that is 0.

    Raises:
        ValueError: the axes fall into more runs than a kernel knows; see ``runs``.
    """
    if x.size == 0:
        zero(dscale)
        zero(doffset)
        return
    through = batch_statistics and dx is not None
    plan = plan_sums(x.shape, axes, parameter_axes, through)
    to = (doffset, dscale)
    sums = all_sums(plan, dy, x, (mean, variance), scale, epsilon, to, Scratch(partial))
    if dx is not None:
        _write_dx(plan, dy, x, (mean, variance), scale, epsilon, sums, dx)


def _write_dx(
    plan: Plan,
    dy: Array,
    x: Array,
    statistics: Pair,
    scale: Array | None,
    epsilon: float,
    sums: Pair,
    dx: Array,
) -> None:
    runs = plan.runs
    j = step_run(runs)
    of_statistics, of_parameters = (Operand.of(kept, j) for kept in kept_runs(runs))
    count = math.prod(e for e, inside in zip(runs.extents, runs.sets[0], strict=True) if inside)
    form = _Form(scale is not None, plan.through, plan.outside)
    launch_bricks(
        _dx_kernel(x.dtype.name, of_statistics, of_parameters, form),
        runs,
        j,
        dy,
        x,
        *statistics,
        x if scale is None else scale,
        *(sums if plan.through else (x, x)),
        dx,
        x.dtype.type(epsilon),
        x.dtype.type(1.0 / count),
    )


@dataclass(frozen=True)
class _Form:
    """``scaled``: there is a scale; ``through``, ``outside``: see ``Plan``."""

    scaled: bool
    through: bool
    outside: bool


def _dx_source(
    dtype: str, statistics: Operand, parameters: Operand, form: _Form
) -> Callable[..., None]:
    inverse = inverse_function(dtype)
    statistic_at, statistic_stride = index_function(statistics), stride_function(statistics)
    parameter_at, parameter_stride = index_function(parameters), stride_function(parameters)
    varies, through = statistics.along, form.through
    scaled_inside = form.scaled and not form.outside
    scaled_outside = form.scaled and form.outside

    def input_gradient_bricks(  # type: ignore[no-untyped-def]
        dy,
        x,
        mean,
        variance,
        scale,
        plain,
        weighted,
        dx,
        epsilon,
        share,
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
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tile, split = division(cuda.blockIdx.x, splits)
        deep, wide = division(tile, division(inner + across - 1, across)[0])
        i = wide * across + cuda.threadIdx.x
        o = deep * cuda.blockDim.z + cuda.threadIdx.z
        row = split * chunk + cuda.threadIdx.y
        stop = min((split + 1) * chunk, reduced)
        if i < inner and o < outer and row < stop:
            at = (o * reduced + row) * inner + i
            s_step = statistic_stride(inner, i1, i2)
            p_step = parameter_stride(inner, i1, i2)
            s = statistic_at(o, i, reduced, inner, o1, o2, i1, i2) + row * s_step
            p = parameter_at(o, i, reduced, inner, o1, o2, i1, i2) + row * p_step
            centre, shift, slope = (
                mean[unsigned(s)],
                plain[unsigned(s)] * share,
                weighted[unsigned(s)] * share,
            )
            factor = inverse(variance[unsigned(s)], epsilon)
            for _ in range(row, stop, down):
                if varies:
                    centre, shift, slope = (
                        mean[unsigned(s)],
                        plain[unsigned(s)] * share,
                        weighted[unsigned(s)] * share,
                    )
                    factor = inverse(variance[unsigned(s)], epsilon)
                    s += down * s_step
                value = dy[unsigned(at)]
                if scaled_inside:
                    value *= scale[unsigned(p)]
                if through:
                    value -= shift + (x[unsigned(at)] - centre) * factor * slope
                value *= factor
                if scaled_outside:
                    value *= scale[unsigned(p)]
                dx[unsigned(at)] = value
                p += down * p_step
                at += np.int64(down) * inner

    return input_gradient_bricks


@functools.cache
def _dx_kernel(dtype: str, statistics: Operand, parameters: Operand, form: _Form) -> Any:
    return compiled(_dx_source(dtype, statistics, parameters, form), THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use for the layers."""
    short, long = types.int32, types.int64
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        number = array.dtype
        bricks_ = (short, long, short, long, short, *(short,) * 4)
        for name, (statistics, parameters) in LAYERS.items():
            outside = name in ("batch", "instance")
            for scaled in (False, True):
                # Only BatchNorm ever has statistics that are constants.
                for through in (False, True) if name == "batch" else (True,):
                    yield KernelSpec(
                        f"input_gradient_bricks[{dtype},{name},{scaled},{through}]",
                        _dx_source(dtype, statistics, parameters, _Form(scaled, through, outside)),
                        (*(array,) * 8, number, number, *bricks_),
                        THREADS,
                        min_blocks=MIN_BLOCKS,
                    )
