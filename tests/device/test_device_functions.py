"""Element-wise functions on the device: values, gradients, bias, every remainder."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT
from gpuconv.testing import assert_exact, reference
from gpuconv_kernels.array import activations as on_host
from gpuconv_kernels.device import activations

KINDS = sorted(FROM_OUTPUT | FROM_INPUT)
ALPHA = {"leaky_relu": 0.25, "elu": 1.5}
DTYPES = ["float32", "float64"]
EXACT = ["relu", "relu6", "leaky_relu"]


def values(dtype):
    """Both signs, many sizes, kinks and their neighbours; an odd count."""
    grid = np.concatenate([np.linspace(-12, 12, 49), np.geomspace(1e-6, 80, 20)])
    kinks = [-3, 0, 3, 6, np.nextafter(6, 0), np.nextafter(3, 9), 0.5]
    return np.concatenate([grid, -grid, kinks]).astype(dtype)


def forward(memory, x, kind):
    y = memory.empty(x.shape, x.dtype)
    activations.activation(memory.put(x), y, kind, ALPHA.get(kind, 0.0))
    return memory.get(y)


def backward(memory, dy, x, y, kind):
    dx = memory.empty(dy.shape, dy.dtype)
    z = memory.put(y if kind in FROM_OUTPUT else x)
    activations.activation_backward(memory.put(dy), z, dx, kind, ALPHA.get(kind, 0.0))
    return memory.get(dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_function_and_derivative(memory, kind, dtype):
    x, alpha, eps = values(dtype), ALPHA.get(kind, 0.0), np.finfo(dtype).eps
    x64 = x.astype("float64")
    y = forward(memory, x, kind)
    expected = reference.activation(x64, kind, alpha)
    scale = np.maximum(1.0, np.abs(x64))
    if kind == "exponential":  # x is rounded relative to itself, and exp multiplies that
        scale = scale * np.abs(expected)
    assert np.max(np.abs(y - expected) / scale) < 4 * eps
    dy = np.linspace(-2, 2, x.size).astype(dtype)
    dx = backward(memory, dy, x, y, kind)
    expected = reference.activation_backward(dy.astype("float64"), x64, kind, alpha)
    # Terms of the size of x cancel, in the reference too.
    scale = np.maximum(np.abs(expected), 1.0) * scale
    assert np.max(np.abs(dx - expected) / scale) < 8 * eps


@pytest.mark.parametrize("kind", EXACT)
def test_exact_where_numpy_is(memory, kind):
    x = values("float32")
    y = forward(memory, x, kind)
    assert_exact(y, on_host.forward(x, kind, ALPHA.get(kind, 0.0)))
    dy = np.arange(x.size, dtype="float32")
    expected = on_host.backward(dy, x, y, kind, ALPHA.get(kind, 0.0))
    assert_exact(backward(memory, dy, x, y, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_goes_through_and_huge_arguments_do_not_make_one(memory, kind):
    large = float(np.finfo("float32").max)
    x = np.array([-large, -1e30, -800, -100, 100, 800, 1e30, large, np.nan], "float32")
    y = forward(memory, x, kind)
    assert np.isnan(y).tolist() == [False] * 8 + [True]
    dx = backward(memory, np.ones_like(x), x, y, kind)
    assert not np.isnan(dx[:8]).any()
    if kind != "exponential":
        assert (np.abs(dx[:8]) < 1.8).all()


def test_a_gradient_that_is_cut_off_may_be_infinite(memory):
    y, dy = np.array([0.0, 3.0, 6.0]), np.full(3, np.inf)
    assert backward(memory, dy, y, y, "relu6").tolist() == [0, np.inf, 0]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 255, 256, 261])
@pytest.mark.parametrize("offset", [0, 1])
def test_sizes_and_alignment(memory, size, offset):
    """One number a thread where an array begins off a multiple of 16 bytes."""
    x = np.random.default_rng(0).integers(-9, 10, size + offset).astype("float32")
    held = memory.put(x)
    y = memory.empty((size + offset + 1,), "float32")
    activations.activation(held[offset:], y[offset:-1], "relu")
    got = memory.get(y)
    assert_exact(got[offset:-1], np.maximum(x[offset:], 0))
    assert np.isnan(got[:offset]).all()
    assert np.isnan(got[-1])


@pytest.mark.parametrize("shape", [(3, 5, 1), (7, 3), (5, 4), (3, 8), (2, 33), (2, 132), (0, 4)])
@pytest.mark.parametrize("kind", [None, "relu", "elu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_and_function_in_place(memory, rng, shape, kind, dtype):
    start = rng.integers(-9, 10, shape).astype(dtype)
    bias = rng.integers(-9, 10, shape[-1]).astype(dtype)
    y = memory.put(start)
    activations.add_bias_activate(y, memory.put(bias), kind, 1.5)
    expected = start + bias
    if kind is not None:
        expected = reference.activation(expected.astype("float64"), kind, 1.5)
    np.testing.assert_allclose(memory.get(y), expected, rtol=1e-6, atol=1e-7)


def test_bias_that_is_not_aligned(memory, rng):
    start, bias = rng.integers(-9, 10, (9, 8)), rng.integers(-9, 10, 9)
    y, held = memory.put(start.astype("float32")), memory.put(bias.astype("float32"))
    activations.add_bias_activate(y, held[1:], "relu")
    assert_exact(memory.get(y), np.maximum(start + bias[1:], 0))


def test_without_a_bias(memory):
    y = memory.put(np.array([[-1.0, 2.0]]))
    activations.add_bias_activate(y, None, None)
    assert memory.get(y).tolist() == [[-1.0, 2.0]]
    activations.add_bias_activate(y, None, "relu")
    assert memory.get(y).tolist() == [[0.0, 2.0]]


def test_an_unknown_function_is_refused(memory):
    x = memory.put(np.ones(3))
    with pytest.raises(KeyError, match="swish"):
        activations.activation(x, x, "swish")
