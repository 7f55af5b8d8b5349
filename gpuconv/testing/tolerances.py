"""How far apart two results may be, from the dtype and the number of summed products.

Rounding errors of a sum of ``K`` terms grow like a random walk, so the bound is
``c * eps * sqrt(K)`` relative to the scale of the result (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", section 2.8). Sums of small integers are exact:
:func:`assert_exact` allows no difference at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuconv.backends.arrays import to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

FACTORS: Final = {"float16": 4.0, "float32": 8.0, "float64": 16.0}
"""``c`` for each dtype. Generous enough for Winograd and for another order of summation;
float64's is larger because the reference itself is rounded in float64."""


def tolerance(dtype: Any, reduction_length: int = 1) -> float:
    """Return the relative error allowed for a sum of ``reduction_length`` products.

    Raises:
        KeyError: a dtype that is not in ``FACTORS``.
    """
    name = np.dtype(dtype).name
    return FACTORS[name] * float(np.finfo(name).eps) * math.sqrt(max(reduction_length, 1))


def assert_close(
    actual: Array,
    expected: Array,
    reduction_length: int = 1,
    scale: Array | float | None = None,
) -> None:
    """Compare with the tolerance that belongs to ``actual``'s dtype.

    Args:
        actual: result to judge: NumPy, CuPy or Tensor, floating-point.
        expected: of the same shape; usually a float64 reference.
        reduction_length: number of products summed for each element.
        scale: what the error is relative to, a number or an array that broadcasts; the
            largest finite ``|expected|`` if None. Where sums cancel, the result of the same
            operation on absolute values is the right scale.

    NaN must meet NaN and an infinity the same infinity.

    Raises:
        AssertionError: different shape, or too far apart; tells where and by how much.
    """
    got, want = _pair(actual, expected)
    if scale is None:
        finite = np.abs(want[np.isfinite(want)])
        scale = float(finite.max()) if finite.size else 0.0
    relative = tolerance(got.dtype, reduction_length)
    allowed = np.broadcast_to(relative * np.abs(np.asarray(scale, np.float64)), want.shape)
    _compare(got, want, allowed)


def assert_exact(actual: Array, expected: Array) -> None:
    """Compare with no tolerance at all; NaN equals NaN, and dtypes may differ.

    Raises:
        AssertionError: different shape or any different value; tells where.
    """
    got, want = _pair(actual, expected)
    _compare(got, want, np.zeros(want.shape))


def _pair(actual: Array, expected: Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    got, want = np.asarray(to_numpy(actual)), np.asarray(to_numpy(expected))
    assert got.shape == want.shape, f"shape {got.shape} where {want.shape} is expected"
    return got, want


def _compare(
    got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], allowed: np.ndarray[Any, Any]
) -> None:
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    equal = (got64 == want64) | (np.isnan(got64) & np.isnan(want64))
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, judged by `equal`
        error = np.where(equal, 0.0, np.abs(got64 - want64))
    bad = ~equal & ~(error <= allowed)
    if not bad.any():
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where(bad, error / allowed, -1.0)
    excess[np.isnan(excess)] = np.inf
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    value, target = float(got64[worst]), float(want64[worst])
    raise AssertionError(
        f"{int(bad.sum())} of {bad.size} elements of dtype {got.dtype} differ too much; "
        f"the worst at {worst}: {value!r} where {target!r} is expected, "
        f"error {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
    )
