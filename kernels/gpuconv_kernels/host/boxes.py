"""Results that each gather from a box of another array: pooling and its gradients.

A window meets some rows of the source, and of each row as many columns. What is done with them is
emitted by the operation, a few vectors of channels at a time::

    source            x  x  x  x  x  x         result
    line 0            x [x  x  x] x  x                        combine(lines, column, count)
    line 1            x [x  x  x] x  x    -->     o           for each step of channels
    line 2            x [x  x  x] x  x
                         column: 1, count: 3

Along each dimension the elements that a result meets are ``apart`` from each other, begin at
``first`` and are ``count`` many, none where a window lies outside: that is so for windows, with any
stride, pads and dilation, and as well for the windows that an element of the input lies in. A
result is computed by itself (some channels by two tasks, with the same bits), so nothing depends on
the number of threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.memory import address, number_at, put_at
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.host.vectors import Emitter, Width, even, width_for

Array = Any

_TASK_BYTES: Final = 128 * 1024
_LEAST_TASKS: Final = 16
_SPAN: Final = 512


@dataclass(frozen=True)
class Box:
    """What a combination works on: addresses, counts and distances in bytes.

    Attributes:
        lines: address of a table of ``line_count`` pairs: where a line begins in the source, and
            the place of its first element in the plane.
        column, count, apart: the first element of a line, how many, and their distance, counted
            in elements; ``step`` is the distance of two neighbours in bytes.
        first: number of the image's first element in the source.
        channel, channels: the first of the channels that are computed, and all of a pixel.
        result: number of the result in its array; ``place``: in its plane.
        target, extra: addresses of the results and of another array.
    """

    lines: ir.Value
    line_count: ir.Value
    column: ir.Value
    count: ir.Value
    apart: ir.Value
    step: ir.Value
    first: ir.Value
    channel: ir.Value
    channels: ir.Value
    result: ir.Value
    place: ir.Value
    target: ir.Value
    extra: ir.Value

    def at(self, e: Emitter, array: ir.Value, pixel: ir.Value, itemsize: int) -> ir.Value:
        """Address of the channels of a pixel in a contiguous array."""
        number = e.add(e.builder.mul(pixel, self.channels), self.channel)
        return e.add(array, e.times(number, itemsize))

    def each_line(self, e: Emitter, state: list[ir.Value], body: Callable[..., Any]) -> Any:
        """Loop over lines: ``body(address, place, state)`` of a line's first element."""

        def line(index: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            entry = e.add(self.lines, e.times(index, 16))
            skipped = e.builder.mul(self.column, self.step)
            start = e.add(e.word(entry), skipped, e.times(self.channel, e.itemsize))
            result: list[ir.Value] = body(start, e.add(e.word(e.add(entry, 8)), self.column), state)
            return result

        return e.loop(self.line_count, state, line)

    def each_element(
        self, e: Emitter, start: ir.Value, place: ir.Value, state: list[ir.Value],
        body: Callable[..., list[ir.Value]],
    ) -> list[ir.Value]:  # fmt: skip
        """Loop over a line: ``body(address, place, state)`` of each of its elements."""
        step = e.builder.mul(self.step, self.apart)

        def element(index: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            at, here, *values = state
            values = body(at, here, values)
            return [e.add(at, step), e.add(here, self.apart), *values]

        return e.loop(self.count, [start, place, *state], element)[2:]


@dataclass(frozen=True)
class Along:
    """The elements that each result meets in each dimension, three of everything."""

    first: tuple[Array, ...]
    count: tuple[Array, ...]
    apart: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]


def windows(g: Any) -> Along:
    """Return the elements of the input in each window of a ``PoolGeometry``."""
    firsts, counts = [], []
    for i, o, k, s, d, lo in _dimensions(g):
        corner = np.arange(o) * s - lo
        first_tap = np.maximum(-(corner // d), 0)
        last_tap = np.minimum((i - 1 - corner) // d, k - 1)
        firsts.append(corner + first_tap * d)
        counts.append(np.maximum(last_tap - first_tap + 1, 0))
    apart = three(g.dilation, 1)
    return Along(tuple(firsts), tuple(counts), apart, three(g.input, 1), three(g.output, 1))


def windows_around(g: Any) -> Along:
    """Return the windows that each element of the input lies in."""
    firsts, counts, aparts = [], [], []
    for i, o, k, s, d, lo in _dimensions(g):
        # Window p contains q if q + lo - p*s is one of 0, d, ..., (k-1)*d.
        q = np.arange(i) + lo
        common = math.gcd(s, d)
        apart = d // common
        same = q // common * pow(s // common, -1, apart) % apart  # p modulo ``apart``
        first = np.maximum(-((d * (k - 1) - q) // s), 0)
        first += (same - first) % apart
        count = np.maximum((np.minimum(q // s, o - 1) - first) // apart + 1, 0)
        firsts.append(first)
        counts.append(np.where(q % common == 0, count, 0))
        aparts.append(apart)
    output, input = three(g.input, 1), three(g.output, 1)
    return Along(tuple(firsts), tuple(counts), three(aparts, 1), input, output)


def _dimensions(g: Any) -> Any:
    before = three([lo for lo, _ in g.pads], 0)
    input, output, window = three(g.input, 1), three(g.output, 1), three(g.window, 1)
    return zip(input, output, window, three(g.stride, 1), three(g.dilation, 1), before, strict=True)


@dataclass(frozen=True)
class Plan:
    """What does not depend on the arrays: the kernel, its tasks, and its last arguments."""

    kernel: Any
    tasks: int
    along: Along
    arguments: tuple[Any, ...]


def gather(plan: Plan, source: Array, target: Array, extra: Array | None) -> None:
    """Write ``target`` (N, *out, C) from ``source`` (N, *in, C), whose channels lie together.

    ``extra`` is another array for the kernel; it and ``target`` are contiguous.
    """
    run(
        plan.kernel,
        plan.tasks,
        address(source),
        address(target),
        0 if extra is None else address(extra),
        (source.strides[0], *three(source.strides[1:-1], 0)),
        *plan.arguments,
    )


@functools.lru_cache(maxsize=1024)
def plan(
    kernel: Callable[..., Any],
    choices: tuple[Any, ...],
    along_of: Callable[[Any], Along],
    g: Any,
    dtype: Any,
    sets: int,
    of: Host,
) -> Plan:
    """Cut a pooling into tasks.

    Args:
        kernel: called with ``choices``, the dtype's name and a width, gives the kernel.
        along_of: :func:`windows` or :func:`windows_around`.
        g: a ``PoolGeometry``.
        sets: of registers that the kernel needs for each vector of channels.
    """
    along = along_of(g)
    channels, itemsize = g.channels, dtype.itemsize
    width = width_for(channels, dtype.name, of, min(8, of.registers // (2 * sets)))
    o0, o1, o2 = along.output
    span, spans = even(o2, _SPAN)
    row_bytes = max(along.input[2] // spans, span) * channels * itemsize
    rows = min(_TASK_BYTES // row_bytes, g.batch * o0 * o1 // _LEAST_TASKS)
    rows, bands = even(o1, max(1, rows))
    tasks = g.batch * o0 * bands * spans
    steps = -(-channels // width.channels)
    part, parts = even(steps, max(1, steps * tasks // _LEAST_TASKS))
    return Plan(
        kernel(*choices, dtype.name, width),
        tasks * parts,
        along,
        (
            tuple(address(first) for first in along.first),
            tuple(address(count) for count in along.count),
            along.apart,
            channels,
            along.input,
            along.output,
            (rows, bands, span, spans, part * width.channels, parts),
            max(1, int(along.count[0].max(initial=0) * along.count[1].max(initial=0))),
        ),
    )


def define(dtype: str, width: Width, emit: Callable[[Emitter, Box], None]) -> Callable[..., None]:
    """Return the kernel that does with each box what ``emit`` says, as a plain function."""
    combine, together = _combine(dtype, width, emit), width.channels
    word, put = number_at("int64"), put_at("int64")

    def gather(  # type: ignore[no-untyped-def]
        counter, tasks, source, target, extra, steps, first, count, apart, channels, input, output,
        cut, most_lines,
    ):  # fmt: skip
        # steps in bytes: (image, depth, height, width); first, count: addresses of lists; cut:
        # (rows of a band, bands, results of a span, spans, channels of a part, parts)
        rows, bands, span, spans, part, parts = cut
        memory = np.empty(16 * most_lines, np.uint8)
        task = take(counter)
        while task < tasks:
            lines = memory.ctypes.data  # in the loop: else the memory would be freed before it
            first_channel = task % parts * part
            last_channel = min(first_channel + part, channels)
            rest = task // parts
            start = rest % spans * span
            rest //= spans
            top = rest % bands * rows
            p0 = rest // bands % output[0]
            image = rest // (bands * output[0])
            for p1 in range(top, min(top + rows, output[1])):
                count0, count1 = word(count[0], p0), word(count[1], p1)
                to = lines
                for t0 in range(count0):
                    for t1 in range(count1):
                        j0 = word(first[0], p0) + t0 * apart[0]
                        j1 = word(first[1], p1) + t1 * apart[1]
                        put(to, 0, source + image * steps[0] + j0 * steps[1] + j1 * steps[2])
                        put(to, 1, (j0 * input[1] + j1) * input[2])
                        to += 16
                for p2 in range(start, min(start + span, output[2])):
                    place = (p0 * output[1] + p1) * output[2] + p2
                    column, met = word(first[2], p2), word(count[2], p2)
                    for c0 in range(first_channel, last_channel, together):
                        combine(
                            lines, count0 * count1, column, met, apart[2], steps[3],
                            image * input[0] * input[1] * input[2],
                            min(c0, channels - together), channels,
                            image * output[0] * output[1] * output[2] + place, place,
                            target, extra,
                        )  # fmt: skip
            task = take(counter)

    return gather


def _combine(dtype: str, width: Width, emit: Callable[[Emitter, Box], None]) -> Any:
    @intrinsic
    def combine(  # type: ignore[no-untyped-def]
        typing_context, lines, line_count, column, count, apart, step, first, channel, channels,
        result, place, target, extra,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit(Emitter(builder, dtype, width), Box(*arguments))
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 13), generate

    return combine


def channels_together(x: Array) -> Array:
    """Return ``x``, or a copy if the channels of a pixel do not follow each other."""
    return x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)
