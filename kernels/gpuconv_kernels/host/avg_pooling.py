"""Average pooling and its gradient, some vectors of channels at a time.

Forward adds up each row of a window and then the rows' sums, which keeps the error of a large
window small, and divides once::

    window   [x x x]  -> s0
             [x x x]  -> s1     y = (s0 + s1 + s2) / divisor
             [x x x]  -> s2

Backward gathers: an element of ``dx`` adds up ``dy / divisor`` of the windows it lies in. Where
elements count that are not there (padding), or one divides by some other number, only the
divisors differ; they are worked out once a geometry.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from gpuconv_kernels.device.spatial import three
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
from gpuconv_kernels.host.target import host
from gpuconv_kernels.host.vectors import Emitter, Width

Array = Any


def avg_pool(x: Array, geometry: Any) -> Array:
    """``x`` (N, *in, C) -> ``y`` (N, *out, C): the sum of each window over its divisor.

    The divisor is the product of ``geometry.divisors`` over the dimensions, or
    ``geometry.divisor_override``. A window that lies outside of the input altogether gives 0.
    """
    g = geometry
    y = empty((g.batch, *g.output, g.channels), x.dtype)
    p = plan(forward, (), windows, g, y.dtype, 2, host())
    gather(p, channels_together(x), y, _divisors(g, y.dtype))
    return y


def avg_pool_backward(dy: Array, geometry: Any) -> Array:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    g = geometry
    dx = empty((g.batch, *g.input, g.channels), dy.dtype)
    p = plan(backward, (), windows_around, g, dx.dtype, 1, host())
    gather(p, channels_together(dy), dx, _shares(g, dx.dtype))
    return dx


@functools.lru_cache(maxsize=64)
def _divisors(g: Any, dtype: Any) -> Array:
    """Divisor of each window of a plane; 1 where there is nothing to divide."""
    if g.divisor_override is not None:
        return np.full(three(g.output, 1), g.divisor_override, dtype)
    each = [np.array(counts, np.int64) for counts in g.divisors]
    total = functools.reduce(np.multiply.outer, each)
    return np.maximum(total, 1).astype(dtype)


@functools.lru_cache(maxsize=64)
def _shares(g: Any, dtype: Any) -> Array:
    """What each window gives to its elements: 1 over its divisor."""
    return np.divide(1.0, _divisors(g, np.dtype(np.float64))).astype(dtype)


@functools.cache
def forward(dtype: str, width: Width) -> Any:
    """Return the compiled kernel."""
    return Kernel(define(dtype, width, _emit_forward), "avg", dtype, width)


@functools.cache
def backward(dtype: str, width: Width) -> Any:
    """Return the compiled kernel."""
    return Kernel(define(dtype, width, _emit_backward), "avg backward", dtype, width)


def _emit_forward(e: Emitter, box: Box) -> None:
    b, vectors = e.builder, range(e.vectors)
    zeros = [e.constant(0.0)] * e.vectors

    def line(start: ir.Value, place: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        sums = box.each_element(e, start, place, zeros, element)
        return [b.fadd(total, row) for total, row in zip(totals, sums, strict=True)]

    def element(at: ir.Value, place: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        return [b.fadd(sums[n], e.load(at, n)) for n in vectors]

    totals = box.each_line(e, zeros, line)
    divisor = e.broadcast(e.add(box.extra, e.times(box.place, e.itemsize)))
    for n in vectors:
        y = box.at(e, box.target, box.result, e.itemsize)
        e.store(b.fdiv(totals[n], divisor), y, n)


def _emit_backward(e: Emitter, box: Box) -> None:
    vectors = range(e.vectors)

    def line(start: ir.Value, place: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        return box.each_element(e, start, place, state, element)

    def element(at: ir.Value, place: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        share = e.broadcast(e.add(box.extra, e.times(place, e.itemsize)))
        return [e.multiply_add(e.load(at, n), share, totals[n]) for n in vectors]

    totals = box.each_line(e, [e.constant(0.0)] * e.vectors, line)
    for n in vectors:
        e.store(totals[n], box.at(e, box.target, box.result, e.itemsize), n)
