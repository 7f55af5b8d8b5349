"""Winograd backward_weight: the gradient of 3x3 kernels at stride 1, summed over transformed tiles.

The transpose of the forward (see :mod:`~gpuconv_kernels.host.winograd`): with the patches of ``x``
and the tiles of ``dy`` transformed, element ``e`` of the transformed gradient is a product over
tiles, and three numbers in each direction are made of the elements at the very end::

    x patches      dy tiles           sums in the L2 cache            dw
    B^T x B        A dy A^T            e: channel, filter          3 x 3 taps
    V[e]           D[e]               +-----+
    tile, channel  tile, filter     +-|     |     G^T dU G
    [  ]  -------------[  ]-------> | | dU  |   ------------->    [ 9, C, F ]
      V[e]^T @ D[e], +=             | +-----+
                                    +-----+

A task is a block of channels, a block of filters and some of the tiles::

    for a group of tiles:
        transform its patches and its tiles of dy
        for e in t * t elements:
            for 6 channels: micro-kernel: 6 x 64 sums += the group
    transform the sums

Where memory is short, all this is done for two rows of elements at a time, or for one, each of
which adds what it gives to ``dw``.

How tiles are cut into groups and parts is decided by the shape and the limit of memory, and what
they give is added in order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, aligned, put_at, zeros
from gpuconv_kernels.host.microkernel import (
    channel_kernel,
    channel_rows_for,
    multiply,
    step_cycles,
    vectors_for,
)
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, Host, host, second_level_cache
from gpuconv_kernels.host.winograd_cut import worth
from gpuconv_kernels.host.winograd_tiles import (
    apart,
    fill_table,
    locate,
    offsets_of,
    tail_padded,
    up,
    with_channels_together,
)
from gpuconv_kernels.host.winograd_transforms import (
    add_some,
    passes_of,
    store_some,
    transform_filter_gradient,
    transform_input,
    transform_output_gradient,
)
from gpuconv_kernels.threads import threads

Array = Any

_GROUPS = (32, 24, 20, 16, 12, 8)
"""Tiles of a group: the sums are read and written once for each group."""
_PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
"""How many parts tiles are cut into, each with a gradient of its own,"""
_LEAST_TILES = 48
"""if there are so many for each."""
_BLOCK_BYTES = 256
"""Channels of a block, at most."""
_THREADS, _MANY_THREADS = 2, 16
"""Work is cut for so few; of equal ways the one that keeps more threads busy."""

# What things take, in the time of multiply-adds of one thread.
_TILE_NUMBER = 19
"""A number of a transformed patch or tile; twice that in vectors that are not full."""
_START = 84
"""Cycles that a call of the micro-kernel takes beside its steps."""
_OUTSIDE = 0.25
"""More for each of them, where a task's memory is larger than its L2 cache."""
_GRADIENT_NUMBER = 20
"""A number of the transformed gradient, which is transformed back and added to those of others."""
_AGAIN = 10
"""more for each pass but the first, for which ``dw`` is read and written again."""
_PASS = 0.25
"""Transforms take such a part more for each pass but the first over their elements."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors: of a block of filters.
        channels: of a block, a multiple of a vector's lanes.
        group: tiles that are transformed together.
        span, parts: tiles of a part, a multiple of the group; how many parts.
        passes: how many parts the elements of tiles are computed in, one after the other.
    """

    vectors: int
    channels: int
    group: int
    span: int
    parts: int
    passes: int

    def elements(self, m: int) -> int:
        """That are computed at a time."""
        return (m + 2) ** 2 // self.passes

    def rows(self, of: Host) -> int:
        """Channels of the micro-kernel; few of them are computed for nothing."""
        most = channel_rows_for(self.vectors, of)
        return -(-self.channels // -(-self.channels // most))


def _cuts(tiles: int, channels: int, filters: int, m: int, dtype: str, of: Host) -> Iterator[Cut]:
    lanes, itemsize = of.lanes(dtype), ITEMSIZE[dtype]
    usual = vectors_for(filters, dtype, of)
    most = _BLOCK_BYTES // itemsize
    sizes = {up(-(-channels // -(-channels // n)), lanes) for n in range(lanes, most + 1, lanes)}
    blocks = [(usual, block) for block in sorted(sizes, reverse=True)]
    blocks += [(2, min(sizes))] if usual > 2 else []  # for the least memory
    for vectors, block in blocks:
        for parts in _PARTS:
            for size in _GROUPS if parts == 1 or parts * _LEAST_TILES <= tiles else ():
                span = -(-tiles // parts)
                group = -(-span // -(-span // size))
                span = up(span, group)
                for passes in passes_of(m):
                    yield Cut(vectors, block, group, span, -(-tiles // span), passes)


def _time(c: Cut, tiles: int, channels: int, filters: int, m: int, dtype: str, of: Host) -> float:
    """Multiply-adds of one thread in whose time the work is done."""
    lanes, rows = of.lanes(dtype), c.rows(of)
    pairs, width = channels * filters, c.vectors * lanes
    across, along = -(-channels // c.channels), -(-filters // width)
    numbers = c.group * (c.channels + width) + up(c.channels, rows) * width
    inside = numbers * c.elements(m) * ITEMSIZE[dtype] <= second_level_cache()
    # What empty lanes and rows compute takes as long.
    computed = (channels // c.channels * up(c.channels, rows) + up(channels % c.channels, rows)) * (
        along * width
    )
    step = 2 * (step_cycles(rows, c.vectors, of) + _START / c.group) / (rows * c.vectors)
    work = (step + (0 if inside else _OUTSIDE)) * tiles * computed
    numbers_of = {n: up(n, lanes) + (lanes if n % lanes else 0) for n in (channels, filters)}
    transforms = numbers_of[channels] * along + numbers_of[filters] * across
    transforms *= _TILE_NUMBER * tiles
    work += (1 + _PASS * (c.passes - 1)) * transforms
    work += (_GRADIENT_NUMBER + _AGAIN * (c.passes - 1)) * pairs * c.parts
    tasks, time = across * along * c.parts, 0.0
    for count, weight in ((_THREADS, 0.9), (_MANY_THREADS, 0.1)):
        time += weight * work * -(-tasks // count) / tasks
    return (m + 2) ** 2 * time


def _scratch(c: Cut, m: int, dtype: str, of: Host) -> tuple[int, ...]:
    """Where in a worker's scratch memory its parts begin, in the order of ``accumulate``."""
    itemsize, lanes = ITEMSIZE[dtype], of.lanes(dtype)
    width, elements, pixels = c.vectors * lanes, c.elements(m), (m + 2) ** 2
    rows = up(c.channels, c.rows(of))
    return offsets_of(
        [
            elements * apart(c.group * c.channels * itemsize) + rows * itemsize,
            elements * apart(c.group * width * itemsize),
            elements * apart(rows * width * itemsize),
            c.group * pixels * 8,
            c.group * m * m * 8,
            2 * 8,
            pixels * lanes * itemsize,
            pixels * 8,
            9 * lanes * itemsize,
        ]
    )


@dataclass(frozen=True)
class _Plan:
    cut: Cut
    blocks: tuple[int, int]
    slots: int
    offsets: tuple[int, ...]
    workspace: int
    time: float


@functools.lru_cache(maxsize=1024)
def _plan(g: Any, m: int, limit: int | None, dtype: str, of: Host, count: int) -> _Plan:
    """By the shape and the limit alone, but for the memory: sums are rounded by group and part."""
    channels, filters, itemsize = g.in_channels, g.out_channels, ITEMSIZE[dtype]
    tiles = max(1, g.batch) * (-(-g.output[0] // m)) * (-(-g.output[1] // m))

    def plan(c: Cut, count: int, time: float) -> _Plan:
        blocks = -(-channels // c.channels), -(-filters // (c.vectors * of.lanes(dtype)))
        offsets = _scratch(c, m, dtype, of)
        slots = min(count, blocks[0] * blocks[1] * c.parts)
        partial = c.parts * 9 * channels * filters * itemsize if c.parts > 1 else 0
        return _Plan(c, blocks, slots, offsets, slots * offsets[-1] + partial, time)

    least, found = math.inf, None
    for c in dict.fromkeys(_cuts(tiles, channels, filters, m, dtype, of)):
        time = _time(c, tiles, channels, filters, m, dtype, of)
        if time >= least:
            continue  # whatever it needs: memory only adds to the time
        cost = worth(time, plan(c, _THREADS, time).workspace, limit)
        if cost < least:
            least, found = cost, (c, time)
    assert found is not None
    return plan(found[0], count, found[1])


def estimate(geometry: Any, dtype: str, m: int, limit: int | None) -> float:
    """Return the multiply-adds in whose time it is done by two threads, all counted.

    Memory beyond ``limit`` counts as in ``winograd_cut.best``.
    """
    how = _plan(geometry, m, limit, dtype, host(), _THREADS)
    return _THREADS * worth(how.time, how.workspace, limit)


def workspace_bytes(geometry: Any, dtype: str, m: int, limit: int | None = None) -> int:
    """Memory that ``conv_backward_weight`` allocates, beyond its arguments."""
    return _plan(geometry, m, limit, dtype, host(), threads()).workspace


def conv_backward_weight(
    dy: Array, x: Array, dw: Array, geometry: Any, m: int, limit: int | None = None
) -> None:
    """Write ``dw`` (3, 3, C, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    Args:
        dy, x: of any strides.
        dw: C-contiguous, of the same dtype.
        geometry: one that ``winograd.supports``.
        m: extent of a tile: 2, 4 or 6.
        limit: bytes that it should not allocate more of; see ``winograd_cut.best``.
    """
    g, dtype, of = geometry, name_of(dw.dtype), host()
    if not g.batch:
        dw.fill(0)
        return
    channels, filters = g.in_channels, g.out_channels
    plan = _plan(g, m, limit, dtype, of, threads())
    c, width = plan.cut, plan.cut.vectors * of.lanes(dtype)
    rows = c.rows(of)
    x, dy = with_channels_together(x), with_channels_together(dy)
    scratch, workers = aligned(plan.slots * plan.offsets[-1]), np.zeros(1, np.int64)
    if filters % width or channels % c.channels:
        scratch.fill(0)  # lanes that nobody fills are multiplied too: what lay there may be slow
    nothing = zeros((max(channels, filters) + width) * dw.itemsize)
    partial = np.empty((c.parts, *dw.shape), dtype) if c.parts > 1 else dw
    run(
        gradient(dtype, of, m, c.passes),
        plan.blocks[0] * plan.blocks[1] * c.parts,
        address(x),
        address(dy),
        address(partial),
        address(nothing),
        channel_kernel(dtype, of, rows, c.vectors),
        (rows, c.vectors),
        (g.batch, channels, filters),
        (*g.input, *g.output),
        (-(-g.output[0] // m), -(-g.output[1] // m), g.pads[0][0], g.pads[1][0]),
        x.strides[:3],
        dy.strides[:3],
        (c.group, c.span, c.channels, *plan.blocks),
        (
            apart(c.group * c.channels * dw.itemsize),
            apart(c.group * width * dw.itemsize),
            apart(up(c.channels, rows) * width * dw.itemsize),
        ),
        (address(workers), plan.slots, address(scratch)),
        plan.offsets,
    )
    if c.parts > 1:
        np.add.reduce(partial, axis=0, out=dw)


@functools.cache
def gradient(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return the compiled kernel for tiles of ``m`` x ``m``, whose elements are computed in so many
    ``passes``."""
    return Kernel(define(dtype, host, m, passes), dtype, host, m, passes)


def define(dtype: str, host: Host, m: int, passes: int) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`gradient`."""
    lanes, itemsize, vector_bytes = host.lanes(dtype), ITEMSIZE[dtype], host.vector_bytes
    patch_pixels, pixels = (m + 2) ** 2, m * m
    elements = patch_pixels // passes
    patch_in = transform_input(dtype, host, m, passes)
    patch_in = tail_padded(dtype, host, patch_in, patch_pixels)
    tile_in = transform_output_gradient(dtype, host, m, passes)
    tile_in = tail_padded(dtype, host, tile_in, pixels)
    taps_out = transform_filter_gradient(dtype, host, m, passes)
    put, zero = put_at(dtype), np.dtype(dtype).type(0)
    add_to, put_some = add_some(dtype, host), store_some(dtype, host)

    def accumulate(  # type: ignore[no-untyped-def]
        counter, tasks, x, dy, dw, zeros, kernel,
        tile, sizes, extents, grid, x_steps, dy_steps, cut, steps, memory, offsets,
    ):  # fmt: skip
        # kernel: address of the micro-kernel; tile: (its rows, its vectors); sizes: (images,
        # channels, filters); extents: (input height, width, output height, width);
        # grid: (rows of tiles, tiles in a row, padding above, left); steps in bytes: (image,
        # height, width); cut: (tiles of a group, of a part, channels of a block, blocks of
        # channels, of filters); steps: (transformed x, transformed dy, sums: element); memory:
        # (counter of workers, how many there is scratch memory for, its address)
        rows, vectors = tile
        width, width_bytes = vectors * lanes, vectors * vector_bytes
        images, channels, filters = sizes
        group, span, block, channel_blocks, filter_blocks = cut
        v_step, d_step, step = steps
        slot = take(memory[0])
        if slot >= memory[1]:
            return
        at = memory[2] + slot * offsets[9]
        v, d, sums = at + offsets[0], at + offsets[1], at + offsets[2]
        patch_table, tile_table = at + offsets[3], at + offsets[4]
        segment, padded = at + offsets[5], at + offsets[6]
        padded_table, spare = at + offsets[7], at + offsets[8]
        tiles = images * grid[0] * grid[1]
        tap_step = channels * filters * itemsize

        fill_table(segment, 2, 0, 0)  # one, which begins where each call says
        fill_table(padded_table, patch_pixels, padded, vector_bytes)

        task = take(counter)
        while task < tasks:
            # Tasks of the same tiles follow each other.
            f = task % filter_blocks * width
            c = task // filter_blocks % channel_blocks * block
            part = task // (filter_blocks * channel_blocks)
            c_used, f_used = min(block, channels - c), min(width, filters - f)
            row_blocks = -(-c_used // rows)
            last = min(tiles, part * span + span)
            for p in range(passes):
                for first in range(part * span, last, group):
                    here = min(group, last - first)
                    locate(
                        patch_table, first, here, here, m + 2, m, grid, grid[2], grid[3],
                        extents[0], extents[1], x, x_steps, zeros,
                    )  # fmt: skip
                    locate(
                        tile_table, first, here, here, m, m, grid, 0, 0,
                        extents[2], extents[3], dy, dy_steps, zeros,
                    )  # fmt: skip
                    for i in range(here):
                        for k in range(0, c_used, lanes):
                            patch_in(
                                patch_table + i * patch_pixels * 8, (c + k) * itemsize,
                                min(lanes, c_used - k), padded_table,
                                v + (i * block + k) * itemsize, v_step, p,
                            )  # fmt: skip
                    for i in range(here):
                        for k in range(0, f_used, lanes):
                            tile_in(
                                tile_table + i * pixels * 8, (f + k) * itemsize,
                                min(lanes, f_used - k), padded_table,
                                d + (i * width + k) * itemsize, d_step, p,
                            )  # fmt: skip
                    for e in range(elements):
                        for r in range(row_blocks):
                            to = sums + e * step + r * rows * width_bytes
                            multiply(
                                kernel,
                                segment,
                                1,
                                v + e * v_step + r * rows * itemsize,
                                d + e * d_step,
                                block * itemsize,
                                width_bytes,
                                here,
                                to if first > part * span else 0,
                                to,
                                width_bytes,
                                d,
                                0,
                            )
                for i in range(c_used):
                    to = dw + ((part * 9 * channels + c + i) * filters + f) * itemsize
                    for k in range(0, f_used, lanes):
                        whole = k + lanes <= f_used
                        if not whole:
                            for j in range(9 * lanes):
                                put(spare, j, zero)
                        taps_out(
                            sums + i * width_bytes + k * itemsize,
                            step,
                            to + k * itemsize if whole else spare,
                            tap_step if whole else vector_bytes,
                            p,
                        )
                        if not whole:
                            for t in range(9):
                                source, place = spare + t * vector_bytes, to + t * tap_step
                                if p:
                                    add_to(place + k * itemsize, f_used - k, source)
                                put_some(source, f_used - k, place + k * itemsize, 0)
            task = take(counter)

    return accumulate
