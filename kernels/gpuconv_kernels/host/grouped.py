"""Convolution in groups of one or two vectors of filters, a line of the output after the other.

With 16 channels a group, a pixel of a group is one line of the cache, and the next pixel's lies 1
to 4 KB further: the lines of a window all want to be in the same few places of the L1 cache. And
16 steps for each of 9 taps are hardly worth beginning. So the lines of x that a band of the output
needs are copied, each group by itself, with zeros at both ends. Along a line of a copy the channels
of neighbouring taps follow each other, and windows are a constant distance apart::

    x, channels of 3 groups       copies, 16 channels a pixel     weights       a line of y
    aaa bbb ccc aaa bbb ccc ...   0 aaa aaa aaa aaa ... 0   -->   3 x (48 x 16) -> 14 x 16 sums
    aaa bbb ccc aaa bbb ccc ...   0 bbb bbb bbb bbb ... 0
                                  0 ccc ccc ccc ccc ... 0
                                  |- 3 taps -|

A task is some neighbouring groups, whose pixels are read in one piece, and a range of bands::

    pack the weights of the groups, if they are not yet      from memory into L2
    for each band of the range:
        copy the lines of x that it needs, zeros around      from memory into L2
        for each group, again and again:                     its lines and weights into L1
            for some lines of the band:
                micro-kernel: 14 pixels x 16 sums            x and weights from L1, y to memory

backward_input is the same kernel, phase by phase, as in ``direct.py``. Each number is summed in a
fixed order. Limits: as :func:`pays` says.
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
from gpuconv_kernels.host.few_channels_forward import line_kernel
from gpuconv_kernels.host.finishing import Finish
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.line_packing import line_packing
from gpuconv_kernels.host.memory import address, clear, put_at
from gpuconv_kernels.host.microkernel import channel_rows_for, most_vectors
from gpuconv_kernels.host.packing import packing
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host, inlined
from gpuconv_kernels.host.vectors import Width, even
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_MOST_VECTORS = 2
"""Of filters of a group; with more, packing costs as much as it saves."""
_LEAST_PRODUCTS = 2**20
"""Multiply-adds of an image from which on compiling a micro-kernel for one geometry is worth it."""
_PIECE, _LEAST_PIECE = 1024, 128
"""Bytes of a pixel that a task reads in one piece, about: pieces that lie in pages of their own
cost more than their lines;"""
_SHARE = 5
"""as long as that needs no more memory than this part of the arrays."""
_BAND_BYTES = 16 * 1024
"""Of a group's copied lines: half of the L1 cache."""
_LINES = 2
"""That are computed of a group before the next one's: more results of a pixel lie together, and the
group's weights come from L2 every second line only."""
_TASKS_A_THREAD = 8
_UNROLLED = 8
"""Steps that are written out: the loop stays in the cache of decoded instructions, also where two
threads share one."""
_LEAST_SUMS = 6
"""Of a tile; with fewer, each waits for its last product."""


@functools.lru_cache(maxsize=1024)
def pays(geometry: Any, dtype: str, of: Host) -> bool:
    """Whether :func:`convolve` can be used, and helps."""
    g = geometry
    filters = g.out_channels // g.groups
    vectors, rest = divmod(filters, of.lanes(dtype))
    fits = g.groups > 1 and rest == 0 and 0 < vectors <= min(_MOST_VECTORS, most_vectors(of))
    fits = fits and _rows(g, vectors, of) * vectors >= _LEAST_SUMS
    follow = g.dilation[-1] == 1 and g.stride[-1] <= g.kernel[-1] and min(g.input) > 0
    products = math.prod(g.output) * math.prod(g.w_shape)
    return bool(fits and follow and products >= _LEAST_PRODUCTS)


def _rows(g: Any, vectors: int, of: Host) -> int:
    """Pixels of a tile: as equal parts of a line as the registers hold."""
    return even(g.output[-1], channel_rows_for(vectors, of))[0]


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors, rows: of the micro-kernel.
        together, sets: groups of a task, and how many such sets.
        lines, bands: of a band, and how many of a plane of the output.
        ranges: of bands of all planes.
        offsets: where in a thread's memory its parts begin: copied lines, packed weights, what the
            sums begin with, where taps begin in the weights, lines of x and weights (two words
            each), where the results of a line go; at last the size of all.
    """

    vectors: int
    rows: int
    together: int
    sets: int
    lines: int
    bands: int
    ranges: int
    offsets: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int, kept: bool) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads; ``kept``: weights are packed already."""
    itemsize = ITEMSIZE[dtype]
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    vectors = filters // of.lanes(dtype)
    extents = extents_of(g)
    (depth, height, width), (k0, k1, k2) = extents.output, extents.kernel
    stride, dilation = extents.stride, extents.dilation
    line = ((width - 1) * stride[2] + k2) * channels * itemsize
    fitting = _BAND_BYTES // (k0 * line) - (k1 - 1) * dilation[1]
    lines, bands = even(height, max(4, fitting // stride[1]))
    reached = (lines - 1) * stride[1] + (k1 - 1) * dilation[1] + 1
    copied, taps = k0 * reached * line, k0 * k1 * k2
    packed = 0 if kept else taps * channels * filters * itemsize
    arrays = numbers_of(g) * itemsize
    piece = min(_PIECE, arrays // (_SHARE * count * (copied + packed)) * channels * itemsize)
    most = max(1, max(piece, _LEAST_PIECE) // (channels * itemsize))
    together = max(n for n in range(1, min(most, g.groups) + 1) if g.groups % n == 0)
    sets = g.groups // together
    ranges = min(-(-_TASKS_A_THREAD * count // sets), g.batch * depth * bands)
    offsets = offsets_of(
        [
            together * copied,
            together * packed,
            filters * itemsize,
            8 * taps,
            16 * k0 * k1,
            8 * width,
        ]
    )
    rows, ranges = _rows(g, vectors, of), max(1, ranges)
    return Cut(vectors, rows, together, sets, lines, bands, ranges, offsets)


def workspace_bytes(geometry: Any, dtype: str, kept: bool) -> int:
    """Bytes that :func:`convolve` needs beyond its arrays; ``kept``: weights come packed."""
    c = cut(geometry, dtype, host(), threads(), kept)
    return int(min(threads(), c.ranges * c.sets) * (c.offsets[-1] + LINE))


def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    w_steps: tuple[int, ...],
    finish: Finish,
    packed: Array | None,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` and ``bias`` (F,).

    As :func:`direct.conv_forward`, where ``packed`` comes from; ``w_steps`` are numbers between
    weights: where they begin, then from one to the next of (depth, height, width, channel, filter,
    group).
    """
    g, dtype, of = geometry, name_of(y.dtype), host()
    c = cut(g, dtype, of, threads(), packed is not None)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    pitch, steps = g.stride[-1] * channels * y.itemsize, g.kernel[-1] * channels
    width = Width(of.lanes(dtype), c.vectors)
    run(
        _kernel(dtype),
        c.sets * c.ranges,
        line_kernel(dtype, of, width, c.rows, pitch, steps, _UNROLLED),
        line_packing(dtype, of),
        packing(dtype, of),
        address(x),
        address(w),
        0 if packed is None else address(packed),
        0 if bias is None else address(bias),
        address(y),
        *finish,
        (g.batch, channels, filters, g.groups),
        (c.together, c.lines, c.bands, c.ranges, _LINES),
        *extents_of(g),
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        w_steps,
        c.offsets,
    )


@functools.cache
def _kernel(dtype: str) -> Any:
    return Kernel(define(dtype), dtype)


def define(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, put, met_lines = ITEMSIZE[dtype], _put, _met_lines

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, pack_line, pack, x, w, kept, bias, y, finish, function, alpha,
        sizes, cut, input, output, stride, dilation, before, kernel, x_steps, y_steps, w_steps,
        offsets,
    ):  # fmt: skip
        # pack_line, pack: addresses of parts; kept: all weights, packed, or 0; finish, function,
        # alpha: a Finish; sizes: (images, channels of a group, its filters, groups); cut: (groups
        # of a task, lines of a band, bands, ranges, lines before the next group); steps in bytes
        # for x and y: (image, depth, height, width); in numbers for w; offsets: as of Cut
        images, channels, filters, groups = sizes
        together, lines, bands, ranges, several = cut
        taps = kernel[0] * kernel[1] * kernel[2]
        of_pixel, of_filters = channels * itemsize, filters * itemsize
        of_line = ((output[2] - 1) * stride[2] + kernel[2]) * of_pixel
        reached = (lines - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
        of_group = kernel[0] * reached * of_line
        of_taps = kernel[2] * channels * of_filters  # weights of a line of taps
        of_weights = kernel[0] * kernel[1] * of_taps
        units = images * output[0] * bands
        # Columns of x that a line needs and that there are; zeros stay around them.
        first_column = max(-before[2], 0)
        zeros = min(max(before[2], 0) * of_pixel, of_line)
        columns = min(of_line // of_pixel - before[2], input[2]) - first_column
        memory = np.empty(offsets[6] + LINE, np.uint8)
        at = -(-memory.ctypes.data // LINE) * LINE
        clear(at, offsets[1])
        clear(at + offsets[2], of_filters)
        t = 0
        for t0 in range(kernel[0]):
            for t1 in range(kernel[1]):
                for t2 in range(kernel[2]):
                    far = t0 * w_steps[1] + t1 * w_steps[2] + t2 * w_steps[3]
                    put(at + offsets[3], t, w_steps[0] + far)
                    t += 1
        packed_set = -1
        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            copied = -(-memory.ctypes.data // LINE) * LINE
            packed, nothing = copied + offsets[1], copied + offsets[2]
            from_tap, table, places = copied + offsets[3], copied + offsets[4], copied + offsets[5]
            of_set, of_range = task // ranges, task % ranges
            first_group = of_set * together
            weights = kept + first_group * of_weights if kept else packed
            if kept == 0 and of_set != packed_set:
                packed_set = of_set
                for n in range(together):
                    call(
                        pack, packed + n * of_weights, w, from_tap, taps, channels, filters,
                        filters, (first_group + n) * w_steps[6], w_steps[4], w_steps[5], 0, 0,
                    )  # fmt: skip
            for unit in range(units * of_range // ranges, units * (of_range + 1) // ranges):
                first, rest = unit % bands * lines, unit // bands
                p0, image = rest % output[0], rest // output[0]
                end = min(first + lines, output[1])
                top = first * stride[1] - before[1]
                below = top + (end - 1 - first) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
                for t0 in range(kernel[0]):
                    q0 = p0 * stride[0] - before[0] + t0 * dilation[0]
                    if q0 >= 0 and q0 < input[0]:
                        for q1 in range(max(top, 0), min(below, input[1])):
                            call(
                                pack_line,
                                copied + (t0 * reached + q1 - top) * of_line + zeros,
                                x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2]
                                + first_column * x_steps[3],
                                x_steps[3], columns, first_group, first_group + together, channels,
                                groups * channels, of_group, of_pixel, 0, 0,
                            )  # fmt: skip
                plane = y + image * y_steps[0] + p0 * y_steps[1]
                for begin in range(first, end, several):
                    for n in range(together):
                        filter = (first_group + n) * of_filters
                        start = bias + filter if bias else nothing
                        of_x, of_w = copied + n * of_group, weights + n * of_weights
                        for p1 in range(begin, min(begin + several, end)):
                            met = met_lines(
                                table, p0, p1, first, reached, of_x, of_line, of_w, of_taps,
                                input, stride, dilation, before, kernel,
                            )  # fmt: skip
                            line = plane + p1 * y_steps[2] + filter
                            call(
                                micro_kernel, table, met, 0, output[2], line, y_steps[3], start,
                                finish, 0, 0, 0, 0,
                            )  # fmt: skip
                            if function:
                                for i in range(output[2]):
                                    put(places, i, line + i * y_steps[3])
                                call(
                                    function, places, output[2], 0, filters, 0, alpha,
                                    0, 0, 0, 0, 0, 0,
                                )  # fmt: skip
            task = take(counter)

    return convolve


_put = put_at("int64")


@inlined
def _met_lines(  # type: ignore[no-untyped-def]
    table, p0, p1, first, reached, of_x, of_line, of_w, of_taps,
    input, stride, dilation, before, kernel,
):  # fmt: skip
    """Write where the lines of taps begin that a line of the output meets; return how many.

    In the copies from ``of_x`` on, whose first lines are those that line ``first`` needs, and in
    the weights from ``of_w`` on.
    """
    met = 0
    for t0 in range(kernel[0]):
        for t1 in range(kernel[1]):
            q0 = p0 * stride[0] - before[0] + t0 * dilation[0]
            q1 = p1 * stride[1] - before[1] + t1 * dilation[1]
            if q0 >= 0 and q0 < input[0] and q1 >= 0 and q1 < input[1]:
                nth = t0 * reached + (p1 - first) * stride[1] + t1 * dilation[1]
                _put(table, 2 * met, of_x + nth * of_line)
                _put(table, 2 * met + 1, of_w + (t0 * kernel[1] + t1) * of_taps)
                met += 1
    return met
