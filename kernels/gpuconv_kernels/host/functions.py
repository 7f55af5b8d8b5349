"""The element-wise functions and their derivatives, one number at a time, for kernels to call.

Definitions are those of Keras 3.15 (``hard_sigmoid`` is ``relu6(x + 3)/6``; PyTorch 2.13 agrees).
NaN gives NaN. Gradients at a kink are PyTorch's: ``relu`` passes nothing at 0.

Formulas are chosen so that nothing overflows on the way, and that what becomes small keeps its
accuracy down to the smallest numbers::

    sigmoid    e / (1 + e) or 1 / (1 + e),  e = exp(-|x|)
    tanh       -m / (2 + m) with the sign of x,  m = exp(-2 |x|) - 1
    silu, gelu_tanh    x sigmoid(z), where x e is formed before e becomes too small
    mish       x w / (w + 2),  w = e (e + 2),  e = exp(x): tanh(log(1 + e)) without a logarithm
    softplus   max(x, 0) + log(1 + e)
    gelu       max(x, 0) - |x| Q(|x|),  Q the tail of the normal distribution

Where a function tends to 0 as x falls, it is 0 at minus infinity. Results lie within a few units
of the last place of the exact ones, or, where terms cancel in a derivative, of these terms; in
``gelu_tanh``'s lower tail the rounding of its argument z counts |z| times. Logarithm and tail::

    log(1 + e) = f - s (f - s^2 (c0 + c1 s^2 + ...)),  s = f/(2 + f),  f = e or (e - 1)/2, plus ln 2
    Q(u) = exp(-u^2/2) (c0 + c1 t + c2 t^2 + ...) / (u + c),  t = 1 - b u/(u + c)

(For the second form: Schonfelder 1978, "Chebyshev expansions for the error and related functions".)
The coefficients were computed with 45 digits. All steps are the same for every number of an
array: conditions choose between results, and LLVM makes vector instructions of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from gpuconv_kernels.array.functions import SELU_ALPHA, SELU_SCALE
from gpuconv_kernels.host.exponential import (
    GREATEST,
    exponential_less_1,
    times_exponential,
    times_exponential_of_product,
)
from gpuconv_kernels.host.exponential import exponential as exponential_of
from gpuconv_kernels.host.series import multiply_add, polynomial

_LOGARITHM: Final = {
    "float32": (0.6666668505722507, 0.3998877334331246, 0.2958027715380554),
    "float64": (
        0.666666666666667,
        0.3999999999989931,
        0.2857142862606338,
        0.22222211120449298,
        0.1818289017031397,
        0.15331686868638428,
        0.14616878919029822,
    ),
}


class _Tail(NamedTuple):
    """``Q(u) exp(u^2/2) (u + centre)`` in powers of ``t = 1 + slope u/(u + centre)``."""

    centre: float
    slope: float
    series: tuple[float, ...]


_TAILS: Final = {
    "float32": _Tail(
        3.5,
        -2.5,
        (
            0.8710994236315203,
            0.5649258273540209,
            0.2487314566856496,
            0.06497744991395181,
            0.003763598372765701,
            -0.0031883726273585307,
            -0.0005457279854316699,
            0.00021603728120637907,
            3.7033105564409274e-05,
            -1.672489777705225e-05,
        ),
    ),
    "float64": _Tail(
        5.0,
        -2.25,
        (
            0.8496957717177204,
            0.7004649271683128,
            0.4843749841428298,
            0.27811948195867736,
            0.12948165075053408,
            0.046439848470962594,
            0.011238259243209798,
            0.000892236000337441,
            -0.0005313521491205502,
            -0.00019836150632540007,
            4.026957339606411e-06,
            1.8309526360192415e-05,
            1.9813449182821493e-06,
            -1.631659380510775e-06,
            -3.140328359177676e-07,
            1.6570565106942252e-07,
            3.7177300934129605e-08,
            -1.9534160441358848e-08,
            -3.645170416219309e-09,
            2.318753793064673e-09,
            2.3005342196801946e-10,
            -1.8596840652008676e-10,
        ),
    ),
}

# With a = sqrt(2/pi) (x + 0.044715 x^3): (1 + tanh a)/2 = 1/(1 + exp(-z)), z = 2 a.
_GELU_1: Final = 2.0 * math.sqrt(2.0 / math.pi)
_GELU_3: Final = _GELU_1 * 0.044715

_STEEP: Final = 25.0
"""From here on ``mish(x)`` is x to the last bit, and its slope 1."""


def _tail_series(dtype: str) -> Any:
    return polynomial(dtype, _TAILS[dtype].series)


def functions(dtype: str) -> dict[str, Callable[..., Any]]:
    """Return the functions ``f(x, alpha)``, to be inlined.

    A comparison with NaN is false, so NaN takes the last branch.
    """
    number = np.dtype(dtype).type
    zero, half, one, two, three, six = (number(n) for n in (0, 0.5, 1, 2, 3, 6))
    selu_scale, selu_floor = number(SELU_SCALE), number(SELU_SCALE * SELU_ALPHA)
    greatest, steep = number(GREATEST[dtype]), number(_STEEP)
    gelu_1, gelu_3 = number(_GELU_1), number(_GELU_3)
    root_less_1, ln2 = number(math.sqrt(2) - 1), number(math.log(2))
    exp, times_exp = exponential_of(dtype), times_exponential(dtype)
    times_exp_of_product = times_exponential_of_product(dtype)
    exp_less_1, fma = exponential_less_1(dtype), multiply_add(dtype)
    log_series, tail_series = polynomial(dtype, _LOGARITHM[dtype]), _tail_series(dtype)
    centre, slope = (number(n) for n in _TAILS[dtype][:2])

    def relu(x, alpha):  # type: ignore[no-untyped-def]
        return zero if x <= zero else x

    def relu6(x, alpha):  # type: ignore[no-untyped-def]
        low = zero if x <= zero else x
        return six if low >= six else low

    def leaky_relu(x, alpha):  # type: ignore[no-untyped-def]
        return x if x > zero else x * alpha

    def elu(x, alpha):  # type: ignore[no-untyped-def]
        below = alpha * exp_less_1(x)
        return x if x >= zero else below

    def selu(x, alpha):  # type: ignore[no-untyped-def]
        below = selu_floor * exp_less_1(x)
        return selu_scale * x if x >= zero else below

    def sigmoid(x, alpha):  # type: ignore[no-untyped-def]
        e = exp(-abs(x))
        return (e if x < zero else one) / (one + e)

    def hard_sigmoid(x, alpha):  # type: ignore[no-untyped-def]
        moved = x + three
        low = zero if moved <= zero else moved
        return (six if low >= six else low) / six

    def tanh(x, alpha):  # type: ignore[no-untyped-def]
        m = exp_less_1(-two * abs(x))
        return math.copysign(m / (two + m), x)

    def exponential(x, alpha):  # type: ignore[no-untyped-def]
        return exp(greatest if x > greatest else x)

    def gelu(x, alpha):  # type: ignore[no-untyped-def]
        size = abs(x)
        share = size * (one / (size + centre))
        tail = times_exp_of_product(share * tail_series(fma(share, slope, one)), x, -half * x)
        return (zero if x < zero else x) - tail

    def gelu_tanh(x, alpha):  # type: ignore[no-untyped-def]
        z = -abs(x * fma(gelu_3, x * x, gelu_1))
        below, e = times_exp(x, z), exp(z)
        return (below if x < zero else x) / (one + e)

    def silu(x, alpha):  # type: ignore[no-untyped-def]
        z = -abs(x)
        below, e = times_exp(x, z), exp(z)
        return (below if x < zero else x) / (one + e)

    def hard_silu(x, alpha):  # type: ignore[no-untyped-def]
        moved = x + three
        low = zero if moved <= zero else moved
        return x * ((six if low >= six else low) / six)

    def mish(x, alpha):  # type: ignore[no-untyped-def]
        low = steep if x > steep else x
        e = exp(low)
        below = times_exp(low, low) * ((e + two) / fma(e, e + two, two))
        return x if x > steep else below

    def softplus(x, alpha):  # type: ignore[no-untyped-def]
        e = exp(-abs(x))
        f = half * (e - one) if e > root_less_1 else e
        s = f / (two + f)
        square = s * s
        log = fma(-s, fma(-square, log_series(square), f), f)
        return (x if x > zero else zero) + (log + (ln2 if e > root_less_1 else zero))

    def softsign(x, alpha):  # type: ignore[no-untyped-def]
        return x / (abs(x) + one)

    all_of_them = (
        relu, relu6, leaky_relu, elu, selu, sigmoid, hard_sigmoid, tanh, exponential, gelu,
        gelu_tanh, silu, hard_silu, mish, softplus, softsign,
    )  # fmt: skip
    return {f.__name__: f for f in all_of_them}


def derivatives(dtype: str) -> dict[str, Callable[..., Any]]:
    """Return the functions ``f(dy, z, alpha)`` with ``z`` the output or the input, to be inlined.

    A gradient that is cut off is 0 even if it was infinite; so these are choices, not products.
    """
    number = np.dtype(dtype).type
    zero, half, one, two, three, four, six = (number(n) for n in (0, 0.5, 1, 2, 3, 4, 6))
    selu_scale, selu_floor = number(SELU_SCALE), number(SELU_SCALE * SELU_ALPHA)
    steep, gelu_1, gelu_3 = number(_STEEP), number(_GELU_1), number(_GELU_3)
    slope_3, density = number(3.0 * _GELU_3), number(1.0 / math.sqrt(2.0 * math.pi))
    exp, times_exp = exponential_of(dtype), times_exponential(dtype)
    times_exp_of_product = times_exponential_of_product(dtype)
    fma, tail_series = multiply_add(dtype), _tail_series(dtype)
    centre, slope = (number(n) for n in _TAILS[dtype][:2])

    def relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return zero if y == zero else dy  # an output is positive, 0 or NaN

    def relu6(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if (y > zero) & (y < six) else zero

    def leaky_relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else dy * alpha

    def elu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else (y + alpha) * dy

    def selu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * selu_scale if y > zero else (y + selu_floor) * dy

    def sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * ((one - y) * y)

    def hard_sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy / six if (y > zero) & (y < one) else zero

    def tanh(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * (one - y * y)

    def exponential(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * y

    def gelu(dy, x, alpha):  # type: ignore[no-untyped-def]
        # The slope is Q(|x|) - |x| density where x is negative, and 1 minus that elsewhere.
        size = abs(x)
        inverse = one / (size + centre)
        tail = tail_series(fma(size * inverse, slope, one))
        below = times_exp_of_product(fma(tail, inverse, -density * size), x, -half * x)
        return dy * (below if x < zero else one - below)

    def gelu_tanh(dy, x, alpha):  # type: ignore[no-untyped-def]
        # With s = 1/(1 + e): s + x z' s (1 - s), and s (1 - s) = e/(1 + e)^2.
        square = x * x
        z = -abs(x * fma(gelu_3, square, gelu_1))
        product, e = times_exp(x * fma(slope_3, square, gelu_1), z), exp(z)
        inverse = one / (one + e)
        return dy * (inverse * fma(product, inverse, e if x < zero else one))

    def silu(dy, x, alpha):  # type: ignore[no-untyped-def]
        z = -abs(x)
        product, e = times_exp(x, z), exp(z)
        inverse = one / (one + e)
        return dy * (inverse * fma(product, inverse, e if x < zero else one))

    def hard_silu(dy, x, alpha):  # type: ignore[no-untyped-def]
        inner = dy if x >= three else (x / three + half) * dy
        return zero if x <= -three else inner

    def mish(dy, x, alpha):  # type: ignore[no-untyped-def]
        # d/dx x w/(w + 2) = w/(w + 2) + 4 x e (e + 1)/(w + 2)^2
        low = steep if x > steep else x
        product, e = times_exp(low, low), exp(low)
        w = e * (e + two)
        inverse = one / (w + two)
        return dy * (inverse * fma(four * product * (e + one), inverse, w))

    def softplus(dy, x, alpha):  # type: ignore[no-untyped-def]
        e = exp(-abs(x))
        return dy * ((e if x < zero else one) / (one + e))

    def softsign(dy, x, alpha):  # type: ignore[no-untyped-def]
        size = abs(x) + one
        return dy / (size * size)

    all_of_them = (
        relu, relu6, leaky_relu, elu, selu, sigmoid, hard_sigmoid, tanh, exponential, gelu,
        gelu_tanh, silu, hard_silu, mish, softplus, softsign,
    )  # fmt: skip
    return {f.__name__: f for f in all_of_them}
