"""Max pooling and its gradient, some vectors of channels at a time.

Forward scans a window in row-major order and keeps the best number of each channel and where it
stands; what comes later wins if it is greater, or the first NaN. Taps in the padding are not
looked at, so padding never wins; a window without any real element gives -inf and the index -1::

    x[tap] > best, or one of them is NaN  --+
                                            +-- both -->  best = x[tap], index = tap
    best is not NaN  -----------------------+

Backward gathers: each element of ``dx`` looks at the windows that it lies in, and adds up ``dy`` of
those whose index names it. No zeros are written first, and nothing is scattered. The work grows
with the number of windows around an element, not with that of the outputs.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir

from gpuconv_kernels.host.boxes import (
    Box,
    channels_together,
    define,
    gather,
    plan,
    windows,
    windows_around,
)
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import empty
from gpuconv_kernels.host.target import INT, host
from gpuconv_kernels.host.vectors import SHORT, Emitter, Width

Array = Any


def max_pool(x: Array, geometry: Any, with_indices: bool) -> tuple[Array, Array | None]:
    """``x`` (N, *in, C) -> ``y`` and, if wanted, ``indices`` (int64), both (N, *out, C).

    An index counts row-major in the un-padded spatial plane. ``y`` has the same bits in both cases.
    """
    g = geometry
    y = empty((g.batch, *g.output, g.channels), x.dtype)
    indices = empty(y.shape, np.int64) if with_indices else None
    # Indices are compared and chosen as integers of 32 bits wherever the plane is not larger.
    wide = math.prod(g.input) >= 2**31
    choices, sets = (with_indices, wide), 2 if with_indices else 1
    p = plan(forward, choices, windows, g, y.dtype, sets, host())
    gather(p, channels_together(x), y, indices)
    return y, indices


def max_pool_backward(dy: Array, indices: Array, geometry: Any) -> Array:
    """``dy`` and ``indices`` (N, *out, C) -> ``dx`` (N, *in, C); windows that overlap add up.

    The indices are those of :func:`max_pool`: each lies in its window or is -1.
    """
    g = geometry
    dx = empty((g.batch, *g.input, g.channels), dy.dtype)
    indices = np.ascontiguousarray(indices, np.int64)
    dy = np.ascontiguousarray(dy)
    gather(plan(backward, (), windows_around, g, dx.dtype, 1, host()), dy, dx, indices)
    return dx


@functools.cache
def forward(with_indices: bool, wide: bool, dtype: str, width: Width) -> Any:
    """Return the compiled kernel; ``wide`` indices have 64 bits in registers, too."""
    emit = functools.partial(_emit_forward, with_indices, wide)
    return Kernel(define(dtype, width, emit), "max", with_indices, wide, dtype, width)


@functools.cache
def backward(dtype: str, width: Width) -> Any:
    """Return the compiled kernel."""
    return Kernel(define(dtype, width, _emit_backward), "max backward", dtype, width)


def _emit_forward(with_indices: bool, wide: bool, e: Emitter, box: Box) -> None:
    b, vectors = e.builder, range(e.vectors)

    def short(value: ir.Value) -> ir.Value:
        return value if wide else b.trunc(value, SHORT)

    def line(start: ir.Value, place: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        return box.each_element(e, start, place, state, element)

    def element(at: ir.Value, place: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        best, index = state[: e.vectors], state[e.vectors :]
        here = e.splat(short(place))
        for n in vectors:
            value = e.load(at, n)
            better = b.fcmp_unordered(">", value, best[n])
            better = b.and_(better, b.fcmp_ordered("ord", best[n], best[n]))
            best[n] = b.select(better, value, best[n])
            if with_indices:
                index[n] = b.select(better, here, index[n])
        return best + index

    state = [e.constant(-math.inf)] * e.vectors
    if with_indices:
        # Where all is -inf, the first element is named; where there is none, -1. The table has
        # room for one line in any case.
        some = b.and_(e.is_set(box.line_count), e.is_set(box.count))
        first = e.add(e.word(e.add(box.lines, 8)), box.column)
        state += [e.splat(short(b.select(some, first, e.integer(-1))))] * e.vectors
    state = box.each_line(e, state, line)
    for n in vectors:
        e.store(state[n], box.at(e, box.target, box.result, e.itemsize), n)
        if with_indices:
            index = state[e.vectors + n]
            long = index if wide else b.sext(index, ir.VectorType(INT, e.lanes))
            e.store(long, box.at(e, box.extra, box.result, 8), n)


def _emit_backward(e: Emitter, box: Box) -> None:
    b, vectors = e.builder, range(e.vectors)
    mine = e.splat(box.place)

    def line(start: ir.Value, place: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        return box.each_element(e, start, place, state, element)

    def element(at: ir.Value, place: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        indices = box.at(e, box.extra, e.add(box.first, place), 8)
        for n in vectors:
            named = b.icmp_signed("==", e.load_integers(indices, n), mine)
            more = b.fadd(totals[n], e.load(at, n))
            totals[n] = b.select(named, more, totals[n])
        return totals

    totals = box.each_line(e, [e.constant(0.0)] * e.vectors, line)
    for n in vectors:
        e.store(totals[n], box.at(e, box.target, box.result, e.itemsize), n)
