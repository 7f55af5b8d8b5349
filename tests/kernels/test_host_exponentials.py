"""Compiled functions that need an exponential: against exact values, wherever a number lies."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from decimal_functions import ALPHA, FUNCTIONS, SLOPES, exact, gelu_argument

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import activations as array
from gpuconv_kernels.host import activations as host
from gpuconv_kernels.threads import set_threads

DTYPES = ["float32", "float64"]
ULPS = 4.0


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def values(dtype):
    """Both signs, many sizes, and the ends where results vanish or are infinite."""
    rng = np.random.default_rng(0)
    end, least = (104.0, 1e-44) if dtype == "float32" else (746.0, 1e-323)
    parts = [
        np.linspace(-12, 12, 41),
        rng.uniform(-2, 2, 40),
        np.linspace(-1.06 * end, 0.85 * end, 40),
        np.geomspace(least, 1, 20),
        -np.geomspace(least, 1, 20),
        -np.linspace(0.82, 1.06, 13) * end,  # below the normal numbers
        -np.linspace(5, 14.6, 13) * (1 if dtype == "float32" else 2.64),  # the same of gelu
    ]
    return np.concatenate(parts).astype(dtype)


def forward(x, kind):
    with guarded(x, np.empty_like(x)) as (source, y):
        host.forward(source, y, kind, float(ALPHA))
        assert source.tobytes() == x.tobytes()
        return y


def backward(dy, x, kind):
    with guarded(dy, x, np.empty_like(x)) as (gradient, source, dx):
        host.backward(gradient, source, dx, kind, float(ALPHA))
        assert source.tobytes() == x.tobytes()
        assert gradient.tobytes() == dy.tobytes()
        return dx


def errors(actual, pairs):
    """Distances from the exact values in units of the last place of their terms."""
    dtype = actual.dtype.type
    largest = Decimal(float(np.finfo(dtype).max))
    result = []
    for value, (expected, terms) in zip(actual, pairs, strict=True):
        if np.isinf(value):
            result.append(0.0 if expected > largest else np.inf)
        else:
            unit = Decimal(float(np.spacing(dtype(min(terms, largest)))))
            result.append(float(abs(Decimal(float(value)) - expected) / unit))
    return np.array(result)


def allowed(kind, x):
    """In ``gelu_tanh`` the rounding of the exponential's argument counts as much as this is."""
    if kind != "gelu_tanh":
        return np.full(x.shape, ULPS)
    return np.array([ULPS + 3 * abs(float(gelu_argument(Decimal(float(v))))) for v in x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
def test_forward_is_exact_to_a_few_places(kind, dtype):
    x = values(dtype)
    found = errors(forward(x, kind), [exact(FUNCTIONS[kind], v) for v in x])
    worst = np.argmax(found - allowed(kind, x))
    assert found[worst] <= allowed(kind, x)[worst], f"{found[worst]} places at {x[worst]}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(SLOPES))
def test_slopes_are_exact_to_a_few_places(kind, dtype):
    x = values(dtype)
    found = errors(backward(np.ones_like(x), x, kind), [exact(SLOPES[kind], v) for v in x])
    worst = np.argmax(found - allowed(kind, x))
    assert found[worst] <= allowed(kind, x)[worst], f"{found[worst]} places at {x[worst]}"


AT_THE_ENDS = {  # at -inf, the least number, -0.0, 0.0, the largest number, inf
    "elu": [-1.25, -1.25, -0.0, 0.0, "x", np.inf],
    "selu": [-1.7580993408473766, -1.7580993408473766, -0.0, 0.0, np.inf, np.inf],
    "sigmoid": [0, 0, 0.5, 0.5, 1, 1],
    "tanh": [-1, -1, -0.0, 0.0, 1, 1],
    "exponential": [0, 0, 1, 1, np.inf, np.inf],
    "gelu": [0, 0, -0.0, 0.0, "x", np.inf],
    "gelu_tanh": [0, 0, -0.0, 0.0, "x", np.inf],
    "silu": [0, 0, -0.0, 0.0, "x", np.inf],
    "mish": [0, 0, -0.0, 0.0, "x", np.inf],
    "softplus": [0, 0, np.log(2), np.log(2), "x", np.inf],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(AT_THE_ENDS))
def test_the_ends_and_nan(kind, dtype):
    largest = np.finfo(dtype).max
    x = np.array([-np.inf, -largest, -0.0, 0.0, largest, np.inf, np.nan], dtype)
    y = forward(x, kind)
    expected = [largest if e == "x" else e for e in AT_THE_ENDS[kind]]
    np.testing.assert_array_equal(y[:6], np.array(expected, dtype))
    assert np.isnan(y[6])
    if expected[3] == 0:
        assert np.signbit(y[2:4]).tolist() == [True, False]
    if kind in SLOPES:
        slopes = backward(np.full_like(x, 3), x, kind)
        middle = 1.8 if kind == "mish" else 1.5
        np.testing.assert_allclose(slopes[2:4], middle, rtol=2 * float(np.finfo(dtype).eps))
        np.testing.assert_array_equal(slopes[[0, 1, 4, 5, 6]], [0, 0, 3, 3, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
def test_the_bits_do_not_depend_on_where_a_number_lies(kind, dtype):
    x = values(dtype)[:180]
    dy = np.linspace(-2, 2, x.size).astype(dtype)
    alone = [forward(x[i : i + 1], kind) for i in range(x.size)]
    assert forward(x, kind).tobytes() == np.concatenate(alone).tobytes()
    alone = [backward(dy[i : i + 1], x[i : i + 1], kind) for i in range(x.size)]
    assert backward(dy, x, kind).tobytes() == np.concatenate(alone).tobytes()
    for start in range(1, 20, 6):
        assert forward(x[start:], kind).tobytes() == forward(x, kind)[start:].tobytes()


@pytest.mark.parametrize("kind", ["gelu", "mish", "softplus"])
def test_the_bits_do_not_depend_on_the_number_of_threads(kind):
    x = np.random.default_rng(1).standard_normal(5 * host.TASK + 17).astype("float32")
    rows, bias = x[: x.size // 3 * 3].reshape(-1, 3), np.ones(3, "float32")
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        sums = rows.copy()
        host.add_bias(sums, bias, kind)
        results.append((forward(x, kind), backward(x, x, kind), sums))
    for result in results:
        for one, other in zip(result, results[0], strict=True):
            assert one.tobytes() == other.tobytes()
    np.testing.assert_allclose(results[0][0], array.forward(x, kind), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
def test_in_place_and_behind_a_bias(kind):
    rows = values("float32")[:180].reshape(-1, 5)
    bias = np.linspace(-1, 1, 5).astype("float32")
    with guarded(rows) as (y,):
        host.add_bias(y, bias, kind, float(ALPHA))
        assert y.tobytes() == forward(rows + bias, kind).tobytes()
    with guarded(rows) as (y,):
        host.forward(y, y, kind, float(ALPHA))
        assert y.tobytes() == forward(rows, kind).tobytes()
