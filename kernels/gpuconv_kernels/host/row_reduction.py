"""Sum and largest number of a row in the cache, by one vector that is folded at the end.

LLVM may not change the order of additions, so it would add one number after the other::

    row       | 32 numbers | 32 numbers | ... | rest      lane i gets numbers i, i + 32, i + 64 ...
                    |  +         |  +
    lanes     [ 0 ... 31 ]  -->  16  -->  8  -->  4  -->  2  -->  1,  then the rest
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import view
from gpuconv_kernels.host.target import INT, ITEMSIZE, NUMBER, REAL, inlined

LANES: Final = 32


@functools.cache
def add_up(dtype: str) -> Any:
    """Return ``add_up(address, count)``, the sum of the numbers; 0 for none."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    folded = _folded(dtype, "sum")

    @inlined
    def add(x, count):  # type: ignore[no-untyped-def]
        whole = count // LANES
        total = folded(x, whole)
        rest = array(x + whole * LANES * itemsize, count - whole * LANES)
        last = number(0)
        for i in range(len(rest)):
            last += rest[i]
        return total + last

    return add


@functools.cache
def largest(dtype: str) -> Any:
    """Return ``largest(address, count)``, the largest number but for NaN; -infinity for none."""
    itemsize, array = ITEMSIZE[dtype], view(dtype)
    folded = _folded(dtype, "largest")

    @inlined
    def find(x, count):  # type: ignore[no-untyped-def]
        whole = count // LANES
        peak = folded(x, whole)
        rest = array(x + whole * LANES * itemsize, count - whole * LANES)
        for i in range(len(rest)):
            peak = rest[i] if rest[i] > peak else peak
        return peak

    return find


def _folded(dtype: str, kind: str) -> Any:
    """``folded(address, count)``: of ``count`` groups of ``LANES`` numbers."""
    vector = ir.VectorType(REAL[dtype], LANES)
    number: Any = NUMBER[dtype]
    start = 0.0 if kind == "sum" else -np.inf

    def join(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        return b.fadd(x, y) if kind == "sum" else b.select(b.fcmp_ordered(">", x, y), x, y)

    @intrinsic
    def folded(typing_context, address, count):  # type: ignore[no-untyped-def]
        def generate(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            address, count = arguments
            before = b.block
            head, body, after = (b.append_basic_block(n) for n in ("head", "group", "folded"))
            b.branch(head)
            b.position_at_end(head)
            index, lanes = b.phi(INT), b.phi(vector)
            index.add_incoming(ir.Constant(INT, 0), before)
            lanes.add_incoming(ir.Constant(vector, [start] * LANES), before)
            b.cbranch(b.icmp_signed("<", index, count), body, after)
            b.position_at_end(body)
            place = b.add(address, b.mul(index, ir.Constant(INT, LANES * ITEMSIZE[dtype])))
            group = b.load(b.inttoptr(place, vector.as_pointer()), align=1)
            lanes.add_incoming(join(b, group, lanes), body)
            index.add_incoming(b.add(index, ir.Constant(INT, 1)), body)
            b.branch(head)
            b.position_at_end(after)
            folded, width = lanes, LANES
            while width > 1:
                width //= 2
                low, high = (
                    ir.Constant(ir.VectorType(ir.IntType(32), width), [*range(s, s + width)])
                    for s in (0, width)
                )
                folded = join(
                    b, b.shuffle_vector(folded, folded, low), b.shuffle_vector(folded, folded, high)
                )
            return b.extract_element(folded, ir.Constant(ir.IntType(32), 0))

        return number(types.intp, types.intp), generate

    return folded
