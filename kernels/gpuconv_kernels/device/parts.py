"""Adding up partial sums: the second stage of a reduction that was cut in parts.

Where a convolution has too few results to fill the device, its sums are cut: each block adds only
part of the terms and writes its results to a workspace ``(parts, pixels, F)``. This kernel then
adds the parts, always in the same order (no atomics: the same bits on every run), adds the bias,
applies the activation and writes each result to its place::

    partial[0] ---+
    partial[1] ---+--> + bias --> activation --> y[first + step * position]
    partial[2] ---+

One thread a result at a time, striding by the grid; all accesses but the strided store are
contiguous. The kernel moves ``parts + 1`` numbers a result, so it runs at the speed of the memory.
With no parts it writes zeros, which is what a phase of backward_input without taps needs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.functions import forward_function
from gpuconv_kernels.device.launch import elementwise_grid, launch
from gpuconv_kernels.device.spatial import Spatial, int32s
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, real, types
from gpuconv_kernels.device.tiles import quotients

Array = Any

THREADS = 256


@functools.cache
def define(dtype: str, kind: str | None, plain: bool, wide: bool) -> Any:
    """Return the kernel, as a plain function; ``plain``: the results lie next to each other."""
    number, int32 = np.dtype(dtype).type, np.int32
    index = np.int64 if wide else np.int32
    position = np.uint64 if wide else np.uint32
    quotient = quotients(wide)
    function = forward_function(kind, dtype)

    def add_parts(  # type: ignore[no-untyped-def]
        partial,  # (parts, count)
        bias,
        y,
        alpha,
        with_bias,
        parts,
        count,  # pixels * filters
        filters,  # of all groups
        output,
        target,
        target_first,
        target_step,
    ):
        i = index(index(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x)
        stride = index(index(cuda.gridDim.x) * cuda.blockDim.x)
        while i < count:
            value = number(0)
            at = i
            for _ in range(parts):
                value += partial[position(at)]
                at = index(at + count)
            pixel = quotient(i, filters)
            f = int32(i - pixel * filters)
            if with_bias:
                value += bias[np.uint32(f)]
            value = function(value, alpha)
            if plain:
                at = i
            else:
                line = quotient(pixel, output[2])
                plane = quotient(line, output[1])
                image = quotient(plane, output[0])
                p0 = plane - image * output[0]
                p1 = line - plane * output[1]
                p2 = pixel - line * output[2]
                at = index(image * target[0] + (target_first[0] + p0 * target_step[0]))
                at = index(at * target[1] + (target_first[1] + p1 * target_step[1]))
                at = index(at * target[2] + (target_first[2] + p2 * target_step[2]))
                at = index(at * filters + f)
            y[position(at)] = value
            i = index(i + stride)

    return add_parts


@functools.cache
def _kernel(dtype: str, kind: str | None, plain: bool, wide: bool) -> Any:
    return compiled(define(dtype, kind, plain, wide), THREADS)


def add_parts(
    partial: Array,
    bias: Array | None,
    y: Array,
    problem: Spatial,
    parts: int,
    kind: str | None = None,
    alpha: float = 0.0,
) -> None:
    """Write the sum over ``partial`` (parts, pixels, F), flat, to ``y``; zeros without parts.

    Args:
        partial: at least ``parts * pixels * F`` elements; any array if ``parts`` is 0.
        bias: (F,) or None.
        y: the array that is written.
        problem: says where each result goes.
        parts: how many are added.
        kind, alpha: activation after the bias, None for none.
    """
    filters = problem.groups * problem.filters
    count = problem.pixels * filters
    if count == 0:
        return
    wide = problem.is_wide(max(parts, 1))
    index = np.int64 if wide else np.int32
    grid, block = elementwise_grid(count, THREADS)
    launch(
        _kernel(y.dtype.name, kind, problem.is_plain, wide),
        grid,
        block,
        partial,
        y if bias is None else bias,
        y,
        np.dtype(y.dtype.name).type(alpha),
        int(bias is not None),
        parts,
        index(count),
        filters,
        int32s(problem.output),
        int32s(problem.target),
        int32s(problem.target_first),
        int32s(problem.target_step),
    )


def catalogue() -> Iterator[KernelSpec]:
    """Yield the kernels of this file."""
    int32, three = types.int32, types.UniTuple(types.int32, 3)
    for dtype in ("float32", "float64"):
        for kind, plain, wide in (
            (None, True, False),
            ("relu", True, False),
            (None, False, False),
            (None, False, True),
        ):
            words = [dtype, kind or "linear", *["plain"] * plain, *["wide"] * wide]
            index = types.int64 if wide else int32
            yield KernelSpec(
                f"add_parts[{','.join(words)}]",
                define(dtype, kind, plain, wide),
                (*(flat(dtype),) * 3, real(dtype), int32, int32, index, int32, *(three,) * 4),
                THREADS,
            )
