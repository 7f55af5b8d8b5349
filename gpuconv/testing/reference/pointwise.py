"""Element-wise functions and their derivatives, one Python float at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuconv.testing.reference.extents import F64

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946

Function = Callable[[float, float], float]


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.0 else math.inf


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _normal_density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _gelu_tanh_argument(x: float) -> float:
    return math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)


def _gelu_tanh_slope(x: float) -> float:
    tanh = math.tanh(_gelu_tanh_argument(x))
    inner = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
    return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner


def _hard_sigmoid(x: float) -> float:
    return min(max(x / 6.0 + 0.5, 0.0), 1.0)


def _hard_sigmoid_slope(x: float) -> float:
    return 1.0 / 6.0 if -3.0 < x < 3.0 else 0.0


def _mish_slope(x: float) -> float:
    tanh = math.tanh(_softplus(x))
    return tanh + x * (1.0 - tanh * tanh) * _sigmoid(x)


FUNCTIONS: dict[str, Function] = {
    "relu": lambda x, a: x if x > 0 else 0.0,
    "relu6": lambda x, a: min(max(x, 0.0), 6.0),
    "leaky_relu": lambda x, a: x if x > 0 else a * x,
    "elu": lambda x, a: x if x > 0 else a * math.expm1(x),
    "selu": lambda x, a: _SELU_SCALE * (x if x > 0 else _SELU_ALPHA * math.expm1(x)),
    "sigmoid": lambda x, a: _sigmoid(x),
    "hard_sigmoid": lambda x, a: _hard_sigmoid(x),
    "tanh": lambda x, a: math.tanh(x),
    "exponential": lambda x, a: _exp(x),
    "gelu": lambda x, a: x * _normal_cdf(x),
    "gelu_tanh": lambda x, a: 0.5 * x * (1.0 + math.tanh(_gelu_tanh_argument(x))),
    "silu": lambda x, a: x * _sigmoid(x),
    "hard_silu": lambda x, a: x * _hard_sigmoid(x),
    "mish": lambda x, a: x * math.tanh(_softplus(x)),
    "softplus": lambda x, a: _softplus(x),
    "softsign": lambda x, a: x / (1.0 + abs(x)),
}
"""``f(x, alpha)``; ``alpha`` is the slope of leaky_relu and the scale of elu."""

DERIVATIVES: dict[str, Function] = {
    "relu": lambda x, a: 1.0 if x > 0 else 0.0,
    "relu6": lambda x, a: 1.0 if 0 < x < 6 else 0.0,
    "leaky_relu": lambda x, a: 1.0 if x > 0 else a,
    "elu": lambda x, a: 1.0 if x > 0 else a * math.exp(x),
    "selu": lambda x, a: _SELU_SCALE * (1.0 if x > 0 else _SELU_ALPHA * math.exp(x)),
    "sigmoid": lambda x, a: _sigmoid(x) * _sigmoid(-x),
    "hard_sigmoid": lambda x, a: _hard_sigmoid_slope(x),
    "tanh": lambda x, a: 4.0 * _sigmoid(2.0 * x) * _sigmoid(-2.0 * x),
    "exponential": lambda x, a: _exp(x),
    "gelu": lambda x, a: _normal_cdf(x) + x * _normal_density(x),
    "gelu_tanh": lambda x, a: _gelu_tanh_slope(x),
    "silu": lambda x, a: _sigmoid(x) * (1.0 + x * _sigmoid(-x)),
    "hard_silu": lambda x, a: _hard_sigmoid(x) + x * _hard_sigmoid_slope(x),
    "mish": lambda x, a: _mish_slope(x),
    "softplus": lambda x, a: _sigmoid(x),
    "softsign": lambda x, a: 1.0 / (1.0 + abs(x)) ** 2,
}
"""``f'(x, alpha)``; at a kink the value that PyTorch takes (relu: 0)."""


def _each(function: Function, x: F64, alpha: float) -> F64:
    y: F64 = np.empty(x.shape)
    for position in np.ndindex(*x.shape):
        value = float(x[position])
        y[position] = math.nan if math.isnan(value) else function(value, alpha)
    return y


def activation(x: F64, kind: str, alpha: float = 0.0) -> F64:
    """The function called ``kind`` (a key of ``FUNCTIONS``) of every element; NaN stays NaN."""
    return _each(FUNCTIONS[kind], x, alpha)


def activation_backward(dy: F64, x: F64, kind: str, alpha: float = 0.0) -> F64:
    """``dy`` times the derivative at ``x``."""
    return dy * _each(DERIVATIVES[kind], x, alpha)
