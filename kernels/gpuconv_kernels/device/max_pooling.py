"""Max pooling and its gradient.

Forward: a thread takes one channel and a run of outputs of a row. Neighbouring threads have
neighbouring channels, so they read and write together. Where windows overlap, the block copies
its inputs into shared memory first (halo.py has the picture); where they do not, each input is
read once, straight from global memory::

    overlap: x -> shared tile -> windows -> y, indices        else: x -> windows -> y, indices

The first maximum in row-major order wins, the first NaN beats every number. Taps in the padding are
left out beforehand, so padding never wins; a window without any real element gives -inf and
the index -1. The values are the same bits with and without indices.

Backward gathers: an input looks at the windows that may contain it and adds up ``dy`` of those
whose index names it, in the order of the outputs. No atomics. Where windows overlap, a tile of
``dy`` and of the indices is copied into shared memory first.

A window that is the whole input goes to global_pooling.py. Limits: one to three spatial dimensions,
any stride, dilation and pads; tiles that do not fit into 48 KiB are read straight from global
memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device import global_pooling, windows
from gpuconv_kernels.device.halo import (
    TRIPLE,
    int32,
    int64,
    load_tile,
    locate,
    place_in_tile,
    uint64,
)
from gpuconv_kernels.device.launch import Array, launch
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, inlined, real, types
from gpuconv_kernels.device.windows import CUT, MIN_BLOCKS, TEAMS, THREADS, first_of, taps_inside

# --- forward ---------------------------------------------------------------------------


@inlined
def _maximum(source, base, steps, first, last, index, plane_steps, low):  # type: ignore[no-untyped-def]
    """Return ``(value, index)`` of the first maximum among the taps from ``first`` to ``last``.

    ``source[base + t . steps]`` is tap ``t``, and ``index + t . plane_steps`` its index.
    """
    best, at = low, int64(-1)
    for d in range(first[0], last[0]):
        for h in range(first[1], last[1]):
            line = base + int64(d) * steps[0] + int64(h) * steps[1]
            line_index = index + int64(d) * plane_steps[0] + int64(h) * plane_steps[1]
            for w in range(first[2], last[2]):
                value = source[uint64(line + int64(w) * steps[2])]
                if at < 0 or value > best or (value != value and best == best):
                    best, at = value, line_index + int64(w) * plane_steps[2]
    return best, at


def _max_function(dtype: str, tiled: bool, with_indices: bool, threads: int) -> Any:
    number = real(dtype)
    low = np.dtype(dtype).type(-np.inf)
    teams = TEAMS(threads)

    def max_pool(  # type: ignore[no-untyped-def]
        x, y, indices, channels, source, window, strides, dilations, pads,
        tile, around, tiles, cut, extents,
    ):  # fmt: skip
        # source, extents: of x and y; cut: see windows.py
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
            corner = (corner_d, corner_h, corner_w)
            lanes = int32(int32(1) << cut[0])
            load_tile(
                shared, int32(0), cut[1], around, x, sample, corner, source, channels,
                (c0, lanes), cut[4], int32(teams),
            )  # fmt: skip
            cuda.syncthreads()
        d, h, run = place_in_tile(int32(thread >> cut[0]), tile[1], cut[5])
        d, h = int32(d0 + d), int32(h0 + h)
        if c < channels and d < min(extents[0], int32(d0 + tile[0])) and h < extents[1]:
            at_d, at_h = (
                int32(int32(d * strides[0]) - pads[0]),
                int32(int32(h * strides[1]) - pads[1]),
            )
            first_d, last_d = taps_inside(at_d, source[0], window[0], dilations[0])
            first_h, last_h = taps_inside(at_h, source[1], window[1], dilations[1])
            plane_w = int64(dilations[2])
            plane_h = int64(dilations[1]) * source[2]
            plane_d = int64(dilations[0]) * source[1] * source[2]
            pixel = (int64(sample) * extents[0] + d) * extents[1] + h
            begin = int32(w0 + int32(run * cut[2]))
            for w in range(begin, min(int32(begin + cut[2]), extents[2])):
                at_w = int32(int32(int32(w) * strides[2]) - pads[2])
                first_w, last_w = taps_inside(at_w, source[2], window[2], dilations[2])
                index = (int64(at_d) * source[1] + at_h) * source[2] + at_w
                if tiled:
                    line = int32(int32(at_d - corner_d) * around[1]) + int32(at_h - corner_h)
                    base = int64(lane) * cut[1] + line * around[2] + int32(at_w - corner_w)
                    step_h = int64(dilations[1]) * around[2]
                    step_d = int64(dilations[0]) * around[1] * around[2]
                    value, at = _maximum(
                        shared, base, (step_d, step_h, plane_w), (first_d, first_h, first_w),
                        (last_d, last_h, last_w), index, (plane_d, plane_h, plane_w), low,
                    )  # fmt: skip
                else:
                    whole = int64(sample) * source[0] * source[1] * source[2]
                    base = (whole + index) * channels + c
                    value, at = _maximum(
                        x, base, (plane_d * channels, plane_h * channels, plane_w * channels),
                        (first_d, first_h, first_w), (last_d, last_h, last_w),
                        index, (plane_d, plane_h, plane_w), low,
                    )  # fmt: skip
                target = uint64((pixel * extents[2] + w) * channels + c)
                y[target] = value
                if with_indices:
                    indices[target] = at

    return max_pool


# --- backward --------------------------------------------------------------------------


@inlined
def _named(dy, indices, dy_base, index_base, steps, first, last, mine, total):  # type: ignore[no-untyped-def]
    """Add up ``dy`` of the windows from ``first`` to ``last`` whose index is ``mine``."""
    for d in range(first[0], last[0]):
        for h in range(first[1], last[1]):
            line = int64(d) * steps[0] + int64(h) * steps[1]
            for w in range(first[2], last[2]):
                at = line + int64(w) * steps[2]
                if indices[uint64(index_base + at)] == mine:
                    total += dy[uint64(dy_base + at)]
    return total


def _max_backward_function(dtype: str, tiled: bool, threads: int) -> Any:
    number = real(dtype)
    teams = TEAMS(threads)
    NUMBERS_AN_INDEX = 8 // np.dtype(dtype).itemsize

    def max_pool_backward(  # type: ignore[no-untyped-def]
        dy, indices, dx, channels, source, window, strides, dilations, pads,
        tile, around, tiles, cut, extents,
    ):  # fmt: skip
        # source: extents of dy; extents: of dx, which the tiles cut
        shared_indices = cuda.shared.array(0, types.int64)
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
        lanes = int32(int32(1) << cut[0])
        # The tile of dy begins where that of the indices, of 8 bytes each, ends.
        values_at = int32(int32(lanes * cut[1]) * int32(NUMBERS_AN_INDEX))
        if tiled:
            corner = (corner_d, corner_h, corner_w)
            load_tile(
                shared_indices, int32(0), cut[1], around, indices, sample, corner, source,
                channels, (c0, lanes), cut[4], int32(teams),
            )  # fmt: skip
            load_tile(
                shared, values_at, cut[1], around, dy, sample, corner, source, channels,
                (c0, lanes), cut[4], int32(teams),
            )  # fmt: skip
            cuda.syncthreads()
        d, h, run = place_in_tile(int32(thread >> cut[0]), tile[1], cut[5])
        d, h = int32(d0 + d), int32(h0 + h)
        if c < channels and d < min(extents[0], int32(d0 + tile[0])) and h < extents[1]:
            first_d = first_of(d, pads[0], window[0], strides[0], dilations[0])
            first_h = first_of(h, pads[1], window[1], strides[1], dilations[1])
            last_d = min(windows.last_of(d, pads[0], strides[0]), source[0])
            last_h = min(windows.last_of(h, pads[1], strides[1]), source[1])
            pixel = (int64(sample) * extents[0] + d) * extents[1] + h
            begin = int32(w0 + int32(run * cut[2]))
            for w in range(begin, min(int32(begin + cut[2]), extents[2])):
                first_w = first_of(int32(w), pads[2], window[2], strides[2], dilations[2])
                last_w = min(windows.last_of(int32(w), pads[2], strides[2]), source[2])
                mine = (int64(d) * extents[1] + h) * extents[2] + w
                total = number(0)
                if tiled:
                    corner_at = (int64(corner_d) * around[1] + corner_h) * around[2] + corner_w
                    base = int64(lane) * cut[1] - corner_at
                    step_d = int64(around[1]) * around[2]
                    total = _named(
                        shared, shared_indices, base + values_at, base,
                        (step_d, int64(around[2]), int64(1)), (first_d, first_h, first_w),
                        (last_d, last_h, last_w), mine, total,
                    )  # fmt: skip
                else:
                    step_h = int64(source[2]) * channels
                    step_d = step_h * source[1]
                    base = int64(sample) * source[0] * step_d + c
                    total = _named(
                        dy, indices, base, base, (step_d, step_h, int64(channels)),
                        (first_d, first_h, first_w), (last_d, last_h, last_w), mine, total,
                    )  # fmt: skip
                dx[uint64((pixel * extents[2] + w) * channels + c)] = total

    return max_pool_backward


@functools.cache
def _max_kernel(dtype: str, tiled: bool, with_indices: bool) -> Any:
    function = _max_function(dtype, tiled, with_indices, THREADS)
    return compiled(function, THREADS, MIN_BLOCKS)


@functools.cache
def _max_backward_kernel(dtype: str, tiled: bool) -> Any:
    return compiled(_max_backward_function(dtype, tiled, THREADS), THREADS, MIN_BLOCKS)


# --- launchers -------------------------------------------------------------------------


def max_pool(x: Array, y: Array, indices: Array | None, geometry: Any) -> None:
    """Write ``y`` and, unless None, ``indices`` (int64), both (N, *out, C), from ``x`` (N, *in, C).

    An index counts row-major in the un-padded spatial plane.
    """
    g, dtype = geometry, str(x.dtype)
    if g.batch == 0:
        return
    if g.is_global:
        global_pooling.max_pool(x, y, indices, g)
        return
    plan = windows.forward_plan(g, np.dtype(dtype).itemsize)
    launch(
        _max_kernel(dtype, plan.tiled, indices is not None),
        plan.blocks,
        THREADS,
        x,
        y,
        x if indices is None else indices,
        *windows.arguments(g, plan, g.input, g.output),
        shared_bytes=plan.numbers * np.dtype(dtype).itemsize,
    )


def max_pool_backward(dy: Array, indices: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` and ``indices`` (N, *out, C)."""
    g, dtype = geometry, str(dy.dtype)
    if g.batch == 0:
        return
    each = np.dtype(dtype).itemsize + 8
    plan = windows.backward_plan(g, each)
    launch(
        _max_backward_kernel(dtype, plan.tiled),
        plan.blocks,
        THREADS,
        dy,
        indices,
        dx,
        *windows.arguments(g, plan, g.output, g.input),
        shared_bytes=plan.numbers * each,
    )


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    threads, places = 256, types.Array(types.int64, 1, "C")
    integers = (int32, *(TRIPLE,) * 8, types.UniTuple(types.int32, CUT), TRIPLE)
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        for tiled in (False, True):
            how = "tiled" if tiled else "direct"
            for with_indices in (False, True):
                yield KernelSpec(
                    f"max_pool[{dtype}, {how}{', indices' * with_indices}]",
                    _max_function(dtype, tiled, with_indices, threads),
                    (array, array, places if with_indices else array, *integers),
                    threads,
                    min_blocks=MIN_BLOCKS,
                )
            yield KernelSpec(
                f"max_pool_backward[{dtype}, {how}]",
                _max_backward_function(dtype, tiled, threads),
                (array, places, array, *integers),
                threads,
                min_blocks=MIN_BLOCKS,
            )
