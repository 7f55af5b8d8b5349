"""Sums along one run of axes, in an order that never changes; the bias gradient.

An array is seen as ``(outer, reduced, inner)``. A block is a brick of tx x ty x tz threads: x along
``inner``, so that neighbours read neighbours in memory; y along ``reduced``; z along ``outer``.
Where ``inner`` is short, x is too, and y takes the threads: memory is read in long runs still::

              inner ->                       1. each thread adds up its column of the slab,
      split 0 |a|b|c|d|   rows j, j + ty,       four rows in flight
              |a|b|c|d|   j + 2 ty, ...      2. shared memory: ty sums become ty/2, ..., 1
      split 1 |e|f|g|h|   another block         |a0 a1 a2 a3| -> |a0+a2 a1+a3| -> |a|
              |e|f|g|h|                      3. out[outer, split, inner]

A long ``reduced`` is cut into splits, for enough blocks to fill a device; then the same kernel
runs a second time, over the splits. Which numbers meet in which order depends on the shape alone:
no atomics, the same bits on every device. A sum of n numbers is a tree whose longest path has about
``n / (splits * ty * 4)`` additions, so float32 loses little more than pairwise summation does.

Shared memory: one number a thread. Limits: ``outer`` and ``inner`` below 2^31.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div, launch
from gpuconv_kernels.device.target import (
    SIMULATED,
    KernelSpec,
    compiled,
    cuda,
    flat,
    inlined,
    types,
)

Array = Any

THREADS = 32 if SIMULATED else 256
"""Threads of a block, and numbers in a shared array."""

MIN_BLOCKS = 2
"""Blocks that a multiprocessor must have registers for: up to 128 a thread. With no number at all
the assembler may spill a register or two to fit one block more."""

_BLOCKS = 4 if SIMULATED else 1024
"""Blocks that are enough; a reduction is not cut further."""

_ROWS = 2 if SIMULATED else 16
"""Numbers that a thread adds at least before a reduction is cut."""


@dataclass(frozen=True)
class Bricks:
    """How an array (outer, reduced, inner) is dealt out to blocks.

    Attributes:
        block: threads along inner, reduced and outer.
        tiles: bricks side by side along inner, and along outer.
        chunk: numbers of ``reduced`` that one block takes.
        splits: blocks that share one ``reduced``.
    """

    block: tuple[int, int, int]
    tiles: tuple[int, int]
    chunk: int
    splits: int

    @property
    def grid(self) -> int:
        return self.tiles[0] * self.tiles[1] * self.splits


@functools.lru_cache(maxsize=1024)
def bricks(outer: int, reduced: int, inner: int, blocks: int = _BLOCKS) -> Bricks:
    """Choose the bricks; ``blocks`` 1 leaves ``reduced`` whole, with more threads to share it."""
    across = min(_power_of_2(inner), 32 if blocks > 1 else 8)
    down = min(_power_of_2(reduced), THREADS // across)
    deep = min(_power_of_2(outer), THREADS // (across * down), 64)  # 64: CUDA's limit along z
    tiles = (max(1, ceil_div(inner, across)), max(1, ceil_div(outer, deep)))
    wanted = blocks // (tiles[0] * tiles[1])
    splits = max(1, min(wanted, ceil_div(reduced, down * _ROWS)))
    chunk = max(1, ceil_div(reduced, splits))
    return Bricks((across, down, deep), tiles, chunk, max(1, ceil_div(reduced, chunk)))


def _power_of_2(n: int) -> int:
    """The least power of 2 that is not below ``n``."""
    return int(1 << max(n - 1, 0).bit_length())


def sum_elements(outer: int, reduced: int, inner: int) -> int:
    """Elements of the scratch array that :func:`sum_run` needs."""
    splits = bricks(outer, reduced, inner).splits
    return outer * splits * inner if splits > 1 else 0


def sum_run(
    x: Array, out: Array, partial: Array | None, outer: int, reduced: int, inner: int
) -> None:
    """Sum ``x``, seen as (outer, reduced, inner), over the middle into ``out`` (outer, inner).

    ``partial`` has at least :func:`sum_elements` elements, or is None where that is 0.
    """
    if outer * inner == 0:
        return
    if reduced == 0:
        zero(out)
        return
    cut = bricks(outer, reduced, inner)
    if cut.splits == 1:
        _sum(x, out, cut, outer, reduced, inner)
        return
    _sum(x, partial, cut, outer, reduced, inner)
    _sum(partial, out, bricks(outer, cut.splits, inner, 1), outer, cut.splits, inner)


def zero(out: Array) -> None:
    """Write zeros, the sums of nothing."""
    if out.size:
        _sum(out, out, bricks(out.size, 0, 1, 1), out.size, 0, 1)  # reads nothing


def partial_elements(shape: tuple[int, ...]) -> int:
    """Elements of the scratch array that :func:`sum_channels` needs for ``dy`` of ``shape``."""
    return sum_elements(*_as_columns(shape))


def sum_channels(dy: Array, out: Array, partial: Array | None) -> None:
    """``dy`` (..., C) -> ``out`` (C,), summed over every other axis: the bias gradient.

    ``partial`` has at least :func:`partial_elements` elements, or is None where that is 0.
    """
    sum_run(dy, out, partial, *_as_columns(dy.shape))


def _as_columns(shape: tuple[int, ...]) -> tuple[int, int, int]:
    rows = 1
    for extent in shape[:-1]:
        rows *= extent
    return 1, rows, shape[-1]


def _sum(x: Array, out: Array, cut: Bricks, outer: int, reduced: int, inner: int) -> None:
    launch(
        _sum_kernel(x.dtype.name),
        cut.grid,
        cut.block,
        x,
        out,
        outer,
        np.int64(reduced),
        inner,
        np.int64(cut.chunk),
        cut.splits,
    )


def _sum_source(dtype: str) -> Callable[..., None]:
    number = np.dtype(dtype).type
    zero = number(0)

    def sum_bricks(x, out, outer, reduced, inner, chunk, splits):  # type: ignore[no-untyped-def]
        held = cuda.shared.array(THREADS, number)
        across, down = cuda.blockDim.x, cuda.blockDim.y
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        tile, split = division(cuda.blockIdx.x, splits)
        deep, wide = division(tile, division(inner + across - 1, across)[0])
        i, o = wide * across + tx, deep * cuda.blockDim.z + tz
        inside = i < inner and o < outer

        a, b, c, d = zero, zero, zero, zero
        if inside:
            stop = min((split + 1) * chunk, reduced)
            at = (o * reduced + split * chunk + ty) * inner + i
            step = np.int64(down) * inner
            row = split * chunk + ty
            while row + 3 * down < stop:
                a += x[unsigned(at)]
                b += x[unsigned(at + step)]
                c += x[unsigned(at + 2 * step)]
                d += x[unsigned(at + 3 * step)]
                at += 4 * step
                row += 4 * down
            while row < stop:
                a += x[unsigned(at)]
                at += step
                row += down

        slot = (tz * down + ty) * across + tx
        held[slot] = (a + b) + (c + d)
        cuda.syncthreads()
        half = down // 2
        while half > 0:
            if ty < half:
                held[slot] += held[slot + half * across]
            cuda.syncthreads()
            half //= 2
        if inside and ty == 0:
            out[unsigned((o * splits + split) * inner + i)] = held[slot]

    return sum_bricks


def _division(a, b):  # type: ignore[no-untyped-def]
    return divmod(a, b)


def _division_of_32_bits(a, b):  # type: ignore[no-untyped-def]
    quotient = np.int32(np.uint32(a) // np.uint32(b))
    return quotient, np.int32(a - quotient * b)


division = _division if SIMULATED else inlined(_division_of_32_bits)
"""``division(a, b)``: quotient and remainder of integers in [0, 2^31). Numba's own ``//`` widens to
64 bits, for which a device has no instruction, only a long subroutine."""


unsigned: Any = int if SIMULATED else np.uint64
"""For indices that are not negative. Numba would count others from the end, as Python does, and
for that keep the length of every array in registers."""


@functools.cache
def _sum_kernel(dtype: str) -> Any:
    return compiled(_sum_source(dtype), THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    short, long = types.int32, types.int64
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        yield KernelSpec(
            f"sum_bricks[{dtype}]",
            _sum_source(dtype),
            (array, array, short, long, short, long, short),
            THREADS,
            min_blocks=MIN_BLOCKS,
        )
