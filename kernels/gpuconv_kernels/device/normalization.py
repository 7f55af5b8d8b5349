"""Normalisation by mean and variance; its gradient is in ``normalization_backward``.

``mean`` and ``variance`` (the statistics) and ``scale`` and ``offset`` (the parameters) are
broadcast to ``x``, seen as runs of axes (``runs``)::

                  x               statistics vary along     parameters vary along
    BatchNorm     (N*H*W, C)      C                         C
    LayerNorm     (M, C)          M                         C
    GroupNorm     (N, H*W, G, c)  N and G                   G and c
    InstanceNorm  (N, H*W, C)     N and C                   C

``x`` is dealt out in bricks (outer, reduced, inner) as in ``reductions``, with ``inner`` across the
threads of a warp. A thread steps along a run on which, wherever there is one, the statistics stay
the same: it computes 1/sqrt once and then reads and writes one number a step. The mean is
subtracted before anything is multiplied: where it dwarfs the deviation the difference is exact.

No shared memory. Limits: see ``runs``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.functions import quiet, sqrt
from gpuconv_kernels.device.launch import launch
from gpuconv_kernels.device.reductions import MIN_BLOCKS, THREADS, bricks, division, unsigned
from gpuconv_kernels.device.runs import (
    Operand,
    Runs,
    index_function,
    inner_extents,
    runs_of,
    stride_function,
)
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, types

Array = Any
Axes = tuple[int, ...]

_BLOCKS = 4 if SIMULATED else 4096
"""Blocks that are enough for a kernel that sums nothing."""


def normalize(
    x: Array,
    y: Array,
    mean: Array,
    variance: Array,
    scale: Array | None,
    offset: Array | None,
    epsilon: float,
) -> None:
    """Write ``(x - mean) / sqrt(variance + epsilon) * scale + offset`` into ``y``.

    Args:
        x, y: of one shape; ``y`` may be ``x``.
        mean, variance: of one shape, which is broadcast to that of ``x``.
        scale, offset: the same; None leaves it out.
        epsilon: added to the variance.

    Raises:
        ValueError: scale and offset are of different shapes, or the operands vary along more runs
            of axes than a kernel knows; see ``runs``.
    """
    if x.size == 0:
        return
    if scale is not None and offset is not None and scale.shape != offset.shape:
        raise ValueError(
            f"scale and offset must be of one shape. Received: {scale.shape} and {offset.shape}"
        )
    parameter = scale if scale is not None else offset
    runs = runs_of(x.shape, broadcast_axes(mean, x), broadcast_axes(parameter, x))
    j = step_run(runs)
    statistics, parameters = (Operand.of(kept, j) for kept in kept_runs(runs))
    kernel = _kernel(x.dtype.name, statistics, parameters, scale is not None, offset is not None)
    vectors = (mean, variance, x if scale is None else scale, x if offset is None else offset)
    launch_bricks(kernel, runs, j, x, y, *vectors, x.dtype.type(epsilon))


def broadcast_axes(operand: Array | None, x: Array) -> Axes:
    """The axes of ``x`` along which an operand is broadcast; all of them for None."""
    if operand is None:
        return tuple(range(len(x.shape)))
    missing = len(x.shape) - len(operand.shape)
    ones = (axis + missing for axis, extent in enumerate(operand.shape) if extent == 1)
    return (*range(missing), *ones)


def kept_runs(runs: Runs) -> tuple[tuple[bool, ...], ...]:
    """For each of the runs' sets, the runs that are not in it."""
    return tuple(tuple(not inside for inside in each) for each in runs.sets)


def step_run(runs: Runs) -> int:
    """The longest run on which the operand of the first set does not change, or else any."""
    still = [j for j, inside in enumerate(runs.sets[0]) if inside]
    return runs.longest(still or range(len(runs.extents)))


def launch_bricks(kernel: Any, runs: Runs, j: int, *arguments: Any) -> None:
    """Launch a kernel that sums nothing over all of an array, stepping along run ``j``."""
    outer, reduced, inner = runs.around(j)
    cut = bricks(outer, reduced, inner, _BLOCKS)
    launch(
        kernel,
        cut.grid,
        cut.block,
        *arguments,
        outer,
        np.int64(reduced),
        inner,
        np.int64(cut.chunk),
        cut.splits,
        *inner_extents(runs.extents, j),
    )


@functools.cache
def inverse_function(dtype: str) -> Any:
    """Return the device function ``inverse(variance, epsilon)``: 1/sqrt of their sum."""
    one = np.dtype(dtype).type(1)

    def inverse(variance, epsilon):  # type: ignore[no-untyped-def]
        return one / sqrt(variance + epsilon)

    return quiet(inverse)


def _source(
    dtype: str, statistics: Operand, parameters: Operand, scaled: bool, shifted: bool
) -> Callable[..., None]:
    inverse = inverse_function(dtype)
    statistic_at, statistic_stride = index_function(statistics), stride_function(statistics)
    parameter_at, parameter_stride = index_function(parameters), stride_function(parameters)
    varies = statistics.along

    def normalize_bricks(  # type: ignore[no-untyped-def]
        x,
        y,
        mean,
        variance,
        scale,
        offset,
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
            centre = mean[unsigned(s)]
            factor = inverse(variance[unsigned(s)], epsilon)
            for _ in range(row, stop, down):
                if varies:
                    centre = mean[unsigned(s)]
                    factor = inverse(variance[unsigned(s)], epsilon)
                    s += down * s_step
                value = (x[unsigned(at)] - centre) * factor
                if scaled:
                    value *= scale[unsigned(p)]
                if shifted:
                    value += offset[unsigned(p)]
                y[unsigned(at)] = value
                p += down * p_step
                at += np.int64(down) * inner

    return normalize_bricks


@functools.cache
def _kernel(
    dtype: str, statistics: Operand, parameters: Operand, scaled: bool, shifted: bool
) -> Any:
    return compiled(_source(dtype, statistics, parameters, scaled, shifted), THREADS, MIN_BLOCKS)


LAYERS: dict[str, tuple[Operand, Operand]] = {
    "batch": (Operand((), False, (True,)), Operand((), False, (True,))),
    "layer": (Operand((True,), False, ()), Operand((False,), True, ())),
    "group": (Operand((True,), False, (True, False)), Operand((False,), False, (True, True))),
    "instance": (Operand((True,), False, (True,)), Operand((False,), False, (True,))),
}
"""Statistics and parameters of each kind of layer, stepping along the run that is chosen."""


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use for the layers."""
    short, long = types.int32, types.int64
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        arguments = (*(array,) * 6, array.dtype, short, long, short, long, *(short,) * 5)
        for name, (statistics, parameters) in LAYERS.items():
            for scaled in (False, True):
                for shifted in (False, True):
                    yield KernelSpec(
                        f"normalize_bricks[{dtype},{name},{scaled},{shifted}]",
                        _source(dtype, statistics, parameters, scaled, shifted),
                        arguments,
                        THREADS,
                        min_blocks=MIN_BLOCKS,
                    )
