r"""Gradient of the weights for depthwise convolution and small groups: sums over pixels.

The sums of some rows of the window stay in registers while the pixels of some rows of ``dy`` pass
by. What one tap reads of x, the next tap reads for the pixel before it::

    dy, 4 pixels             d0    d1    d2    d3                  of 32 channels
                              |  \  / | \  / |  \  / |  \
    x, row 0 of the window   x0    x1    x2    x3    x4    x5      s00 += d0 x0 + d1 x1 + ...
    x, row 1                 x0    x1    x2    x3    x4    x5      s01 += d0 x1 + d1 x2 + ...
    x, row 2                 x0    x1    x2    x3    x4    x5       ...

In groups of several channels, each of these has a sum of its own with every filter: x is moved to
the filters that read it, as in ``depthwise.py``.

Rows of the window that lie outside of the input are read as zeros. Pixels whose windows lack only
the first or only the last column follow the others of their row; those that lack more are done one
by one, tap by tap.

A task is a block of rows, of all channels where there are rows enough. The channels of a pixel are
taken some at a time, so memory is read in pieces that lie a pixel apart, which the processor does
not see coming: while a band of rows is summed, the next band is fetched, line after line. A thread
draws its next task early to know where that is.

Blocks are cut by the shape alone, and what they sum is added in their order, so the bits do not
depend on the number of threads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view, zeros
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.sources import sources
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host, second_level_cache
from gpuconv_kernels.host.vectors import Emitter, Mix, Width, even, fetch_line, mixed_width

Array = Any

_MOST_TAPS = 5
"""Taps of a row that are computed together, if the registers hold their sums."""
_BLOCK_PIXELS = 1024
"""Pixels that are summed one after the other; more would be less exact."""
_LEAST_TASKS = 8
_SUMS_SHARE = 10
"""The sums of all blocks take no more than this part of x and dy, if :data:`_BLOCK_PIXELS` lets
them."""
PIXELS = 4
"""Pixels of a row that are computed together."""


@dataclass(frozen=True)
class Plan:
    """What does not depend on the arrays.

    Attributes:
        kernel: the compiled kernel.
        tasks: their number.
        sources: of the three dimensions, and the phases of a row; ``tables``: their addresses.
        sizes, cut: what :func:`define` says.
        blocks: of rows, each with sums of its own.
        step: filters that are computed together.
    """

    kernel: Any
    tasks: int
    sources: tuple[Array, ...]
    tables: tuple[int, ...]
    sizes: tuple[int, ...]
    cut: tuple[int, int, int, int, int]
    blocks: int
    step: int


@functools.lru_cache(maxsize=1024)
def plan(g: Any, dtype: Any, of: Host) -> Plan:
    """Cut the sums of a convolution; the same for any number of threads."""
    input, output, stride, dilation, before, kernel = extents_of(g)
    channels, mix, one = g.out_channels, Mix.of(g), (1, 1, 1)
    each = [
        sources(*along)
        for along in zip(input, output, kernel, stride, before, dilation, one, strict=True)
    ]
    registers = 20 if of.registers >= 32 else 10  # for sums; those of one line may be 4 more
    width = mixed_width(channels, dtype.name, of, mix, 2 if of.registers >= 32 else 1)
    joined = kernel[2] if 1 < kernel[2] <= _MOST_TAPS else 1
    joined = joined if joined * mix.channels * width.vectors <= registers + 4 else 1
    kind = stride[2] if joined > 1 and dilation[2] == 1 and stride[2] <= 2 else 0
    phases = _phases(kind, *each[2])
    tables = (each[0][0], each[1][0], each[2][0], phases)
    taps = math.prod(kernel)
    lines, _ = even(taps // joined, max(1, registers // (joined * mix.channels * width.vectors)))
    room = -(-taps // lines) * lines
    if kind:
        room = max(room, -(-taps // joined // lines) * lines * joined)
    room *= mix.channels
    arrays = math.prod(g.x_shape) + math.prod(g.y_shape)
    most = min(_LEAST_TASKS, max(1, arrays // (_SUMS_SHARE * room * channels)))
    rows_of_all = max(1, g.batch) * output[0] * output[1]
    rows, blocks = even(
        rows_of_all, min(-(-rows_of_all // most), max(1, _BLOCK_PIXELS // output[2]))
    )
    steps = -(-channels // width.channels)
    part, parts = even(steps, max(1, steps * blocks // _LEAST_TASKS))
    row_bytes = part * width.channels * dtype.itemsize * output[2] * (1 + math.prod(stride))
    # Of dy and x, this band and the next stay in the L2 cache.
    band, _ = even(rows, max(1, second_level_cache() * 3 // 8 // row_bytes))
    return Plan(
        _kernel(dtype.name, width, joined, lines, mix),
        blocks * parts,
        tables,
        tuple(address(table) for table in tables),
        (channels, kind, stride[2], len(phases), g.batch, *output, *kernel),
        (rows, band, part * width.channels, parts, room),
        blocks,
        width.channels,
    )


def _phases(kind: int, sources: Array, runs: Array) -> Array:
    """Cut a row into phases: pixels whose taps are joined, one after the other, or a single one.

    Returns:
        of each: the first pixel; how many have all their taps, 0 for a single one that has not;
        whether one before these lacks the first column only; whether one behind lacks the last.
    """
    exists = sources >= 0
    lacks_first, lacks_last = (
        (exists[:, lacking] == 0) & exists[:, others].all(axis=1)
        for lacking, others in ((0, slice(1, None)), (-1, slice(-1)))
    )
    phases, pixel, width = [], 0, len(runs)
    while pixel < width:
        left = kind > 0 and pixel + 1 < width and lacks_first[pixel] and runs[pixel + 1] > 0
        count = int(runs[pixel + left])
        end = pixel + left + count
        right = kind > 0 and count > 0 and end < width and lacks_last[end]
        phases.append((pixel, count, int(left), int(right)))
        pixel = max(end + right, pixel + 1)
    return np.array(phases, np.int64)


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Memory beyond the operands: the sums of each block, and their total if it is cut to size."""
    p = plan(geometry, np.dtype(dtype), host())
    _, _, part, parts, room = p.cut
    sums = p.blocks + int(parts * part != geometry.out_channels)
    return sums * room * part * parts * ITEMSIZE[dtype]


def conv_backward_weight(dy: Array, x: Array, dw: Array, geometry: Any) -> None:
    """Write ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    ``dw`` is contiguous; the others may have any strides.
    """
    g = geometry
    if g.batch == 0:
        dw.fill(0)
        return
    dy, x = _forwards(dy), _forwards(x)
    p = plan(g, dw.dtype, host())
    _, _, part, parts, room = p.cut
    # Read in place of rows outside of the input; where there is one row, it lies inside.
    line = x.strides[-2] * g.input[-1] if g.rank > 1 else 0
    nothing = zeros(line + g.in_channels * x.itemsize)
    sums = np.empty((p.blocks, room, parts * part), dw.dtype)
    run(
        p.kernel,
        p.tasks,
        address(x),
        address(dy),
        address(sums),
        address(nothing),
        *p.tables,
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (dy.strides[0], *three(dy.strides[1:-1], 0)),
        p.sizes,
        p.cut,
    )
    flat = dw.reshape(-1, g.out_channels)
    sums = sums[:, : len(flat)]
    if parts * part == g.out_channels:
        np.add.reduce(sums, axis=0, out=flat)
        return
    # To add slices takes NumPy four times as long.
    total = np.add.reduce(sums, axis=0)
    rest = (g.out_channels - 1) % p.step + 1  # channels of the last step, which was moved back
    whole = g.out_channels - rest
    flat[:, :whole] = total[:, :whole]
    flat[:, whole:] = total[:, whole + p.step - rest : whole + p.step]


def _forwards(x: Array) -> Array:
    """Return ``x``, or a copy if channels do not follow each other or pixels run backwards."""
    forwards = x.strides[-1] == x.itemsize and x.strides[-2] >= 0
    return x if forwards else np.ascontiguousarray(x)


@functools.cache
def _kernel(dtype: str, width: Width, taps: int, lines: int, mix: Mix) -> Any:
    return Kernel(define(dtype, width, taps, lines, mix), dtype, width, taps, lines, mix)


def define(dtype: str, width: Width, joined: int, together: int, mix: Mix) -> Callable[..., None]:
    """Return the kernel as a plain function.

    Args:
        dtype: of all arrays.
        width: filters computed together.
        joined: taps of a row that are computed together where a call says so; 1: never.
        together: lines computed together; a line is one row of the window, or one tap of it where
            the taps are not joined.
        mix: which channels the filters of a group read.
    """
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    add_pixels = _add_pixels(dtype, width, joined, together, mix)
    read, group_of = mix.channels, mix.filters
    step, integers = width.channels, view("int64")

    def gradient(  # type: ignore[no-untyped-def]
        counter, tasks, x, dy, sums, zeros, sources0, sources1, sources2, phases,
        x_steps, dy_steps, sizes, cut,
    ):  # fmt: skip
        # steps in bytes: (image, depth, height, width); kind: 0, or the stride if the taps of a
        # row are joined; cut: rows of a block, rows of a band, filters of a part, parts, and for
        # how many numbers of a filter there is room in sums
        channels, kind, stride, count, images, depth, height, width, k0, k1, k2 = sizes
        rows, band, part, parts, room = cut
        from0, from1 = integers(sources0, depth * k0), integers(sources1, height * k1)
        from2, phase = integers(sources2, width * k2), integers(phases, 4 * count)
        # For each group of lines and each row: where the lines begin in x, and the row in dy.
        row_step = together + 1
        groups = -(-k0 * k1 * k2 // together)
        table = np.empty(groups * band * row_step, np.int64)
        task, following = take(counter), take(counter)
        while task < tasks:
            block, first_channel = task // parts, task % parts * part
            last_channel = min(first_channel + part, channels)
            results = sums + block * room * parts * part * itemsize
            for t in range(room):
                line = array(results + (t * parts * part + first_channel) * itemsize, part)
                for i in range(part):
                    line[i] = number(0)
            stop = min(block * rows + rows, images * depth * height)
            for top in range(block * rows, stop, band):
                here = min(band, stop - top)
                # Where the next band begins, or this one again: no other is known.
                first = top + here if top + here < stop else following * rows
                if parts > 1 or first >= images * depth * height:
                    first = top
                p1 = first % height
                p0 = first // height % depth
                image = first // (height * depth)
                dy_next = dy + image * dy_steps[0] + p0 * dy_steps[1] + p1 * dy_steps[2]
                j0, j1 = max(from0[p0 * k0 + k0 // 2], 0), max(from1[p1 * k1 + k1 // 2], 0)
                x_next = x + image * x_steps[0] + j0 * x_steps[1] + j1 * x_steps[2]
                for f in range(count):
                    pixel, inside = phase[4 * f], phase[4 * f + 1]
                    left, right = phase[4 * f + 2], phase[4 * f + 3]
                    kind_here = kind if inside else 0
                    columns, taps = (1, joined) if kind_here else (k2, 1)
                    groups = -(-k0 * k1 * columns // together)
                    p1 = top % height
                    p0 = top // height % depth
                    image = top // (height * depth)
                    for row in range(here):
                        dy_row = dy + image * dy_steps[0] + p0 * dy_steps[1] + p1 * dy_steps[2]
                        slot = at = row * row_step
                        last = slot + together
                        for t0 in range(k0):
                            for t1 in range(k1):
                                j0, j1 = from0[p0 * k0 + t0], from1[p1 * k1 + t1]
                                line_at = x + image * x_steps[0] + j0 * x_steps[1] + j1 * x_steps[2]
                                for t2 in range(columns):
                                    j2 = from2[pixel * k2 + t2 + left] - left
                                    exists = j0 >= 0 and j1 >= 0 and j2 + left >= 0
                                    if slot == last:  # the next group
                                        slot = at = at + here * row_step
                                        last = slot + together
                                    # The column before the first is not read.
                                    nothing = zeros - left * x_steps[3]
                                    table[slot] = line_at + j2 * x_steps[3] if exists else nothing
                                    table[last] = dy_row + pixel * dy_steps[3]
                                    slot += 1
                        # What fills up the last group is computed, and nobody looks at it.
                        while slot < last:
                            table[slot] = table[at]
                            slot += 1
                        p1 += 1
                        if p1 == height:
                            p1 = 0
                            p0 += 1
                            if p0 == depth:
                                p0 = 0
                                image += 1
                    for c0 in range(first_channel, last_channel, step):
                        c = min(c0, channels - step)
                        fetched = (c0 - first_channel) * here * width * itemsize
                        for group in range(groups):
                            add_pixels(
                                kind_here, table.ctypes.data + 8 * group * here * row_step, here,
                                c * itemsize, c // group_of * read * itemsize, left,
                                max(inside, 1), right,
                                x_steps[3] if kind_here else x_steps[3] * stride, dy_steps[3],
                                results
                                + (group * together * taps * read * parts * part + c0) * itemsize,
                                parts * part * itemsize, x_next + fetched * stride * stride,
                                dy_next + fetched,
                            )  # fmt: skip
            task, following = following, take(counter)

    return gradient


def _add_pixels(dtype: str, width: Width, joined: int, lines: int, mix: Mix) -> Any:
    """Return the function that adds what rows of pixels give to the sums of ``lines``.

    Its ``kind`` says how: tap by tap, or with the taps of a row joined, for strides of 1 or 2.
    """
    forms = [(1, 1)] if joined == 1 else [(1, 1), (joined, 1), (joined, 2)]

    @intrinsic
    def add_pixels(  # type: ignore[no-untyped-def]
        typing_context, kind, table, rows, c_shift, x_shift, before, count, after, x_step, dy_step,
        sums, tap_step, x_next, dy_next,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emitter = Emitter(builder, dtype, width)
            parts = [
                functools.partial(_emit_add_pixels, emitter, lines, mix, form, *arguments[1:])
                for form in forms
            ]
            emitter.choose(arguments[0], parts)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 14), generate

    return add_pixels


def _emit_add_pixels(
    e: Emitter,
    lines: int,
    mix: Mix,
    form: tuple[int, int],
    table: ir.Value,
    rows: ir.Value,
    c_shift: ir.Value,
    x_shift: ir.Value,
    before: ir.Value,
    count: ir.Value,
    after: ir.Value,
    x_step: ir.Value,
    dy_step: ir.Value,
    sums: ir.Value,
    tap_step: ir.Value,
    x_next: ir.Value,
    dy_next: ir.Value,
) -> None:
    taps, stride = form
    vectors, numbers = range(e.vectors), range(mix.channels)
    cells = list(itertools.product(range(lines), range(taps), numbers, vectors))

    def some_pixels(
        pixels: int, lacking: tuple[int, ...], index: ir.Value, state: list[ir.Value]
    ) -> list[ir.Value]:
        starts, at, values, ahead = state[:lines], state[lines], state[lines + 1 : -2], state[-2:]
        for i, factor in enumerate((stride**2, 1) if taps > 1 else ()):
            size = pixels * factor * e.vectors * e.lanes * e.itemsize
            for shift in range(0, size, LINE):
                fetch_line(e.builder, e.add(ahead[i], shift), 2)
            ahead[i] = e.add(ahead[i], size)
        totals = dict(zip(cells, values, strict=True))
        gradients = []
        for _ in range(pixels):
            gradients.append([e.load(at, n) for n in vectors])
            at = e.add(at, dy_step)
        for k, here in enumerate(starts):
            for column in range((pixels - 1) * stride + taps):
                for n in () if column in lacking else vectors:
                    group = e.load_groups(here, n, mix)
                    for i in numbers:
                        x = e.of_groups(group, i, mix)
                        for p in range(pixels):
                            cell = (k, column - p * stride, i, n)
                            if cell in totals:
                                totals[cell] = e.multiply_add(gradients[p][n], x, totals[cell])
                here = e.add(here, x_step)
        moved = e.times(x_step, pixels * stride)
        return [*(e.add(s, moved) for s in starts), at, *totals.values(), *ahead]

    def row(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        entry = e.add(table, e.times(index, 8 * (lines + 1)))
        starts = [e.word(e.add(entry, 8 * k)) for k in range(lines)]
        starts = [e.add(s, x_shift) for s in starts]
        state = [*starts, e.add(e.word(e.add(entry, 8 * lines)), c_shift), *values]
        full = e.builder.sdiv(count, e.integer(PIXELS))
        rest = e.builder.sub(count, e.times(full, PIXELS))
        several: list[tuple[ir.Value, int, tuple[int, ...]]]
        several = [(full, PIXELS, ()), (rest, 1, ())]
        if taps > 1:
            several = [(before, 1, (0,)), *several, (after, 1, (taps - 1,))]
        for times, pixels, lacking in several:
            state = e.loop(times, state, functools.partial(some_pixels, pixels, lacking))
        return state[lines + 1 :]

    places = [
        (e.add(sums, e.times(tap_step, (k * taps + t) * mix.channels + i)), n)
        for k, t, i, n in cells
    ]
    totals = e.loop(rows, [*(e.load(at, n) for at, n in places), x_next, dy_next], row)
    for total, (at, n) in zip(totals[:-2], places, strict=True):
        e.store(total, at, n)
