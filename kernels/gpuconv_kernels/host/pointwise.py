"""1x1 convolutions as a product of matrices, whose rows are all pixels of a batch.

A pixel of 16 or 64 channels is a few multiply-adds a filter: to write down where it lies and to
look that up again takes about as long. Nothing has to be looked up, though, where
the pixels of all images are evenly spaced, and a micro-kernel that goes from tile to tile itself
begins with the next one while the last one's sums are being finished::

    x, pixel after pixel          weights, packed once a thread         y
    +--------------+
    | 12 pixels    |              64 filters   the last filters         +-----------+
    | 12 pixels    |    x         +----------+-------+           -->    |           |
    |  ...         |              | channels |       |                  |           |
    +--------------+              +----------+-------+                  +-----------+

A task is a block of pixels. Of these, as many as the L1 cache holds meet all filters, before the
next ones. backward_input is the same with the weights transposed. Each number is summed in a fixed
order: channel after channel, as direct convolution does.

Limits: as :func:`pays` and :func:`evenly_spaced` say.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.direct_cut import chunk_bytes
from gpuconv_kernels.host.extents import numbers_of
from gpuconv_kernels.host.finishing import Finish
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, copy, put_at
from gpuconv_kernels.host.microkernel import rows_for, vectors_across
from gpuconv_kernels.host.microkernel_code import EvenKernel, Sums
from gpuconv_kernels.host.packing import packing
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call, part
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host
from gpuconv_kernels.host.winograd_tiles import offsets_of
from gpuconv_kernels.threads import threads

Array = Any

_LEAST_PIXELS = 64
"""So that every block holds a tile."""
_MEMORY_SHARE = 8
"""Packed weights of a thread are at most such a part of the arrays."""
_TASKS_A_THREAD = 8
_RUN_BYTES = 16 * 1024
"""Of x, that stay in the L1 cache while all filters pass by."""


@functools.lru_cache(maxsize=1024)
def pays(geometry: Any, dtype: str) -> bool:
    """Whether :func:`convolve` can be used for evenly spaced pixels, and helps."""
    g = geometry
    one = {*g.kernel, *g.stride, g.groups} == {1} and not any(map(any, g.pads))
    if not one or g.batch * math.prod(g.input) < _LEAST_PIXELS:
        return False
    weights = _offsets(_cut(g, dtype, host(), 1), g, dtype)[0]
    return weights <= min(chunk_bytes(), numbers_of(g) * ITEMSIZE[dtype] // _MEMORY_SHARE)


def evenly_spaced(array: Array) -> bool:
    """Whether the pixels of an array (N, *extents, C) follow each other at one distance."""
    step = array.strides[-2]
    for extent, here in zip(array.shape[-2::-1], array.strides[-2::-1], strict=True):
        if extent > 1 and here != step:
            return False
        step *= extent
    return True


class Cut(NamedTuple):
    """How the work is cut.

    Attributes:
        rows: pixels of a tile; ``vectors``, ``last``: of the micro-kernel's filters, and of the
            last ones.
        block, blocks: pixels of a task, and how many of them.
        run: pixels that meet all filters before the next ones.
    """

    rows: int
    vectors: int
    last: int
    block: int
    blocks: int
    run: int


@functools.lru_cache(maxsize=1024)
def _cut(g: Any, dtype: str, of: Host, count: int) -> Cut:
    """Cut a ``ConvGeometry`` for ``count`` threads. No block is smaller than a tile."""
    pixels = g.batch * math.prod(g.input)
    vectors, last = vectors_across(g.out_channels, dtype, of)
    rows = rows_for(vectors, of)
    tiles = -(-pixels // (rows * _TASKS_A_THREAD * count))
    block = tiles * rows
    blocks = max(1, pixels // block + (pixels % block >= rows))
    run = block
    if g.out_channels > vectors * of.lanes(dtype):
        of_tile = rows * max(g.in_channels, 1) * ITEMSIZE[dtype]
        run = max(1, _RUN_BYTES // of_tile) * rows
    return Cut(rows, vectors, last, block, blocks, run)


def _offsets(c: Cut, g: Any, dtype: str, of: Host | None = None) -> tuple[int, ...]:
    """Where in a thread's memory the following begins: what the sums begin with, a word, the end.

    Packed weights are the first.
    """
    lanes, itemsize = (of or host()).lanes(dtype), ITEMSIZE[dtype]
    width = c.vectors * lanes
    room = -(-g.out_channels // width) * width
    room -= (c.vectors - c.last) * lanes
    return tuple(offsets_of([room * g.in_channels * itemsize, room * itemsize, LINE])[1:])


def workspace_bytes(geometry: Any, dtype: str) -> int:
    """Bytes that :func:`convolve` needs beyond its arrays."""
    c = _cut(geometry, dtype, host(), threads())
    return min(threads(), c.blocks) * (_offsets(c, geometry, dtype)[-1] + LINE)


def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    w_steps: tuple[int, int, int],
    finish: Finish,
    packed: Array | None,
    of: Host,
) -> None:
    """Write ``y`` (N, *extents, F) from ``x`` (N, *extents, C), weights and ``bias`` (F,).

    ``w_steps``: how many numbers lie before the first weight, and between those of neighbouring
    channels, and of filters.
    Else as :func:`direct.conv_forward`, where ``packed`` comes from; to the bits of ``finish`` the
    distance of a residual is added, see :func:`microkernel.pixel_kernel`.
    """
    if y.size == 0:
        return
    g, dtype = geometry, name_of(y.dtype)
    c, lanes = _cut(g, dtype, of, threads()), of.lanes(dtype)
    run(
        _kernel(dtype, of),
        c.blocks,
        point_kernel(dtype, of, c.rows, c.vectors),
        point_kernel(dtype, of, c.rows, c.last),
        packing(dtype, of),
        address(x),
        address(w),
        0 if packed is None else address(packed),
        0 if bias is None else address(bias),
        address(y),
        *finish,
        (g.batch * math.prod(g.input), g.in_channels, g.out_channels),
        (c.rows, c.block, c.run, c.vectors * lanes, c.last * lanes),
        (x.strides[-2], y.strides[-2], *w_steps),
        _offsets(c, g, dtype, of),
    )


@functools.cache
def _kernel(dtype: str, host: Host) -> Any:
    return Kernel(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the kernel as a plain function."""
    itemsize, put = ITEMSIZE[dtype], put_at("int64")

    def multiply(  # type: ignore[no-untyped-def]
        counter, tasks, micro_kernel, last_kernel, pack, x, w, kept, bias, y, finish, function,
        alpha, sizes, cut, steps, offsets,
    ):  # fmt: skip
        # kept: all weights, packed, or 0; finish, function, alpha: a Finish; sizes: (pixels,
        # channels, filters); cut: (rows of a tile, pixels of a block, of a run, filters of a
        # micro-kernel, of the last one); steps: (bytes from a pixel of x to the next, of y, numbers
        # before the first one of w, from a channel of w to the next, from a filter); offsets: as of
        # _offsets
        pixels, channels, filters = sizes
        rows, block, most, width, last_width = cut
        x_step, y_step, w_first, c_step, f_step = steps
        last_filter = (filters - 1) // width * width
        left_out = last_filter + last_width - filters
        memory = np.empty(offsets[2] + LINE, np.uint8)
        at = -(-memory.ctypes.data // LINE) * LINE
        table = at + offsets[1]
        clear(at + offsets[0], (last_filter + last_width) * itemsize)
        if bias:
            copy(at + offsets[0], bias, filters * itemsize)
        if not kept:
            put(table, 0, w_first)
            call(
                pack, at, w, table, 1, channels, last_filter, width, 0, c_step, f_step, 0, 0
            )  # fmt: skip
            call(
                pack, at + last_filter * channels * itemsize, w, table, 1, channels,
                filters - last_filter, last_width, last_filter * f_step, c_step, f_step, 0, 0,
            )  # fmt: skip
        task = take(counter)
        while task < tasks:
            # In the loop: memory is freed where the compiler sees an array for the last time.
            packed = -(-memory.ctypes.data // LINE) * LINE
            start, table = packed + offsets[0], packed + offsets[1]
            if kept:
                packed = kept
            first = task * block
            end = first + block if task < tasks - 1 else pixels
            while first < end:
                here = most if end - first >= most + rows else end - first
                for f in range(0, filters, width):
                    is_last = f == last_filter
                    call(
                        last_kernel if is_last else micro_kernel, x + first * x_step, x_step, here,
                        packed + f * channels * itemsize, channels,
                        y + first * y_step + f * itemsize, y_step, start + f * itemsize,
                        left_out if is_last else 0, finish, 0 if f else 2 * x_step * rows, 0,
                    )  # fmt: skip
                if function:
                    together = here if y_step == filters * itemsize else 1
                    for i in range(0, here, together):
                        put(table, 0, y + (first + i) * y_step)
                        call(
                            function, table, 1, 0, together * filters, 0, alpha, 0, 0, 0, 0, 0, 0,
                        )  # fmt: skip
                first += here
            task = take(counter)

    return multiply


@functools.cache
def point_kernel(dtype: str, of: Host, rows: int, vectors: int) -> int:
    """Return the address of the micro-kernel for a run of pixels, for :func:`parts.call`.

    ``call(address, x, x_step, pixels, b, steps, y, y_step, bias, left_out, finish, ahead, 0)``

    With integers only; addresses and distances are in bytes:

    - ``x``, ``x_step``: the first pixel's numbers, and from one pixel to the next; ``y``,
      ``y_step``: where results go. ``pixels``: how many, at least ``rows``.
    - ``b``: address of the vectors of all ``steps``, one row after the other.
    - ``bias``: address of what the sums begin with; ``left_out`` lanes of the last vector are no
      results, whole ones of ``b`` and ``bias`` are read.
    - ``finish``: as of :func:`microkernel.pixel_kernel`.
    - ``ahead``: how far behind the beginning of a tile lies what is fetched meanwhile.
    """

    @intrinsic
    def inside(typing_context, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            PointKernel(dtype, of, rows, vectors, builder, arguments)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 11), generate

    emit: Any = inside

    def points(  # type: ignore[no-untyped-def]
        x, x_step, pixels, b, steps, y, y_step, bias, left_out, finish, ahead, n11
    ):
        emit(x, x_step, pixels, b, steps, y, y_step, bias, left_out, finish, ahead)

    return part(points, dtype, of, rows, vectors)


class PointKernel(EvenKernel):
    """A loop over tiles of pixels, whose distances and number of channels are not known before."""

    def _emit(self, arguments: Sequence[ir.Value]) -> None:
        (
            x, x_step, pixels, b_first, self.steps, y, self.y_step, self.bias, left_out,
            self.finish, ahead,
        ) = arguments  # fmt: skip
        b = self.builder
        self.a_next, self.ahead_next = self._int(self.itemsize), self._int(LINE)
        self.b_next = self._int(self.vectors * self.vector_bytes)
        self.lines = -(-self.rows // 4)  # of a pass: all of a tile of x
        self.is_whole = b.icmp_signed("==", left_out, self._int(0))
        self.stored = b.sub(self._int(self.lanes), left_out)

        def tile(first: ir.Value) -> Sums:
            at = b.add(x, b.mul(first, x_step))
            rows = [b.add(at, b.mul(x_step, self._int(m))) for m in range(self.rows)]
            self._fetch_results()
            return self._all_steps(rows, b_first, b.add(at, ahead), self._from_bias())

        self._each_tile(pixels, y, tile)
