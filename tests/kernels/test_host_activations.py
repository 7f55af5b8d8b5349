"""Compiled element-wise functions: without an exponential, the same bits as the NumPy kernels."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import activations as array
from gpuconv_kernels.host import activations as host
from gpuconv_kernels.host.rows import fold_of
from gpuconv_kernels.threads import set_threads

ALPHAS = {"leaky_relu": (0.3, 1.5), "elu": (1.25,)}
FORWARD = ["hard_sigmoid", "hard_silu", "leaky_relu", "relu", "relu6", "softsign"]
BACKWARD = sorted(host.BACKWARD_FROM_OUTPUT | {"hard_silu", "softsign"})


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def values(dtype):
    """Both signs, kinks and their neighbours, zeros, infinities, NaN, numbers below the normal."""
    kinks = np.array([-3, 0, 1, 3, 6], dtype)
    near = [np.nextafter(kinks, dtype(-9)), kinks, np.nextafter(kinks, dtype(9))]
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny / 4, np.finfo(dtype).max]
    grid = np.linspace(-7, 7, 89)
    return np.concatenate([*near, np.array(odd), -np.array(odd), grid]).astype(dtype)


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    numbers = ~np.isnan(expected)
    integer = f"i{expected.itemsize}"
    np.testing.assert_array_equal(
        actual.view(integer)[numbers], np.ascontiguousarray(expected).view(integer)[numbers]
    )


@pytest.mark.parametrize("kind", FORWARD)
def test_forward_has_the_bits_of_numpy(kind):
    for dtype in [np.float32, np.float64] if kind == "relu" else [np.float32]:
        x = values(dtype)
        for alpha in ALPHAS.get(kind, (0.0,)):
            with guarded(x, np.empty_like(x)) as (source, y):
                host.forward(source, y, kind, alpha)
                assert_same_bits(y, array.forward(x, kind, alpha))
                assert_same_bits(source, x)


@pytest.mark.parametrize("kind", BACKWARD)
def test_backward_has_the_bits_of_numpy(kind):
    for dtype in [np.float32, np.float64] if kind in ("relu", "tanh") else [np.float32]:
        dy, z = (a.reshape(-1) for a in np.meshgrid(values(dtype), values(dtype)))
        for alpha in ALPHAS.get(kind, (0.0,)):
            with guarded(dy, z, np.empty_like(z)) as (gradient, source, dx):
                host.backward(gradient, source, dx, kind, alpha)
                assert_same_bits(dx, array.backward(dy, z, z, kind, alpha))


@pytest.mark.parametrize("channels", [1, 3, 10, 64, 5000])
@pytest.mark.parametrize("kind", [None, "relu"])
def test_bias_is_added_in_place(kind, channels):
    rng = np.random.default_rng(0)
    for rows in (0, 1, 2 * fold_of(channels, np.dtype("f4")) + 3):
        y = rng.standard_normal((rows, channels)).astype("float32")
        bias = rng.standard_normal(channels).astype("float32")
        expected = y + bias if kind is None else array.forward(y + bias, kind)
        with guarded(y) as (result,):
            host.add_bias(result, bias, kind)
            assert_same_bits(result, expected)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    size = 3 * host.TASK + 17
    dy, y = rng.standard_normal((2, size)).astype("float32")
    rows, bias = rng.standard_normal((70_001, 3)).astype("float32"), np.ones(3, "float32")
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        dx, sums = np.full_like(dy, np.nan), rows.copy()
        host.backward(dy, y, dx, "relu")
        host.add_bias(sums, bias)
        results.append((dx, sums))
    for dx, sums in results:
        assert_same_bits(dx, array.backward(dy, None, y, "relu"))
        assert_same_bits(sums, rows + bias)


def test_views_and_read_only_inputs():
    base = np.random.default_rng(2).standard_normal((9, 8)).astype("float32")
    dy, y = base[::2, 1:6].T, base[1::2, ::-1]
    base.flags.writeable = False
    out, dx = np.empty(dy.shape, "float32"), np.empty(y.shape, "float32")
    host.forward(dy, out, "relu")
    assert_same_bits(out, array.forward(dy, "relu"))
    host.backward(y, base[:4], dx, "relu")
    assert_same_bits(dx, array.backward(y, None, base[:4], "relu"))


def test_a_function_may_be_applied_in_place():
    x = values(np.float32)
    expected = array.forward(x, "relu")
    host.forward(x, x, "relu")
    assert_same_bits(x, expected)


def test_what_is_known_is_what_numpy_knows():
    assert set(array.FORWARD) == host.FORWARD
    assert set(array.BACKWARD_FROM_OUTPUT) == host.BACKWARD_FROM_OUTPUT
    assert set(array.BACKWARD_FROM_INPUT) == host.BACKWARD_FROM_INPUT
