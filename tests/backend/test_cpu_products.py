"""Matrix products on the convolution's micro-kernel: exact, with either operand transposed."""

import numpy as np
import pytest

from gpuconv.backends import cpu_products, registry
from gpuconv.backends.functions import Activation

pytestmark = pytest.mark.skipif(
    not registry.probe("cpu:jit").available, reason="needs the compiler"
)
SIZES = [(64, 64, 64), (33, 257, 65), (1, 1024, 257), (500, 7, 100), (130, 1024, 10)]


def integers(rng, *shape, dtype="float32"):
    return rng.integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_exact(size, dtype):
    rng = np.random.default_rng(sum(size))
    m, k, n = size
    a, b = integers(rng, m, k, dtype=dtype), integers(rng, k, n, dtype=dtype)
    expected = a.astype("int64") @ b.astype("int64")
    for left, right in (
        (a, b),
        (np.ascontiguousarray(a.T).T, b),
        (a, np.ascontiguousarray(b.T).T),
    ):
        result = cpu_products.gemm(left, right)
        assert (result is None) == (m * k * n < cpu_products._LEAST)
        if result is not None:
            np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(registry.engine("cpu:jit").gemm(left, right), expected)


@pytest.mark.parametrize("kind", [None, "relu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_dense_layers(kind, with_bias):
    rng = np.random.default_rng(3)
    x, w, bias = (rng.standard_normal(s) for s in ((40, 130), (130, 70), (70,)))
    activation = None if kind is None else Activation(kind, 0.1)
    given = bias if with_bias else None
    ours = registry.engine("cpu:jit").dense(x, w, given, activation)
    theirs = registry.engine("cpu:numpy").dense(x, w, given, activation)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_rows_that_lie_apart_and_what_is_left_to_blas():
    rng = np.random.default_rng(4)
    wide = integers(rng, 64, 256)
    a, b = wide[:, :128], integers(rng, 128, 64)
    np.testing.assert_array_equal(cpu_products.gemm(a, b), a @ b)
    assert cpu_products.gemm(wide[::2, ::2], b) is None  # numbers of a row apart
    assert cpu_products.gemm(a.astype("float64"), b) is None
    assert cpu_products.gemm(a.astype("int64"), b.astype("int64")) is None
    assert cpu_products.dense(np.ones((64, 3000), "f4"), np.ones((3000, 2000), "f4"), None) is None
