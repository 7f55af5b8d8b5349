"""``exp`` and its relatives for kernels, in steps that LLVM turns into vector instructions.

With n the integer next to ``x / ln 2`` and ``r = x - n ln 2``, so that ``|r| <= 0.35``::

    exp(x) = 2^n exp(r),    exp(r) = 1 + r + r^2 (c2 + c3 r + ... + cd r^(d-2))      d: 6 or 11

The polynomial in brackets is a short Chebyshev expansion, less than 1/10 of the last place away
from what it stands for; it was computed with 45 digits. ``ln 2`` is subtracted in two parts, the
first of which has so few digits that its product with n is exact (Cody and Waite 1980, "Software
Manual for the Elementary Functions"). ``2^n`` is made by writing its exponent; in two halves where
the result may be larger than the largest number or smaller than the smallest normal one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from gpuconv_kernels.host.series import fused, horner
from gpuconv_kernels.host.target import NUMBER


class _Format(NamedTuple):
    """A format of numbers: how they are laid out, and what their precision needs."""

    bits: int  # of a number
    mantissa: int  # of its bits
    bias: int  # of its exponent
    ln2: tuple[float, float]
    series: tuple[float, ...]  # (exp(r) - 1 - r) / r^2
    nothing: float  # 2 to the power of less is 0, and so are products that functions need
    flat: float  # exp - 1 is -1 to the last bit from here down


_FORMATS: Final = {
    "float32": _Format(
        32,
        23,
        127,
        (0.693145751953125, 1.4286068203094172e-06),
        (
            0.5,
            0.16666576989698775,
            0.041666554617204574,
            0.008363179052722578,
            0.0013926183587713494,
        ),
        -160.0,
        -18.0,
    ),
    "float64": _Format(
        64,
        52,
        1023,
        (0.6931471803691238, 1.9082149292705877e-10),
        (
            0.5,
            0.16666666666666669,
            0.04166666666662413,
            0.008333333333330062,
            0.0013888888917213717,
            0.00019841269863053618,
            2.4801521295954376e-05,
            2.7557268459997064e-06,
            2.7620088445409746e-07,
            2.510038549551032e-08,
        ),
        -1088.0,
        -38.0,
    ),
}

GREATEST: Final = {"float32": 89.0, "float64": 710.0}
"""What :func:`exponential` may be asked for at most: there it is infinite."""


@functools.cache
def exponential(dtype: str) -> Any:
    """Return ``f(x) = exp(x)`` for ``x`` up to ``GREATEST``, to be called in kernels.

    NaN gives NaN.
    """

    def emit(b: ir.IRBuilder, form: _Format, x: ir.Value) -> ir.Value:
        one = ir.Constant(x.type, 1.0)
        return _times(b, form, one, *_reduced(b, form, x, None, 2 * form.bias))

    return _intrinsic(dtype, 1, emit)


@functools.cache
def times_exponential(dtype: str) -> Any:
    """Return ``f(y, x) = y exp(x)`` for ``x`` as in :func:`exponential`.

    The product loses nothing where ``exp(x)`` by itself is below the normal numbers. Where that is
    below 2^-160 (float64: 2^-1088) the product is 0, even if y is infinite or NaN. Beside the
    exponential itself it is one step more.
    """

    def emit(b: ir.IRBuilder, form: _Format, y: ir.Value, x: ir.Value) -> ir.Value:
        return _times(b, form, y, *_reduced(b, form, x, None, 2 * form.bias))

    return _intrinsic(dtype, 2, emit)


@functools.cache
def times_exponential_of_product(dtype: str) -> Any:
    """Return ``f(y, u, v) = y exp(u v)``, where the product is not rounded.

    Its rounding would be multiplied by its size.
    """

    def emit(b: ir.IRBuilder, form: _Format, y: ir.Value, u: ir.Value, v: ir.Value) -> ir.Value:
        return _times(b, form, y, *_reduced(b, form, u, v, 2 * form.bias))

    return _intrinsic(dtype, 3, emit)


@functools.cache
def exponential_less_1(dtype: str) -> Any:
    """Return ``f(x) = exp(x) - 1`` for ``x <= 0``, exact to the last places around 0 too.

    NaN gives NaN; where x is positive, there are numbers without meaning.
    """
    return _intrinsic(dtype, 1, _less_1)


def _intrinsic(dtype: str, arguments: int, emit: Callable[..., ir.Value]) -> Any:
    number: Any = NUMBER[dtype]

    def typed() -> tuple[Any, Any]:
        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            return emit(builder, _FORMATS[dtype], *values)

        return number(*[number] * arguments), generate

    def of_1(typing_context, x):  # type: ignore[no-untyped-def]
        return typed()

    def of_2(typing_context, y, x):  # type: ignore[no-untyped-def]
        return typed()

    def of_3(typing_context, y, u, v):  # type: ignore[no-untyped-def]
        return typed()

    return intrinsic((of_1, of_2, of_3)[arguments - 1])


def _times(
    b: ir.IRBuilder, form: _Format, factor: ir.Value, n: ir.Value, exponents: ir.Value, r: ir.Value
) -> ir.Value:
    """``factor 2^n exp(r)``, where the last bits of ``exponents`` are n and twice the bias."""
    word = exponents.type
    # Numbers below the normal ones take the CPU a hundred times as long: they are not computed
    # only to become 0.
    vanishes = b.fcmp_ordered("<", n, ir.Constant(n.type, form.nothing))
    exponents = b.select(vanishes, ir.Constant(word, 2 * form.bias), exponents)
    series = horner(b, r, (1.0, 1.0, *form.series))
    # Bits of half the exponent, where a number has its exponent, and of what is left of it.
    mask = ir.Constant(word, (1 << form.bits) - (1 << form.mantissa))
    half = b.and_(b.shl(exponents, ir.Constant(word, form.mantissa - 1)), mask)
    rest = b.sub(b.shl(exponents, ir.Constant(word, form.mantissa)), half)
    product = b.fmul(factor, b.fmul(series, b.bitcast(half, n.type)))
    product = b.fmul(product, b.bitcast(rest, n.type))
    return b.select(vanishes, ir.Constant(n.type, 0.0), product)


def _less_1(b: ir.IRBuilder, form: _Format, x: ir.Value) -> ir.Value:
    flat, one = (ir.Constant(x.type, value) for value in (form.flat, 1.0))
    x = b.select(b.fcmp_ordered("<", x, flat), flat, x)
    _, exponents, r = _reduced(b, form, x, None, form.bias)
    series = fused(b, b.fmul(r, r), horner(b, r, form.series), r)
    bits = b.shl(exponents, ir.Constant(exponents.type, form.mantissa))
    scale = b.bitcast(bits, x.type)
    return fused(b, series, scale, b.fsub(scale, one))


def _reduced(
    b: ir.IRBuilder, form: _Format, x: ir.Value, other: ir.Value | None, bias: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return n, an integer whose last bits are ``n + bias``, and r, for ``x`` or ``x other``."""
    # Next to so large a number only integers exist, and they stand in the last bits.
    large = ir.Constant(x.type, 1.5 * 2.0**form.mantissa + bias)
    per_ln2 = ir.Constant(x.type, 1 / math.log(2))
    high, low = (ir.Constant(x.type, -part) for part in form.ln2)
    if other is None:
        moved = fused(b, x, per_ln2, large)
        n = b.fsub(moved, large)
        r = fused(b, n, high, x)
    else:
        moved = fused(b, b.fmul(x, per_ln2), other, large)
        n = b.fsub(moved, large)
        r = fused(b, x, other, b.fmul(n, high))
    return n, b.bitcast(moved, ir.IntType(form.bits)), fused(b, n, low, r)
