"""Global pooling: one window that is the whole input; a reduction over the pixels of each channel.

A block takes one sample and up to 32 channels. Its threads stand side by side in channels, so
each row of them reads together, and stride over the pixels; then their partial results, which
lie in shared memory, are joined pairwise::

    pixels   p0 p1 p2 p3 | p4 p5 p6 p7 | p8 ...        slots 0..3 take p0 p4 p8 .., p1 p5 p9 .., ...
    slots    0  1  2  3                                 0+2 1+3  ->  0+1     in a fixed order

So the same inputs give the same bits. A maximum carries its index: of equal ones the
smaller index wins, of NaNs too, and a NaN beats every number.

The gradients need no kernel of their own: with a single window the gather of max_pooling.py and
avg_pooling.py reads one number for each input. Limits: a plane of pixels below 2^31.

Source: Harris 2007, "Optimizing Parallel Reduction in CUDA".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device import halo
from gpuconv_kernels.device.halo import divide, int32, int64, uint32, uint64
from gpuconv_kernels.device.launch import Array, ceil_div, launch
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, real, types

_THREADS = 16 if SIMULATED else 256
_MAX_LANE_BITS = 2 if SIMULATED else 5


def _avg_function(dtype: str, threads: int) -> Any:
    number = real(dtype)
    THREADS = threads

    def global_avg_pool(x, y, divisor, channels, pixels, parts, lane_bits):  # type: ignore[no-untyped-def]
        sums = cuda.shared.array(THREADS, number)
        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        sample = divide(block, parts)
        lane = thread & int32(int32(int32(1) << lane_bits) - int32(1))
        c = int32((int32(block - int32(sample * parts)) << lane_bits) + lane)
        slots = int32(int32(THREADS) >> lane_bits)
        base = int64(sample) * pixels * channels + c
        total = number(0)
        if c < channels:
            pixel = int32(thread >> lane_bits)
            while pixel < pixels:
                total += x[uint64(base + int64(pixel) * channels)]
                pixel = int32(pixel + slots)
        sums[uint32(thread)] = total
        half = int32(slots >> int32(1))
        while half > 0:
            cuda.syncthreads()
            if int32(thread >> lane_bits) < half:
                sums[uint32(thread)] += sums[uint32(int32(thread + int32(half << lane_bits)))]
            half = int32(half >> int32(1))
        if thread == lane and c < channels:
            y[uint64(int64(sample) * channels + c)] = sums[uint32(thread)] / divisor

    return global_avg_pool


def _max_function(dtype: str, with_indices: bool, threads: int) -> Any:
    number = real(dtype)
    low = np.dtype(dtype).type(-np.inf)
    THREADS = threads

    def global_max_pool(x, y, indices, channels, pixels, parts, lane_bits):  # type: ignore[no-untyped-def]
        values = cuda.shared.array(THREADS, number)
        places = cuda.shared.array(THREADS, int32)
        thread, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        sample = divide(block, parts)
        lane = thread & int32(int32(int32(1) << lane_bits) - int32(1))
        c = int32((int32(block - int32(sample * parts)) << lane_bits) + lane)
        slots = int32(int32(THREADS) >> lane_bits)
        base = int64(sample) * pixels * channels + c
        best, at = low, int32(-1)
        if c < channels:
            pixel = int32(thread >> lane_bits)
            while pixel < pixels:
                value = x[uint64(base + int64(pixel) * channels)]
                if at < 0 or value > best or (value != value and best == best):
                    best, at = value, pixel
                pixel = int32(pixel + slots)
        values[uint32(thread)] = best
        places[uint32(thread)] = at
        half = int32(slots >> int32(1))
        while half > 0:
            cuda.syncthreads()
            if int32(thread >> lane_bits) < half:
                value = values[uint32(int32(thread + int32(half << lane_bits)))]
                other = places[uint32(int32(thread + int32(half << lane_bits)))]
                equal = value == best or (value != value and best != best)
                wins = value > best or (value != value and best == best) or (equal and other < at)
                if other >= 0 and (at < 0 or wins):
                    best, at = value, other
                    values[uint32(thread)] = best
                    places[uint32(thread)] = at
            half = int32(half >> int32(1))
        if thread == lane and c < channels:
            target = uint64(int64(sample) * channels + c)
            y[target] = best
            if with_indices:
                indices[target] = at

    return global_max_pool


@functools.cache
def _avg_kernel(dtype: str) -> Any:
    return compiled(_avg_function(dtype, _THREADS), _THREADS)


@functools.cache
def _max_kernel(dtype: str, with_indices: bool) -> Any:
    return compiled(_max_function(dtype, with_indices, _THREADS), _THREADS)


# --- launchers -------------------------------------------------------------------------


def avg_pool(x: Array, y: Array, geometry: Any) -> None:
    """Write ``y`` (N, 1, .., C), the average of each channel of ``x`` (N, *in, C)."""
    g, dtype = geometry, str(x.dtype)
    divisor = math.prod(g.input) if g.divisor_override is None else g.divisor_override
    blocks, cut = _cut(g)
    launch(_avg_kernel(dtype), blocks, _THREADS, x, y, np.dtype(dtype).type(divisor), *cut)


def max_pool(x: Array, y: Array, indices: Array | None, geometry: Any) -> None:
    """Write ``y`` and, unless None, ``indices``: the first maximum of each channel."""
    g, dtype = geometry, str(x.dtype)
    blocks, cut = _cut(g)
    kernel = _max_kernel(dtype, indices is not None)
    launch(kernel, blocks, _THREADS, x, y, x if indices is None else indices, *cut)


def _cut(g: Any) -> tuple[int, tuple[int, int, int, int]]:
    """Return the number of blocks, and what both kernels take last."""
    bits = halo.bits_for(g.channels, _MAX_LANE_BITS)
    parts = ceil_div(g.channels, 1 << bits)
    return g.batch * parts, (g.channels, math.prod(g.input), parts, bits)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    threads, places = 256, types.Array(types.int64, 1, "C")
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        yield KernelSpec(
            f"global_avg_pool[{dtype}]",
            _avg_function(dtype, threads),
            (array, array, real(dtype), *(int32,) * 4),
            threads,
        )
        for with_indices in (False, True):
            yield KernelSpec(
                f"global_max_pool[{dtype}{', indices' * with_indices}]",
                _max_function(dtype, with_indices, threads),
                (array, array, places if with_indices else array, *(int32,) * 4),
                threads,
            )
