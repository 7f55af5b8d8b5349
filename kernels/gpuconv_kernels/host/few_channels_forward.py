"""Convolution of few input channels, a line of the output after the other.

With 3 channels a pixel is 27 or 147 multiply-adds a filter: to look up where each of its taps lies
takes about as long. Here nothing is looked up. The taps of a line of the kernel count as channels
(see ``few_channels``), and along a line of the output the windows of all pixels begin the same
distance apart, which the micro-kernel has as a constant::

    lines of x, padded, in L2            weights            a line of y
    r g b r g b r g b r g b ...  --+     7 x (21 x 64)      | tile 0 | tile 1 | ... | last |
    r g b r g b r g b r g b ...    |--  x              -->                      the last one is
    r g b r g b r g b r g b ...  --+                                            moved back
    |---- pixel 0 ----|
          |---- pixel 1 ----|

A task is a band of lines of one image, or a stretch of such lines. It copies what it needs of x,
with zeros at both ends, unless there is no padding; a line of taps outside of the image is left
out. Each number is summed in a fixed order. The last filters have a micro-kernel of their own,
which is no wider than it has to be and leaves out the lanes that are no filters.

Limits: as :func:`pays` says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.extents import extents_of, numbers_of
from gpuconv_kernels.host.few_channels import can_join, copy_lines
from gpuconv_kernels.host.finishing import Finish
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, copy, put_at
from gpuconv_kernels.host.microkernel import rows_for, vectors_across
from gpuconv_kernels.host.microkernel_code import EvenKernel, Sums
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call, part
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host
from gpuconv_kernels.host.vectors import Width, even
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_UNROLLED, _MOST_UNROLLED = 8, 16
"""Numbers of a line of taps that are written out: all of them, or so many at a time."""
_TASKS_A_THREAD = 8
_MOST_LINES = 16
"""Of a band."""
_COPIED_BYTES = 256 * 1024
"""What a task copies of x, about: it stays in the L2 cache,"""
_COPIED_SHARE = 32
"""and no more than this part of the arrays, unless for one line."""
_LEAST_PRODUCTS = 2**16
"""Multiply-adds of an image from which on compiling a micro-kernel for one geometry is worth it."""
_FEW_CHANNELS, _MOST_CHANNELS = 6, 32
"""With more, looking up where taps lie costs nothing beside the products. Where there are more than
few, there have to be taps to join,"""
_MORE_PRODUCTS, _MEMORY_SHARE = 2**20, 5
"""more to do, and two threads must not need more memory than this part of the arrays."""


@functools.lru_cache(maxsize=1024)
def pays(geometry: Any, dtype: str) -> bool:
    """Whether :func:`conv_forward` can be used, and helps."""
    g = geometry
    products = math.prod(g.output) * math.prod(g.w_shape)
    if g.in_channels > _MOST_CHANNELS or products < _LEAST_PRODUCTS or not can_join(g):
        return False
    if g.in_channels <= _FEW_CHANNELS:
        return True
    if g.kernel[-1] == 1 or products < _MORE_PRODUCTS:
        return False
    needed = 2 * cut(g, dtype, host(), 2).offsets[-1]
    return bool(needed <= numbers_of(g) * ITEMSIZE[dtype] // _MEMORY_SHARE)


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        width: of the micro-kernel; ``last``: of that of the last filters; ``left_out``: lanes of
            its last vector that are none; ``rows``: pixels of both.
        blocks: of filters.
        lines, bands: of a band, and how many of them.
        pixels, stretches: of a line that a task computes; the last one is moved back.
        offsets: where in a thread's memory its parts begin: packed weights, what the sums begin
            with, lines of x and weights (two words each, once more for the last filters), copied
            lines; at last the size of all.
    """

    width: Width
    last: Width
    left_out: int
    rows: int
    blocks: int
    lines: int
    bands: int
    pixels: int
    stretches: int
    offsets: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def cut(g: Any, dtype: str, of: Host, count: int, whole: bool = False) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads; ``whole``: tasks have whole lines."""
    itemsize = ITEMSIZE[dtype]
    width, last = _widths(g.out_channels, dtype, of)
    blocks = -(-g.out_channels // width.channels)
    room = (blocks - 1) * width.channels + last.channels
    rows, tiles = even(g.output[-1], rows_for(width.vectors, of))
    extents = extents_of(g)
    (depth, height, _), (k0, k1, k2) = extents.output, extents.kernel
    stride, dilation = extents.stride, extents.dilation
    wanted = _TASKS_A_THREAD * count
    planes = g.batch * depth
    arrays = numbers_of(g) * itemsize
    of_line = k0 * ((extents.output[2] - 1) * stride[2] + k2) * g.in_channels * itemsize
    reached = arrays // _COPIED_SHARE // of_line - (k1 - 1) * dilation[1]
    fitting = max(1, (reached - 1) // stride[1] + 1)
    lines, bands = even(height, min(_MOST_LINES, fitting, max(planes * height // wanted, 1)))
    reached = (lines - 1) * stride[1] + (k1 - 1) * dilation[1] + 1
    of_tile = k0 * reached * rows * stride[2] * g.in_channels * itemsize
    most = min(planes * bands * tiles // wanted, _COPIED_BYTES // max(of_tile, 1))
    of_stretch, stretches = even(tiles, tiles if whole else max(most, min(4, tiles)))
    pixels = min(of_stretch * rows, g.output[-1])
    across = (pixels - 1) * stride[2] + k2
    offsets = offsets_of(
        [
            math.prod(g.kernel) * g.in_channels * room * itemsize,
            room * itemsize,
            2 * 16 * k0 * k1,
            k0 * reached * across * g.in_channels * itemsize,
        ]
    )
    left_out = room - g.out_channels
    return Cut(
        width, last, left_out, rows, blocks, lines, bands, pixels, stretches, tuple(offsets)
    )  # fmt: skip


def _widths(filters: int, dtype: str, of: Host) -> tuple[Width, Width]:
    """Of the micro-kernel, and of that of the last filters; of narrower vectors if one is wide."""
    lanes = of.lanes(dtype)
    while lanes // 2 >= filters:
        lanes //= 2
    vectors, last = vectors_across(filters, dtype, of)
    return Width(lanes, vectors), Width(lanes, last)


def _tasks(g: Any, c: Cut) -> int:
    return int(g.batch * extents_of(g).output[0] * c.bands * c.stretches)


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`conv_forward` needs beyond its arrays.

    With an activation that is a function of ``finishing``, copied lines are whole ones: some more.
    """
    if not math.prod(geometry.y_shape):
        return 0
    c = cut(geometry, dtype, host(), threads())
    return int(min(threads(), _tasks(geometry, c)) * (c.offsets[-1] + LINE))


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    finish: Finish,
    packed: Array | None,
    of: Host,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, C, F) and ``bias`` (F,).

    As :func:`direct.conv_forward`, where ``packed`` comes from. To the bits of
    ``finish`` the distance of a residual is added, see :func:`microkernel.pixel_kernel`.
    """
    if y.size == 0:
        return
    g, dtype = geometry, name_of(y.dtype)
    # Tasks that share pixels may both store them, but not both apply a function to them.
    c = cut(g, dtype, of, threads(), finish.function != 0)
    of_pixel = g.in_channels * y.itemsize
    in_place = g.pads[-1] == (0, 0) and x.strides[-2] == of_pixel
    kept = last = g.out_channels  # filters that follow each other; the last ones
    if packed is not None:
        w = packed
        kept, last = (v * of.lanes(dtype) for v in vectors_across(g.out_channels, dtype, of))
    taps = (g.stride[-1] * of_pixel, g.kernel[-1] * g.in_channels)
    last_kernel = line_kernel(dtype, of, c.last, c.rows, *taps, left_out=c.left_out)
    micro_kernel = last_kernel
    if c.blocks > 1:
        micro_kernel = line_kernel(dtype, of, c.width, c.rows, *taps)
    run(
        _kernel(dtype),
        _tasks(g, c),
        micro_kernel,
        last_kernel,
        address(x),
        address(w),
        0 if bias is None else address(bias),
        address(y),
        *finish,
        (g.in_channels, g.out_channels, kept, last, int(in_place)),
        (c.width.channels, c.last.channels, c.blocks, c.lines, c.bands, c.pixels, c.stretches),
        *extents_of(g),
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        c.offsets,
    )


@functools.cache
def _kernel(dtype: str) -> Any:
    return Kernel(define(dtype), dtype)


def define(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, put = ITEMSIZE[dtype], put_at("int64")

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, last_kernel, x, w, bias, y, finish, function, alpha,
        sizes, cut, input, output, stride, dilation, before, kernel, x_steps, y_steps, offsets,
    ):  # fmt: skip
        # finish, function, alpha: a Finish; sizes: (channels, filters, how many of them follow each
        # other in w, and of the last ones, whether x is read in place); cut: (filters of a block,
        # of the last one with the lanes that are none, blocks, lines of a band, bands, pixels of a
        # stretch, stretches); steps in bytes: (image, depth, height, width); offsets: as of Cut
        channels, filters, kept, last, in_place = sizes
        width, last_width, blocks, lines, bands, pixels, stretches = cut
        steps = kernel[0] * kernel[1] * kernel[2] * channels
        of_pixel = channels * itemsize
        of_taps = kernel[2] * channels * itemsize  # a filter's weights of a line of taps
        of_block = steps * width * itemsize
        last_block = (blocks - 1) * of_block
        table_bytes = 16 * kernel[0] * kernel[1]
        reached = (lines - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
        across = (pixels - 1) * stride[2] + kernel[2]
        memory = np.empty(offsets[4] + LINE, np.uint8)
        to = -(-memory.ctypes.data // LINE) * LINE
        clear(to + offsets[1], ((blocks - 1) * width + last_width) * itemsize)
        if bias:
            copy(to + offsets[1], bias, filters * itemsize)
        # In w all steps of ``kept`` filters come before the next ones; a block may lie in several.
        for block in range(blocks):
            room = width if block < blocks - 1 else last_width
            for step in range(steps):
                f = block * width
                end = min(f + room, filters)
                none = (f + room - end) * itemsize
                while f < end:
                    skipped = f // kept * kept
                    beside = last if skipped + kept >= filters else kept
                    count = min(end - f, skipped + beside - f)
                    at = skipped * steps + step * beside + f - skipped
                    copy(to, w + at * itemsize, count * itemsize)
                    to += count * itemsize
                    f += count
                clear(to, none)
                to += none
        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            packed = -(-memory.ctypes.data // LINE) * LINE
            start, table, copied = packed + offsets[1], packed + offsets[2], packed + offsets[3]
            last_table = table + table_bytes
            p2, rest = min(task % stretches * pixels, output[2] - pixels), task // stretches
            first, rest = rest % bands * lines, rest // bands
            p0, image = rest % output[0], rest // output[0]
            top, left = first * stride[1] - before[1], p2 * stride[2] - before[2]
            if not in_place:
                copy_lines(
                    copied, x + image * x_steps[0], p0, top, reached, left, across, of_pixel,
                    input, stride, dilation, before, kernel, x_steps,
                )  # fmt: skip
            for p1 in range(first, min(first + lines, output[1])):
                met = 0
                for t0 in range(kernel[0]):
                    for t1 in range(kernel[1]):
                        q0 = p0 * stride[0] - before[0] + t0 * dilation[0]
                        q1 = p1 * stride[1] - before[1] + t1 * dilation[1]
                        if q0 < 0 or q0 >= input[0] or q1 < 0 or q1 >= input[1]:
                            continue
                        at = copied + (t0 * reached + q1 - top) * across * of_pixel
                        if in_place:
                            at = x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2]
                            at += left * of_pixel
                        t = t0 * kernel[1] + t1
                        put(table, 2 * met, at)
                        put(table, 2 * met + 1, packed + t * of_taps * width)
                        put(last_table, 2 * met, at)
                        put(last_table, 2 * met + 1, packed + last_block + t * of_taps * last_width)
                        met += 1
                line = y + image * y_steps[0] + p0 * y_steps[1] + p1 * y_steps[2]
                line += p2 * y_steps[3]
                for block in range(blocks):
                    is_last, f = block == blocks - 1, block * width * itemsize
                    call(
                        last_kernel if is_last else micro_kernel,
                        last_table if is_last else table, met, 0 if is_last else block * of_block,
                        pixels, line + f, y_steps[3], start + f, finish, 0, 0, 0, 0,
                    )  # fmt: skip
                if function:
                    together = pixels if y_steps[3] == filters * itemsize else 1
                    for i in range(0, pixels, together):
                        put(table, 0, line + i * y_steps[3])
                        call(
                            function, table, 1, 0, together * filters, 0, alpha, 0, 0, 0, 0, 0, 0,
                        )  # fmt: skip
            task = take(counter)

    return convolve


@functools.cache
def line_kernel(
    dtype: str, of: Host, width: Width, rows: int, pitch: int, steps: int, unrolled: int = 0,
    left_out: int = 0,
) -> int:  # fmt: skip
    """Return the address of the micro-kernel for a line of pixels, for :func:`parts.call`.

    ``call(address, table, lines, shift, pixels, y, y_step, bias, finish, 0, 0, 0, 0)``

    With integers only; addresses and distances are in bytes:

    - ``table``: address of ``lines`` pairs of addresses: the first number of the first pixel under
      a line of taps, and the weights of that line, (``steps``, ``width.channels``); ``shift`` is
      added to those of the weights.
    - ``pixels``: how many, at least ``rows``; ``pitch`` bytes lead from one to the next in x,
      ``y_step`` in y, where the results of the first go to ``y``.
    - ``bias``: address of what the sums begin with.
    - ``finish``: as of :func:`microkernel.pixel_kernel`.

    ``unrolled`` steps are written out; 0: those of a line, or some of them where they are many.
    ``left_out`` lanes of the last vector are no results; of weights and bias they are read, too.
    """
    unrolled = unrolled or (steps if steps <= _MOST_UNROLLED else _UNROLLED)
    narrow = Host(width.lanes * ITEMSIZE[dtype], of.registers)

    @intrinsic
    def inside(typing_context, n0, n1, n2, n3, n4, n5, n6, n7):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            taps = (pitch, steps, unrolled, left_out)
            LineKernel(*taps, dtype, narrow, rows, width.vectors, builder, arguments)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 8), generate

    emit: Any = inside

    def line(  # type: ignore[no-untyped-def]
        table, lines, shift, pixels, y, y_step, bias, finish, n8, n9, n10, n11
    ):
        emit(table, lines, shift, pixels, y, y_step, bias, finish)

    return part(line, dtype, of, tuple(width), rows, pitch, steps, unrolled, left_out)


class LineKernel(EvenKernel):
    """A loop over tiles of pixels, ``pitch`` bytes apart; ``count`` numbers are a line of taps.

    If these are more than ``unrolled``, so many at a time are written out.
    """

    def __init__(self, pitch: int, count: int, unrolled: int, left_out: int, *rest: Any) -> None:
        self.pitch, self.count, self.unrolled, self.left_out = pitch, count, unrolled, left_out
        super().__init__(*rest)

    def _emit(self, arguments: Sequence[ir.Value]) -> None:
        (
            self.table, self.segments, self.shift, pixels, y, self.y_step, self.bias, self.finish,
        ) = arguments  # fmt: skip
        b = self.builder
        if self.left_out:
            self.is_whole, self.stored = ir.IntType(1)(0), self._int(self.lanes - self.left_out)

        def tile(first: ir.Value) -> Sums:
            self.x_shift = b.mul(first, self._int(self.pitch))
            return self._repeat(self.segments, self._from_bias(), self._line)

        self._each_tile(pixels, y, tile)

    def _line(self, line: ir.Value, sums: Sums) -> Sums:
        """What a line of taps adds."""
        b = self.builder
        self._fetch_two_results(line)
        entry = b.add(self.table, b.mul(line, self._int(16)))
        x = b.add(self._word(entry), self.x_shift)
        weights = b.add(self._word(b.add(entry, self._int(8))), self.shift)
        unrolled = self.unrolled
        whole = self.count // unrolled if self.count > unrolled else 0

        def some(index: ir.Value, sums: Sums) -> Sums:
            moved = self._moved(x, weights, b.mul(index, self._int(unrolled)))
            return self._written_out(unrolled, *moved, sums)

        if whole:
            sums = self._repeat(self._int(whole), sums, some)
        done = whole * unrolled
        moved = self._moved(x, weights, self._int(done))
        return self._written_out(self.count - done, *moved, sums)

    def _fetch_two_results(self, line: ir.Value) -> None:
        """Two rows of them with each line of taps: all at once, sums would wait for the lines."""
        b = self.builder
        for m in range(2):
            row = b.add(b.mul(line, self._int(2)), self._int(m))
            self._fetch_row(b.add(self.c, b.mul(row, self.y_step)))

    def _moved(self, x: ir.Value, weights: ir.Value, steps: ir.Value) -> tuple[ir.Value, ir.Value]:
        b = self.builder
        row = self._int(self.vectors * self.lanes * self.itemsize)
        return b.add(x, b.mul(steps, self._int(self.itemsize))), b.add(weights, b.mul(steps, row))

    def _written_out(self, count: int, x: ir.Value, weights: ir.Value, sums: Sums) -> Sums:
        b, new = self.builder, dict(sums)
        for step in range(count):
            of_b = [self._load(weights, step * self.vectors + n) for n in range(self.vectors)]
            for m in range(self.rows):
                number = self._broadcast(b.add(x, self._int(m * self.pitch + step * self.itemsize)))
                for n in range(self.vectors):
                    new[m, n] = b.call(self.multiply_add, [number, of_b[n], new[m, n]])
        return new
