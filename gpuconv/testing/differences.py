"""Derivatives of black boxes, by central differences in float64.

Richardson's extrapolation removes the error in h**2, and the step is chosen as Ridders does
(1982, "Accurate computation of F'(x) and F'(x)F''(x)"): where neighbouring steps agree best.
A step that crosses a kink disagrees with the smaller ones and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Floats = np.ndarray[Any, Any]

_STEPS = tuple(2.0**-p for p in range(7, 24, 2))
"""From 0.8 % to a ten-millionth of the value's own size; neighbours differ by a factor of 4."""


def numerical_gradient(function: Callable[[Floats], Any], x: Array) -> Floats:
    """Differentiate a scalar float64 function by each element of ``x``, smooth near ``x``."""
    start = np.array(as_float64(x, "input"))
    gradient = np.zeros(start.shape)
    for position in np.ndindex(*start.shape):
        direction = np.zeros(start.shape)
        direction[position] = 1.0

        def along(t: float, direction: Floats = direction) -> float:
            return float(function(start + t * direction))

        gradient[position], _ = derivative(along, 1e-9)
    return gradient


def compare_gradient(
    label: str,
    function: Callable[[Floats], Floats],
    value: Floats,
    gradient: Any,
    dy: Floats,
    directions: int,
    tolerance: float,
    rng: np.random.Generator,
) -> list[str]:
    """Describe each direction in which ``gradient`` is not the derivative of ``<function, dy>``."""
    if gradient is None:
        return [f"{label}: no gradient"]
    slope = to_numpy(gradient)
    if slope.shape != value.shape:
        return [f"{label}: gradient of shape {slope.shape} for a value of {value.shape}"]
    if value.size == 0 or dy.size == 0:
        return [] if not slope.any() else [f"{label}: a gradient without any output"]
    size = inner_product(np.abs(function(value)), np.abs(dy))
    spread = float(np.sqrt(np.mean(value * value))) or 1.0
    problems = []
    for _ in range(directions):
        direction = spread * normal(rng, value.shape)
        expected = inner_product(slope, direction)
        # Differences of numbers near `size` cannot resolve less than the second term.
        allowed = tolerance * float(np.linalg.norm(slope * direction)) + 1e-10 * size

        def along(t: float, direction: Floats = direction) -> float:
            return inner_product(function(value + t * direction), dy)

        measured, doubt = derivative(along, 0.01 * allowed)
        if doubt > max(allowed, tolerance * abs(measured)):
            problems.append(
                f"{label}: differences do not settle (last change {doubt:.3g}); the function "
                f"is not smooth or not deterministic there"
            )
        elif not abs(measured - expected) <= allowed:
            relative = abs(measured - expected) / max(abs(measured), abs(expected))
            problems.append(
                f"{label}: differences give {measured:.12g}, backward gives {expected:.12g}; "
                f"relative error {relative:.3g}, allowed difference {allowed:.3g}"
            )
    return problems


def derivative(phi: Callable[[float], float], enough: float) -> tuple[float, float]:
    """Return ``phi'(0)`` and how much the last two estimates differ.

    The step shrinks until two extrapolated estimates agree within ``enough``; else the pair
    that agrees best decides.
    """
    best, doubt = 0.0, np.inf
    coarse = previous = None
    for h in _STEPS:
        fine = (phi(h) - phi(-h)) / (2 * h)
        if coarse is not None:
            estimate = (16 * fine - coarse) / 15  # the error term in h**2 cancels
            if previous is not None and abs(estimate - previous) < doubt:
                best, doubt = estimate, abs(estimate - previous)
                if doubt <= enough:
                    break
            previous = estimate
        coarse = fine
    return best, float(doubt)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Standard normal float64 numbers."""
    return rng.standard_normal(shape)


def inner_product(a: Array, b: Array) -> float:
    """The sum of the element-wise products, in float64."""
    x, y = to_numpy(a), to_numpy(b)
    return float(np.sum(x.astype(np.float64) * y.astype(np.float64)))


def as_float64(array: Array, what: str) -> Floats:
    """Return a NumPy array, refusing any dtype in which differences would drown in rounding."""
    host = to_numpy(array)
    assert host.dtype == np.float64, f"the {what} must be float64 for differences: {host.dtype}"
    return host
