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

The taps of a line follow each other in memory, with their channels: they count as one tap of more
channels, wherever that is so and padding leaves it so, see ``few_channels``. The picture has 3
addresses for a pixel then, and the micro-kernel longer sums.

A task is a block of pixels and some of the filters. Its weights are cut in chunks that stay in the
L2 cache, packed, while all pixels of the block stream by, so that x and y come from memory as
seldom as can be. Meanwhile the micro-kernel fetches the pixels of the tile that follows, and the
lines that it will store to. Where a chunk does not hold all taps and channels, results wait in y.
The sums begin with the bias; the last chunk stores them through a residual and ReLU or ReLU6, and
other functions follow while a tile's results are still near. The last filters have a narrower
micro-kernel, which leaves lanes out that are none::

    for a chunk of filters of the task:
        for a chunk of taps and channels:
            pack its weights                                 into L2
            for 6 pixels of the block:                       x and y from memory
                for 64 filters of the chunk:                 x from L1, weights from L2
                    micro-kernel: 6 x 64 sums += chunk
                after the last chunk: activation of the 6 pixels' results

backward_input is the same kernel: each phase of the stride is a convolution of ``dy`` with some of
the taps in reverse order, and its results lie ``stride`` apart in ``dx``; packing transposes the
weights. Any stride, dilation, pads and groups, one to three dimensions.

1x1 convolutions whose pixels are evenly spaced need no addresses of each, see ``pointwise``.

In small images much of a window lies in the padding: 31 % of 5x5 taps at 7x7. A tile's pixels are
then those of several images at one place, which leave out the same taps.

Where weights do not change, all of them can be packed once by ``pack_weights``, a micro-kernel's
filters after the other, each with all taps and channels: chunks are then read from there, whatever
their size.

Source: Georganas et al. 2018, "Anatomy of High-Performance Deep Learning Convolutions on SIMD
Architectures"; the chunks are those of Goto and van de Geijn 2008, "Anatomy of High-Performance
Matrix Multiplication".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv_kernels.array.activations import Function
from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host import (
    few_channels_forward,
    few_channels_gradient,
    grouped,
    pointwise,
    unreached,
)
from gpuconv_kernels.host.direct_cut import Cut, cut, margin_bytes, reads_in_place
from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.few_channels import margins, patched
from gpuconv_kernels.host.finishing import NOTHING, Finish, finish_of
from gpuconv_kernels.host.kernel import Kernel, argument
from gpuconv_kernels.host.memory import (
    address,
    aligned,
    clear,
    copy,
    number_at,
    put_at,
    zeros,
)
from gpuconv_kernels.host.microkernel import (
    LEFT_OUT,
    multiply,
    pixel_kernel,
    rows_fetched,
    rows_for,
    vectors_across,
)
from gpuconv_kernels.host.packing import packing
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import (
    ITEMSIZE,
    LINE,
    Host,
    host,
    inlined,
)
from gpuconv_kernels.host.windows import locating, pixel_words, place_words
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_EXTENTS = 17
"""Numbers of a call before those that :func:`locating` reads: input, ..., steps of y."""


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_forward` needs beyond its arrays."""
    g = patched(geometry)
    if few_channels_forward.pays(g, dtype):
        return few_channels_forward.workspace_bytes(g, dtype)
    return _workspace_bytes(g, dtype, reads_in_place(g, dtype, host()))


def _workspace_bytes(g: Any, dtype: str, kept: bool) -> int:
    if pointwise.pays(g, dtype):
        return pointwise.workspace_bytes(g, dtype)
    if grouped.pays(g, dtype, host()):
        return grouped.workspace_bytes(g, dtype, kept)
    c, of = _cut_of(g, dtype, kept, True), host()
    each = _offsets(g, c, dtype, of, kept)[-1] + LINE
    working = min(threads(), c.blocks * c.parts * g.groups)
    return int(working * each + g.in_channels * c.joined * ITEMSIZE[dtype])


def backward_input_workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_backward_input` needs beyond its arrays."""
    geometry = patched(geometry)
    if few_channels_gradient.pays(geometry, dtype):
        return few_channels_gradient.workspace_bytes(geometry, dtype)
    phases = [p.geometry for p in geometry.backward_input_phases if p.geometry is not None]
    copied = math.prod(geometry.w_shape) * ITEMSIZE[dtype]  # weights, reversed
    needed = (
        few_channels_forward.workspace_bytes(g, dtype) + copied
        if few_channels_forward.pays(g, dtype)
        else _workspace_bytes(g, dtype, False)
        for g in phases
    )
    return max(needed, default=0)


def _cut_of(g: Any, dtype: str, kept: bool, dense: bool) -> Cut:
    return cut(g, dtype, host(), threads(), not kept, dense)


def pack_weights(w: Array, groups: int) -> Array:
    """Return ``w`` (*k, C/g, F), packed, for ``packed`` of :func:`conv_forward`.

    It serves for any size of images, as long as the weights do not change, and holds as many
    numbers, but for zeros that fill up the last filters of each group.
    """
    dtype, filters = name_of(w.dtype), w.shape[-1] // groups
    lanes = host().lanes(dtype)
    steps, width = w.size // max(w.shape[-1], 1), vectors_across(filters, dtype, host())[0] * lanes
    room = -(-filters // lanes) * lanes
    packed = aligned(groups * room * steps, dtype)
    if filters % lanes:
        packed.fill(0)
    source = w.reshape(steps, groups, filters)  # steps: taps and channels
    of_groups = packed.reshape(groups, steps * room)
    for first in range(0, filters, width):
        here = min(width, room - first)
        target = of_groups[:, first * steps : (first + here) * steps].reshape(groups, steps, here)
        some = source[:, :, first : first + here]
        target[:, :, : some.shape[2]] = some.transpose(1, 0, 2)
    return packed


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    activation: Function | None = None,
    packed: Array | None = None,
    residual: Array | None = None,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, C/g, F) and ``bias`` (F,).

    ``w`` is contiguous, and so are the channels of ``x`` and the filters of ``y``; their other axes
    have any steps. ``packed`` is ``pack_weights(w, groups)``, if the caller has it; ``w`` is then
    not read, and the results have the same bits. ``residual``, an array of the shape and strides of
    ``y``, is added before the ``activation``, which is of a kind of ``activations.FORWARD``.
    """
    g = patched(geometry)
    x, w = x.reshape(g.x_shape), w.reshape(g.w_shape)
    finish = finish_of(name_of(y.dtype), activation)
    if residual is not None:
        finish = finish._replace(bits=finish.bits + address(residual) - address(y))
    if few_channels_forward.pays(g, name_of(y.dtype)):
        few_channels_forward.conv_forward(x, w, bias, y, g, finish, packed, host())
        return
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    _, d, h = three(g.kernel, 1)
    step = channels * g.out_channels
    w_steps = (0, h * d * step, h * step, step, g.out_channels, 1, filters)
    if packed is None and reads_in_place(g, name_of(y.dtype), host()):
        packed = w
    _convolve(x, w, bias, y, g, w_steps, finish, packed)


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C/g, F), as above."""
    g = patched(geometry) if dx.flags.c_contiguous else geometry
    dx, w = dx.reshape(g.x_shape), w.reshape(g.w_shape)
    if few_channels_gradient.pays(g, name_of(dx.dtype)):
        few_channels_gradient.conv_backward_input(dy, w, dx, g)
        return
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    _, d, h = three(g.kernel, 1)
    tap = channels * g.out_channels
    steps = (h * d * tap, h * tap, tap)
    unreached.fill(dx, g)
    for phase in g.backward_input_phases:
        if phase.geometry is None:
            continue
        starts = zip(phase.offset, g.stride, strict=True)
        index = (slice(None), *(slice(r, None, s) for r, s in starts))
        part = dx[index]
        if few_channels_forward.pays(phase.geometry, name_of(dx.dtype)):
            reversed_w = np.ascontiguousarray(w[np.ix_(*phase.taps)].swapaxes(-1, -2))
            few_channels_forward.conv_forward(
                dy, reversed_w, None, part, phase.geometry, NOTHING, None, host()
            )
            continue
        taps = ((0,),) * (3 - g.rank) + tuple(phase.taps)
        first = sum(t[0] * step for t, step in zip(taps, steps, strict=True))
        # Consecutive taps are the same number of positions apart.
        along = [
            (t[1] - t[0]) * step if len(t) > 1 else 0 for t, step in zip(taps, steps, strict=True)
        ]
        w_steps = (first, *along, 1, g.out_channels, filters)
        _convolve(dy, w, None, part, phase.geometry, w_steps, NOTHING)


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Any,
    w_steps: tuple[int, ...],
    finish: Finish,
    packed: Array | None = None,
) -> None:
    if y.size == 0:
        return
    dtype = name_of(y.dtype)
    if pointwise.pays(g, dtype) and all(map(pointwise.evenly_spaced, (x, y))):
        steps = (w_steps[0], w_steps[4], w_steps[5])
        pointwise.convolve(x, w, bias, y, g, steps, finish, packed, host())
        return
    if grouped.pays(g, dtype, host()):
        grouped.convolve(x, w, bias, y, g, w_steps, finish, packed)
        return
    dense = x.strides[-2] == g.in_channels * x.itemsize
    c, of = _cut_of(g, dtype, packed is not None, dense), host()
    nothing = zeros(g.in_channels * c.joined * y.itemsize)
    micro_kernels, sizes, joined, pieces, offsets = _numbers_of(g, c, dtype, of, packed is not None)
    run(
        _kernel(dtype, of),
        c.blocks * g.groups * c.parts,
        *micro_kernels,
        locating(),
        packing(dtype, of),
        address(x),
        address(w),
        0 if packed is None else address(packed),
        0 if bias is None else address(bias),
        address(y),
        address(nothing),
        *finish,
        *sizes,
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        joined,
        w_steps,
        pieces,
        offsets,
    )


@functools.lru_cache(maxsize=1024)
def _numbers_of(g: Any, c: Cut, dtype: str, of: Host, kept: bool) -> tuple[Any, ...]:
    """What the kernel is given for a geometry, whatever the arrays.

    Micro-kernels; sizes ... kernel; how many taps of a line count as one, their margins, and how
    many images' pixels follow each other; cut; offsets.
    """
    e, joined = extents_of(g), (1, 0, 0, 0, c.images)
    if c.joined > 1:
        beginnings = (*e.input[:2], e.input[2] - c.joined + 1)
        e, joined = (
            e._replace(input=beginnings, kernel=(*e.kernel[:2], 1)),
            (c.joined, *margins(g), 1),
        )
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    sizes = ((g.batch, channels * c.joined, filters, g.groups), *e)
    rows, lanes = rows_for(c.vectors, of), of.lanes(dtype)
    left_out = -filters % lanes * LEFT_OUT
    pieces = (
        *(c.pixels, c.located, c.part, c.parts, c.filters, c.taps, c.channels),
        *(rows, c.vectors * lanes, c.last * lanes, left_out),
    )
    kernels = tuple(pixel_kernel(dtype, of, rows, v) for v in (c.vectors, c.last))
    return kernels, sizes, joined, pieces, _offsets(g, c, dtype, of, kept)


def _offsets(g: Any, c: Cut, dtype: str, of: Host, kept: bool) -> tuple[int, ...]:
    """Where in a thread's memory its parts begin; at last the size of all.

    The addresses of channels (tile, tap, row), and of results, with margins behind them; taps that
    meet the input (tile, and one by one), and how many of them come before a tap; what ``locating``
    needs, if weights are packed before it; what the sums begin with; where taps begin in the
    weights; packed weights, or what ``locating`` needs before.
    """
    itemsize, taps = ITEMSIZE[dtype], math.prod(g.kernel) // c.joined
    rows = rows_for(c.vectors, of)
    tiles = -(-c.located // rows)
    of_margins = 0
    if c.joined > 1:
        of_margins = margin_bytes(g, dtype, c.located)
    packed = 0 if kept else c.taps * c.channels * c.filters * itemsize
    locating_bytes = 8 * pixel_words(c.located, taps)
    apart = packed and c.located < c.pixels
    return offsets_of(
        [
            8 * tiles * taps * rows,
            8 * place_words(tiles * rows) + of_margins,
            8 * tiles * taps,
            8 * tiles * (taps + 1),
            locating_bytes if apart else 0,
            c.part * itemsize,
            8 * taps * c.joined,
            packed if apart else max(packed, locating_bytes),
        ]
    )


@functools.cache
def _kernel(dtype: str, host: Host) -> Any:
    return Kernel(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize = ITEMSIZE[dtype]

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, last_kernel, locate, pack, x, w, kept, bias, y, zeros, finish,
        function, alpha, sizes, input, output, stride, dilation, before, kernel, x_steps, y_steps,
        joined, w_steps, cut, offsets,
    ):  # fmt: skip
        # locate, pack: addresses of parts; kept: all weights, packed, or 0; finish, function,
        # alpha: a Finish; sizes: (images, channels of a group, filters of a group, groups); steps
        # in bytes for x and y: (image, depth, height, width); joined: (taps of a line that count as
        # one, with channels one behind the other; their margins; images whose pixels at one place
        # follow each other); steps in numbers for w: (first,
        # depth, height, width, channel, filter, group); cut: (pixels of a block, pixels that are
        # located at a time, filters of a part, parts, filters of a chunk, its taps, its channels,
        # rows of the micro-kernel, its columns, those of the last of a group, how many of these are
        # left out); offsets: as of _offsets
        images, channels, filters, groups = sizes
        block, at_a_time, part, parts, chunk_filters, chunk_taps, chunk_channels = cut[:7]
        rows, width, last_width, left_out = cut[7:]
        together = joined[0]
        last_filter = (filters - 1) // width * width  # of the last micro-kernel
        taps = kernel[0] * kernel[1] * kernel[2]
        pixels = images * output[0] * output[1] * output[2]
        tiles_located = at_a_time // rows
        table_end = 8 * (tiles_located - 1) * taps * rows  # its last tile
        memory = np.empty(offsets[8] + LINE, np.uint8)
        located, is_first = -1, True
        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            at = -(-memory.ctypes.data // LINE) * LINE
            table, places, order, upto = at, at + offsets[1], at + offsets[2], at + offsets[3]
            pixel, start = at + offsets[4], at + offsets[5]
            from_tap, packed = at + offsets[6], at + offsets[7]
            if offsets[5] == offsets[4]:  # packed when all pixels of the block are located
                pixel = packed
            # Tasks of one block follow each other: its x stays in the cache.
            of_filters, of_group = task % parts, task // parts % groups
            at_block = task // (parts * groups)
            first = at_block * block
            here = min(block, pixels - first)
            if at_a_time == block and at_block != located:
                located = at_block
                call(
                    locate, counter + extents, x, y, zeros, first, here, rows,
                    table, order, upto, pixel, places,
                )  # fmt: skip
                _repeat_last(table, places, here, rows, taps)
            if is_first:
                is_first = False
                t = 0
                for t0 in range(kernel[0]):
                    for t1 in range(kernel[1]):
                        for t2 in range(kernel[2] * together):
                            far = t0 * w_steps[1] + t1 * w_steps[2] + t2 * w_steps[3]
                            put(from_tap, t, w_steps[0] + far)
                            t += 1
            tiles_here = -(-here // rows)
            first_filter = of_filters * part
            end_filter = min(first_filter + part, filters)
            clear(start, part * itemsize)
            if bias:
                from_bias = bias + (of_group * filters + first_filter) * itemsize
                copy(start, from_bias, (end_filter - first_filter) * itemsize)
            for f in range(first_filter, end_filter, chunk_filters):
                f_end = min(f + chunk_filters, end_filter)
                for tap in range(0, taps, chunk_taps):
                    taps_here = min(chunk_taps, taps - tap)
                    for c in range(0, channels, chunk_channels):
                        count = min(chunk_channels, channels - c)
                        steps = taps_here * count
                        if kept:  # a chunk of some channels has one tap
                            across = taps * channels * itemsize
                            skipped = tap * (channels - count) + c
                            of_group_here = of_group * (last_filter + last_width) + f
                            of_chunk = kept + of_group_here * across
                            last_chunk = of_chunk + (last_filter - f) * across
                            of_chunk += skipped * width * itemsize
                            last_chunk += skipped * last_width * itemsize
                            across *= width
                        else:
                            across = steps * width * itemsize
                            skipped = tap * count
                            of_chunk = packed - skipped * width * itemsize
                            last_chunk = packed + (last_filter - f) // width * across
                            offset = c * w_steps[4] + f * w_steps[5] + of_group * w_steps[6]
                            call(
                                pack, packed, w, from_tap + 8 * tap * together,
                                taps_here * together, count // together,
                                min(f_end, last_filter) - f, width, offset,
                                w_steps[4], w_steps[5], 0, 0,
                            )  # fmt: skip
                            if last_filter < f_end:
                                call(
                                    pack, last_chunk, w, from_tap + 8 * tap * together,
                                    taps_here * together, count // together,
                                    filters - last_filter, last_width,
                                    offset + (last_filter - f) * w_steps[5],
                                    w_steps[4], w_steps[5], 0, 0,
                                )  # fmt: skip
                            last_chunk -= skipped * last_width * itemsize
                        ends = tap + taps_here == taps and c + count == channels
                        for tile in range(tiles_here):
                            i, number = tile % tiles_located, min(at_a_time, here - tile * rows)
                            if at_a_time < block and i == 0:
                                call(
                                    locate, counter + extents, x, y, zeros, first + tile * rows,
                                    number, rows, table, order, upto, pixel, places,
                                )  # fmt: skip
                                _repeat_last(table, places, number, rows, taps)
                            of_tile = 8 * i * taps * rows
                            of_next = min(of_tile + 8 * taps * rows, table_end)
                            before_tap = word(upto, i * (taps + 1) + tap)
                            after_taps = word(upto, i * (taps + 1) + tap + taps_here)
                            if before_tap == after_taps and tap + c and not ends:
                                continue  # nothing to add
                            fetched, weights = 0, of_chunk
                            for f_at in range(f, f_end, width):
                                is_last = f_at == last_filter
                                multiply(
                                    last_kernel if is_last else micro_kernel,
                                    table + of_tile,
                                    order + 8 * (i * taps + before_tap),
                                    after_taps - before_tap,
                                    (of_group * channels + c) * itemsize,
                                    table + of_next + 8 * (fetched if fetched < rows else 0),
                                    last_chunk if is_last else weights,
                                    count,
                                    places + 8 * i * rows,
                                    (of_group * filters + f_at) * itemsize,
                                    start + (f_at - first_filter) * itemsize,
                                    (1 if tap + c else 0) + (left_out if is_last else 0),
                                    finish if ends else 0,
                                )
                                fetched += at_once
                                weights += across
                            if ends and function:
                                call(
                                    function, places + 8 * i * rows, min(rows, number),
                                    (of_group * filters + f) * itemsize, f_end - f, 0, alpha,
                                    0, 0, 0, 0, 0, 0,
                                )  # fmt: skip
            task = take(counter)

    at_once = rows_fetched(dtype)
    extents, word, put = argument(_EXTENTS), _word, _put
    return convolve


_word, _put = number_at("int64"), put_at("int64")


@inlined
def _repeat_last(table, places, number, rows, taps):  # type: ignore[no-untyped-def]
    """Fill up the last tile of ``number`` located pixels: with its last pixel, again."""
    tiles = -(-number // rows)
    for i in range(number, tiles * rows):
        _put(places, i, _word(places, number - 1))
        for t in range(taps):
            to = i + (tiles - 1) * (taps - 1) * rows + t * rows
            _put(table, to, _word(table, to - 1))
