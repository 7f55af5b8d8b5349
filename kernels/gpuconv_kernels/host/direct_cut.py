"""How a direct convolution is cut: blocks of pixels, parts of the filters, chunks of the weights.

A task is a block and a part. It packs the weights of a chunk after the other; see ``direct.py``.
Cut by counting: as few numbers moved, and threads waiting as little, as can be.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from gpuconv_kernels.host.extents import extents_of, meeting, numbers_of
from gpuconv_kernels.host.few_channels import margins, taps_follow
from gpuconv_kernels.host.microkernel import rows_for, vectors_across
from gpuconv_kernels.host.target import ITEMSIZE, Host, second_level_cache
from gpuconv_kernels.host.windows import margin_lines

_LEAST_PIXELS, _MOST_PIXELS = 64, 2048
"""Of a block;"""
_LEAST_UNPACKED = 32
"""where weights need no packing."""
_MOST_IN_PLACE = 1024
"""Pixels up to which weights that lie as the micro-kernel reads them are not packed."""
_TABLE_BYTES = 128 * 1024
"""Addresses of a block's pixels under the taps."""
_TASKS_A_THREAD = 8
_PACKING = 22
"""A weight is packed in the time of so many multiply-adds, a number of x read in that of"""
_READING = 4
_WAITING = 0.35
"""What of a task's time the threads wait for each other."""
_IN_PARTS = 1.05
"""How many times as long all takes where the results of a pixel are stored by several tasks, if all
weights fit into the cache."""
_CHUNK_SHARE, _TABLE_SHARE = 12, 40
"""A thread's packed weights are at most such a part of the arrays, and so are its tables,"""
_LEAST_STEPS = 64
"""unless a chunk had fewer steps, taps times channels, than these."""
_JOINED_SHARE = 5
"""What all threads need for joined taps is at most such a part, unless it is less than without."""

_PLACES_MET, _PLACES_CHANNELS = 0.92, 24
"""Where no more of a line's taps meet the input, and each has so many channels at least, a tile has
the pixels of several images at one place."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors, last: of filters that are computed together, and of the last of a group.
        pixels, blocks: of a block, and how many of them.
        part, parts: filters of a task, a multiple of the vectors' lanes, and how many parts.
        filters, taps, channels: of a chunk of the weights; ``filters`` as ``part``.
        located: pixels whose addresses are written at a time: a block, or fewer where a task has
            one chunk.
        joined: taps of a line that count as one, with their channels one behind the other; those
            that ``taps`` and ``channels`` count.
        images: whose pixels at one place follow each other, before the next place: all or 1.
    """

    vectors: int
    last: int
    pixels: int
    blocks: int
    part: int
    parts: int
    filters: int
    taps: int
    channels: int
    located: int
    joined: int
    images: int


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int, packs: bool, dense: bool = True) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads.

    ``packs``: whether weights are packed; ``dense``: whether the pixels of a line of x follow each
    other. The taps of a line count as one where they follow each other in x, all their channels are
    in a chunk, and that needs little memory.
    """
    alone = _cut(g, dtype, of, count, packs, 1)
    if alone.images > 1:
        return alone
    if dense and taps_follow(g) and 1 < g.kernel[-1] <= g.input[-1]:
        c = _cut(g, dtype, of, count, packs, g.kernel[-1])
        room = numbers_of(g) * ITEMSIZE[dtype] // (_JOINED_SHARE * count)
        if c.channels == g.kernel[-1] * g.in_channels:
            memory = _memory(g, c, dtype, packs)
            if memory <= max(room, _memory(g, alone, dtype, packs)):
                return c
    return alone


def _memory(g: Any, c: Cut, dtype: str, packs: bool) -> int:
    """Bytes of a thread's tables, margins and packed weights."""
    tables = c.located * _of_pixel(math.prod(g.kernel) // c.joined)
    packed = c.taps * c.channels * c.filters * ITEMSIZE[dtype] if packs else 0
    return tables + packed + (margin_bytes(g, dtype, c.located) if c.joined > 1 else 0)


def _of_pixel(taps: int) -> int:
    """Bytes: its addresses under the taps, five words of locating's, the place of its results."""
    return 8 * (taps + 6)


def _cut(g: Any, dtype: str, of: Host, count: int, packs: bool, joined: int) -> Cut:
    pixels = max(g.batch * math.prod(g.output), 1)
    taps, channels = math.prod(g.kernel) // joined, g.in_channels // g.groups * joined
    filters, arrays = g.out_channels // g.groups, numbers_of(g)
    vectors, last = vectors_across(filters, dtype, of)
    width, rows = vectors * of.lanes(dtype), rows_for(vectors, of)
    chunk = chunk_bytes() // ITEMSIZE[dtype]
    if packs:
        least = channels if joined > 1 else _LEAST_STEPS
        chunk = min(chunk, max(least * width, arrays // _CHUNK_SHARE))
    chunk = max(width, chunk)
    widths = -(-filters // width)
    fits = taps * channels * widths * width * ITEMSIZE[dtype] <= chunk_bytes()
    blocks, parts = _tasks(pixels, taps, width, widths, rows, g.groups, count, packs, fits)
    block = -(-pixels // blocks)
    block = -(-block // rows) * rows
    part = -(-widths // parts)
    across, chunk_taps, chunk_channels = _chunk(taps, channels, part, width, chunk)
    once = widths <= part == across and taps == chunk_taps and channels == chunk_channels
    of_pixel = _of_pixel(taps)
    if joined > 1:
        of_pixel += margin_bytes(g, dtype, _LEAST_PIXELS) // _LEAST_PIXELS
    located = arrays * ITEMSIZE[dtype] // _TABLE_SHARE // of_pixel
    located = max(_LEAST_PIXELS, located)
    return Cut(
        vectors,
        last,
        block,
        -(-pixels // block),
        part * width,
        -(-widths // part),
        across * width,
        chunk_taps,
        chunk_channels,
        min(block, -(-located // rows) * rows) if once else block,
        joined,
        g.batch if joined == 1 and _places_first(g, rows) else 1,
    )


def _places_first(g: Any, rows: int) -> bool:
    """Whether tiles are the pixels of several images at one place.

    All of these have the same taps in the padding, which are left out; with neighbours in a line,
    one of them meets each tap. That has to be worth more than joined taps.
    """
    if g.batch < rows // 2 or g.in_channels // g.groups < _PLACES_CHANNELS:
        return False
    extents = (g.input[-1], g.output[-1], g.kernel[-1], g.stride[-1], g.dilation[-1])
    met = meeting(*extents, g.pads[-1][0])
    return bool(met <= _PLACES_MET * g.output[-1] * g.kernel[-1])


def margin_bytes(g: Any, dtype: str, pixels: int) -> int:
    """Of the margins of a block of so many pixels, whose taps of a line count as one."""
    e, (left, _, right) = extents_of(g), margins(g)
    lines = margin_lines(pixels, e.output, e.kernel, e.stride[1], e.dilation[1])
    return int(lines * (left + right) * g.in_channels * ITEMSIZE[dtype])


def chunk_bytes() -> int:
    """Packed weights of a chunk: what of the L2 cache x and y leave to them."""
    return second_level_cache() * 2 // 5


def _tasks(
    pixels: int,
    taps: int,
    width: int,
    widths: int,
    rows: int,
    groups: int,
    count: int,
    packs: bool,
    fits: bool,
) -> tuple[int, int]:
    """In how many blocks of pixels and parts of the filters, by the time that they take.

    Every block packs all weights; every part reads all of x. Times are in multiply-adds, divided by
    channels times taps.
    """
    least = _LEAST_PIXELS if packs else _LEAST_UNPACKED
    most = min(_MOST_PIXELS, max(4 * _LEAST_PIXELS, _TABLE_BYTES // (8 * taps)))
    fewest = -(-pixels // most)
    wanted = 1 if count == 1 else -(-_TASKS_A_THREAD * count // groups)
    options = []
    for parts in range(1, min(widths, wanted) + 1):
        filters = -(-widths // parts) * width
        for blocks in range(fewest, max(fewest, min(wanted // parts, pixels // least)) + 1):
            block = -(-pixels // (blocks * rows)) * rows
            task = block * (filters + _READING) + (_PACKING * filters if packs else 0)
            rounds = -(-blocks * parts * groups // count) + (_WAITING if count > 1 else 0)
            time = rounds * task * (_IN_PARTS if parts > 1 and fits else 1)
            options.append((time, blocks, parts))
    _, blocks, parts = min(options)
    return max(1, blocks), parts


def _chunk(taps: int, channels: int, widths: int, width: int, numbers: int) -> tuple[int, int, int]:
    """Return filters (in widths), taps and channels of a chunk of at most so many ``numbers``.

    Each chunk of filters reads x once more, each chunk of the sum reads and writes y.
    """
    options = []
    for across in range(1, widths + 1):
        steps = max(1, numbers // (across * width))
        if channels <= steps:
            in_taps = -(-taps // -(-taps // min(taps, max(1, steps // max(channels, 1)))))
            in_channels = channels
        else:
            in_taps, in_channels = 1, -(-channels // -(-channels // steps))
        sums = -(-taps // in_taps) * -(-channels // max(in_channels, 1))
        read = channels * taps * -(-widths // across)
        moved = read + widths * width * (2 * sums - 1)
        options.append((moved, -across, in_taps, in_channels))
    _, across, in_taps, in_channels = min(options)
    return -across, in_taps, in_channels


@functools.lru_cache(maxsize=1024)
def reads_in_place(g: Any, dtype: str, of: Host) -> bool:
    """Whether weights (*k, C, F) are read where they are: their rows are the micro-kernel's.

    They begin anywhere, though, and vectors that lie across two lines come more slowly from the L2
    cache: where there are many pixels to read them for, packing them is faster.
    """
    width = vectors_across(g.out_channels, dtype, of)[0] * of.lanes(dtype)
    few = g.batch * math.prod(g.output) <= _MOST_IN_PLACE
    return bool(few and g.groups == 1 and g.out_channels == width)
