"""Element-wise functions and their derivatives against plain float64 formulas."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest

from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT
from gpuconv.testing import numerical_gradient, reference
from gpuconv_kernels.array import activations
from gpuconv_kernels.array.functions import (
    BACKWARD_FROM_INPUT,
    BACKWARD_FROM_OUTPUT,
    BLOCK,
    FORWARD,
)
from gpuconv_kernels.array.normal import normal_cdf

KINDS = sorted(FROM_OUTPUT | FROM_INPUT)
ALPHA = {"leaky_relu": 0.3, "elu": 1.5}
DTYPES = ["float32", "float64"]

Function = namedtuple("Function", "kind alpha")


def values(dtype):
    """Both signs, many sizes, kinks and their neighbours."""
    grid = np.concatenate([np.linspace(-12, 12, 97), np.geomspace(1e-6, 80, 40)])
    kinks = [-3, 0, 3, 6, np.nextafter(6, 0), np.nextafter(3, 9)]
    return np.concatenate([grid, -grid, kinks]).astype(dtype)


def test_the_tables_cover_the_contract():
    assert set(FORWARD) == FROM_OUTPUT | FROM_INPUT == set(reference.FUNCTIONS)
    assert set(BACKWARD_FROM_OUTPUT) == FROM_OUTPUT
    assert set(BACKWARD_FROM_INPUT) == FROM_INPUT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_forward(kind, dtype):
    x = values(dtype)
    before = x.copy()
    y = activations.forward(x, kind, ALPHA.get(kind, 0.0))
    expected = reference.activation(x.astype("float64"), kind, ALPHA.get(kind, 0.0))
    eps = np.finfo(dtype).eps
    scale = np.maximum(1.0, np.abs(x.astype("float64")))
    if kind == "exponential":  # x is rounded relative to itself, and exp multiplies that
        scale = scale * np.abs(expected)
    assert np.max(np.abs(y - expected) / scale) < 4 * eps
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_backward(kind, dtype):
    x, alpha = values(dtype), ALPHA.get(kind, 0.0)
    dy = np.linspace(-2, 2, x.size).astype(dtype)
    y = activations.forward(x, kind, alpha)
    dx = activations.backward(dy, x, y, kind, alpha)
    expected = reference.activation_backward(dy.astype("float64"), x.astype("float64"), kind, alpha)
    # Terms of the size of x cancel, in the reference too.
    scale = np.maximum(np.abs(expected), 1.0) * np.maximum(np.abs(x.astype("float64")), 1.0)
    assert np.max(np.abs(dx - expected) / scale) < 8 * np.finfo(dtype).eps
    assert dx.dtype == dy.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_backward_is_the_derivative_of_forward(kind):
    alpha = ALPHA.get(kind, 0.0)
    x = np.array([-7.1, -2.5, -1.1, -0.3, 0.4, 1.7, 2.6, 4.2, 7.7])
    y = activations.forward(x, kind, alpha)
    dx = activations.backward(np.ones_like(x), x, y, kind, alpha)
    slope = numerical_gradient(lambda z: activations.forward(z, kind, alpha).sum(), x)
    np.testing.assert_allclose(dx, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_huge_arguments_neither_warn_nor_give_nan(kind, dtype):
    large = float(np.finfo(dtype).max)
    x = np.array([-large, -1e30, -800.0, -100.0, 100.0, 800.0, 1e30, large], dtype)
    alpha = ALPHA.get(kind, 0.0)
    with np.errstate(all="raise"):
        y = activations.forward(x, kind, alpha)
        dx = activations.backward(np.ones_like(x), x, y, kind, alpha)
    assert not np.isnan(y).any()
    assert not np.isnan(dx).any()
    if kind != "exponential":
        assert (np.abs(dx) < 1.1 * max(alpha, 1.0, 1.76)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nan_goes_through(kind):
    x = np.array([1.0, np.nan, -1.0], "float32")
    y = activations.forward(x, kind, ALPHA.get(kind, 0.0))
    assert np.isnan(y).tolist() == [False, True, False]


def test_relu_passes_nothing_at_zero():
    y = np.array([0.0, -0.0, 1e-30], "float32")
    dx = activations.backward(np.ones_like(y), None, y, "relu")
    assert dx.tolist() == [0, 0, 1]


def test_a_gradient_that_is_cut_off_may_be_infinite():
    y = np.array([0.0, 3.0, 6.0], "float64")
    dy = np.full(3, np.inf)
    assert activations.backward(dy, None, y, "relu6").tolist() == [0, np.inf, 0]


@pytest.mark.parametrize("alpha", [0.01, 1.0, 2.5])
def test_a_leak_may_be_steeper_than_one(alpha):
    x = np.array([-2.0, 3.0])
    y = activations.forward(x, "leaky_relu", alpha)
    assert y.tolist() == [-2.0 * alpha, 3.0]
    dx = activations.backward(np.ones(2), None, y, "leaky_relu", alpha)
    assert dx.tolist() == [alpha, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_distribution_function(dtype):
    x = np.linspace(-37, 37, 4001).astype(dtype)
    expected = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype("float64")])
    error = np.abs(normal_cdf(x) - expected)
    assert error.max() < 1.5 * np.finfo(dtype).eps
    tail = (x < 0) & (x > -6)
    assert (error[tail] / expected[tail]).max() < 40 * np.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(3 * BLOCK + 5,), (2, 5, 3), (0, 4), ()])
def test_any_shape(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    y = activations.forward(x, "silu")
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)), rtol=1e-14)
    assert activations.backward(x, x, None, "silu").shape == shape


def test_strided_and_read_only():
    base = np.random.default_rng(0).standard_normal((40, 60, 30)).astype("float32")
    x = base.transpose(2, 0, 1)[::-1, ::2]
    x.flags.writeable = False
    y = activations.forward(x, "leaky_relu", 0.5)
    np.testing.assert_array_equal(y, np.where(x > 0, x, x / 2))
    assert y.flags.c_contiguous
    dy = np.broadcast_to(np.float32(2), y.shape)
    dx = activations.backward(dy, None, y, "leaky_relu", 0.5)
    np.testing.assert_array_equal(dx, np.where(x > 0, 2, 1))


class TestAddBiasActivate:
    @pytest.mark.parametrize("filters", [1, 3, 64, 1500, 20_000])
    @pytest.mark.parametrize("function", [None, Function("relu", 0.0), Function("elu", 1.5)])
    def test_in_place(self, filters, function):
        rng = np.random.default_rng(0)
        start = rng.standard_normal((7, 11, filters))
        bias = rng.standard_normal(filters)
        y = start.copy()
        activations.add_bias_activate(y, bias, function)
        expected = start + bias
        if function is not None:
            expected = activations.forward(expected, *function)
        np.testing.assert_array_equal(y, expected)

    @pytest.mark.parametrize("shape", [(6, 8, 5), (3, 40_000, 1), (3, 2, 40_000)])
    def test_strided(self, shape):
        rng = np.random.default_rng(0)
        base = rng.standard_normal((*shape[:1], *(2 * n for n in shape[1:]))).astype("float32")
        untouched = base.copy()
        y = base[:, ::2, 1::2]
        bias = rng.standard_normal(shape[-1]).astype("float32")
        expected = np.maximum(y + bias, 0)
        activations.add_bias_activate(y, bias, Function("relu", 0.0))
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(base[:, 1::2], untouched[:, 1::2])
        np.testing.assert_array_equal(base[:, :, ::2], untouched[:, :, ::2])

    def test_without_bias(self):
        y = np.array([[-1.0, 2.0]])
        activations.add_bias_activate(y, None, Function("relu", 0.0))
        assert y.tolist() == [[0.0, 2.0]]
        activations.add_bias_activate(y, None, None)
        assert y.tolist() == [[0.0, 2.0]]

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_function_may_write_over_its_input(self, kind):
        alpha = ALPHA.get(kind, 0.0)
        x = values("float32")[:, None]
        y = x.copy()
        activations.add_bias_activate(y, np.zeros(1, "float32"), Function(kind, alpha))
        np.testing.assert_array_equal(y, activations.forward(x, kind, alpha))

    def test_no_rows(self):
        y = np.empty((0, 4), "float32")
        activations.add_bias_activate(y, np.ones(4, "float32"), Function("gelu", 0.0))
        assert y.shape == (0, 4)
