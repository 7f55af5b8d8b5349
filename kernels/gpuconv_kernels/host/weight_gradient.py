"""Gradient of the weights on the micro-kernel: a product whose sum runs over pixels.

A row of the product is a tap of an input channel, a column a filter::

    x under the taps of a block's pixels          dy, packed
       6 rows of dw  | 6 rows | ...                 64 filters | 64 filters
      +--------------+                            +------------+                 dw
      | pixel 0      |                            | pixel 0    |
      | pixel 1      |     ^T          x          | pixel 1    |     -->   6 x 64 sums
      |   ...        |                            |   ...      |           of one block
      +--------------+                            +------------+

A task is a part of the rows and filters of ``dw`` that stays in L2, and a range of pixels. It walks
over its pixels block by block, packs both sides, with zeros where a tap meets padding, and adds the
products of the block to ``dw``::

    for 192 pixels:
        pack x and dy                                    from memory into L2
        for 64 filters:
            for 6 rows:                                  x and dy from L2
                micro-kernel: 6 x 64 of dw += products

Where the kernel is 1x1 and pixels of x and dy are short, packing would take longer than it spares:
they are read in place, as is a dy whose pixels look packed; while one block is summed, the next is
fetched.

Where ``dw`` is small beside ``x`` and ``dy``, ranges of pixels have copies of ``dw`` that are added
up at the end, so that all threads have work. How many, and where blocks begin, depends on the
shapes alone, and each number is summed in a fixed order: its bits do not depend on the number of
threads.

Limits: any stride, dilation, pads and groups in one to three dimensions. Source: the blocks are
those of Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host import few_channels, few_channels_weights
from gpuconv_kernels.host.kernel import Kernel, argument
from gpuconv_kernels.host.memory import (
    address,
    clear,
    copy,
    copy_vectors,
    number_at,
    put_at,
    zeros,
)
from gpuconv_kernels.host.microkernel import (
    channel_kernel,
    multiply,
    vectors_for,
)
from gpuconv_kernels.host.microkernel import channel_rows_for as rows_for
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call, part
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import (
    ITEMSIZE,
    LINE,
    Host,
    host,
    second_level_cache,
)
from gpuconv_kernels.host.windows import locating, pixel_words, place_words
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_BLOCK_PIXELS, _LEAST_PIXELS = 192, 48
"""Pixels of a block: the sums are in registers so long."""
_SHORT_BYTES = 1024
"""Pixels of x and dy that are worth reading in place."""
_MOST_COPIES = 16
_SHARE = 15
"""Copies of ``dw`` are at most such a part of the arrays; and so is what a thread packs."""
_LEAST_ROWS = 64
"""Of a part, for which a block has fewer pixels."""
_TASKS_A_THREAD = 2
_TOGETHER = 16
"""Pixels that are packed together."""
_SUM = 16 * 1024
"""Numbers of ``dw`` whose copies a task adds up."""
_EXTENTS = 23
"""Numbers of a call before those that :func:`locating` reads: input, ..., steps of dy."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        rows, vectors: of the micro-kernel.
        x_in_place, dy_in_place: whether they are read where they are.
        pixels, blocks: of a block, and how many of them.
        copies: of ``dw`` that are summed apart.
        part_rows, row_parts: rows of ``dw`` of a task, and how many such parts.
        part_filters, filter_parts: filters of a task, a multiple of the vectors' lanes.
    """

    rows: int
    vectors: int
    x_in_place: bool
    dy_in_place: bool
    pixels: int
    blocks: int
    copies: int
    part_rows: int
    row_parts: int
    part_filters: int
    filter_parts: int


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int, room: int, x_whole: bool, dy_whole: bool) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads.

    ``room``: bytes for copies of ``dw``, and for what a thread packs; ``x_whole``: ``x`` is
    contiguous.
    """
    itemsize = ITEMSIZE[dtype]
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    vectors = vectors_for(filters, dtype, of)
    width = vectors * of.lanes(dtype)
    rows, all_rows = rows_for(vectors, of), math.prod(g.kernel) * channels
    short = max(g.in_channels, g.out_channels) * itemsize <= _SHORT_BYTES
    x_in_place = x_whole and dy_whole and bool(g.is_pointwise) and short
    x_in_place = x_in_place and channels >= rows and filters % width == 0
    dy_in_place = x_in_place or (dy_whole and g.out_channels == width)
    pixels = g.batch * math.prod(g.output)
    most = room // (_LEAST_ROWS * itemsize)
    blocks = -(-pixels // min(_BLOCK_PIXELS, max(_LEAST_PIXELS, most)))
    block = -(-pixels // max(blocks, 1))
    copies = max(1, min(_MOST_COPIES, blocks, 1 + room // max(math.prod(g.w_shape) * itemsize, 1)))

    most = _span(itemsize)
    if not x_in_place:
        most = min(most, max(rows, room // max(block * itemsize, 1)))
    down, across = -(-all_rows // rows), -(-filters // width)  # tiles of dw
    row_parts = -(-down // max(1, most // rows))
    filter_parts = -(-across // max(1, most // width))
    wanted = _TASKS_A_THREAD * count if count > 1 else 1
    while copies * g.groups * row_parts * filter_parts < wanted:
        if down // row_parts * rows >= across // filter_parts * width and row_parts < down:
            row_parts = min(2 * row_parts, down)
        elif filter_parts < across:
            filter_parts = min(2 * filter_parts, across)
        else:
            break
    down, across = -(-down // row_parts), -(-across // filter_parts)
    return Cut(
        rows,
        vectors,
        x_in_place,
        dy_in_place,
        block,
        blocks,
        copies,
        down * rows,
        -(-all_rows // (down * rows)),
        across * width,
        -(-filters // (across * width)),
    )


def _span(itemsize: int) -> int:
    """Rows, and filters, of a part, so that it and its packed pixels fit into the L2 cache."""
    span = 64
    while (2 * _BLOCK_PIXELS + 2 * span) * 2 * span * itemsize < 1.3 * second_level_cache():
        span *= 2
    return span


@functools.lru_cache(maxsize=1024)
def _room(g: Any, dtype: str) -> int:
    """Bytes for copies of ``dw``, and for what a thread packs: by the shapes alone."""
    numbers = sum(math.prod(shape) for shape in (g.w_shape, g.x_shape, g.y_shape))
    arrays = numbers * ITEMSIZE[dtype]
    return min(arrays // _SHARE, arrays // 15)


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_weight` needs beyond its arrays."""
    g = geometry
    if few_channels.pays(g):
        return few_channels_weights.workspace_bytes(g, dtype, host())
    c = cut(g, dtype, host(), threads(), _room(geometry, dtype), True, True)
    working = min(threads(), c.copies * g.groups * c.row_parts * c.filter_parts)
    kept = math.prod(g.w_shape) * (c.copies - 1)
    each = _offsets(c, math.prod(g.kernel), dtype, host())[-1] + LINE
    return int(working * each + ITEMSIZE[dtype] * kept)


@functools.lru_cache(maxsize=1024)
def _offsets(c: Cut, taps: int, dtype: str, of: Host) -> tuple[int, ...]:
    """Where in a thread's memory its parts begin; at last the size of all.

    Packed pixels of x and of dy; the addresses of channels (set of pixels, tap, pixel), and which
    taps they need, which nobody asks for; what ``locating`` needs, and the places in dy; the
    addresses of rows of dw; sums of which only some belong to dw, and the addresses of their rows.
    """
    itemsize, width = ITEMSIZE[dtype], c.vectors * of.lanes(dtype)
    packed = 0 if c.x_in_place else c.pixels
    sets = -(-packed // _TOGETHER)
    return offsets_of(
        [
            c.part_rows * packed * itemsize,
            0 if c.dy_in_place else c.part_filters * c.pixels * itemsize,
            8 * sets * taps * _TOGETHER,
            8 * sets * taps,
            8 * sets * (taps + 1),
            8 * pixel_words(packed, taps),
            8 * place_words(packed),
            8 * c.part_rows,
            c.rows * width * itemsize,
            8 * c.rows,
        ]
    )


def conv_backward_weight(dy: Array, x: Array, dw: Array, geometry: Any) -> None:
    """Write ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    ``dw`` is contiguous, and so are the channels of ``x`` and the filters of ``dy``; their other
    axes have any steps.
    """
    if dw.size == 0:
        return
    g, dtype, of = geometry, name_of(dw.dtype), host()
    if few_channels.pays(g) and dy.size and x.size:
        few_channels_weights.conv_backward_weight(dy, x, dw, g, of)
        return
    room = _room(geometry, dtype)
    c = cut(g, dtype, of, threads(), room, x.flags.c_contiguous, dy.flags.c_contiguous)
    if not c.blocks:
        dw.fill(0)
        return
    partial = np.empty((c.copies - 1, *dw.shape), dw.dtype)  # dw itself is the first copy
    run(
        _kernel(dtype, of),
        c.copies * g.groups * c.row_parts * c.filter_parts,
        channel_kernel(dtype, of, c.rows, c.vectors),
        locating(),
        _packing(dtype),
        address(x),
        address(dy),
        address(dw),
        address(partial),
        address(zeros(g.in_channels * dw.itemsize)),
        (g.batch, g.in_channels // g.groups, g.out_channels // g.groups, g.groups),
        (
            int(c.x_in_place),
            int(c.dy_in_place),
            c.pixels,
            c.blocks,
            c.copies,
            c.part_rows,
            c.row_parts,
            c.part_filters,
            c.filter_parts,
            c.rows,
            c.vectors * of.lanes(dtype),
        ),
        three(g.input, 1),
        three(g.output, 1),
        three(g.stride, 1),
        three(g.dilation, 1),
        three([lo for lo, _ in g.pads], 0),
        three(g.kernel, 1),
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (dy.strides[0], *three(dy.strides[1:-1], 0)),
        _offsets(c, math.prod(g.kernel), dtype, of),
    )
    if c.copies > 1:
        run(_adding(dtype), -(-dw.size // _SUM), address(partial), address(dw), dw.size, c.copies)


@functools.cache
def _adding(dtype: str) -> Any:
    number, put, itemsize = number_at(dtype), put_at(dtype), ITEMSIZE[dtype]

    def add_copies(counter, tasks, partial, dw, size, copies):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            first = task * _SUM
            count = min(_SUM, size - first)
            total, source = dw + first * itemsize, partial + first * itemsize
            for _ in range(1, copies):
                for i in range(count):
                    put(total, i, number(total, i) + number(source, i))
                source += size * itemsize
            task = take(counter)

    return Kernel(add_copies, dtype)


@functools.cache
def _kernel(dtype: str, host: Host) -> Any:
    return Kernel(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, lanes = ITEMSIZE[dtype], host.lanes(dtype)

    def backward_weight(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, locate, pack, x, dy, dw, partial, zeros,
        sizes, cut, input, output, stride, dilation, before, kernel, x_steps, dy_steps, offsets,
    ):  # fmt: skip
        # locate, pack: addresses of parts; partial: where the other copies of dw are; sizes:
        # (images, channels of a group, filters of a group, groups); cut: (whether x is read in
        # place, whether dy is, pixels of a block, blocks, copies of dw, rows of a part, parts of
        # the rows, filters of a part, parts of the filters, rows of the micro-kernel, its columns);
        # steps in bytes: (image, depth, height, width); offsets: as of _offsets
        images, channels, filters, groups = sizes
        (
            x_in_place, dy_in_place, block, blocks, copies, part_rows, row_parts,
            part_filters, filter_parts, rows, width,
        ) = cut  # fmt: skip
        taps = kernel[0] * kernel[1] * kernel[2]
        all_rows = taps * channels
        pixels = images * output[0] * output[1] * output[2]
        dw_step = filters * groups * itemsize
        x_pixel, dy_pixel = channels * groups * itemsize, filters * groups * itemsize
        memory = np.empty(offsets[10] + LINE, np.uint8)
        at = -(-memory.ctypes.data // LINE) * LINE
        clear(at, offsets[2])  # lanes that nobody fills are multiplied too
        for m in range(rows):
            put_word(at + offsets[9], m, at + offsets[8] + m * width * itemsize)

        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            of_x = -(-memory.ctypes.data // LINE) * LINE
            of_dy, table, order = of_x + offsets[1], of_x + offsets[2], of_x + offsets[3]
            upto, pixel, places = of_x + offsets[4], of_x + offsets[5], of_x + offsets[6]
            targets, rest, rest_rows = of_x + offsets[7], of_x + offsets[8], of_x + offsets[9]
            first_filter, left = task % filter_parts * part_filters, task // filter_parts
            first_row, left = left % row_parts * part_rows, left // row_parts
            of_group, nth = left % groups, left // groups
            end_filter = min(first_filter + part_filters, filters)
            end_row = min(first_row + part_rows, all_rows)
            tiles = -(-(end_row - first_row) // rows)
            into = dw if nth == 0 else partial + (nth - 1) * all_rows * dw_step
            into += first_row * dw_step + of_group * filters * itemsize
            for r in range(end_row - first_row):
                put_word(targets, r, into + r * dw_step)
            first_block, end_block = blocks * nth // copies, blocks * (nth + 1) // copies
            for nth_block in range(first_block, end_block):
                first = nth_block * block
                here = min(block, pixels - first)
                if not x_in_place:
                    call(
                        locate, counter + extents, x, dy, zeros, first, here, _TOGETHER,
                        table, order, upto, pixel, places,
                    )  # fmt: skip
                    call(
                        pack, of_x, table, taps, here, first_row, end_row, rows, channels,
                        of_group * channels * itemsize, 0, 0, 0,
                    )  # fmt: skip
                if not dy_in_place:
                    for i in range(here):
                        source = word(places, i) + of_group * filters * itemsize
                        for f in range(first_filter, end_filter, width):
                            used = min(width, end_filter - f)
                            row = of_dy + ((f - first_filter) * here + i * width) * itemsize
                            if used == width:
                                copy_row(row, source + f * itemsize, width // lanes)
                            else:
                                copy(row, source + f * itemsize, used * itemsize)
                                clear(row + used * itemsize, (width - used) * itemsize)
                # While this block is summed, what is read in place of the next one is fetched.
                ahead = min(first + block, pixels - here)
                x_ahead, dy_ahead = x + ahead * x_pixel, dy + ahead * dy_pixel
                x_lines = block * x_pixel // LINE if x_in_place else 0
                dy_lines = block * dy_pixel // LINE if dy_in_place else 0
                fetched = 0
                for f in range(first_filter, end_filter, width):
                    used = min(width, end_filter - f)
                    for tile in range(tiles):
                        r = tile * rows
                        last = end_row - first_row - r  # rows of dw that are left
                        again = 0
                        if x_in_place:
                            # The last tile begins early: there is nothing behind the last pixel.
                            again = max(0, rows - last)
                            r -= again
                            of_pixel = of_group * channels + first_row + r
                            a, a_next = x + first * x_pixel + of_pixel * itemsize, x_pixel
                        else:
                            a, a_next = of_x + r * here * itemsize, rows * itemsize
                        if dy_in_place:
                            of_pixel = of_group * filters + f
                            b, b_next = dy + first * dy_pixel + of_pixel * itemsize, dy_pixel
                        else:
                            b = of_dy + (f - first_filter) * here * itemsize
                            b_next = width * itemsize
                        next_lines, far = a, 0
                        if fetched < x_lines:
                            next_lines, far = x_ahead + fetched * LINE, LINE
                        elif fetched < x_lines + dy_lines:
                            next_lines, far = dy_ahead + (fetched - x_lines) * LINE, LINE
                        fetched += here
                        whole = used == width and last >= rows
                        multiply(
                            micro_kernel, a, a_next, next_lines, far,
                            b, b_next, here,
                            targets + 8 * r if whole else rest_rows,
                            f * itemsize if whole else 0,
                            whole and nth_block > first_block, 0, 0,
                        )  # fmt: skip
                        if not whole:
                            for m in range(again, min(rows, again + last)):
                                total = word(targets, r + m) + f * itemsize
                                sums = rest + m * width * itemsize
                                for j in range(used):
                                    value = number(sums, j)
                                    if nth_block > first_block:
                                        value += number(total, j)
                                    put(total, j, value)
            task = take(counter)

    copy_row, number, put = copy_vectors(host.vector_bytes), number_at(dtype), put_at(dtype)
    extents, word, put_word = argument(_EXTENTS), number_at("int64"), put_at("int64")
    return backward_weight


@functools.cache
def _packing(dtype: str) -> int:
    """Return the address of the part that packs x.

    ``call(address, to, table, taps, pixels, first_row, end_row, rows, channels, shift, 0, 0, 0)``
    """
    return part(define_packing(dtype), dtype)


def define_packing(dtype: str) -> Callable[..., None]:
    """Return the part as a plain function."""
    itemsize, word = ITEMSIZE[dtype], number_at("int64")

    def pack(to, table, taps, pixels, first_row, end_row, rows, channels, shift, n9, n10, n11):  # type: ignore[no-untyped-def]
        """Numbers of x under the taps -> (tile of rows, pixel, row)."""
        for first in range(0, pixels, _TOGETHER):
            count = min(_TOGETHER, pixels - first)
            r = first_row
            while r < end_row:
                # Rows of one tap and one tile follow each other on both sides.
                tap, c, m = r // channels, r % channels, (r - first_row) % rows
                length = min(rows - m, channels - c, end_row - r)
                at = (first // _TOGETHER * taps + tap) * _TOGETHER
                place = to + ((r - first_row - m) * pixels + first * rows + m) * itemsize
                for i in range(count):
                    source, into = word(table, at + i) + shift + c * itemsize, place
                    place += rows * itemsize
                    if length == 6:  # the common ones, as instructions instead of calls
                        copy(into, source, 6 * itemsize)
                    elif length == 14:
                        copy(into, source, 14 * itemsize)
                    elif length >= 4:  # by fours, of which the last may overlap
                        for j in range(0, length - 4, 4):
                            copy(into + j * itemsize, source + j * itemsize, 4 * itemsize)
                        j = length - 4
                        copy(into + j * itemsize, source + j * itemsize, 4 * itemsize)
                    else:
                        for j in range(length):
                            copy(into + j * itemsize, source + j * itemsize, itemsize)
                r += length

    return pack
