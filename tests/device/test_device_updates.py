"""Optimizer updates on the device against the formulas, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv_kernels.device import updates

SIZES = [0, 1, 33, 130]
STEPS = 3


def run(memory, rng, update, formula, states, size, dtype="float64", first=0.0):
    """Take some steps with the kernel and with the formula."""
    w = rng.standard_normal(size)
    value = memory.put(w.astype(dtype))
    w = memory.get(value).astype("float64")
    state = [memory.put(np.full(size, first, dtype)) for _ in range(states)]
    s = [np.full(size, first) for _ in range(states)]
    for t in range(1, STEPS + 1):
        g = rng.standard_normal(size).astype(dtype)
        gradient = memory.put(g)
        update(value, gradient, state, t)
        np.testing.assert_array_equal(memory.get(gradient), g)
        w, s = formula(w, g.astype("float64"), s, t)
    tolerance = 1e-12 if dtype == "float64" else 3e-6
    for got, want in zip([value, *state], [w, *s], strict=True):
        np.testing.assert_allclose(memory.get(got), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_sgd(memory, rng, size, dtype):
    run(
        memory,
        rng,
        lambda w, g, s, t: updates.sgd_update(w, g, None, 0.1, 0.0, False, False, t == 1),
        lambda w, g, s, t: (w - 0.1 * g, []),
        0,
        size,
        dtype,
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("torch_form", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sgd_with_momentum(memory, rng, torch_form, nesterov, dtype):
    def formula(w, g, s, t):
        if torch_form:
            v = g if t == 1 else 0.9 * s[0] + g
            return w - 0.1 * (g + 0.9 * v if nesterov else v), [v]
        v = 0.9 * s[0] - 0.1 * g
        return w + (0.9 * v - 0.1 * g if nesterov else v), [v]

    run(
        memory,
        rng,
        lambda w, g, s, t: updates.sgd_update(w, g, s[0], 0.1, 0.9, nesterov, torch_form, t == 1),
        formula,
        1,
        70,
        dtype,
        first=0.5,  # what the first step of PyTorch's form must not read
    )


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("size", "dtype"), [*((s, "float64") for s in SIZES), (70, "float32")])
def test_adam(memory, rng, size, dtype, after):
    def formula(w, g, s, t):
        m, v = 0.8 * s[0] + 0.2 * g, 0.9 * s[1] + 0.1 * g * g
        c1, c2 = 1 - 0.8**t, 1 - 0.9**t
        if after:
            return w - 0.1 * (m / c1) / (np.sqrt(v / c2) + 0.01), [m, v]
        return w - 0.1 * np.sqrt(c2) / c1 * m / (np.sqrt(v) + 0.01), [m, v]

    run(
        memory,
        rng,
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
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rmsprop(memory, rng, dtype, momentum, centered, inside):
    def rate(t):
        return 0.1 / t

    def formula(w, g, s, t):
        square = 0.9 * s[0] + 0.1 * g * g
        mean = 0.9 * s[1] + 0.1 * g if centered else s[1]
        variance = square - mean * mean if centered else square
        d = rate(t) * g / np.sqrt(variance + 0.01) if inside else g / (np.sqrt(variance) + 0.01)
        v = momentum * s[2] + d
        return w - (v if inside else rate(t) * v), [square, mean, v if momentum else s[2]]

    run(
        memory,
        rng,
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
        70,
        dtype,
    )


def test_centered_rmsprop_survives_a_constant_gradient(memory):
    """The mean of squares less the square of the mean then rounds to just below zero."""
    g = np.full(50, 0.1, "float32") + np.linspace(0, 1, 50, dtype="float32")
    w, s, c = (memory.put(a) for a in (np.zeros_like(g), g * g * np.float32(1 - 1e-6), g))
    updates.rmsprop_update(w, memory.put(g), s, c, None, 0.01, 0.5, 0.0, 1e-8, False)
    assert np.isfinite(memory.get(w)).all()
    assert (memory.get(s) - memory.get(c) ** 2).min() < 0


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adagrad(memory, rng, inside, dtype):
    def formula(w, g, s, t):
        total = s[0] + g * g
        root = np.sqrt(total + 0.01) if inside else np.sqrt(total) + 0.01
        return w - 0.1 * g / root, [total]

    run(
        memory,
        rng,
        lambda w, g, s, t: updates.adagrad_update(w, g, s[0], 0.1, 0.01, inside),
        formula,
        1,
        70,
        dtype,
        first=0.1,
    )


def test_scalar_parameters(memory):
    w, g, s = (memory.put(np.array([v])).reshape(()) for v in (1.0, 2.0, 0.0))
    updates.adagrad_update(w, g, s, 0.5, 0.0, epsilon_inside_root=True)
    assert memory.get(w) == 0.5
