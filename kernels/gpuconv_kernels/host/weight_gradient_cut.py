"""How the gradient of the weights is cut: blocks of pixels, parts of dw, copies of it.

Cut by counting the cycles that products and packing take and the memory that they need. Where
blocks begin, what is packed and how many copies of ``dw`` are summed apart depends on the shapes
alone, so that the bits do not depend on the number of threads; what a task is may depend on it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.microkernel import channel_tile, step_cycles
from gpuconv_kernels.host.target import ITEMSIZE, Host, second_level_cache

THREADS = 2
"""For so many, time is estimated and memory should be little."""
_BLOCK_PIXELS = 192
"""Pixels of a block, about: the sums are in registers so long."""
_LONG_BLOCK = 1024
"""Pixels up to which all are one block, if nothing is packed: no sums wait for another block."""
_LONGEST_LINE = 288
"""Pixels of a line that are not cut."""
_SHORT_BYTES = 1024
"""Between pixels of x, and for a single tap of dy, that are worth reading in place."""
_ONCE = 2
"""So many times as far apart, if all filters are one tile: what is packed serves for that alone."""
_MOST_COPIES = 16
_COPIES_SHARE = 10
"""All copies of ``dw`` but one take at most such a part of the arrays,"""
_ROOM_SHARE = 4
"""and together with what threads need such a part, where that can be."""
_ALIKE = 1.1
"""Where that can not be, what takes little more memory than the least is as good."""
_PACKED, _IN_PLACE = 1.2, 0.3
"""Cycles for a number of x or dy, packed or read in place."""
_LAST = 0.25
"""Of a task's time: what threads wait for the last one."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        rows, vectors: of the micro-kernel.
        x_in_place, dy_in_place: whether they are read where they are.
        x_lines, x_columns: pixels of x that a block needs: lines, and how many of a line.
        lines, columns: of a block: lines of the output and how many of their pixels.
        pieces, blocks: how many blocks are side by side, and how many there are in all.
        copies: of ``dw`` that are summed apart.
        part_rows, row_parts: tiles of channels of a task, and how many such parts.
        part_filters, filter_parts: the same of filters.
        whole: whether there are filters for a tile.
        time: estimated, of the thread that has most to do: cycles for each pixel of the output.
        memory: bytes of the copies and of all threads, about.
    """

    rows: int
    vectors: int
    x_in_place: bool
    dy_in_place: bool
    x_lines: int
    x_columns: int
    lines: int
    columns: int
    pieces: int
    blocks: int
    copies: int
    part_rows: int
    row_parts: int
    part_filters: int
    filter_parts: int
    whole: bool
    time: float
    memory: int

    def waiting(self) -> int:
        """Tiles of a tap whose sums wait in memory for the next block, if there is one."""
        return self.part_rows * self.part_filters if self.blocks > self.copies else 0


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads.

    dy is packed where there is room for it, else read in place: vectors that lie across two lines
    of the cache, and pixels far apart, cost some 10 %.
    """
    room = sum(_bytes(g, dtype)) // _ROOM_SHARE
    for_few = [_cut(g, dtype, of, THREADS, in_place) for in_place in (False, True)]
    in_place = for_few[0].memory > room and for_few[1].memory < for_few[0].memory
    return for_few[in_place] if count == THREADS else _cut(g, dtype, of, count, in_place)


def _bytes(g: Any, dtype: str) -> list[int]:
    """Of dw, x and dy."""
    return [math.prod(shape) * ITEMSIZE[dtype] for shape in (g.w_shape, g.x_shape, g.y_shape)]


def _cut(g: Any, dtype: str, of: Host, count: int, in_place: bool) -> Cut:
    """The same, with dy packed if that helps or ``in_place`` if that can be."""
    itemsize, taps = ITEMSIZE[dtype], math.prod(g.kernel)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    rows, vectors = channel_tile(channels, filters, dtype, of, in_place)
    width = vectors * of.lanes(dtype)
    x_bytes, dy_bytes = g.in_channels * itemsize, g.out_channels * itemsize
    if taps > 1:
        x_near = x_bytes * min(4, g.stride[-1]) < _SHORT_BYTES
        once = filters <= width and g.stride[-1] == 1
        x_in_place = x_near or (once and x_bytes <= _ONCE * _SHORT_BYTES)
    else:
        x_in_place = x_near = max(x_bytes, dy_bytes) <= _SHORT_BYTES
    dy_in_place = filters >= width and (in_place or (taps == 1 and x_in_place))
    dy_in_place = dy_in_place or g.out_channels == width

    line, all_lines = g.output[-1], g.batch * math.prod(g.output[:-1])
    pieces = max(1, round(line / _BLOCK_PIXELS)) if line > _LONGEST_LINE else 1
    columns = -(-line // pieces)
    pieces = -(-line // columns)
    groups = -(-all_lines // max(1, round(_BLOCK_PIXELS / columns)))
    lines = -(-all_lines // groups)
    blocks = -(-all_lines // lines) * pieces
    w_bytes, *others = _bytes(g, dtype)
    arrays = w_bytes + sum(others)
    copies = max(1, min(_MOST_COPIES, blocks, 1 + arrays // (_COPIES_SHARE * max(w_bytes, 1))))
    copies = 1 << copies.bit_length() - 1  # as many for each thread
    longer = -(-all_lines // copies)
    fits = longer * columns <= _LONG_BLOCK and -(-all_lines // longer) == copies
    if fits and x_in_place and dy_in_place and pieces == 1:
        lines, blocks = longer, copies
    x_lines, x_columns = _needed(g, lines, columns)

    down, across = -(-channels // rows), -(-filters // width)  # tiles of a tap
    # Read in place from afar takes hardly less time than packed.
    of_x = _IN_PLACE if x_near else _PACKED * x_lines * x_columns / (lines * columns)
    of_dy = _IN_PLACE if dy_in_place else _PACKED
    step = step_cycles(rows, vectors, of)
    fitting = second_level_cache() / (3 * itemsize * taps * rows * width)

    def tasks(parts: tuple[int, int]) -> int:
        return int(copies * g.groups * -(-down // parts[0]) * -(-across // parts[1]))

    def time(parts: tuple[int, int]) -> float:
        task = taps * parts[0] * parts[1] * step
        task += of_x * parts[0] * rows + of_dy * parts[1] * width
        return (-(-tasks(parts) // count) + (_LAST if count > 1 else 0)) * task / copies

    def memory(parts: tuple[int, int]) -> int:
        numbers = taps * parts[0] * parts[1] * rows * width if blocks > copies else 0
        numbers += 0 if x_in_place else x_lines * x_columns * parts[0] * rows
        numbers += 0 if dy_in_place else lines * columns * parts[1] * width
        tables = taps // g.kernel[-1] * lines * (16 if x_in_place else 24) + 24 * g.kernel[-1]
        each = numbers * itemsize + tables
        return int((copies - 1) * w_bytes + min(count, tasks(parts)) * each)

    possible = [
        (part_rows, part_filters)
        for part_rows in {-(-down // n) for n in range(1, down + 1)}
        for part_filters in {-(-across // n) for n in range(1, across + 1)}
        if part_rows * part_filters <= max(1, fitting)
    ]
    small = [parts for parts in possible if memory(parts) <= arrays // _ROOM_SHARE]
    least = min(map(memory, possible))
    small = small or [parts for parts in possible if memory(parts) <= _ALIKE * least]
    parts = min(sorted(small), key=time)
    return Cut(
        rows,
        vectors,
        x_in_place,
        dy_in_place,
        x_lines,
        x_columns,
        lines,
        columns,
        pieces,
        blocks,
        copies,
        parts[0],
        -(-down // parts[0]),
        parts[1],
        -(-across // parts[1]),
        filters >= width,
        time(parts),
        memory(parts),
    )


def _needed(g: Any, lines: int, columns: int) -> tuple[int, int]:
    """Lines of x that a block of the output needs at most, and how many pixels of a line."""
    _, output, stride, dilation, _, kernel = extents_of(g)
    begun = min(lines, 1 + -(-(lines - 1) // output[1]))  # lines that follow none
    new = shift(stride[1], dilation[1]) or kernel[1]
    all_lines = begun * kernel[1] + (lines - begun) * min(new, kernel[1])
    reach = (columns - 1) * stride[2] + (kernel[2] - 1) * dilation[2]
    return kernel[0] * all_lines, reach // column_step(g) + 1


def shift(stride: int, dilation: int) -> int:
    """Taps by which the next line of the output sees the same lines; 0: it never does."""
    return 0 if stride % dilation else stride // dilation


def column_step(g: Any) -> int:
    """Every which pixel of a line of x is needed."""
    stride = int(g.stride[-1])
    return math.gcd(stride, g.dilation[-1]) if g.kernel[-1] > 1 else stride
