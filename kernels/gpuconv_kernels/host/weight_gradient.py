"""Gradient of the weights on the micro-kernel: products whose sums run over pixels.

For each tap, a row of the product is a channel of x, a column a filter, and x is read where it
lies: under a tap, the pixels of a line of the output meet pixels of a line of x that are a constant
distance apart. Where padding begins, the line is shorter::

    x under a tap                                 dy, packed
       14 channels | 14 channels | ...              32 filters | 32 filters
      +--------------+                            +------------+                 dw of the tap
      | pixel 0      |                            | pixel 0    |
      | pixel 1      |     ^T          x          | pixel 1    |     -->   14 x 32 sums
      |   ...        |                            |   ...      |           of one block
      +--------------+                            +------------+
      | next line    |                            | next line  |
      +--------------+                            +------------+

A task is a part of the channels and filters of ``dw``, with all taps, whose sums stay in L2, and a
range of lines. It walks over its lines block by block, packs dy, and adds the products of the
block::

    for some 200 pixels in one line or several:
        pack dy                                          from memory into L2
        for 32 filters:
            for 14 channels:
                for each tap:                            x and dy from L1 and L2
                    micro-kernel: 14 x 32 sums += products

The sums of the last block go to ``dw``. Where pixels of x are far apart, a block's lines of x are
packed as well, each once for all taps and lines that see it. A dy whose pixels look packed is read
where it lies, and so are short ones that are used once, and any where memory is short.

Where ``dw`` is small beside ``x`` and ``dy``, ranges of lines have copies of ``dw`` that are added
up at the end, so that all threads have work; the first of them is ``dw`` itself. How many, and
where blocks begin, depends on the shapes alone, and each number is summed in a fixed order: its
bits do not depend on the number of threads.

Any stride, dilation, pads and groups, one to three dimensions. Source: the blocks are
those of Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host import few_channels_weights
from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.few_channels import patched
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.line_packing import line_packing
from gpuconv_kernels.host.memory import (
    address,
    clear,
    copy,
    number_at,
    put_at,
)
from gpuconv_kernels.host.microkernel import channel_kernel, multiply
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import (
    ITEMSIZE,
    LINE,
    Host,
    host,
)
from gpuconv_kernels.host.weight_gradient_cut import THREADS, Cut, column_step, cut, shift
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_SHORT_LINE = 4
"""Pixels of a line that are not worth beginning it."""
_FEW, _TOGETHER = 8, 4
"""Up to so many channels and filters, so many pixels of 1x1 layers are taken together,"""
_MANY = 64 * 1024
"""if there are so many."""
_SUM = 4 * 1024
"""Numbers of ``dw`` whose copies a task adds up."""


def estimate(geometry: Any, dtype: str) -> float:
    """Return the multiply-adds in whose time it is done by two threads, all counted."""
    g, of = patched(geometry), host()
    cycles = cut(_long_lines(g, True), dtype, of, THREADS).time
    return THREADS * 2 * of.lanes(dtype) * cycles * g.batch * math.prod(g.output)


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_weight` needs beyond its arrays."""
    g = patched(geometry)
    if not g.batch:
        return 0
    if few_channels_weights.pays(g):
        return few_channels_weights.workspace_bytes(g, dtype, host())
    together = _together(g, dtype, host())
    if together > 1:
        wide = _wide(g, together)
        return ITEMSIZE[dtype] * math.prod(wide.w_shape) + workspace_bytes(wide, dtype)
    g = _long_lines(g, True)
    c = cut(g, dtype, host(), threads())
    working = min(threads(), c.copies * g.groups * c.row_parts * c.filter_parts)
    kept = math.prod(g.w_shape) * (c.copies - 1)
    each = _offsets(c, extents_of(g).kernel, dtype, host())[-1] + LINE
    return int(working * each + ITEMSIZE[dtype] * kept)


@functools.lru_cache(maxsize=1024)
def _long_lines(g: Any, whole: bool) -> Any:
    """Return the ``ConvGeometry`` of the same sums with lines that are worth beginning.

    Where neither x nor dy has gaps, all ``whole`` pixels of a 1x1 layer are one line. And where
    lines are shorter than the batch, the same pixel of all images is one.
    """
    if g.is_pointwise and whole:
        pixels = (g.batch * math.prod(g.output),)
        return replace(
            g, batch=1, input=pixels, kernel=(1,), stride=(1,), dilation=(1,), pads=((0, 0),)
        )
    if len(g.input) < 3 and g.output[-1] <= _SHORT_LINE and g.output[-1] < g.batch:
        return replace(
            g,
            batch=1,
            input=(*g.input, g.batch),
            kernel=(*g.kernel, 1),
            stride=(*g.stride, 1),
            dilation=(*g.dilation, 1),
            pads=(*g.pads, (0, 0)),
        )
    return g


@functools.lru_cache(maxsize=1024)
def _together(g: Any, dtype: str, of: Host) -> int:
    """How many neighbouring pixels of a 1x1 layer are taken for one; see :func:`_wide`."""
    together, pixels = 1, g.batch * math.prod(g.output)
    few = max(g.in_channels, g.out_channels) <= _FEW
    if g.is_pointwise and g.groups == 1 and few and pixels >= _MANY:
        while together < _TOGETHER and together * g.out_channels < of.lanes(dtype):
            if pixels % (2 * together):
                break
            together *= 2
    return together


def _wide(g: Any, together: int) -> Any:
    """Return the ``ConvGeometry`` with the channels and filters of so many pixels as one pixel's.

    Few filters leave most lanes of a vector empty, and are packed one by one. Of the products of
    all channels with all filters, those of each pixel with itself are added up.
    """
    channels, filters = together * g.in_channels, together * g.out_channels
    pixels = (g.batch * math.prod(g.output) // together,)
    return replace(
        g, batch=1, in_channels=channels, out_channels=filters, input=pixels, kernel=(1,),
        stride=(1,), dilation=(1,), pads=((0, 0),),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _offsets(c: Cut, kernel: tuple[int, int, int], dtype: str, of: Host) -> tuple[int, ...]:
    """Where in a thread's memory its parts begin; at last the size of all.

    Packed pixels of dy and x; the sums (filters, channels, tap, row, column); for each line of taps
    where its lines of x and dy begin, and how many there are; for the taps of a line where in it
    their pixels of x and dy begin, and how many there are; which packed line is which line of x.
    """
    itemsize, width = ITEMSIZE[dtype], c.vectors * of.lanes(dtype)
    lines_of_taps = kernel[0] * kernel[1]
    tiles = max(c.waiting() * lines_of_taps * kernel[2], 0 if c.whole else 1)
    return offsets_of(
        [
            0 if c.dy_in_place else c.part_filters * width * c.lines * c.columns * itemsize,
            0 if c.x_in_place else c.part_rows * c.rows * c.x_lines * c.x_columns * itemsize,
            tiles * c.rows * width * itemsize,
            16 * lines_of_taps * c.lines,
            8 * lines_of_taps,
            24 * kernel[2],
            0 if c.x_in_place else 8 * lines_of_taps * c.lines,
        ]
    )


def conv_backward_weight(dy: Array, x: Array, dw: Array, geometry: Any) -> None:
    """Write ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    ``dw`` is contiguous, and so are the channels of ``x`` and the filters of ``dy``; their other
    axes have any steps.
    """
    if dw.size == 0:
        return
    g, dtype, of = patched(geometry), name_of(dw.dtype), host()
    x, dw = x.reshape(g.x_shape), dw.reshape(g.w_shape)
    if not g.batch:
        dw.fill(0)
        return
    if few_channels_weights.pays(g) and dy.size and x.size:
        few_channels_weights.conv_backward_weight(dy, x, dw, g, of)
        return
    whole = x.flags.c_contiguous and dy.flags.c_contiguous
    together = _together(g, dtype, of) if whole else 1
    if together > 1:
        wide = _wide(g, together)
        products = np.empty((together, g.in_channels, together, g.out_channels), dw.dtype)
        conv_backward_weight(dy.reshape(wide.y_shape), x.reshape(wide.x_shape), products, wide)
        of_pixels = [products[i, :, i] for i in range(together)]
        np.sum(of_pixels, axis=0, out=dw.reshape(g.in_channels, g.out_channels))
        return
    lines = _long_lines(g, whole)
    if lines != g:
        g = lines
        if g.rank == 1:
            x, dy = x.reshape(1, -1, x.shape[-1]), dy.reshape(1, -1, dy.shape[-1])
        else:
            axes = (*range(1, x.ndim - 1), 0, x.ndim - 1)
            x, dy = x.transpose(axes)[None], dy.transpose(axes)[None]
    c, e = cut(g, dtype, of, threads()), extents_of(g)
    partial = np.empty((c.copies - 1, *dw.shape), dw.dtype)
    run(
        _kernel(dtype),
        c.copies * g.groups * c.row_parts * c.filter_parts,
        channel_kernel(dtype, of, c.rows, c.vectors),
        line_packing(dtype, of),
        address(x),
        address(dy),
        address(dw),
        address(partial) if c.copies > 1 else 0,
        (g.batch, g.in_channels // g.groups, g.out_channels // g.groups, g.groups),
        (
            int(c.x_in_place),
            int(c.dy_in_place),
            c.x_lines,
            c.x_columns,
            c.lines,
            c.columns,
            c.pieces,
            c.blocks,
            c.copies,
            c.part_rows,
            c.row_parts,
            c.part_filters,
            c.filter_parts,
            c.rows,
            c.vectors * of.lanes(dtype),
        ),
        (column_step(g), *map(shift, e.stride[:2], e.dilation[:2])),
        *e,
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (dy.strides[0], *three(dy.strides[1:-1], 0)),
        _offsets(c, e.kernel, dtype, of),
    )
    if c.copies > 1:
        tasks = -(-dw.size // _SUM)
        run(_adding(dtype), tasks, address(partial), address(dw), dw.size, c.copies - 1)


@functools.cache
def _adding(dtype: str) -> Any:
    number, put, itemsize = number_at(dtype), put_at(dtype), ITEMSIZE[dtype]

    def add_copies(counter, tasks, partial, dw, size, copies):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            first = task * _SUM
            count = min(_SUM, size - first)
            total, source = dw + first * itemsize, partial + first * itemsize
            for _ in range(copies):
                for i in range(count):
                    put(total, i, number(total, i) + number(source, i))
                source += size * itemsize
            task = take(counter)

    return Kernel(add_copies, dtype)


@functools.cache
def _kernel(dtype: str) -> Any:
    return Kernel(define(dtype), dtype)


def define(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize = ITEMSIZE[dtype]
    word, put = number_at("int64"), put_at("int64")

    def backward_weight(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, pack, x, dy, dw, partial,
        sizes, cut, again, input, output, stride, dilation, before, kernel, x_steps, dy_steps,
        offsets,
    ):  # fmt: skip
        # pack: address of a part; sizes: (images, channels of a group, filters of a group, groups);
        # cut: (whether x is read in place, whether dy is, lines of x that a block needs, pixels of
        # such a line, lines of a block, its columns, blocks side by side, blocks, copies of dw,
        # tiles of channels of a part, such parts, tiles of filters of a part, such parts, rows of
        # the micro-kernel, its columns); again: (every which pixel of x is needed, by how many taps
        # the next plane, and the next line, see the same); steps in bytes: (image, depth, height,
        # width); offsets: as of _offsets
        images, channels, filters, groups = sizes
        (
            x_in_place, dy_in_place, x_lines, x_columns, block_lines, block_columns, pieces, blocks,
            copies, part_rows, row_parts, part_filters, filter_parts, rows, width,
        ) = cut  # fmt: skip
        taps = kernel[0] * kernel[1] * kernel[2]
        all_lines = images * output[0] * output[1]
        down, across = -(-channels // rows), -(-filters // width)
        dw_step = filters * groups * itemsize
        row_bytes, whole = width * itemsize, filters >= width
        of_tile = rows * row_bytes if blocks > copies else 0
        x_pixel = x_steps[3] if x_in_place else rows * itemsize
        every = 1 if x_in_place else again[0]
        x_next, x_tile = stride[2] // every * x_pixel, x_lines * x_columns * x_pixel
        dy_next = dy_steps[3] if dy_in_place else row_bytes
        memory = np.empty(offsets[7] + LINE, np.uint8)
        at = -(-memory.ctypes.data // LINE) * LINE
        clear(at, offsets[1])  # lanes that nobody fills are multiplied too

        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            of_dy = -(-memory.ctypes.data // LINE) * LINE
            of_x, of_sums, table = of_dy + offsets[1], of_dy + offsets[2], of_dy + offsets[3]
            next_pixels = pieces == blocks and pieces > 1
            counts, runs, slots = of_dy + offsets[4], of_dy + offsets[5], of_dy + offsets[6]
            first_filter, left = task % filter_parts * part_filters, task // filter_parts
            first_row, left = left % row_parts * part_rows, left // row_parts
            of_group, nth = left % groups, left // groups
            end_filter = min(first_filter + part_filters, across)
            end_row = min(first_row + part_rows, down)
            x_group = x + of_group * channels * itemsize
            dy_group = dy + of_group * filters * itemsize
            into = dw
            if nth > 0:
                into = partial + (nth - 1) * taps * channels * dw_step
            into += of_group * filters * itemsize
            first_block, end_block = blocks * nth // copies, blocks * (nth + 1) // copies
            for nth_block in range(first_block, end_block):
                first_line = nth_block // pieces * block_lines
                lines = min(block_lines, all_lines - first_line)
                first = nth_block % pieces * block_columns
                columns = min(block_columns, output[2] - first)

                # The columns of x that are needed.
                corner = first * stride[2] - before[2]
                x_first = corner % every if corner < 0 else corner
                x_end = corner + (columns - 1) * stride[2] + (kernel[2] - 1) * dilation[2] + 1
                x_count = max(0, (min(x_end, input[2]) - x_first + every - 1) // every)

                # Where lines begin.
                packed, f_tile = 0, lines * columns * row_bytes
                tap_lines = kernel[0] * kernel[1]
                for t in range(tap_lines):
                    put(counts, t, 0)
                for n in range(lines):
                    line = first_line + n
                    p1, left = line % output[1], line // output[1]
                    p0, image = left % output[0], left // output[0]
                    source = (
                        dy_group + image * dy_steps[0] + p0 * dy_steps[1] + p1 * dy_steps[2]
                        + first * dy_steps[3]
                    )  # fmt: skip
                    of_line = source if dy_in_place else of_dy + n * columns * row_bytes
                    if not dy_in_place:
                        call(
                            pack, of_line, source, dy_steps[3], columns, first_filter, end_filter,
                            min(width, filters), filters, f_tile, row_bytes, 0, 0,
                        )  # fmt: skip
                    t = 0
                    for t0 in range(kernel[0]):
                        q0 = p0 * stride[0] + t0 * dilation[0] - before[0]
                        for t1 in range(kernel[1]):
                            q1 = p1 * stride[1] + t1 * dilation[1] - before[1]
                            if q0 >= 0 and q0 < input[0] and q1 >= 0 and q1 < input[1]:
                                of_x_line = (
                                    x_group + image * x_steps[0] + q0 * x_steps[1]
                                    + q1 * x_steps[2]
                                )  # fmt: skip
                                if not x_in_place:
                                    slot = -1
                                    of_next = t1 + again[2] < kernel[1] and again[2] > 0
                                    if of_next and n > 0 and p1 > 0:
                                        slot = word(slots, (n - 1) * tap_lines + t + again[2])
                                    of_next = t0 + again[1] < kernel[0] and again[1] > 0
                                    if slot < 0 and of_next and n >= output[1] and p0 > 0:
                                        same = (n - output[1]) * tap_lines + t
                                        slot = word(slots, same + again[1] * kernel[1])
                                    if slot < 0:
                                        slot = packed
                                        packed += 1
                                        call(
                                            pack, of_x + slot * x_columns * x_pixel,
                                            of_x_line + x_first * x_steps[3], every * x_steps[3],
                                            x_count, first_row, end_row, rows, channels, x_tile,
                                            x_pixel, 0, 0,
                                        )  # fmt: skip
                                    put(slots, n * tap_lines + t, slot)
                                    of_x_line = of_x + slot * x_columns * x_pixel
                                count = word(counts, t)
                                entry = table + 16 * (t * block_lines + count)
                                put(entry, 0, of_x_line)
                                put(entry, 1, of_line)
                                put(counts, t, count + 1)
                            t += 1
                # Which columns a tap sees.
                for t2 in range(kernel[2]):
                    corner = t2 * dilation[2] - before[2]
                    begin = max(first, -(corner // stride[2]))
                    end = min(first + columns, (input[2] - 1 - corner) // stride[2] + 1)
                    q2 = begin * stride[2] + corner
                    if not x_in_place:
                        q2 = (q2 - x_first) // every
                    put(runs + 24 * t2, 0, q2 * x_pixel)
                    put(runs + 24 * t2, 1, (begin - first) * dy_next)
                    put(runs + 24 * t2, 2, max(0, end - begin))

                # While this block is summed, what is read in place of the next one is fetched.
                ahead = nth_block + 1 if next_pixels else nth_block
                x_ahead = x + ahead * block_columns * stride[2] * x_steps[3]
                dy_ahead = dy + ahead * block_columns * dy_steps[3]
                x_fetched = block_columns * x_steps[3] // LINE if next_pixels and x_in_place else 0
                dy_fetched = (
                    block_columns * dy_steps[3] // LINE if next_pixels and dy_in_place else 0
                )
                fetched = 0
                begun, ends = nth_block > first_block, nth_block == end_block - 1
                sums = of_sums
                for nth_filters in range(first_filter, end_filter):
                    # The last tile begins early: there is nothing behind the last pixel.
                    f = max(0, min(nth_filters * width, filters - width))
                    of_f = f * itemsize if dy_in_place else (nth_filters - first_filter) * f_tile
                    for r in range(first_row, end_row):
                        c = min(r * rows, channels - rows)
                        of_c = c * itemsize if x_in_place else (r - first_row) * x_tile
                        to = into + c * dw_step + f * itemsize
                        for t in range(tap_lines):
                            count = word(counts, t)
                            for t2 in range(kernel[2]):
                                run_of_tap = runs + 24 * t2
                                steps = word(run_of_tap, 2)
                                next_lines, far = table, 0
                                if fetched < x_fetched:
                                    next_lines, far = x_ahead + fetched * LINE, LINE
                                elif fetched < x_fetched + dy_fetched:
                                    next_lines = dy_ahead + (fetched - x_fetched) * LINE
                                    far = LINE
                                fetched += steps
                                multiply(
                                    micro_kernel,
                                    table + 16 * t * block_lines,
                                    count if steps > 0 else 0,
                                    word(run_of_tap, 0) + of_c,
                                    word(run_of_tap, 1) + of_f,
                                    x_next,
                                    dy_next,
                                    steps,
                                    sums if begun else 0,
                                    to if ends and whole else sums,
                                    dw_step if ends and whole else row_bytes,
                                    next_lines,
                                    far,
                                )
                                if ends and not whole:
                                    for m in range(rows):
                                        copy(
                                            to + m * dw_step, sums + m * row_bytes,
                                            filters * itemsize,
                                        )  # fmt: skip
                                sums += of_tile
                                to += channels * dw_step
            task = take(counter)

    return backward_weight
