"""backward_input where the input has few channels: products first, then added where they belong.

Gathering, as direct.py does, leaves most lanes of a vector empty if there are 3 channels, and near
the ends of a line it multiplies zeros. Where that is more work, it is done the other way around: a
pixel of dy times all weights is what it adds to its whole window, and the numbers of a line of taps
follow each other in dx::

    dy, 12 pixels       weights, packed           products          a line of dx
    of 64 filters       64 x (7 lines of 7*3)     12 x 147          r g b r g b r g b ...
    +---------+        +--------+--------+       +----+----+--      |--- 21 ---|  += pixel 0
    |         |   x    | line 0 | line 1 | .. =  | 21 | 21 |   -->      |--- 21 ---|     1
    +---------+        +--------+--------+       +----+----+--      2 pixels further

A task is a range of lines of one image of dx, which are summed with their padding in memory of its
own, and copied to dx at the end; the lines of dy that reach into two ranges are multiplied for
both. Each number is summed in a fixed order.

Limits: one group, and taps of a line that follow each other. Known as GEMM and col2im, here a tile
at a time, so that neither products nor sums leave the caches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.extents import extents_of, meeting
from gpuconv_kernels.host.few_channels import can_join
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, copy, zeros
from gpuconv_kernels.host.microkernel import multiply, pixel_kernel, rows_for, vectors_for
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host, second_level_cache
from gpuconv_kernels.host.vectors import SHORT, Emitter, Width
from gpuconv_kernels.threads import threads

Array = Any

_SUM_BYTES = 128 * 1024
"""Lines of dx that a task sums, with their padding: a part of the L2 cache."""
_ADDED, _LOOKED_UP = 25, 40
"""What it costs to add a vector of products, whose neighbours have just been written, and to begin
with a line of taps of a pixel when gathering: in products of vectors, as measured."""
_FEW_CHANNELS, _MEMORY_SHARE = 8, 5
"""With more channels, all weights, packed, have to leave room in the L2 cache, and what is needed
is at most such a part of the arrays."""


@functools.lru_cache(maxsize=1024)
def pays(geometry: Any, dtype: str) -> bool:
    """Whether :func:`conv_backward_input` can be used, and is expected to be faster."""
    g, lanes = geometry, host().lanes(dtype)
    if g.kernel[-1] == 1 or not can_join(g):
        return False
    weights, *others = (math.prod(s) * ITEMSIZE[dtype] for s in (g.w_shape, g.x_shape, g.y_shape))
    if g.in_channels > _FEW_CHANNELS:
        room = (weights + sum(others)) // _MEMORY_SHARE
        if weights > second_level_cache() // 4 or workspace_bytes(g, dtype) > room:
            return False
    lines, run = math.prod(g.kernel[:-1]), g.kernel[-1] * g.in_channels
    products = g.out_channels * -(-lines * run // lanes) + _ADDED * lines * -(-run // lanes)
    lines_met = g.input[-1] * math.prod(map(meeting, *_lines(g)))
    of_line = g.kernel[-1] / g.stride[-1] * g.out_channels * -(-g.in_channels // lanes)
    gathered = lines_met * (of_line + _LOOKED_UP)
    return bool(math.prod(g.output) * products < gathered)


def _lines(g: Any) -> tuple[Any, ...]:
    before = [lo for lo, _ in g.pads[:-1]]
    return g.input[:-1], g.output[:-1], g.kernel[:-1], g.stride[:-1], g.dilation[:-1], before


def _line_numbers(g: Any, lanes: int) -> int:
    """Numbers of a line of dx with its padding, and what a vector may read behind it."""
    reached = (g.output[-1] - 1) * g.stride[-1] + g.kernel[-1]
    return max(reached, g.pads[-1][0] + g.input[-1]) * g.in_channels + lanes  # type: ignore[no-any-return]


def _lines_of_task(g: Any, dtype: str, of: Host) -> int:
    lines = max(1, math.prod(g.input[:-1]))
    most = _SUM_BYTES // (_line_numbers(g, of.lanes(dtype)) * ITEMSIZE[dtype])
    least = 4 * math.prod(g.kernel[:-1])  # or too many products are computed twice
    parts = -(-lines // max(most, least, 1))
    return -(-lines // parts)


def _columns(g: Any, dtype: str, of: Host) -> tuple[int, int]:
    """Vectors of the micro-kernel, and how many of it lie across a row of products."""
    numbers = math.prod(g.kernel) * g.in_channels
    vectors = vectors_for(numbers, dtype, of)
    return vectors, -(-numbers // (vectors * of.lanes(dtype)))


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_input` needs beyond its arrays."""
    g, of = geometry, host()
    vectors, across = _columns(g, dtype, of)
    width = vectors * of.lanes(dtype) * across
    lines = _lines_of_task(g, dtype, of)
    tasks = g.batch * -(-math.prod(g.input[:-1]) // lines)
    sums = lines * _line_numbers(g, of.lanes(dtype)) + rows_for(vectors, of) * width
    return int(ITEMSIZE[dtype] * (width * g.out_channels + min(threads(), tasks) * sums))


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C, F).

    ``w`` is contiguous, and so are the channels of ``dx`` and the filters of ``dy``; their other
    axes have any steps.
    """
    g, dtype, of = geometry, name_of(dx.dtype), host()
    if dx.size == 0:
        return
    vectors, across = _columns(g, dtype, of)
    width = vectors * of.lanes(dtype)
    packed = np.zeros((across, g.out_channels, width), dx.dtype)
    rows = w.reshape(-1, g.out_channels)
    for block, of_block in enumerate(packed):
        some = rows[block * width : (block + 1) * width]
        of_block[:, : len(some)] = some.T
    lines = _lines_of_task(g, dtype, of)
    run(
        _kernel(dtype, of),
        g.batch * -(-math.prod(g.input[:-1]) // lines),
        pixel_kernel(dtype, of, rows_for(vectors, of), vectors),
        address(dy),
        address(packed),
        address(dx),
        address(zeros(max(g.out_channels, width) * dx.itemsize)),
        (g.in_channels, g.out_channels, lines, _line_numbers(g, of.lanes(dtype))),
        (rows_for(vectors, of), width, across),
        *extents_of(g),
        (dy.strides[0], *three(dy.strides[1:-1], 0)),
        (dx.strides[0], *three(dx.strides[1:-1], 0)),
    )


@functools.cache
def _kernel(dtype: str, host: Host) -> Any:
    return Kernel(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, number = ITEMSIZE[dtype], np.dtype(dtype).type

    def scatter(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, dy, packed, dx, zeros,
        sizes, tile, input, output, stride, dilation, before, kernel, dy_steps, dx_steps,
    ):  # fmt: skip
        # sizes: (channels, filters, lines of a task, numbers of a line with its padding); tile:
        # (rows of the micro-kernel, its columns, how many of it lie across a row of products);
        # steps in bytes: (image, depth, height, width)
        channels, filters, lines, pitch = sizes
        rows, width, across = tile
        all_lines = input[0] * input[1]
        ranges = -(-all_lines // lines)
        run_length = kernel[2] * channels
        step = stride[2] * channels * itemsize
        products = np.empty(rows * across * width + LINE // itemsize, number)
        sums = np.empty(lines * pitch, number)
        table, targets, order, met = (
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.zeros(1, np.int64),
            np.empty(2 * kernel[0] * kernel[1], np.int64),
        )
        for m in range(rows):
            targets[m] = products.ctypes.data + m * across * width * itemsize

        task = take(counter)
        while task < tasks:
            image, first = task // ranges, task % ranges * lines
            end = min(first + lines, all_lines)
            clear(sums.ctypes.data, (end - first) * pitch * itemsize)
            for o0 in range(output[0]):
                for o1 in range(output[1]):
                    lines_met = 0
                    for t in range(kernel[0] * kernel[1]):
                        q0 = o0 * stride[0] + t // kernel[1] * dilation[0] - before[0]
                        q1 = o1 * stride[1] + t % kernel[1] * dilation[1] - before[1]
                        at = q0 * input[1] + q1
                        inside = 0 <= q0 < input[0] and 0 <= q1 < input[1]
                        if inside and first <= at < end:
                            met[2 * lines_met] = sums.ctypes.data + (at - first) * pitch * itemsize
                            of_line = products.ctypes.data + t * run_length * itemsize
                            met[2 * lines_met + 1] = of_line
                            lines_met += 1
                    if not lines_met:
                        continue
                    line = dy + image * dy_steps[0] + o0 * dy_steps[1] + o1 * dy_steps[2]
                    for o2 in range(0, output[2], rows):
                        here = min(rows, output[2] - o2)
                        for m in range(rows):
                            table[m] = line + (o2 + m) * dy_steps[3] if m < here else zeros
                        for block in range(across):
                            multiply(
                                micro_kernel, table.ctypes.data, order.ctypes.data, 1, 0,
                                table.ctypes.data,
                                packed + block * filters * width * itemsize, filters,
                                targets.ctypes.data, block * width * itemsize, zeros, 0, 0,
                            )  # fmt: skip
                        add_runs(
                            met.ctypes.data, lines_met, o2 * step, step,
                            across * width * itemsize, here, run_length,
                        )  # fmt: skip
            for at in range(first, end):
                source = sums.ctypes.data + ((at - first) * pitch + before[2] * channels) * itemsize
                to = (
                    dx + image * dx_steps[0] + at // input[1] * dx_steps[1]
                    + at % input[1] * dx_steps[2]
                )  # fmt: skip
                if dx_steps[3] == channels * itemsize:
                    copy(to, source, input[2] * channels * itemsize)
                else:
                    for i in range(input[2]):
                        copy(
                            to + i * dx_steps[3], source + i * channels * itemsize,
                            channels * itemsize,
                        )  # fmt: skip
            task = take(counter)

    add_runs = _add_runs(dtype, host)
    return scatter


def _add_runs(dtype: str, host: Host) -> Any:
    """Return ``add(met, lines, shift, step, source_step, runs, count)``: runs of numbers, added.

    ``met`` is the address of two words for each of the ``lines`` that a pixel's products are added
    to: where in the sums, to which ``shift`` is added, and its run in the products. The next
    pixel's lie ``step`` and ``source_step`` bytes further. Pixel by pixel, not line by line: the
    next run of a line covers a part of the last one, and a load that covers parts of two stores
    waits until both are in the cache. Whole vectors are read and written; behind a run stays what
    was there.
    """

    @intrinsic
    def add(typing_context, met, lines, shift, step, source_step, runs, count):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            e = Emitter(builder, dtype, Width(host.lanes(dtype), 1))
            met, lines, shift, step, source_step, runs, count = arguments
            lanes = ir.VectorType(SHORT, e.lanes)
            places = ir.Constant(lanes, list(range(e.lanes)))
            vectors = builder.sdiv(e.add(count, e.lanes - 1), e.integer(e.lanes))

            def run_body(run: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
                to_shift, source_shift = state

                def line_body(line: ir.Value, nothing: list[ir.Value]) -> list[ir.Value]:
                    entry = e.add(met, e.times(line, 16))
                    to_run = e.add(e.word(entry), to_shift)
                    source_run = e.add(e.word(e.add(entry, 8)), source_shift)

                    def vector_body(n: ir.Value, nothing: list[ir.Value]) -> list[ir.Value]:
                        at = e.times(n, e.lanes * e.itemsize)
                        left = builder.trunc(builder.sub(count, e.times(n, e.lanes)), SHORT)
                        used = builder.icmp_signed("<", places, e.splat(left))
                        place = e.add(to_run, at)
                        value = builder.select(used, e.load(e.add(source_run, at)), e.constant(0.0))
                        e.store(builder.fadd(e.load(place), value), place)
                        return nothing

                    e.loop(vectors, [], vector_body)
                    return nothing

                e.loop(lines, [], line_body)
                return [e.add(to_shift, step), e.add(source_shift, source_step)]

            e.loop(runs, [shift, e.integer(0)], run_body)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 7), generate

    return add
