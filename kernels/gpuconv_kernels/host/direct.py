"""Direct convolution on the micro-kernel: no columns, no padded copy of the input.

A row of the product is an output pixel, a column a filter, and the sum runs over taps and channels.
The micro-kernel is told where the channels of each of its pixels begin under each tap; where that
is outside of the input, the address is that of zeros::

    x, in place                   addresses of a tile             weights of a chunk, packed
                                  of 6 pixels, 9 taps                             64 filters
    .  .  .  .  .  .  .                                           tap, channel  +----------+
    .  o--o--o  .  .  .    -->    tap 0: p0 p1 p2 p3 p4 p5  x     0,  0         |          |
    .  o--o--o  .  .  .           tap 1: p0 p1 p2 p3 p4 p5        0,  1         |          |
    .  o--o--o  .  .  .             ...        zeros, if out      ...           +----------+

A task is a block of pixels and some of the filters. The sum is cut in chunks whose packed weights
stay in the caches while all pixels of the block stream by; the results wait in y (in L2) between
chunks. The last chunk stores through bias and ReLU::

    for 64 filters of the task:
        for a chunk of taps and channels:
            pack its weights                                 48 KB, L1 and L2
            for 6 pixels of the block:                       x and y from L2
                micro-kernel: 6 x 64 sums += chunk

backward_input is the same kernel: each phase of the stride is a convolution of ``dy`` with some of
the taps in reverse order, and its results lie ``stride`` apart in ``dx``; packing transposes the
weights. Any stride, dilation, pads and groups, one to three dimensions.

Source: Georganas et al. 2018, "Anatomy of High-Performance Deep Learning Convolutions on SIMD
Architectures"; the chunks are those of Goto and van de Geijn 2008, "Anatomy of High-Performance
Matrix Multiplication".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host import few_channels
from gpuconv_kernels.host.memory import address, clear, copy, view, zeros
from gpuconv_kernels.host.microkernel import (
    RELU,
    multiply,
    pixel_kernel,
    rows_for,
    vectors_for,
)
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, Host, compiled, host, inlined
from gpuconv_kernels.host.winograd_transforms import transpose_block
from gpuconv_kernels.threads import threads

Array = Any

CHUNK_BYTES = 48 * 1024
"""Packed weights of a chunk: they stream from L2, and results are seldom taken up again."""
_BLOCK_PIXELS = 384
"""Pixels of a block: enough to be worth packing for, few enough for their results to stay in L2."""
_TASKS_A_THREAD = 4


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors: of filters that are computed together.
        pixels, blocks: of a block, and how many of them.
        filters, parts: of a task, a multiple of the vectors' lanes, and how many of them.
        taps, channels: of a chunk of the sum.
    """

    vectors: int
    pixels: int
    blocks: int
    filters: int
    parts: int
    taps: int
    channels: int


@functools.lru_cache(maxsize=1024)
def cut(
    pixels: int,
    taps: int,
    channels: int,
    filters: int,
    groups: int,
    dtype: str,
    of: Host,
    count: int,
) -> Cut:
    """Cut a product of pixels x (taps, channels) x filters for ``count`` threads."""
    vectors = vectors_for(filters, dtype, of)
    width, rows = vectors * of.lanes(dtype), rows_for(vectors, of)
    steps = max(1, CHUNK_BYTES // (width * ITEMSIZE[dtype]))
    if channels <= steps:
        chunk_taps = -(-taps // -(-taps // min(taps, max(1, steps // max(channels, 1)))))
        chunk_channels = channels
    else:
        chunk_taps, chunk_channels = 1, -(-channels // -(-channels // steps))
    widths = -(-filters // width)
    blocks = max(1, round(pixels / _BLOCK_PIXELS))
    parts = 1
    wanted = 1 if count == 1 else _TASKS_A_THREAD * count
    while blocks * groups * parts < wanted and parts < widths:
        parts = min(2 * parts, widths)
    block = -(-pixels // blocks)
    block = -(-block // rows) * rows
    part = -(-widths // parts) * width
    return Cut(
        vectors, block, -(-pixels // block), part, -(-filters // part), chunk_taps, chunk_channels
    )


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_forward` needs beyond its arrays."""
    if few_channels.pays(geometry):
        copied = few_channels.workspace_bytes(geometry, dtype)
        return copied + _workspace_bytes(few_channels.folded_geometry(geometry), dtype)
    return _workspace_bytes(geometry, dtype)


def _workspace_bytes(g: Any, dtype: str) -> int:
    c, of = _cut_of(g, dtype), host()
    rows, width = rows_for(c.vectors, of), c.vectors * of.lanes(dtype)
    tiled = -(-c.pixels // rows) * rows
    numbers = c.taps * c.channels * width + tiled * width + width
    each = 8 * tiled * (2 * math.prod(g.kernel) + 8) + ITEMSIZE[dtype] * numbers
    working = min(threads(), c.blocks * c.parts * g.groups)
    return int(working * each + g.in_channels * ITEMSIZE[dtype])


def backward_input_workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_input` needs beyond its arrays."""
    phases = [p.geometry for p in geometry.backward_input_phases if p.geometry is not None]
    return max((_workspace_bytes(g, dtype) for g in phases), default=0)


def _cut_of(g: Any, dtype: str) -> Cut:
    pixels, taps = g.batch * math.prod(g.output), math.prod(g.kernel)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    return cut(max(pixels, 1), taps, channels, filters, g.groups, dtype, host(), threads())


def conv_forward(
    x: Array, w: Array, bias: Array | None, y: Array, geometry: Any, relu: bool = False
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, C/g, F) and ``bias`` (F,).

    ``w`` is contiguous, and so are the channels of ``x`` and the filters of ``y``; their other axes
    have any steps.
    """
    g = geometry
    if few_channels.pays(g):
        x, g = few_channels.folded(x, g), few_channels.folded_geometry(g)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    _, d, h = three(g.kernel, 1)
    step = channels * g.out_channels
    w_steps = (0, h * d * step, h * step, step, g.out_channels, 1, filters)
    _convolve(x, w, bias, y, g, w_steps, RELU if relu else 0)


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C/g, F), as above."""
    g = geometry
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    _, d, h = three(g.kernel, 1)
    tap = channels * g.out_channels
    steps = (h * d * tap, h * tap, tap)
    for phase in g.backward_input_phases:
        starts = zip(phase.offset, g.stride, strict=True)
        index = (slice(None), *(slice(r, None, s) for r, s in starts))
        part = dx[index]
        if phase.geometry is None:  # no tap reaches it
            part.fill(0)
            continue
        taps = ((0,),) * (3 - g.rank) + tuple(phase.taps)
        first = sum(t[0] * step for t, step in zip(taps, steps, strict=True))
        # Consecutive taps are the same number of positions apart.
        along = [
            (t[1] - t[0]) * step if len(t) > 1 else 0 for t, step in zip(taps, steps, strict=True)
        ]
        w_steps = (first, *along, 1, g.out_channels, filters)
        _convolve(dy, w, None, part, phase.geometry, w_steps, 0)


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Any,
    w_steps: tuple[int, ...],
    finish: int,
) -> None:
    if y.size == 0:
        return
    dtype = name_of(y.dtype)
    c, of = _cut_of(g, dtype), host()
    nothing = zeros(g.in_channels * y.itemsize)
    run(
        _kernel(dtype, of),
        c.blocks * g.groups * c.parts,
        pixel_kernel(dtype, of, rows_for(c.vectors, of), c.vectors),
        address(x),
        address(w),
        0 if bias is None else address(bias),
        address(y),
        address(nothing),
        finish,
        (g.batch, g.in_channels // g.groups, g.out_channels // g.groups, g.groups),
        three(g.input, 1),
        three(g.output, 1),
        three(g.stride, 1),
        three(g.dilation, 1),
        three([lo for lo, _ in g.pads], 0),
        three(g.kernel, 1),
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        w_steps,
        (
            c.pixels,
            c.blocks,
            c.filters,
            c.parts,
            c.taps,
            c.channels,
            rows_for(c.vectors, of),
            c.vectors * of.lanes(dtype),
        ),
    )


@functools.cache
def _kernel(dtype: str, host: Host) -> Any:
    return compiled(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, number, numbers = ITEMSIZE[dtype], np.dtype(dtype).type, np.int64

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, x, w, bias, y, zeros, finish,
        sizes, input, output, stride, dilation, before, kernel, x_steps, y_steps, w_steps, cut,
    ):  # fmt: skip
        # sizes: (images, channels of a group, filters of a group, groups); steps in bytes for x
        # and y: (image, depth, height, width); in numbers for w: (first, depth, height, width,
        # channel, filter, group); cut: (pixels of a block, blocks, filters of a part, parts,
        # taps of a chunk, channels of a chunk, rows of the micro-kernel, its columns)
        images, channels, filters, groups = sizes
        block, _, part, parts, chunk_taps, chunk_channels, rows, width = cut
        taps = kernel[0] * kernel[1] * kernel[2]
        pixels = images * output[0] * output[1] * output[2]
        tiles = -(-block // rows)
        table = np.empty(tiles * taps * rows, numbers)  # where channels begin: tile, tap, row
        pixel = np.empty((5, block), numbers)  # see _corners
        places = np.empty(tiles * rows, numbers)  # where results go
        targets = np.empty(tiles * rows, numbers)
        order = np.empty(tiles * taps, numbers)  # taps that meet the input: tile, and one by one
        upto = np.empty((tiles, taps + 1), numbers)  # how many of them come before a tap
        packed = np.empty(chunk_taps * chunk_channels * width, number)
        rest = np.empty(tiles * rows * width, number)  # results beside y's filters, or no pixel's
        start = np.empty(width, number)
        from_tap = np.empty(taps, numbers)
        moved = np.empty(taps, numbers)
        t = 0
        for t0 in range(kernel[0]):
            for t1 in range(kernel[1]):
                for t2 in range(kernel[2]):
                    from_tap[t] = w_steps[0] + t0 * w_steps[1] + t1 * w_steps[2] + t2 * w_steps[3]
                    moved[t] = (
                        t0 * dilation[0] * x_steps[1]
                        + t1 * dilation[1] * x_steps[2]
                        + t2 * dilation[2] * x_steps[3]
                    )
                    t += 1

        located = -1
        task = take(counter)
        while task < tasks:
            # Tasks of one block follow each other: its x stays in the cache.
            of_filters, of_group = task % parts, task // parts % groups
            at_block = task // (parts * groups)
            first = at_block * block
            here = min(block, pixels - first)
            if at_block != located:
                located = at_block
                corners(
                    pixel, places, first, here, x, y,
                    input, output, stride, dilation, before, kernel, x_steps, y_steps,
                )  # fmt: skip
                tabulate(
                    table, order, upto, pixel, here, rows, zeros, moved, input, dilation, kernel
                )
            tiles_here = -(-here // rows)
            for f in range(of_filters * part, min(of_filters * part + part, filters), width):
                used = min(width, filters - f)
                clear(start.ctypes.data, width * itemsize)
                if bias:
                    from_bias = bias + (of_group * filters + f) * itemsize
                    copy(start.ctypes.data, from_bias, used * itemsize)
                at_filter, beside = (of_group * filters + f) * itemsize, rest.ctypes.data
                for i in range(tiles_here * rows):
                    targets[i] = beside + i * width * itemsize
                if used == width:
                    for i in range(here):
                        targets[i] = places[i] + at_filter
                for tap in range(0, taps, chunk_taps):
                    taps_here = min(chunk_taps, taps - tap)
                    for c in range(0, channels, chunk_channels):
                        count = min(chunk_channels, channels - c)
                        pack_chunk(
                            packed.ctypes.data, w, from_tap, tap, taps_here, count, used, width,
                            c * w_steps[4] + f * w_steps[5] + of_group * w_steps[6],
                            w_steps[4], w_steps[5],
                        )  # fmt: skip
                        last = tap + taps_here == taps and c + count == channels
                        for i in range(tiles_here):
                            multiply(
                                micro_kernel,
                                table.ctypes.data + 8 * i * taps * rows,
                                order.ctypes.data + 8 * (i * taps + upto[i, tap]),
                                upto[i, tap + taps_here] - upto[i, tap],
                                (of_group * channels + c) * itemsize,
                                packed.ctypes.data - tap * count * width * itemsize,
                                count,
                                targets.ctypes.data + 8 * i * rows,
                                start.ctypes.data,
                                tap + c,
                                finish if last else 0,
                            )
                if used < width:
                    for i in range(here):
                        copy(
                            places[i] + at_filter,
                            rest.ctypes.data + i * width * itemsize,
                            used * itemsize,
                        )
            task = take(counter)

    pack_chunk = _pack_chunk(dtype, host)
    corners, tabulate = _corners, _tabulate
    return convolve


@functools.cache
def _pack_chunk(dtype: str, host: Host) -> Any:
    itemsize, lanes, array = ITEMSIZE[dtype], host.lanes(dtype), view(dtype)
    transpose = transpose_block(dtype, host)

    def pack(packed, w, from_tap, tap, taps, count, used, width, offset, c_step, f_step):  # type: ignore[no-untyped-def]
        """Weights (tap, channel, filter) -> one row of ``width`` filters after the other."""
        row = width * itemsize
        for t in range(tap, tap + taps):
            source = w + (from_tap[t] + offset) * itemsize
            if f_step == 1:
                for c in range(count):
                    copy(packed + c * row, source + c * c_step * itemsize, used * itemsize)
            else:  # channels lie next to each other: blocks of lanes x lanes, and what is left
                whole, even = used // lanes * lanes, count // lanes * lanes
                for j in range(0, whole, lanes):
                    for c in range(0, even, lanes):
                        transpose(
                            source + (c + j * f_step) * itemsize,
                            f_step * itemsize,
                            packed + c * row + j * itemsize,
                            row,
                        )
                for j in range(used):
                    numbers = array(source + j * f_step * itemsize, count)
                    for c in range(even if j < whole else 0, count):
                        array(packed + c * row + j * itemsize, 1)[0] = numbers[c]
            if used < width:
                for c in range(count):
                    clear(packed + c * row + used * itemsize, (width - used) * itemsize)
            packed += count * row

    return inlined(pack)


@inlined
def _corners(  # type: ignore[no-untyped-def]
    pixel, places, first, here, x, y,
    input, output, stride, dilation, before, kernel, x_steps, y_steps,
):  # fmt: skip
    """Write, for each pixel of a block, where its window begins and where its results go.

    ``pixel``: the window's corner in three dimensions, its address (which may lie outside), and
    whether the whole window lies inside. By runs of pixels in one line, whose numbers are evenly
    spaced.
    """
    p2 = first % output[2]
    p1 = first // output[2] % output[1]
    p0 = first // (output[2] * output[1]) % output[0]
    image = first // (output[2] * output[1] * output[0])
    reach0 = input[0] - (kernel[0] - 1) * dilation[0]
    reach1 = input[1] - (kernel[1] - 1) * dilation[1]
    reach2 = input[2] - (kernel[2] - 1) * dilation[2]
    i = 0
    while i < here:
        run = min(output[2] - p2, here - i)
        q0 = p0 * stride[0] - before[0]
        q1 = p1 * stride[1] - before[1]
        q2 = p2 * stride[2] - before[2]
        line_inside = 0 <= q0 < reach0 and 0 <= q1 < reach1
        corner = x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2] + q2 * x_steps[3]
        place = y + image * y_steps[0] + p0 * y_steps[1] + p1 * y_steps[2] + p2 * y_steps[3]
        for k in range(run):
            pixel[0, i + k] = q0
            pixel[1, i + k] = q1
            pixel[2, i + k] = q2 + k * stride[2]
            pixel[3, i + k] = corner + k * stride[2] * x_steps[3]
            places[i + k] = place + k * y_steps[3]
        for k in range(run):
            at = q2 + k * stride[2]
            pixel[4, i + k] = line_inside and at >= 0 and at < reach2
        i += run
        p2 += run
        if p2 == output[2]:
            p2 = 0
            p1 += 1
            if p1 == output[1]:
                p1 = 0
                p0 += 1
                if p0 == output[0]:
                    p0 = 0
                    image += 1


@inlined
def _tabulate(table, order, upto, pixel, here, rows, zeros, moved, input, dilation, kernel):  # type: ignore[no-untyped-def]
    """Write where each pixel's channels begin under each tap: (tile, tap, row).

    And which taps any pixel of a tile needs: of a tile in the first line of a padded image, say,
    those of the upper row would only multiply zeros.
    """
    taps = moved.size
    for tile in range(-(-here // rows)):
        first, used = tile * rows, min(rows, here - tile * rows)
        inside = used == rows
        for m in range(used):
            inside = inside and pixel[4, first + m] != 0
        at = tile * taps * rows
        for t in range(taps):
            for m in range(used):
                table[at + t * rows + m] = pixel[3, first + m] + moved[t]
        upto[tile, 0] = 0
        if inside:
            for t in range(taps):
                order[tile * taps + t] = t
                upto[tile, t + 1] = t + 1
            continue
        t = needed = 0
        for t0 in range(kernel[0]):
            for t1 in range(kernel[1]):
                for t2 in range(kernel[2]):
                    met = False
                    for m in range(rows):
                        there = m < used
                        if there and pixel[4, first + m] == 0:
                            q0 = pixel[0, first + m] + t0 * dilation[0]
                            q1 = pixel[1, first + m] + t1 * dilation[1]
                            q2 = pixel[2, first + m] + t2 * dilation[2]
                            there = 0 <= q0 < input[0] and 0 <= q1 < input[1] and 0 <= q2 < input[2]
                        met = met or there
                        if not there:
                            table[at + t * rows + m] = zeros
                    if met:
                        order[tile * taps + needed] = t
                        needed += 1
                    t += 1
                    upto[tile, t] = needed
