"""The standard normal distribution function, for whole arrays.

For ``u >= 0`` the scaled tail ``exp(u^2/2) (1 - Phi(u))`` is a smooth function of
``t = (u - 3.75)/(u + 3.75)`` in [-1, 1], and so has a short Chebyshev expansion: Schonfelder
(1978), "Chebyshev expansions for the error and related functions". The coefficients below were
computed anew from the definition with 50 digits and are written in powers of t, where they stay
below 0.2, so that Horner's rule loses nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

NDArray = np.ndarray[Any, Any]

_CENTRE: Final = 3.75

_POWERS: Final = {
    4: (
        0.10003921866066282,
        -0.17846425391387713,
        0.12548331211832514,
        -0.06726248831164272,
        0.02520456899874999,
        -0.004833620944001918,
        -0.0007216854599651792,
        0.0006143524957449296,
        -5.42274856298371e-06,
        -5.399585727322823e-05,
    ),
    8: (
        0.1000392096354532,
        -0.1784643320136238,
        0.12548377004191813,
        -0.06726089638731433,
        0.02520082544589758,
        -0.004842796460238873,
        -0.0007108293596747897,
        0.0006363705576922236,
        -1.8678304522182058e-05,
        -7.827124333087587e-05,
        6.284758825714948e-06,
        1.1619204948648796e-05,
        -5.016569758577617e-07,
        -1.994582686040396e-06,
        -1.4773717404513385e-07,
        3.4792822874239674e-07,
        9.067699216722415e-08,
        -5.1591746237071044e-08,
        -2.8803692459417385e-08,
        4.417156663050101e-09,
        5.919051775143572e-09,
        2.702357112355861e-10,
        -6.160992246326161e-10,
        -9.932182589703812e-11,
    ),
}
"""Coefficients of 1, t, t^2, ... by the bytes of a number: exact to rounding in each dtype."""


def normal_cdf(x: NDArray) -> NDArray:
    """``Phi(x) = (1 + erf(x / sqrt(2))) / 2`` in float32 or float64, to an ulp of 1.

    The lower tail keeps its relative accuracy, which forming ``1 + erf`` would cancel away.
    """
    size = np.abs(x)
    tail = _scaled_tail(size)
    size *= size
    size *= -0.5
    np.exp(size, out=size)
    tail *= size
    # tail for x <= 0 and 1 - tail for x > 0, without a branch.
    np.subtract(np.greater(x, 0), tail, out=tail)
    return np.abs(tail, out=tail)


def _scaled_tail(size: NDArray) -> NDArray:
    """``exp(u^2/2) (1 - Phi(u))`` of ``u >= 0``."""
    powers = _POWERS[size.itemsize]
    t = size + _CENTRE
    np.divide(-2.0 * _CENTRE, t, out=t)
    t += 1.0
    result: NDArray = t * powers[-1]
    for coefficient in powers[-2:0:-1]:
        result += coefficient
        result *= t
    result += powers[0]
    return result
