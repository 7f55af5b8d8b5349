"""Functions through which a gradient passes or does not, with a bit a number that says which.

A gradient is computed from ``dy`` and the output, and both come from memory. Of a function whose
slope is 0 or 1 one bit is enough, a 32nd of the output::

    forward     x  | x0 x1 x2 ... x15 | ...  -->  y = f(x)  and  | b0 b1 ... b15 | ...
    backward    dy | d0 d1 d2 ... d15 | ...  and the bits   -->  dx = dy where the bit is 1, else 0

What passes is what the derivatives of :mod:`functions` let pass, with the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.activations import run_flat
from gpuconv_kernels.host.functions import derivatives, functions
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, host, inlined
from gpuconv_kernels.host.vectors import Emitter, Width, loop

Array = Any

GATES: Final = frozenset({"relu", "relu6"})
"""Functions that :func:`forward` knows."""


def bytes_for(size: int) -> int:
    """How many bytes the bits of so many numbers take."""
    return -(-size // 8)


def forward(x: Array, y: Array, bits: Array, kind: str) -> None:
    """Write ``y = f(x)`` for a kind of ``GATES``, and the bits for :func:`backward`.

    ``x`` has any strides, ``y`` is C-contiguous and of its shape; ``bits`` are ``bytes_for`` bytes.
    """
    x = np.ascontiguousarray(x)
    run_flat(opening(name_of(y.dtype), kind), y.size, address(x), address(y), address(bits))


def backward(dy: Array, bits: Array, dx: Array) -> None:
    """Write ``dx``: ``dy`` where a bit is 1, else 0.

    ``dy`` has any strides, ``dx`` is C-contiguous; both have the shape of the forward's arrays.
    """
    dy = np.ascontiguousarray(dy)
    run_flat(passing(name_of(dx.dtype)), dx.size, address(dy), address(bits), address(dx))


@functools.cache
def opening(dtype: str, kind: str) -> Any:
    """Return the compiled kernel that applies a function and writes its bits."""
    return Kernel(define_opening(dtype, kind), dtype, kind, _width(dtype))


def define_opening(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`opening`."""
    itemsize, array, bytes_at = ITEMSIZE[dtype], view(dtype), view("uint8")
    together = _width(dtype).lanes
    open_steps = _opening_steps(dtype, kind)
    apply, derive = (inlined(f(dtype)[kind]) for f in (functions, derivatives))
    zero, one = np.dtype(dtype).type(0), np.dtype(dtype).type(1)

    def open_gates(counter, tasks, x, y, bits, size, piece):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            start, end = task * piece, min(task * piece + piece, size)
            steps = (end - start) // together
            open_steps(x + start * itemsize, y + start * itemsize, bits + start // 8, steps)
            source, target = array(x, size), array(y, size)
            for first in range(start + steps * together, end, 8):  # those that are left
                which = 0
                for i in range(first, min(first + 8, end)):
                    target[i] = apply(source[i], zero)
                    passes = derive(one, target[i], zero) == one
                    which |= (1 if passes else 0) << (i - first)
                bytes_at(bits, size)[first // 8] = which
            task = take(counter)

    return open_gates


@functools.cache
def passing(dtype: str) -> Any:
    """Return the compiled kernel that lets a gradient pass where bits are 1."""
    return Kernel(define_passing(dtype), dtype, _width(dtype))


def define_passing(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`passing`."""
    itemsize, array, bytes_at = ITEMSIZE[dtype], view(dtype), view("uint8")
    together = _width(dtype).lanes
    pass_steps = _passing_steps(dtype)
    zero = np.dtype(dtype).type(0)

    def pass_gates(counter, tasks, dy, bits, dx, size, piece):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            start, end = task * piece, min(task * piece + piece, size)
            steps = (end - start) // together
            pass_steps(dy + start * itemsize, dx + start * itemsize, bits + start // 8, steps)
            source, target = array(dy, size), array(dx, size)
            for i in range(start + steps * together, end):  # those that are left
                which = bytes_at(bits, size)[i // 8] >> (i % 8)
                target[i] = source[i] if which & 1 else zero
            task = take(counter)

    return pass_gates


# --- many numbers at a time ---------------------------------------------------------------


def _width(dtype: str) -> Width:
    """Numbers whose bits are whole bytes."""
    return Width(max(host().lanes(dtype), 8), 1)


def _opening_steps(dtype: str, kind: str) -> Any:
    def step(e: Emitter, number: ir.Value, y: ir.Value, bits: ir.Value) -> None:
        b, zero, six = e.builder, e.constant(0.0), e.constant(6.0)
        passes = b.fcmp_unordered(">", number, zero)  # NaN too
        value = b.select(passes, number, zero)
        if kind == "relu6":
            value = b.select(b.fcmp_ordered(">=", value, six), six, value)
            passes = b.and_(b.fcmp_ordered(">", value, zero), b.fcmp_ordered("<", value, six))
        e.store(value, y)
        kinds = ir.IntType(e.lanes)
        b.store(b.bitcast(passes, kinds), b.inttoptr(bits, kinds.as_pointer()), align=1)

    return _steps(dtype, step)


def _passing_steps(dtype: str) -> Any:
    def step(e: Emitter, number: ir.Value, dx: ir.Value, bits: ir.Value) -> None:
        b = e.builder
        pointer = b.inttoptr(bits, ir.IntType(e.lanes).as_pointer())
        passes = b.bitcast(b.load(pointer, align=1), ir.VectorType(ir.IntType(1), e.lanes))
        e.store(b.select(passes, number, e.constant(0.0)), dx)

    return _steps(dtype, step)


def _steps(dtype: str, step: Callable[[Emitter, ir.Value, ir.Value, ir.Value], None]) -> Any:
    """Return ``f(source, target, bits, steps)``, which emits a step for so many vectors."""
    width = _width(dtype)

    @intrinsic
    def steps(typing_context, source, target, bits, count):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, target, bits, count = arguments
            e = Emitter(builder, dtype, width)
            size = width.lanes * e.itemsize

            def one(index: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
                at = e.times(index, size)
                number = e.load(e.add(source, at))
                step(e, number, e.add(target, at), e.add(bits, e.times(index, width.lanes // 8)))
                return state

            loop(builder, count, [], one)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 4), generate

    return steps
