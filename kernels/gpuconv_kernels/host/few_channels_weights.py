"""Gradient of the weights where there are few input channels, a line of the output after the other.

A line of taps is a run of numbers in x (see ``few_channels``), and the runs of neighbouring pixels
are a constant distance apart. So nothing is packed: the micro-kernel reads both sides where they
are::

    lines of x, padded                       a line of dy
    r g b r g b r g b ...                    pixel 0: 32 filters | 32 filters
    |-- 11 --|-- 10 --|      pixel 0         pixel 1: ...
          |-- 11 --|-- 10 --|      1           ...
                                     x                     -->   sums: 7 lines x (11 + 11) x 64

Some lines at a time, as many as the L1 cache holds, are summed for one line of taps, then for the
next: to begin and to end a line takes as long as 20 pixels of it.

Few filters leave most of a vector empty, so some pixels beside each other are taken for one: all
numbers that their windows hold with the filters of all of them. Of these products, those of each
pixel with its own window are added up.

A task is some bands of lines, which have sums of their own; they are added up at the end. Sums that
are computed twice, where the last piece is moved back, have places of their own. How many tasks
there are depends on the shapes alone, and each number is summed in a fixed order: its bits do not
depend on the number of threads.

Limits: as :func:`pays` says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.extents import extents_of, numbers_of
from gpuconv_kernels.host.few_channels import can_join, copy_lines
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, number_at, put_at
from gpuconv_kernels.host.microkernel import channel_kernel, channel_rows_for, multiply, step_cycles
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host
from gpuconv_kernels.host.vectors import Width, even, width_for
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_MOST_CHANNELS = 4
"""More leave no tile of the micro-kernel empty."""
_MOST_LINES = 16
"""Of a band."""
_MOST_PIXELS = 512
"""Of a line that are summed at a time."""
_VECTORS = 2
"""Of the micro-kernel: with 32 registers, 21 numbers of a line of taps are 11 + 10, and 9 are 9."""
_NEAR_BYTES = 24 * 1024
"""Of dy and x that are summed for all lines of taps one after the other."""
_TOGETHER = (1, 2, 4, 8)
"""Pixels that may be taken for one,"""
_GAIN = 0.8
"""if that takes no more than such a part of the time by count."""
_MOST_COPIES = 16
_ROOM_BYTES = 256 * 1024
"""What the sums of all tasks may take in any case."""
_COPIED_SHARE = 20
"""The lines that a task copies are at most such a part of the arrays, if several serve a task."""


def pays(geometry: Any) -> bool:
    """Whether :func:`conv_backward_weight` can be used, and helps."""
    g = geometry
    return g.in_channels <= _MOST_CHANNELS and g.kernel[-1] > 1 and can_join(g)


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        together: pixels that are taken for one; the following is for their filters and numbers.
        width: filters of the micro-kernel; ``blocks`` of them, of which the last is moved back.
        rows, pieces: numbers of a line of taps that it sums at a time; the last piece likewise.
        lines, bands: of a band, and how many of them; ``several`` lines are summed at a time.
        pixels, stretches: of a line that are summed at a time.
        copies: of the sums, each a task; ``of_copy``: the bytes of one.
        offsets: where in a thread's memory its parts begin: for each line of taps where its lines
            of x and dy begin, and how many there are; copied lines; at last the size of all.
    """

    together: int
    width: Width
    blocks: int
    rows: int
    pieces: int
    lines: int
    bands: int
    several: int
    pixels: int
    stretches: int
    copies: int
    of_copy: int
    offsets: tuple[int, ...]


def _pixels_together(g: Any, dtype: str, of: Host) -> int:
    """How many pixels are best taken for one, if those of dy follow each other."""

    def time(together: int) -> float:
        width, blocks, rows, pieces = _tiles(g, together, dtype, of)
        return blocks * pieces * step_cycles(rows, width.vectors, of) / together

    across = g.output[-1]
    fitting = [n for n in _TOGETHER if across <= _MOST_PIXELS and across % n == 0]
    best = min(fitting, key=time, default=1)
    return best if time(best) < _GAIN * time(1) else 1


def _tiles(g: Any, together: int, dtype: str, of: Host) -> tuple[Width, int, int, int]:
    """Return filters of the micro-kernel and such blocks, its rows and pieces of so many."""
    filters = together * g.out_channels
    width = width_for(filters, dtype, of, _VECTORS)
    rows, pieces = even(_numbers(g, together), channel_rows_for(width.vectors, of))
    return width, -(-filters // width.channels), rows, pieces


def _numbers(g: Any, together: int) -> int:
    """Numbers of a line of taps of so many pixels beside each other."""
    return int((g.kernel[-1] + (together - 1) * g.stride[-1]) * g.in_channels)


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, whole: bool = True) -> Cut:
    """Cut a ``ConvGeometry`` whose arrays hold anything; ``whole`` if dy's pixels have no gaps."""
    itemsize = ITEMSIZE[dtype]
    together = _pixels_together(g, dtype, of) if whole else 1
    width, blocks, rows, pieces = _tiles(g, together, dtype, of)
    extents = extents_of(g)
    (depth, height, across), (k0, k1, k2) = extents.output, extents.kernel
    stride, dilation = extents.stride, extents.dilation
    pixels, stretches = even(across, _MOST_PIXELS)
    of_copy = k0 * k1 * pieces * rows * blocks * width.channels * itemsize
    arrays = numbers_of(g) * itemsize
    room = max(_ROOM_BYTES, arrays // 10)
    of_line = k0 * ((pixels - 1) * stride[2] + k2) * g.in_channels * itemsize
    most = arrays // _COPIED_SHARE // of_line - (k1 - 1) * dilation[1] - 1
    lines, bands = even(height, max(1, min(_MOST_LINES, most // stride[1] + 1)))
    units = g.batch * depth * bands * stretches
    copied = of_line * ((lines - 1) * stride[1] + (k1 - 1) * dilation[1] + 1)
    near = pixels * (g.out_channels + stride[2] * g.in_channels) * itemsize
    several, _ = even(lines, max(1, _NEAR_BYTES // near))
    offsets = offsets_of([16 * k0 * k1 * several, 8 * k0 * k1, copied])
    return Cut(
        together,
        width,
        blocks,
        rows,
        pieces,
        lines,
        bands,
        several,
        pixels,
        stretches,
        max(1, min(_MOST_COPIES, units, room // of_copy)),
        of_copy,
        tuple(offsets),
    )


def workspace_bytes(geometry: Any, dtype: str, of: Host) -> int:
    """Bytes that :func:`conv_backward_weight` needs beyond its arrays."""
    if not math.prod(geometry.w_shape):
        return 0
    c = cut(geometry, dtype, of)
    products = 0 if c.together == 1 else c.of_copy
    working = min(threads(), c.copies) * (c.offsets[-1] + LINE)
    return int(c.copies * c.of_copy + LINE + working + products)


def conv_backward_weight(dy: Array, x: Array, dw: Array, geometry: Any, of: Host) -> None:
    """Write ``dw`` (*k, C, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C), which are not empty.

    ``dw`` is contiguous, and so are the channels of ``x`` and the filters of ``dy``; their other
    axes have any steps.
    """
    g, dtype = geometry, name_of(dw.dtype)
    whole = dy.strides[-2] == g.out_channels * dy.itemsize
    c = cut(g, dtype, of, whole)
    numbers, filters = _numbers(g, c.together), c.together * g.out_channels
    narrow = Host(c.width.lanes * dw.itemsize, of.registers)
    of_pixel = g.in_channels * dw.itemsize
    in_place = g.pads[-1] == (0, 0) and x.strides[-2] == of_pixel
    sums = np.empty(c.copies * c.of_copy + LINE, np.uint8)
    first = -(-address(sums) // LINE) * LINE
    taps = math.prod(g.kernel[:-1])
    run(
        _kernel(dtype),
        c.copies,
        channel_kernel(dtype, narrow, c.rows, c.width.vectors),
        address(x),
        address(dy),
        first,
        (g.batch, g.in_channels, filters, numbers, c.together, int(in_place)),
        (
            c.width.channels,
            c.blocks,
            c.rows,
            c.pieces,
            c.lines,
            c.bands,
            c.several,
            c.pixels,
            c.stretches,
            c.of_copy,
        ),
        *extents_of(g),
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (dy.strides[0], *three(dy.strides[1:-1], 0)),
        c.offsets,
    )
    products = dw if c.together == 1 else np.empty((taps, numbers, filters), dw.dtype)
    run(
        _joining(dtype),
        taps,
        first,
        address(products),
        (c.copies, c.of_copy),
        (c.width.channels, c.blocks, c.rows, c.pieces),
        (numbers, filters),
    )
    if c.together > 1:
        # Of each pixel that was taken for one: its own window with its own filters.
        of_tap, of_number, of_filter = products.strides
        apart = g.stride[-1] * g.in_channels * of_number + g.out_channels * of_filter
        shape = (taps, c.together, _numbers(g, 1), g.out_channels)
        steps = (of_tap, apart, of_number, of_filter)
        own: Array = np.ndarray(shape, dw.dtype, products, 0, steps)
        np.add.reduce(own, axis=1, out=dw.reshape(taps, -1, g.out_channels))


@functools.cache
def _kernel(dtype: str) -> Any:
    return Kernel(define(dtype), dtype)


def define(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, put, word = ITEMSIZE[dtype], put_at("int64"), number_at("int64")

    def backward_weight(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, x, dy, sums,
        sizes, cut, input, output, stride, dilation, before, kernel, x_steps, dy_steps, offsets,
    ):  # fmt: skip
        # sizes: (images, channels, filters and numbers of the pixels taken for one, how many these
        # are, whether x is read in place); cut: (filters of a block, blocks, rows, pieces, lines of
        # a band, bands, lines at a time, pixels of a stretch, stretches, bytes of a copy); steps in
        # bytes: (image, depth, height, width); offsets: as of Cut
        images, channels, filters, numbers, together, in_place = sizes
        width, blocks, rows, pieces, lines, bands, several, pixels, stretches, of_copy = cut
        of_pixel, pitch = channels * itemsize, together * stride[2] * channels * itemsize
        dy_next = together * dy_steps[3]
        of_tile = rows * width * itemsize
        reached = (lines - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
        units = images * output[0] * bands * stretches
        memory = np.empty(offsets[3] + LINE, np.uint8)
        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            table = -(-memory.ctypes.data // LINE) * LINE
            counts, copied = table + offsets[1], table + offsets[2]
            into = sums + task * of_copy
            clear(into, of_copy)
            for unit in range(units * task // tasks, units * (task + 1) // tasks):
                p2, rest = unit % stretches * pixels, unit // stretches
                here = min(pixels, output[2] - p2)
                first, rest = rest % bands * lines, rest // bands
                p0, image = rest % output[0], rest // output[0]
                top, left = first * stride[1] - before[1], p2 * stride[2] - before[2]
                across = (here - 1) * stride[2] + kernel[2]
                if not in_place:
                    copy_lines(
                        copied, x + image * x_steps[0], p0, top, reached, left, across, of_pixel,
                        input, stride, dilation, before, kernel, x_steps,
                    )  # fmt: skip
                dy_plane = dy + image * dy_steps[0] + p0 * dy_steps[1] + p2 * dy_steps[3]
                last = min(first + lines, output[1])
                for begin in range(first, last, several):
                    end = min(begin + several, last)
                    # While these lines are summed, the next ones are fetched.
                    ahead, lines_ahead, fetched = dy_plane + end * dy_steps[2], 0, 0
                    if dy_next == filters * itemsize and stretches == 1:
                        lines_ahead = min(several, output[1] - end) * here * dy_steps[3] // LINE
                    t = 0
                    for t0 in range(kernel[0]):
                        q0 = p0 * stride[0] - before[0] + t0 * dilation[0]
                        for t1 in range(kernel[1]):
                            met = t * several
                            for p1 in range(begin, end):
                                q1 = p1 * stride[1] - before[1] + t1 * dilation[1]
                                if q0 < 0 or q0 >= input[0] or q1 < 0 or q1 >= input[1]:
                                    continue
                                at = copied + (t0 * reached + q1 - top) * across * of_pixel
                                if in_place:
                                    at = x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2]
                                    at += left * of_pixel
                                put(table, 2 * met, at)
                                put(table, 2 * met + 1, dy_plane + p1 * dy_steps[2])
                                met += 1
                            put(counts, t, met - t * several)
                            t += 1
                    to = into
                    for t in range(kernel[0] * kernel[1]):
                        met, of_lines = word(counts, t), table + 16 * t * several
                        for piece in range(pieces):
                            from_number = min(piece * rows, numbers - rows) * itemsize
                            for block in range(blocks):
                                next_lines, far = table, 0
                                if fetched < lines_ahead:
                                    next_lines, far = ahead + fetched * LINE, LINE
                                fetched += met * (here // together)
                                f = min(block * width, filters - width)
                                multiply(
                                    micro_kernel, of_lines, met, from_number, f * itemsize, pitch,
                                    dy_next, here // together, to, to, width * itemsize,
                                    next_lines, far,
                                )  # fmt: skip
                                to += of_tile
            task = take(counter)

    return backward_weight


@functools.cache
def _joining(dtype: str) -> Any:
    return Kernel(define_joining(dtype), dtype)


def define_joining(dtype: str) -> Callable[..., None]:
    """Return the kernel, a task of which adds up the sums of a line of taps, as a function."""
    itemsize, number, put = ITEMSIZE[dtype], number_at(dtype), put_at(dtype)

    def join(counter, tasks, sums, dw, copies, cut, sizes):  # type: ignore[no-untyped-def]
        # copies: (how many, bytes of one); cut: (filters of a block, blocks, rows, pieces); sizes:
        # (numbers of a line of taps, filters)
        count, of_copy = copies
        width, blocks, rows, pieces = cut
        numbers, filters = sizes
        of_row = width * itemsize
        task = take(counter)
        while task < tasks:
            for piece in range(pieces):
                begin = min(piece * rows, numbers - rows)
                for row in range(piece * rows - begin, rows):
                    source = sums + ((task * pieces + piece) * blocks * rows + row) * of_row
                    to = dw + (task * numbers + begin + row) * filters * itemsize
                    for block in range(blocks):
                        f = min(block * width, filters - width)
                        of_block = source + block * rows * of_row
                        for i in range(width):
                            put(to + f * itemsize, i, number(of_block, i))
                        for n in range(1, count):
                            more = of_block + n * of_copy
                            for i in range(width):
                                total = number(to + f * itemsize, i) + number(more, i)
                                put(to + f * itemsize, i, total)
            task = take(counter)

    return join
