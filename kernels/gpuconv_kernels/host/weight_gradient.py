"""backward_weight on the micro-kernel: sums over pixels, of which none leaves the registers early.

A row of the product is an input channel under one tap, a column a filter, and the sum runs over the
output pixels. Neighbouring channels lie next to each other, so one address gives all rows of
the micro-kernel; the pixels of a line of the image are a fixed distance apart, and the lines of a
block are its segments::

    x, in place                          dy of a block, packed          dw of a task
    line 0   c0..c5 | c0..c5 | ...       line 0   64 filters  }         6 channels x 64 filters
    line 1   c0..c5 | c0..c5 | ...   x   line 1   64 filters  }   -->   of one tap: in registers
      ...    one a pixel                   ...                          over the whole block

A task is a range of pixels, of filters, and of the (tap, channels) tiles of ``dw``. It walks over
its pixels block by block, packs ``dy`` (which then stays in L1 and L2), and adds to each of its
tiles. Taps that fall outside of the input at the ends of a line shorten it; lines whose input is
padding are left out.

Where ``dw`` is small beside ``x`` and ``dy``, ranges of pixels have copies of ``dw`` that are added
up at the end, so that ``x`` and ``dy`` come from memory once; where it is large, it is the tiles
that are shared among the tasks. The number of copies depends on the shapes alone, and each number
is summed in a fixed order: its bits do not depend on the number of threads.

Limits: any stride, dilation, pads and groups in one to three dimensions. Source: as direct.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import Three, three
from gpuconv_kernels.host import few_channels
from gpuconv_kernels.host.memory import address, clear, copy, view, zeros
from gpuconv_kernels.host.microkernel import (
    channel_kernel,
    multiply,
    rows_for,
    vectors_for,
)
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, Host, compiled, host
from gpuconv_kernels.threads import threads

Array = Any

_BLOCK_PIXELS = 192
"""Pixels of a block: their packed ``dy`` stays in the caches, and the sums in registers so long."""
_TASKS_A_THREAD = 4
_MOST_COPIES = 16
_ROOM_BYTES = 256 * 1024
_SUM = 16 * 1024
"""Numbers of ``dw`` whose copies a task adds up."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        rows, vectors: channels, and vectors of filters, of a tile.
        joined: whether all pixels are one line, since the kernel is 1x1.
        batch, input, output: the images as the kernel then sees them.
        length, lines: pixels of a piece of a line, and lines of a block.
        blocks: of pixels.
        copies: of ``dw`` that are summed apart.
        filter_parts, tile_parts: in which the rest is shared among tasks.
    """

    rows: int
    vectors: int
    joined: bool
    batch: int
    input: Three
    output: Three
    length: int
    lines: int
    blocks: int
    copies: int
    filter_parts: int
    tile_parts: int


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int, contiguous: bool) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads; ``contiguous``: all arrays are."""
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    batch, input, output = g.batch, three(g.input, 1), three(g.output, 1)
    joined = contiguous and bool(g.is_pointwise)
    if joined:
        input = output = (1, 1, batch * math.prod(output))
        batch = min(batch, 1)
    vectors = vectors_for(filters, dtype, of)
    rows = min(rows_for(vectors, of), channels)
    pieces = max(1, -(-output[2] // _BLOCK_PIXELS))
    length = max(1, -(-output[2] // pieces))
    lines = max(1, _BLOCK_PIXELS // length)
    blocks = -(-batch * output[0] * output[1] // lines) * -(-output[2] // length)
    sizes = [math.prod(shape) * ITEMSIZE[dtype] for shape in (g.w_shape, g.x_shape, g.y_shape)]
    room = max(_ROOM_BYTES, sum(sizes) // 10)
    copies = max(1, min(_MOST_COPIES, blocks, room // max(sizes[0], 1)))
    wanted = -(-_TASKS_A_THREAD * count // copies) if count > 1 else 1
    filter_parts = min(-(-filters // (vectors * of.lanes(dtype))), -(-wanted // g.groups))
    tiles = math.prod(g.kernel) * -(-channels // rows)
    tile_parts = min(tiles, -(-wanted // (g.groups * filter_parts)))
    return Cut(
        rows,
        vectors,
        joined,
        batch,
        input,
        output,
        length,
        lines,
        blocks,
        copies,
        filter_parts,
        tile_parts,
    )


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_weight` needs beyond its arrays."""
    g, of, copied = geometry, host(), 0
    if few_channels.pays(g):
        copied, g = few_channels.workspace_bytes(g, dtype), few_channels.folded_geometry(g)
    c = cut(g, dtype, of, threads(), True)
    width = c.vectors * of.lanes(dtype)
    tiles = math.prod(g.kernel) * -(-g.in_channels // g.groups // c.rows)
    numbers = (c.lines * c.length + 1 + -(-tiles // c.tile_parts) * c.rows) * width
    working = min(threads(), c.copies * g.groups * c.filter_parts * c.tile_parts)
    kept = math.prod(g.w_shape) * c.copies if c.copies > 1 else 0
    return int(copied + ITEMSIZE[dtype] * (working * numbers + kept))


def conv_backward_weight(dy: Array, x: Array, dw: Array, geometry: Any) -> None:
    """Write ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    ``dw`` is contiguous, and so are the channels of ``x`` and the filters of ``dy``; their other
    axes have any steps.
    """
    if dw.size == 0:
        return
    g, dtype, of = geometry, name_of(dw.dtype), host()
    if few_channels.pays(g):
        x, g = few_channels.folded(x, g), few_channels.folded_geometry(g)
    c = cut(g, dtype, of, threads(), x.flags.c_contiguous and dy.flags.c_contiguous)
    if not c.blocks:
        dw.fill(0)
        return
    partial = dw if c.copies == 1 else np.empty((c.copies, *dw.shape), dw.dtype)
    run(
        _kernel(dtype),
        c.copies * g.groups * c.filter_parts * c.tile_parts,
        channel_kernel(dtype, of, c.rows, c.vectors),
        address(x),
        address(dy),
        address(partial),
        address(zeros(c.vectors * of.vector_bytes)),
        (c.batch, g.in_channels // g.groups, g.out_channels // g.groups, g.groups),
        (
            c.copies,
            c.blocks,
            c.length,
            c.lines,
            c.filter_parts,
            c.tile_parts,
            c.rows,
            c.vectors * of.lanes(dtype),
        ),
        c.input,
        c.output,
        three(g.stride, 1),
        three(g.dilation, 1),
        three([lo for lo, _ in g.pads], 0),
        three(g.kernel, 1),
        _steps(x, c),
        _steps(dy, c),
    )
    if c.copies > 1:
        run(_adding(dtype), -(-dw.size // _SUM), address(partial), address(dw), dw.size, c.copies)


def _steps(array: Array, c: Cut) -> tuple[int, ...]:
    """Bytes from image to image and along its dimensions."""
    if c.joined:  # not the array's own strides: those of extents of 1 mean nothing
        return 0, 0, 0, array.shape[-1] * array.itemsize
    return array.strides[0], *three(array.strides[1:-1], 0)


@functools.cache
def _adding(dtype: str) -> Any:
    array = view(dtype)

    def add_copies(counter, tasks, partial, dw, size, copies):  # type: ignore[no-untyped-def]
        parts, total = array(partial, size * copies), array(dw, size)
        task = take(counter)
        while task < tasks:
            first, end = task * _SUM, min(task * _SUM + _SUM, size)
            for i in range(first, end):
                total[i] = parts[i]
            for n in range(1, copies):
                for i in range(first, end):
                    total[i] += parts[n * size + i]
            task = take(counter)

    return compiled(add_copies, dtype)


@functools.cache
def _kernel(dtype: str) -> Any:
    return compiled(define(dtype), dtype)


def define(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, number, numbers = ITEMSIZE[dtype], np.dtype(dtype).type, np.int64

    def backward_weight(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, x, dy, dw, zeros,
        sizes, cut, input, output, stride, dilation, before, kernel, x_steps, dy_steps,
    ):  # fmt: skip
        # sizes: (images, channels of a group, filters of a group, groups); cut: (copies of dw,
        # blocks of pixels, pixels of a piece of a line, lines of a block, parts of the filters,
        # parts of the tiles, rows of the micro-kernel, its columns); steps in bytes: (image,
        # depth, height, width)
        images, channels, filters, groups = sizes
        copies, blocks, length, lines, filter_parts, tile_parts, rows, width = cut
        taps = kernel[0] * kernel[1] * kernel[2]
        down = -(-channels // rows)  # tiles of a tap
        tiles = taps * down
        across = -(-filters // width)
        all_lines = images * output[0] * output[1]
        pieces = -(-output[2] // length)
        size = taps * channels * filters * groups
        packed = np.empty(lines * length * width, number)
        rest = np.empty(-(-tiles // tile_parts) * rows * width, number)  # beside dw's filters
        spare = np.empty(width, number)  # where dw has no such channels
        targets = np.empty(rows, numbers)
        a_table, b_table = np.empty(lines, numbers), np.empty(lines, numbers)
        packed_at, rest_at, spare_at = packed.ctypes.data, rest.ctypes.data, spare.ctypes.data
        targets_at, a_at, b_at = targets.ctypes.data, a_table.ctypes.data, b_table.ctypes.data
        spare[:] = number(0)

        task = take(counter)
        while task < tasks:
            tile_part, left = task % tile_parts, task // tile_parts
            filter_part, left = left % filter_parts, left // filter_parts
            group, nth = left % groups, left // groups
            first_tile = tiles * tile_part // tile_parts
            end_tile = tiles * (tile_part + 1) // tile_parts
            first_block, end_block = blocks * nth // copies, blocks * (nth + 1) // copies
            into = dw + nth * size * itemsize
            for block in range(first_block, end_block):
                line, piece = block // pieces * lines, block % pieces * length
                lines_here = min(lines, all_lines - line)
                piece_end = min(piece + length, output[2])
                for f_tile in range(
                    across * filter_part // filter_parts, across * (filter_part + 1) // filter_parts
                ):
                    f = f_tile * width
                    used = min(width, filters - f)
                    for i in range(lines_here):
                        p1 = (line + i) % output[1]
                        p0 = (line + i) // output[1] % output[0]
                        image = (line + i) // (output[1] * output[0])
                        source = (
                            dy + image * dy_steps[0] + p0 * dy_steps[1] + p1 * dy_steps[2]
                            + (group * filters + f) * itemsize
                        )  # fmt: skip
                        for p2 in range(piece, piece_end):
                            to = packed_at + (i * length + p2 - piece) * width * itemsize
                            copy(to, source + p2 * dy_steps[3], used * itemsize)
                            if used < width:
                                clear(to + used * itemsize, (width - used) * itemsize)
                    tap_before, segments, low, high = -1, 0, 0, 0
                    for tile in range(first_tile, end_tile):
                        tap = tile // down
                        c = tile % down * rows
                        again = max(0, c + rows - channels)  # channels that the last tile had too
                        c -= again
                        t2 = tap % kernel[2]
                        if tap != tap_before:
                            tap_before = tap
                            t1 = tap // kernel[2] % kernel[1]
                            t0 = tap // (kernel[2] * kernel[1])
                            # The pixels of the piece whose input exists: low ... high - 1.
                            move = t2 * dilation[2] - before[2]
                            low = max(piece, -(move // stride[2]))
                            high = min(piece_end, (input[2] - 1 - move) // stride[2] + 1)
                            segments = 0
                            for i in range(lines_here):
                                p1 = (line + i) % output[1]
                                p0 = (line + i) // output[1] % output[0]
                                image = (line + i) // (output[1] * output[0])
                                q1 = p1 * stride[1] + t1 * dilation[1] - before[1]
                                q0 = p0 * stride[0] + t0 * dilation[0] - before[0]
                                if 0 <= q1 < input[1] and 0 <= q0 < input[0] and low < high:
                                    a_table[segments] = (
                                        x + image * x_steps[0] + q0 * x_steps[1]
                                        + q1 * x_steps[2]
                                        + (low * stride[2] + move) * x_steps[3]
                                        + group * channels * itemsize
                                    )  # fmt: skip
                                    b_table[segments] = (
                                        packed_at + (i * length + low - piece) * width * itemsize
                                    )
                                    segments += 1
                        for m in range(rows):
                            if used < width:
                                at = ((tile - first_tile) * rows + m) * width * itemsize
                                targets[m] = rest_at + at
                            elif m < again:
                                targets[m] = spare_at
                            else:
                                at = (tap * channels + c + m) * filters * groups
                                targets[m] = into + (at + group * filters + f) * itemsize
                        multiply(
                            micro_kernel, a_at, segments, c * itemsize, stride[2] * x_steps[3],
                            b_at, high - low, targets_at, zeros, block - first_block, 0,
                        )  # fmt: skip
            if across * (filter_part + 1) // filter_parts * width > filters:
                f = (across - 1) * width
                used = filters - f
                for tile in range(first_tile, end_tile):
                    tap, c = tile // down, tile % down * rows
                    again = max(0, c + rows - channels)
                    for m in range(again, rows):
                        at = (tap * channels + c - again + m) * filters * groups
                        copy(
                            into + (at + group * filters + f) * itemsize,
                            rest_at + ((tile - first_tile) * rows + m) * width * itemsize,
                            used * itemsize,
                        )
            task = take(counter)

    return backward_weight
