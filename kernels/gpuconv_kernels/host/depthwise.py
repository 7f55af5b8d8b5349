r"""Depthwise convolution: every channel by itself, the channels of a pixel in vectors.

There is nothing to reduce over but the taps, so the time goes into reading x. Some pixels of a row
are computed together: what one tap reads, the next tap reads again for the pixel before it, and
each vector is loaded once for all of them::

    x, one row of the window     x0    x1    x2    x3    x4    x5        pixels of 32 channels
                                  |  \  / | \  / |  \  / |  \  /
    8 pixels of y               s0 += x0 w0 + x1 w1 + x2 w2              in registers, until all
                                s1 += x1 w0 + x2 w1 + x3 w2  ...         rows of the window are in

Rows of the window that lie outside of the input are left out; pixels near the left and the right
border, whose windows lack columns, are computed one by one from the taps that they have.

backward_input is the same kernel, with the taps in reverse order: result ``q`` gathers from
``(q*step - before + t*dilation) / split`` wherever that is an integer inside of the source. Forward
has ``split`` 1, backward_input has ``step`` 1 and splits by the stride; the results of a row are
then computed in ``split`` runs that each meet the same taps.

With a channel multiplier ``m``, filter ``f`` reads channel ``f // m`` (forward gathers the numbers
of a vector from ``offsets``), and a channel of ``dx`` sums over ``m`` filters (as if these were
more taps). Any stride, pads and dilation, one to three dimensions.

Source: Zhang et al. 2020, "High Performance Depthwise and Pointwise Convolutions on Mobile
Devices", for the reuse of what is loaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.depthwise_weights import MOST_TAPS, conv_backward_weight
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view, zeros
from gpuconv_kernels.host.microkernel import RELU
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.sources import sources
from gpuconv_kernels.host.target import ITEMSIZE, Host, host
from gpuconv_kernels.host.vectors import Emitter, Width, even, width_for

__all__ = ["conv_backward_input", "conv_backward_weight", "conv_forward"]

Array = Any

PIXELS = (8, 4, 2, 1)
"""How many pixels are computed together: as many as are left."""
_WEIGHT_BYTES = 16 * 1024
"""Weights of a task; they stay in the L1 cache while its pixels stream by."""
_ROWS = 4
"""Rows of a task; they read what lies in the L1 cache, but for one row above and one below."""
_LEAST_TASKS = 16
_SPAN = 512


@dataclass(frozen=True)
class Plan:
    """What does not depend on the arrays; see :func:`define`.

    Attributes:
        kernel: the compiled kernel.
        tasks: their number.
        sources: of the three dimensions, and runs of the last; ``tables``: their addresses.
        offsets: of the channels of a vector in the source, or None if they lie together.
        sizes, cut: what :func:`define` says.
    """

    kernel: Any
    tasks: int
    sources: tuple[Array, ...]
    tables: tuple[int, ...]
    offsets: Array | None
    sizes: tuple[int, ...]
    cut: tuple[int, ...]


def conv_forward(
    x: Array, w: Array, bias: Array | None, y: Array, geometry: Any, relu: bool = False
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, 1, F) and ``bias`` (F,) or None.

    ``y`` is contiguous; the others may have any strides.
    """
    if y.size:
        w = np.ascontiguousarray(w)
        steps = w.strides[:-2]
        _gather(
            x, address(w), steps, (0, 0), bias, y, _plan(geometry, y.dtype, False, host()), relu
        )


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, 1, F), as above."""
    g = geometry
    if dx.size:
        multiplier = g.out_channels // g.in_channels
        # One set of weights for each filter of a channel: (m, *k, C); the last tap comes first.
        sets = np.moveaxis(w.reshape(*g.kernel, g.in_channels, multiplier), -1, 0)
        w = np.ascontiguousarray(np.flip(sets, tuple(range(1, g.rank + 1))))
        more = (dy.itemsize, w.strides[0])
        _gather(dy, address(w), w.strides[1:-1], more, None, dx, _plan(g, dx.dtype, True, host()))


def _gather(
    x: Array,
    w: int,
    w_steps: tuple[int, ...],
    set_steps: tuple[int, int],
    bias: Array | None,
    y: Array,
    plan: Plan,
    relu: bool = False,
) -> None:
    if x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    bias = zeros(y.shape[-1] * y.itemsize) if bias is None else np.ascontiguousarray(bias)
    run(
        plan.kernel,
        plan.tasks,
        address(x),
        w,
        address(bias),
        address(y),
        0 if plan.offsets is None else address(plan.offsets),
        RELU if relu else 0,
        *plan.tables,
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        (*three(w_steps, 0), *set_steps),
        plan.sizes,
        plan.cut,
    )


@functools.lru_cache(maxsize=1024)
def _plan(g: Any, dtype: Any, backward: bool, of: Host) -> Plan:
    multiplier, taps = g.out_channels // g.in_channels, three(g.kernel, 1)
    itemsize, stride, dilation = dtype.itemsize, three(g.stride, 1), three(g.dilation, 1)
    before = three([lo for lo, _ in g.pads], 0)
    one = (1, 1, 1)
    if backward:
        channels, sets, input, output = g.in_channels, multiplier, g.output, g.input
        before = three([d * (k - 1) - b for d, k, b in zip(dilation, taps, before, strict=True)], 0)
        step, split = one, stride
        offsets = np.arange(channels) * multiplier * itemsize
    else:
        channels, sets, input, output = g.out_channels, 1, g.input, g.output
        step, split = stride, one
        offsets = np.arange(channels) // multiplier * itemsize
    input, output = three(input, 1), three(output, 1)
    each = [
        sources(*along)
        for along in zip(input, output, taps, step, before, dilation, split, strict=True)
    ]
    tables = (each[0][0], each[1][0], *each[2])
    spread = multiplier > 1
    width = width_for(channels, dtype.name, of, 2 if of.registers >= 32 and not spread else 1)
    joined = taps[2] if 1 < taps[2] <= MOST_TAPS and not spread else 1
    kind = step[2] if joined > 1 and dilation[2] == split[2] == 1 and step[2] <= 2 else 0

    weight_bytes = math.prod(taps) * sets * width.channels * itemsize
    chunk, parts = even(-(-channels // width.channels), max(1, _WEIGHT_BYTES // weight_bytes))
    chunk *= width.channels
    spans, _ = even(-(-output[2] // split[2]), _SPAN)
    span = spans * split[2]
    spans = -(-output[2] // span)
    lines = g.batch * output[0] * output[1] * spans * parts
    rows, bands = even(output[1], max(1, min(_ROWS, lines // _LEAST_TASKS)))
    return Plan(
        _kernel(dtype.name, width, joined, spread),
        g.batch * output[0] * bands * spans * parts,
        tables,
        tuple(address(table) for table in tables),
        offsets if spread else None,
        (channels, sets, kind, step[2], split[2], *output, *taps),
        (rows, bands, span, spans, chunk, parts),
    )


@functools.cache
def _kernel(dtype: str, width: Width, joined: int, spread: bool) -> Any:
    return Kernel(define(dtype, width, joined, spread), dtype, width, joined, spread)


def define(dtype: str, width: Width, joined: int, spread: bool) -> Callable[..., None]:
    """Return the kernel as a plain function.

    Args:
        dtype: of all arrays.
        width: channels computed together.
        joined: taps of a row that are computed together where a call says so; 1: never.
        spread: whether the channels of a vector lie where ``offsets`` say.
    """
    sums = _sums(dtype, width, joined, spread)
    together, itemsize = width.channels, ITEMSIZE[dtype]
    sizes_of_each, integers = len(PIXELS), view("int64")

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, x, w, bias, y, offsets, finish, sources0, sources1, sources2, runs,
        x_steps, y_steps, w_steps, sizes, cut,
    ):  # fmt: skip
        # steps in bytes: (image, depth, height, width) of x and y; (depth, height, width) of w,
        # and from one set of weights to the next in x and in w; kind: 0, or the step if the taps of
        # a row are joined; cut: rows of a band, bands, pixels of a span, spans, channels of a
        # part, parts
        channels, sets, kind, step, split, depth, height, width, k0, k1, k2 = sizes
        rows, bands, span, spans, chunk, parts = cut
        from0, from1 = integers(sources0, depth * k0), integers(sources1, height * k1)
        from2, run = integers(sources2, width * k2), integers(runs, width)
        # For each row of results: where the rows of its window begin in x and w, and where taps do.
        line = np.empty((rows, sets * k0 * k1, 2), np.int64)
        table = np.empty((rows, sets * k0 * k1 * k2, 2), np.int64)
        lines, found = np.empty(rows, np.int64), np.empty(rows, np.int64)
        x_step = step * x_steps[3]
        task = take(counter)
        while task < tasks:
            first_channel = task % parts * chunk
            last_channel = min(first_channel + chunk, channels)
            rest = task // parts
            start = rest % spans * span
            stop = min(start + span, width)
            rest //= spans
            top = rest % bands * rows
            here = min(rows, height - top)
            p0 = rest // bands % depth
            image = rest // (bands * depth)
            for row in range(here):
                n = 0
                for t0 in range(k0):
                    for t1 in range(k1):
                        j0, j1 = from0[p0 * k0 + t0], from1[(top + row) * k1 + t1]
                        if j0 >= 0 and j1 >= 0:
                            x_line = x + image * x_steps[0] + j0 * x_steps[1] + j1 * x_steps[2]
                            w_line = w + t0 * w_steps[0] + t1 * w_steps[1]
                            for s in range(sets):
                                line[row, n, 0] = x_line + s * w_steps[3]
                                line[row, n, 1] = w_line + s * w_steps[4]
                                n += 1
                lines[row] = n
            corner = y + image * y_steps[0] + p0 * y_steps[1] + top * y_steps[2]
            # Results that lie ``split`` apart meet the same taps.
            for first in range(start, min(start + split, stop)):
                q = first
                while q < stop:
                    is_inside = run[q] > 0
                    for row in range(here):
                        n = 0
                        for k in range(lines[row]):
                            for t in range(k2):
                                j2 = from2[q * k2 + t]
                                if j2 >= 0:
                                    table[row, n, 0] = line[row, k, 0] + j2 * x_steps[3]
                                    table[row, n, 1] = line[row, k, 1] + t * w_steps[2]
                                    n += 1
                                    if kind and is_inside:  # the others are joined to it
                                        break
                        found[row] = n
                    left = max(run[q], 1)
                    x_shift = 0
                    while left > 0 and q < stop:
                        size = 0 if left >= 8 else 1 if left >= 4 else 2 if left >= 2 else 3
                        while size < 3 and q + ((8 >> size) - 1) * split >= stop:
                            size += 1
                        for c0 in range(first_channel, last_channel, together):
                            c = min(c0, channels - together)
                            # What these channels of a row read, the next row reads again.
                            for row in range(here):
                                sums(
                                    (kind if is_inside else 0) * sizes_of_each + size,
                                    table[row].ctypes.data, found[row], x_shift, c * itemsize,
                                    offsets + 8 * c, x_steps[3] if kind else x_step, w_steps[2],
                                    corner + row * y_steps[2] + q * y_steps[3] + c * itemsize,
                                    split * y_steps[3], bias + c * itemsize, finish,
                                )  # fmt: skip
                        left -= 8 >> size
                        q += (8 >> size) * split
                        x_shift += (8 >> size) * x_step
            task = take(counter)

    return convolve


def _sums(dtype: str, width: Width, joined: int, spread: bool) -> Any:
    """Return the function that computes some pixels of ``width`` channels.

    Its ``kind`` says how many of ``PIXELS``, and how: tap by tap, or with the taps of a row joined,
    for steps of 1 or 2.
    """
    forms = [(1, 1)] if joined == 1 else [(1, 1), (joined, 1), (joined, 2)]
    cases = [(pixels, *form) for form in forms for pixels in PIXELS]

    @intrinsic
    def sums(  # type: ignore[no-untyped-def]
        typing_context, kind, table, lines, x_shift, c_shift, offsets, x_step, w_step, y, y_step,
        bias, finish,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emitter = Emitter(builder, dtype, width)
            emitter.choose(
                arguments[0],
                [functools.partial(_emit_sums, emitter, spread, c, *arguments[1:]) for c in cases],
            )
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 12), generate

    return sums


def _emit_sums(
    e: Emitter,
    spread: bool,
    case: tuple[int, int, int],
    table: ir.Value,
    lines: ir.Value,
    x_shift: ir.Value,
    c_shift: ir.Value,
    offsets: ir.Value,
    x_step: ir.Value,
    w_step: ir.Value,
    y: ir.Value,
    y_step: ir.Value,
    bias: ir.Value,
    finish: ir.Value,
) -> None:
    pixels, taps, stride = case
    vectors = range(e.vectors)
    step = e.vectors * e.lanes * e.itemsize

    def line(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        entry = e.add(table, e.times(index, 16))
        at, w = e.add(e.word(entry), x_shift), e.add(e.word(e.add(entry, 8)), c_shift)
        if not spread:
            at = e.add(at, c_shift)
        weights = []
        for _ in range(taps):
            weights.append([e.load(w, n) for n in vectors])
            w = e.add(w, w_step)
        for column in range((pixels - 1) * stride + taps):
            if not spread:
                e.fetch(e.add(at, step))
            for n in vectors:
                x = e.gather(at, offsets, n) if spread else e.load(at, n)
                for p in range(pixels):
                    t = column - p * stride
                    if 0 <= t < taps:
                        cell = p * e.vectors + n
                        sums[cell] = e.multiply_add(x, weights[t][n], sums[cell])
            at = e.add(at, x_step)
        return sums

    b, zero = e.builder, e.constant(0.0)
    sums = e.loop(lines, [e.load(bias, n) for n in vectors] * pixels, line)
    relu = b.icmp_signed("==", finish, e.integer(RELU))
    for cell, value in enumerate(sums):
        positive = b.select(b.fcmp_ordered("<", value, zero), zero, value)
        at = e.add(y, e.times(y_step, cell // e.vectors))
        e.store(b.select(relu, positive, value), at, cell % e.vectors)
        if cell % e.vectors == 0:
            e.fetch(e.add(at, step), write=True)
