"""The element-wise functions and their derivatives, one number at a time, for kernels to call.

Definitions are those of Keras 3.15 (``hard_sigmoid`` is ``relu6(x + 3)/6``; PyTorch 2.13 agrees).
NaN gives NaN. Gradients at a kink are PyTorch's: ``relu`` passes nothing at 0. Overflow inside a
function is part of its formula: ``1/(1 + inf)`` is 0.

Each is made for one dtype, and every constant has that dtype: a Python ``1.0`` is a double for
Numba, and the sum of it and a float32 is computed in double precision, at a 32nd or 64th of the
speed on most GPUs. The compiler may fuse a product and a sum into one rounding, so results differ
from NumPy's in the last bits where a function is not exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.array.functions import SELU_ALPHA, SELU_SCALE
from gpuconv_kernels.device.target import SIMULATED, inlined

_GELU_CUBIC: Final = 0.044715
_ROOT_2_OVER_PI: Final = math.sqrt(2.0 / math.pi)
_ROOT_2_PI: Final = math.sqrt(2.0 * math.pi)

# On a device the functions of ``math`` follow the type of their argument; in the simulator they
# would return a Python float and raise where a device gives infinity. NumPy's do neither.
_library: Any = np if SIMULATED else math
_names = ("exp", "expm1", "log", "log1p", "sqrt", "tanh")
exp, expm1, log, log1p, sqrt, tanh = (getattr(_library, name) for name in _names)


def quiet(function: Callable[..., Any]) -> Any:
    """Make an inlined device function whose infinities and NaN raise no warning.

    NumPy, which computes in the simulator, warns of them; hardware does not.
    """
    return np.errstate(all="ignore")(function) if SIMULATED else inlined(function)


def forward_function(kind: str | None, dtype: str) -> Any:
    """Return the device function ``f(value, alpha)`` called ``kind``; None is the identity.

    ``value`` and ``alpha`` are of ``dtype`` ("float32" or "float64"), and so is the result.
    ``alpha`` is the slope of ``leaky_relu`` (positive) or the scale of ``elu``; the others ignore
    it.

    Raises:
        KeyError: no function of that name.
    """
    return _forward(dtype)[kind]


def backward_function(kind: str, dtype: str) -> Any:
    """Return the device function ``g(dy, z, alpha)``: ``dy`` times the derivative.

    ``z`` is the output of the function where the derivative follows from that alone
    (``array.functions.BACKWARD_FROM_OUTPUT``), else its input.

    Raises:
        KeyError: no function of that name.
    """
    return _backward(dtype)[kind]


@functools.cache
def _forward(dtype: str) -> dict[str | None, Any]:
    number: Any = np.dtype(dtype).type
    zero, one, two, three, six, twenty = (number(v) for v in (0, 1, 2, 3, 6, 20))
    selu_alpha, selu_scale = number(SELU_ALPHA), number(SELU_SCALE)
    half, root_half = number(0.5), number(math.sqrt(0.5))
    decay_1 = number(-2.0 * _ROOT_2_OVER_PI)
    decay_3 = number(-2.0 * _ROOT_2_OVER_PI * _GELU_CUBIC)

    def identity(x, alpha):  # type: ignore[no-untyped-def]
        return x

    def relu(x, alpha):  # type: ignore[no-untyped-def]
        return zero if x <= zero else x  # NaN is not <= 0

    def relu6(x, alpha):  # type: ignore[no-untyped-def]
        return zero if x <= zero else (six if x >= six else x)

    def leaky_relu(x, alpha):  # type: ignore[no-untyped-def]
        return x if x > zero else x * alpha

    def elu(x, alpha):  # type: ignore[no-untyped-def]
        return x if x > zero else alpha * expm1(x)

    def selu(x, alpha):  # type: ignore[no-untyped-def]
        return selu_scale * (x if x > zero else selu_alpha * expm1(x))

    def sigmoid(x, alpha):  # type: ignore[no-untyped-def]
        return one / (one + exp(-x))

    def hard_sigmoid(x, alpha):  # type: ignore[no-untyped-def]
        lifted = x + three
        return zero if lifted <= zero else (one if lifted >= six else lifted / six)

    def hyperbolic_tangent(x, alpha):  # type: ignore[no-untyped-def]
        return tanh(x)

    def exponential(x, alpha):  # type: ignore[no-untyped-def]
        return exp(x)

    def gelu(x, alpha):  # type: ignore[no-untyped-def]
        # x times the normal distribution function; erfc keeps the accuracy of its lower tail.
        return x * (half * number(math.erfc(-x * root_half)))

    def gelu_tanh(x, alpha):  # type: ignore[no-untyped-def]
        # (1 + tanh a)/2 = 1/(1 + exp(-2a)) with a = sqrt(2/pi) (x + 0.044715 x^3)
        return x / (one + exp(x * (decay_3 * x * x + decay_1)))

    def silu(x, alpha):  # type: ignore[no-untyped-def]
        return x / (one + exp(-x))

    def hard_silu(x, alpha):  # type: ignore[no-untyped-def]
        lifted = x + three
        return x * (zero if lifted <= zero else (one if lifted >= six else lifted / six))

    def mish(x, alpha):  # type: ignore[no-untyped-def]
        # tanh(log(1 + e)) = w/(w + 2), 1 to the last bit of float64 from 20 on
        e = exp(twenty if x > twenty else x)
        w = e * (e + two)
        return x * (w / (w + two))

    def softplus(x, alpha):  # type: ignore[no-untyped-def]
        return (zero if x <= zero else x) + log1p(exp(-abs(x)))

    def softsign(x, alpha):  # type: ignore[no-untyped-def]
        return x / (one + abs(x))

    named: dict[str | None, Callable[..., Any]] = {
        None: identity,
        "relu": relu,
        "relu6": relu6,
        "leaky_relu": leaky_relu,
        "elu": elu,
        "selu": selu,
        "sigmoid": sigmoid,
        "hard_sigmoid": hard_sigmoid,
        "tanh": hyperbolic_tangent,
        "exponential": exponential,
        "gelu": gelu,
        "gelu_tanh": gelu_tanh,
        "silu": silu,
        "hard_silu": hard_silu,
        "mish": mish,
        "softplus": softplus,
        "softsign": softsign,
    }
    return {kind: quiet(function) for kind, function in named.items()}


@functools.cache
def _backward(dtype: str) -> dict[str, Any]:
    number: Any = np.dtype(dtype).type
    zero, one, two, three, four, six, ten, twenty = (number(v) for v in (0, 1, 2, 3, 4, 6, 10, 20))
    selu_scale, selu_product = number(SELU_SCALE), number(SELU_SCALE * SELU_ALPHA)
    half, root_half = number(0.5), number(math.sqrt(0.5))
    density = number(1.0 / _ROOT_2_PI)
    decay_1 = number(-2.0 * _ROOT_2_OVER_PI)
    decay_3 = number(-2.0 * _ROOT_2_OVER_PI * _GELU_CUBIC)
    slope_1 = number(2.0 * _ROOT_2_OVER_PI)
    slope_3 = number(6.0 * _ROOT_2_OVER_PI * _GELU_CUBIC)

    def relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return zero if y == zero else dy  # an output is positive, 0 or NaN

    def relu6(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if zero < y and y < six else zero

    def leaky_relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else dy * alpha

    def elu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else dy * (y + alpha)

    def selu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * (selu_scale if y > zero else y + selu_product)

    def sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * ((one - y) * y)

    def hard_sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy / six if zero < y and y < one else zero

    def hyperbolic_tangent(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * (one - y * y)

    def exponential(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * y

    def gelu(dy, x, alpha):  # type: ignore[no-untyped-def]
        cdf = half * number(math.erfc(-x * root_half))
        return dy * (cdf + x * (density * exp(-half * x * x)))

    def gelu_tanh(dy, x, alpha):  # type: ignore[no-untyped-def]
        # With s = 1/(1 + e): s (1 + x e s 2a'). Past 10 the slope is 0 or 1 to the last bit, and
        # up to there e is finite.
        x = ten if x > ten else (-ten if x < -ten else x)
        e = exp(x * (decay_3 * x * x + decay_1))
        gate = one / (one + e)
        return dy * (gate * (one + e * gate * x * (slope_3 * x * x + slope_1)))

    def silu(dy, x, alpha):  # type: ignore[no-untyped-def]
        gate = one / (one + exp(-x))
        return dy * (gate * (one + x * (one - gate)))

    def hard_silu(dy, x, alpha):  # type: ignore[no-untyped-def]
        return dy if x >= three else (zero if x <= -three else dy * (x / three + half))

    def mish(dy, x, alpha):  # type: ignore[no-untyped-def]
        # d/dx x w/(w + 2) = w/(w + 2) + 4 x e (e + 1)/(w + 2)^2; see the function
        low = twenty if x > twenty else x
        e = exp(low)
        w = e * (e + two)
        inverse = one / (w + two)
        return dy * (inverse * (w + four * (low * (e * (e + one) * inverse))))

    def softplus(dy, x, alpha):  # type: ignore[no-untyped-def]
        return dy * (one / (one + exp(-x)))

    def softsign(dy, x, alpha):  # type: ignore[no-untyped-def]
        size = one + abs(x)
        return dy / (size * size)

    named: dict[str, Callable[..., Any]] = {
        "relu": relu,
        "relu6": relu6,
        "leaky_relu": leaky_relu,
        "elu": elu,
        "selu": selu,
        "sigmoid": sigmoid,
        "hard_sigmoid": hard_sigmoid,
        "tanh": hyperbolic_tangent,
        "exponential": exponential,
        "gelu": gelu,
        "gelu_tanh": gelu_tanh,
        "silu": silu,
        "hard_silu": hard_silu,
        "mish": mish,
        "softplus": softplus,
        "softsign": softsign,
    }
    return {kind: quiet(function) for kind, function in named.items()}
