"""Sums of powers, and products with a sum, for functions of one number in kernels.

Both become ``llvm.fmuladd``, which LLVM makes vectors of, and which is one instruction, rounded
once, where the CPU has it. That does not depend on where in an array a number stands: vectors
and what is left over behind them are computed by the same steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from gpuconv_kernels.host.target import NUMBER


def fused(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """``x y + z`` where a builder stands."""
    name = "llvm.fmuladd.f64" if isinstance(z.type, ir.DoubleType) else "llvm.fmuladd.f32"
    kind = ir.FunctionType(z.type, [z.type] * 3)
    return b.call(b.module.globals.get(name) or ir.Function(b.module, kind, name), [x, y, z])


def horner(b: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """``c0 + c1 x + c2 x^2 + ...`` where a builder stands."""
    terms = [ir.Constant(x.type, c) for c in reversed(coefficients)]
    total: ir.Value = terms[0]
    for term in terms[1:]:
        total = fused(b, total, x, term)
    return total


@functools.cache
def multiply_add(dtype: str) -> Any:
    """Return ``f(x, y, z) = x y + z``, to be called in kernels."""
    number: Any = NUMBER[dtype]

    @intrinsic
    def multiply_add(typing_context, x, y, z):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return fused(builder, *arguments)

        return number(number, number, number), generate

    return multiply_add


@functools.cache
def polynomial(dtype: str, coefficients: tuple[float, ...]) -> Any:
    """Return ``f(x) = c0 + c1 x + c2 x^2 + ...``, to be called in kernels."""
    number: Any = NUMBER[dtype]

    @intrinsic
    def polynomial(typing_context, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return horner(builder, arguments[0], coefficients)

        return number(number), generate

    return polynomial
