"""The functions that need an exponential, and their slopes, exact: in decimal numbers.

Each takes a ``Decimal`` and returns a pair: the value, and the size of the terms it is the sum of,
which is what rounding is measured against.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
ALPHA = Decimal("1.25")
SELU_ALPHA = Decimal("1.6732632423543772848170429916717")
SELU_SCALE = Decimal("1.0507009873554804934193349852946")
CUBIC = Decimal("0.044715")

Pair = tuple[Decimal, Decimal]


def exact(function: Callable[[Decimal], Pair | Decimal], x: float) -> Pair:
    """Return the pair for one number."""
    with localcontext(Context(prec=60, Emax=10**9, Emin=-(10**9))):
        result = function(Decimal(float(x)))
        return result if isinstance(result, tuple) else (result, abs(result))


def expm1(x: Decimal) -> Decimal:
    return x if abs(x) < Decimal("1e-50") else x.exp() - 1


def sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def softplus(x: Decimal) -> Decimal:
    return x.exp() if x < -50 else (1 + x.exp()).ln()


def density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def distribution(x: Decimal) -> Decimal:
    """Near 0 ``1/2 + density(x) (x + x^3/3 + x^5/(3 5) + ...)``, else Laplace's fraction.

    The tail of u is ``density(u) / (u + 1/(u + 2/(u + 3/...)))``.
    """
    if abs(x) > 3:
        fraction = abs(x)
        for n in range(400, 0, -1):
            fraction = abs(x) + n / fraction
        tail = density(x) / fraction
        return tail if x < 0 else 1 - tail
    term, total, n = x, x, 1
    while abs(term) > abs(total).scaleb(-60):
        n += 2
        term *= x * x / n
        total += term
    return Decimal("0.5") + density(x) * total


def mish(x: Decimal) -> Decimal:
    e = x.exp()
    return x * (e * e + 2 * e) / (e * e + 2 * e + 2)


def mish_slope(x: Decimal) -> Pair:
    e = x.exp()
    w = e * e + 2 * e
    first, second = w / (w + 2), 4 * x * e * (e + 1) / (w + 2) ** 2
    return first + second, first + abs(second)


def gelu_slope(x: Decimal) -> Pair:
    first, second = distribution(x), x * density(x)
    return first + second, first + abs(second)


def gelu_argument(x: Decimal) -> Decimal:
    """Twice the argument of the tanh in GELU's approximation."""
    return 2 * (2 / PI).sqrt() * (x + CUBIC * x**3)


def gated_slope(x: Decimal, z: Decimal, slope: Decimal) -> Pair:
    """Of ``x sigmoid(z)``, where ``slope`` is that of z."""
    first = sigmoid(z)
    second = x * slope * first * sigmoid(-z)
    return first + second, first + abs(second)


FUNCTIONS: dict[str, Callable[[Decimal], Pair | Decimal]] = {
    "elu": lambda x: x if x > 0 else ALPHA * expm1(x),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * expm1(x)),
    "sigmoid": sigmoid,
    "tanh": lambda x: expm1(2 * x) / (2 + expm1(2 * x)),
    "exponential": lambda x: x.exp(),
    "gelu": lambda x: x * distribution(x),
    "gelu_tanh": lambda x: x * sigmoid(gelu_argument(x)),
    "silu": lambda x: x * sigmoid(x),
    "mish": mish,
    "softplus": softplus,
}

SLOPES: dict[str, Callable[[Decimal], Pair | Decimal]] = {
    "gelu": gelu_slope,
    "gelu_tanh": lambda x: gated_slope(
        x, gelu_argument(x), 2 * (2 / PI).sqrt() * (1 + 3 * CUBIC * x * x)
    ),
    "silu": lambda x: gated_slope(x, x, Decimal(1)),
    "mish": mish_slope,
    "softplus": sigmoid,
}
