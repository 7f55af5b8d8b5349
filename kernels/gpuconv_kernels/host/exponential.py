"""``exp`` for numbers that are not positive, in steps that LLVM turns into vector instructions.

With n the integer next to ``x / ln 2`` and ``r = x - n ln 2``, so that ``|r| <= 0.35``::

    exp(x) = 2^n exp(r),    exp(r) = 1 + r + r^2/2! + ... + r^d/d!     d: 7 or 13

The rest of Taylor's series is below 1/20 of the last place. ``ln 2`` is subtracted in two parts,
the first of which has so few digits that its product with n is exact (Cody and Waite 1980,
"Software Manual for the Elementary Functions"). ``2^n`` is made by writing its exponent, in two
halves, because the result may be smaller than the smallest normal number.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from gpuconv_kernels.host.target import NUMBER, REAL


@dataclass(frozen=True)
class _Format:
    """A format of numbers: degree of the series, and how numbers are laid out."""

    degree: int
    bits: int
    mantissa: int
    bias: int
    ln2: tuple[float, float]
    least: float  # exp of it is 0


_FORMATS = {
    "float32": _Format(7, 32, 23, 127, (0.693145751953125, 1.4286068203094172e-06), -104.0),
    "float64": _Format(13, 64, 52, 1023, (0.6931471803691238, 1.9082149292705877e-10), -746.0),
}


@functools.cache
def exponential(dtype: str) -> Any:
    """Return ``exp(x)`` for ``x <= 0``, to be called in kernels; NaN gives NaN."""
    form = _FORMATS[dtype]
    number: Any = NUMBER[dtype]

    @intrinsic
    def exp(typing_context, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return _emit(builder, form, REAL[dtype], arguments[0])

        return number(number), generate

    return exp


def _emit(b: ir.IRBuilder, form: _Format, real: ir.Type, x: ir.Value) -> ir.Value:
    integer = ir.IntType(form.bits)
    name = f"llvm.fmuladd.f{form.bits}"
    multiply_add = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(real, [real] * 3), name
    )

    def number(value: float) -> ir.Constant:
        return ir.Constant(real, value)

    def power_of_2(n: ir.Value) -> ir.Value:
        exponent = b.add(n, ir.Constant(integer, form.bias))
        return b.bitcast(b.shl(exponent, ir.Constant(integer, form.mantissa)), real)

    x = b.select(b.fcmp_ordered("<", x, number(form.least)), number(form.least), x)
    # Next to so large a number only integers exist, and they stand in the last bits.
    large = number(1.5 * 2.0**form.mantissa)
    moved = b.call(multiply_add, [x, number(1 / math.log(2)), large])
    n = b.fsub(moved, large)
    r = x
    for part in form.ln2:
        r = b.call(multiply_add, [n, number(-part), r])
    series = number(1 / math.factorial(form.degree))
    for k in reversed(range(form.degree)):
        series = b.call(multiply_add, [series, r, number(1 / math.factorial(k))])
    whole = b.sub(b.bitcast(moved, integer), b.bitcast(large, integer))
    half = b.ashr(whole, ir.Constant(integer, 1))
    return b.fmul(b.fmul(series, power_of_2(half)), power_of_2(b.sub(whole, half)))
