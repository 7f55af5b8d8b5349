"""Optimizer updates against the formulas, one element at a time in Python's floats."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuconv_kernels.array import updates

NDArray = np.ndarray[Any, Any]

SIZES = [0, 1, 7, updates.BLOCK, updates.BLOCK + 1, 2 * updates.BLOCK + 3]
"""Around the edges of a block."""

STEPS = 4


def gradients(shape: tuple[int, ...], dtype: str) -> list[NDArray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


def start(shape: tuple[int, ...], dtype: str) -> NDArray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def compare(
    update: Callable[[NDArray, NDArray, list[NDArray], int], None],
    formula: Callable[[float, float, list[float], int], tuple[float, list[float]]],
    states: int,
    size: int,
    dtype: str = "float64",
    first: float = 0.0,
) -> None:
    """Run both for some steps; the formula only at a few elements of large arrays."""
    value = start((size,), dtype)
    state = [np.full(size, first, dtype) for _ in range(states)]
    before = value.copy()
    all_gradients = gradients((size,), dtype)
    for t, g in enumerate(all_gradients, 1):
        kept = g.copy()
        update(value, g, state, t)
        np.testing.assert_array_equal(g, kept)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    for i in sorted({*range(min(size, 7)), *range(max(0, size - 5), size)}):
        w, s = float(before[i]), [first] * states
        for t, g in enumerate(all_gradients, 1):
            w, s = formula(w, float(g[i]), s, t)
        assert value[i] == pytest.approx(w, rel=tolerance, abs=tolerance)
        for array, expected in zip(state, s, strict=True):
            assert array[i] == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_sgd(size: int, dtype: str) -> None:
    compare(
        lambda w, g, s, t: updates.sgd_update(w, g, None, 0.1, 0.0, False, False, t == 1),
        lambda w, g, s, t: (w - 0.1 * g, []),
        0,
        size,
        dtype,
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("torch_form", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_sgd_with_momentum(size: int, torch_form: bool, nesterov: bool) -> None:
    def formula(w: float, g: float, s: list[float], t: int) -> tuple[float, list[float]]:
        if torch_form:
            v = g if t == 1 else 0.9 * s[0] + g
            return w - 0.1 * (g + 0.9 * v if nesterov else v), [v]
        v = 0.9 * s[0] - 0.1 * g
        return w + (0.9 * v - 0.1 * g if nesterov else v), [v]

    compare(
        lambda w, g, s, t: updates.sgd_update(w, g, s[0], 0.1, 0.9, nesterov, torch_form, t == 1),
        formula,
        1,
        size,
    )


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("size", "dtype"), [*((s, "float64") for s in SIZES), (9, "float32")])
def test_adam(size: int, dtype: str, after: bool) -> None:
    def formula(w: float, g: float, s: list[float], t: int) -> tuple[float, list[float]]:
        m, v = 0.8 * s[0] + 0.2 * g, 0.9 * s[1] + 0.1 * g * g
        c1, c2 = 1 - 0.8**t, 1 - 0.9**t
        if after:
            return w - 0.1 * (m / c1) / (math.sqrt(v / c2) + 0.01), [m, v]
        return w - 0.1 * math.sqrt(c2) / c1 * m / (math.sqrt(v) + 0.01), [m, v]

    compare(
        lambda w, g, s, t: updates.adam_update(
            w, g, s[0], s[1], 0.1, 0.8, 0.9, 0.01, t, epsilon_after_correction=after
        ),
        formula,
        2,
        size,
        dtype,
    )


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize(("size", "dtype"), [(5, "float32"), (updates.BLOCK + 1, "float64")])
def test_rmsprop(size: int, dtype: str, momentum: float, centered: bool, inside: bool) -> None:
    def rate(t: int) -> float:
        return 0.1 / t

    def formula(w: float, g: float, s: list[float], t: int) -> tuple[float, list[float]]:
        square = 0.9 * s[0] + 0.1 * g * g
        mean = 0.9 * s[1] + 0.1 * g if centered else 0.0
        variance = square - mean * mean
        lr = rate(t)
        if inside:
            d = lr * g / math.sqrt(variance + 0.01)
            v = momentum * s[2] + d
            return w - v, [square, mean, v if momentum else 0.0]
        d = g / (math.sqrt(variance) + 0.01)
        v = momentum * s[2] + d
        return w - lr * v, [square, mean, v if momentum else 0.0]

    compare(
        lambda w, g, s, t: updates.rmsprop_update(
            w,
            g,
            s[0],
            s[1] if centered else None,
            s[2] if momentum else None,
            rate(t),
            0.9,
            momentum,
            0.01,
            epsilon_inside_root=inside,
        ),
        formula,
        3,
        size,
        dtype,
    )


def test_centered_rmsprop_survives_a_constant_gradient() -> None:
    """The mean of squares less the square of the mean then rounds to just below zero."""
    g = np.full(1000, 0.1, "float32") + np.linspace(0, 1, 1000, dtype="float32")
    w, s, c = np.zeros_like(g), np.zeros_like(g), np.zeros_like(g)
    for _ in range(300):
        updates.rmsprop_update(w, g, s, c, None, 0.01, 0.5, 0.0, 1e-8, epsilon_inside_root=False)
    assert np.isfinite(w).all()
    assert (s - c * c).min() < 0


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_adagrad(size: int, inside: bool) -> None:
    def formula(w: float, g: float, s: list[float], t: int) -> tuple[float, list[float]]:
        total = s[0] + g * g
        root = math.sqrt(total + 0.01) if inside else math.sqrt(total) + 0.01
        return w - 0.1 * g / root, [total]

    compare(
        lambda w, g, s, t: updates.adagrad_update(
            w, g, s[0], 0.1, 0.01, epsilon_inside_root=inside
        ),
        formula,
        1,
        size,
        first=0.1,
    )


def test_gradients_of_any_strides() -> None:
    g = np.random.default_rng(2).standard_normal((5, 3))
    g.flags.writeable = False
    a, b = np.ones((3, 5)), np.ones((3, 5))
    updates.sgd_update(a, g.T, None, 0.5, 0.0, False, False, True)
    updates.sgd_update(b, np.ascontiguousarray(g.T), None, 0.5, 0.0, False, False, True)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, 1 - 0.5 * g.T)


def test_values_that_are_not_contiguous_are_refused_instead_of_lost() -> None:
    with pytest.raises(ValueError, match="C-contiguous"):
        updates.sgd_update(np.ones((3, 5)).T, np.ones((5, 3)), None, 0.5, 0.0, False, False, True)


def test_scalar_parameters() -> None:
    w = np.array(1.0)
    updates.adagrad_update(w, np.array(2.0), np.zeros(()), 0.5, 0.0, epsilon_inside_root=True)
    assert w == 0.5


def test_temporaries_do_not_grow_with_the_parameter() -> None:
    """Large parameters are updated in blocks: memory beyond the arguments stays small."""
    w, g, m, v = (np.ones(2_000_000, "float32") for _ in range(4))
    tracemalloc.start()
    try:
        updates.adam_update(w, g, m, v, 0.1, 0.9, 0.999, 1e-7, 1, epsilon_after_correction=False)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
