"""Average pooling and its gradient.

Forward: as max pooling (max_pooling.py), with sums: one channel and a run of outputs a thread,
the inputs of overlapping windows in shared memory. A window's sum runs over its real elements in
row-major order and is divided once.

Backward gathers: an input adds up ``dy / divisor`` of the windows that contain it, in the order of
the outputs. No atomics. Divisors differ only where windows hang over; they are the product of
a count for each dimension (``PoolGeometry.divisors``) or one number for all.

A window that is the whole input goes to global_pooling.py. A window without any real element gives
0. Limits: one to three spatial dimensions, any stride and pads, no dilation; tiles that do not fit
into 48 KiB are read straight from global memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device import global_pooling, halo, windows
from gpuconv_kernels.device.halo import (
    TRIPLE,
    int32,
    int64,
    integers,
    load_tile,
    locate,
    place_in_tile,
    uint64,
)
from gpuconv_kernels.device.launch import Array, launch
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, inlined, real, types
from gpuconv_kernels.device.windows import (
    CUT,
    MIN_BLOCKS,
    TEAMS,
    THREADS,
    first_of,
    last_of,
    taps_inside,
)


@inlined
def _count(output, stride, pad, window, first, last):  # type: ignore[no-untyped-def]
    """Return how many elements a window counts in one dimension, of those from ``first`` on."""
    start = int32(int32(output * stride) - pad)
    return int32(min(int32(start + window), last) - max(start, first))


# --- forward ---------------------------------------------------------------------------


@inlined
def _sum(source, base, steps, first, last, total):  # type: ignore[no-untyped-def]
    """Add up ``source[base + t . steps]`` over the taps ``t`` from ``first`` to ``last``."""
    for d in range(first[0], last[0]):
        for h in range(first[1], last[1]):
            line = base + int64(d) * steps[0] + int64(h) * steps[1]
            for w in range(first[2], last[2]):
                total += source[uint64(line + int64(w) * steps[2])]
    return total


def _avg_function(dtype: str, tiled: bool, threads: int) -> Any:
    number = real(dtype)
    teams = TEAMS(threads)

    def avg_pool(  # type: ignore[no-untyped-def]
        x, y, counted, override, channels, source, window, strides, dilations, pads,
        tile, around, tiles, cut, extents,
    ):  # fmt: skip
        # counted: for each dimension from where on and to where elements count; override: the
        # divisor, or 0; source, extents: of x and y; cut: see windows.py
        shared = cuda.shared.array(0, number)
        thread = int32(cuda.threadIdx.x)
        sample, d0, h0, w0, part = locate(int32(cuda.blockIdx.x), cut[3], tiles)
        d0, h0, w0 = int32(d0 * tile[0]), int32(h0 * tile[1]), int32(w0 * tile[2])
        lane = thread & int32(int32(int32(1) << cut[0]) - int32(1))
        c0 = int32(part << cut[0])
        c = int32(c0 + lane)
        corner_d = int32(int32(d0 * strides[0]) - pads[0])
        corner_h = int32(int32(h0 * strides[1]) - pads[1])
        corner_w = int32(int32(w0 * strides[2]) - pads[2])
        if tiled:
            load_tile(
                shared, int32(0), cut[1], around, x, sample, (corner_d, corner_h, corner_w),
                source, channels, (c0, int32(int32(1) << cut[0])), cut[4], int32(teams),
            )  # fmt: skip
            cuda.syncthreads()
        d, h, run = place_in_tile(int32(thread >> cut[0]), tile[1], cut[5])
        d, h = int32(d0 + d), int32(h0 + h)
        if c < channels and d < min(extents[0], int32(d0 + tile[0])) and h < extents[1]:
            at_d = int32(int32(d * strides[0]) - pads[0])
            at_h = int32(int32(h * strides[1]) - pads[1])
            first_d, last_d = taps_inside(at_d, source[0], window[0], dilations[0])
            first_h, last_h = taps_inside(at_h, source[1], window[1], dilations[1])
            count_d = _count(d, strides[0], pads[0], window[0], counted[0], counted[3])
            count_h = _count(h, strides[1], pads[1], window[1], counted[1], counted[4])
            pixel = (int64(sample) * extents[0] + d) * extents[1] + h
            begin = int32(w0 + int32(run * cut[2]))
            for w in range(begin, min(int32(begin + cut[2]), extents[2])):
                at_w = int32(int32(int32(w) * strides[2]) - pads[2])
                first_w, last_w = taps_inside(at_w, source[2], window[2], dilations[2])
                first, last = (first_d, first_h, first_w), (last_d, last_h, last_w)
                total = number(0)
                if tiled:
                    line = int32(int32(at_d - corner_d) * around[1]) + int32(at_h - corner_h)
                    base = int64(lane) * cut[1] + line * around[2] + int32(at_w - corner_w)
                    step_h = int64(dilations[1]) * around[2]
                    step_d = int64(dilations[0]) * around[1] * around[2]
                    steps = (step_d, step_h, int64(dilations[2]))
                    total = _sum(shared, base, steps, first, last, total)
                else:
                    base = (int64(sample) * source[0] + at_d) * source[1] + at_h
                    base = (base * source[2] + at_w) * channels + c
                    step_h = int64(dilations[1]) * source[2] * channels
                    step_d = int64(dilations[0]) * source[1] * source[2] * channels
                    steps = (step_d, step_h, int64(dilations[2]) * channels)
                    total = _sum(x, base, steps, first, last, total)
                divisor = override
                if override == 0:
                    count_w = _count(w, strides[2], pads[2], window[2], counted[2], counted[5])
                    divisor = max(int32(int32(count_d * count_h) * count_w), int32(1))
                target = uint64((pixel * extents[2] + w) * channels + c)
                y[target] = total / number(divisor)

    return avg_pool


# --- backward --------------------------------------------------------------------------


@inlined
def _shares(dy, base, steps, first, last, strides, pads, window, counted, override, total):  # type: ignore[no-untyped-def]
    """Add up ``dy / divisor`` of the windows from ``first`` to ``last``."""
    for p in range(first[0], last[0]):
        count_d = _count(p, strides[0], pads[0], window[0], counted[0], counted[3])
        for q in range(first[1], last[1]):
            count = _count(q, strides[1], pads[1], window[1], counted[1], counted[4])
            count = int32(count_d * count)
            line = base + int64(p) * steps[0] + int64(q) * steps[1]
            for r in range(first[2], last[2]):
                divisor = override
                if override == 0:
                    across = _count(r, strides[2], pads[2], window[2], counted[2], counted[5])
                    divisor = int32(count * across)
                total += dy[uint64(line + int64(r) * steps[2])] / dy.dtype.type(divisor)
    return total


def _avg_backward_function(dtype: str, tiled: bool, threads: int) -> Any:
    number = real(dtype)
    teams = TEAMS(threads)

    def avg_pool_backward(  # type: ignore[no-untyped-def]
        dy, dx, counted, override, channels, source, window, strides, dilations, pads,
        tile, around, tiles, cut, extents,
    ):  # fmt: skip
        # source: extents of dy; extents: of dx, which the tiles cut; the rest as above
        shared = cuda.shared.array(0, number)
        thread = int32(cuda.threadIdx.x)
        sample, d0, h0, w0, part = locate(int32(cuda.blockIdx.x), cut[3], tiles)
        d0, h0, w0 = int32(d0 * tile[0]), int32(h0 * tile[1]), int32(w0 * tile[2])
        lane = thread & int32(int32(int32(1) << cut[0]) - int32(1))
        c0 = int32(part << cut[0])
        c = int32(c0 + lane)
        corner_d = first_of(d0, pads[0], window[0], strides[0], dilations[0])
        corner_h = first_of(h0, pads[1], window[1], strides[1], dilations[1])
        corner_w = first_of(w0, pads[2], window[2], strides[2], dilations[2])
        if tiled:
            load_tile(
                shared, int32(0), cut[1], around, dy, sample, (corner_d, corner_h, corner_w),
                source, channels, (c0, int32(int32(1) << cut[0])), cut[4], int32(teams),
            )  # fmt: skip
            cuda.syncthreads()
        d, h, run = place_in_tile(int32(thread >> cut[0]), tile[1], cut[5])
        d, h = int32(d0 + d), int32(h0 + h)
        if c < channels and d < min(extents[0], int32(d0 + tile[0])) and h < extents[1]:
            # Where channel c of window (0, 0, 0) stands, or would, and the steps from there.
            if tiled:
                step_w, step_h = int64(1), int64(around[2])
                step_d = step_h * around[1]
                base = int64(lane) * cut[1]
                base -= (int64(corner_d) * around[1] + corner_h) * around[2] + corner_w
            else:
                step_w, step_h = int64(channels), int64(source[2]) * channels
                step_d = step_h * source[1]
                base = int64(sample) * source[0] * step_d + c
            first_d = first_of(d, pads[0], window[0], strides[0], dilations[0])
            first_h = first_of(h, pads[1], window[1], strides[1], dilations[1])
            last_d = min(last_of(d, pads[0], strides[0]), source[0])
            last_h = min(last_of(h, pads[1], strides[1]), source[1])
            pixel = (int64(sample) * extents[0] + d) * extents[1] + h
            begin = int32(w0 + int32(run * cut[2]))
            for w in range(begin, min(int32(begin + cut[2]), extents[2])):
                first_w = first_of(int32(w), pads[2], window[2], strides[2], dilations[2])
                last_w = min(last_of(int32(w), pads[2], strides[2]), source[2])
                first, last = (first_d, first_h, first_w), (last_d, last_h, last_w)
                total, steps = number(0), (step_d, step_h, step_w)
                if tiled:
                    total = _shares(
                        shared, base, steps, first, last, strides, pads, window, counted,
                        override, total,
                    )  # fmt: skip
                else:
                    total = _shares(
                        dy, base, steps, first, last, strides, pads, window, counted,
                        override, total,
                    )  # fmt: skip
                dx[uint64((pixel * extents[2] + w) * channels + c)] = total

    return avg_pool_backward


@functools.cache
def _avg_kernel(dtype: str, tiled: bool) -> Any:
    return compiled(_avg_function(dtype, tiled, THREADS), THREADS, MIN_BLOCKS)


@functools.cache
def _avg_backward_kernel(dtype: str, tiled: bool) -> Any:
    return compiled(_avg_backward_function(dtype, tiled, THREADS), THREADS, MIN_BLOCKS)


# --- launchers -------------------------------------------------------------------------


def avg_pool(x: Array, y: Array, geometry: Any) -> None:
    """Write ``y`` (N, *out, C) from ``x`` (N, *in, C), divided as the geometry says.

    Raises:
        ValueError: a dilation, which averages have not.
    """
    g, dtype = _checked(geometry), str(x.dtype)
    if g.batch == 0:
        return
    if g.is_global:
        global_pooling.avg_pool(x, y, g)
        return
    itemsize = np.dtype(dtype).itemsize
    plan = windows.forward_plan(g, itemsize)
    launch(
        _avg_kernel(dtype, plan.tiled),
        plan.blocks,
        THREADS,
        x,
        y,
        *_divisor_arguments(g),
        *windows.arguments(g, plan, g.input, g.output),
        shared_bytes=plan.numbers * itemsize,
    )


def avg_pool_backward(dy: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, C).

    Raises:
        ValueError: a dilation, which averages have not.
    """
    g, dtype = _checked(geometry), str(dy.dtype)
    if g.batch == 0:
        return
    itemsize = np.dtype(dtype).itemsize
    plan = windows.backward_plan(g, itemsize)
    launch(
        _avg_backward_kernel(dtype, plan.tiled),
        plan.blocks,
        THREADS,
        dy,
        dx,
        *_divisor_arguments(g),
        *windows.arguments(g, plan, g.output, g.input),
        shared_bytes=plan.numbers * itemsize,
    )


def _checked(g: Any) -> Any:
    if max(g.dilation) > 1:
        raise ValueError(f"average pooling takes no dilation. Received: {g.dilation}")
    return g


def _divisor_arguments(g: Any) -> tuple[Any, int]:
    """Return from where on and to where elements count, and the divisor of all windows or 0."""
    inside = g.count_include_pad
    first = halo.volume([-lo if inside else 0 for lo, _ in g.pads], 0)
    ends = [i + (hi if inside else 0) for i, (_, hi) in zip(g.input, g.pads, strict=True)]
    return integers(*first, *halo.volume(ends, 1)), g.divisor_override or 0


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    threads = 256
    cut, counted = types.UniTuple(types.int32, CUT), types.UniTuple(types.int32, 6)
    integers = (counted, int32, int32, *(TRIPLE,) * 8, cut, TRIPLE)
    for dtype in ("float32", "float64"):
        for tiled in (False, True):
            how = "tiled" if tiled else "direct"
            for name, function in (
                ("avg_pool", _avg_function),
                ("avg_pool_backward", _avg_backward_function),
            ):
                yield KernelSpec(
                    f"{name}[{dtype}, {how}]",
                    function(dtype, tiled, threads),
                    (flat(dtype), flat(dtype), *integers),
                    threads,
                    min_blocks=MIN_BLOCKS,
                )
