"""Compiled softmax and cross-entropy, against float64 and the NumPy kernels."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import softmax as array
from gpuconv_kernels.host import softmax as host
from gpuconv_kernels.host.exponential import exponential
from gpuconv_kernels.threads import set_threads

SHAPES = [(0, 3), (1, 1), (4, 31), (3, 32), (2, 3, 65), (5, 1000), (1, 70_001), (7000, 10)]


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def normals(shape, dtype="float32", seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def softmax(x):
    with guarded(np.empty(x.shape, x.dtype)) as (y,):
        host.softmax(x, y)
        return y


def cross_entropy(x, targets):
    with guarded(np.empty(len(x), x.dtype), np.empty(x.shape, x.dtype)) as (losses, y):
        host.softmax_cross_entropy(x, targets, losses, y)
        return losses, y


def cross_entropy_backward(p, targets, scale):
    with guarded(np.empty(p.shape, p.dtype)) as (dx,):
        host.softmax_cross_entropy_backward(p, targets, scale, dx)
        return dx


def backward(dy, y):
    with guarded(np.empty(y.shape, y.dtype)) as (dx,):
        host.softmax_backward(dy, y, dx)
        return dx


def assert_near(actual, expected, places=16):
    tolerance = places * float(np.finfo(actual.dtype).eps)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "lowest"), [("float32", -110), ("float64", -760)])
def test_the_exponential_is_right_to_one_unit_in_the_last_place(dtype, lowest):
    exp = exponential(dtype)

    @njit(error_model="numpy")
    def apply(x, y):
        for i in range(len(x)):
            y[i] = exp(x[i])

    parts = np.linspace(lowest, 0, 50_001), -np.geomspace(1e-9, 1, 10_001)
    x = np.concatenate(parts).astype(dtype)
    y = np.empty_like(x)
    apply(x, y)
    exact = np.exp(x.astype("longdouble"))
    unit = np.spacing(np.maximum(exact, np.finfo(dtype).smallest_subnormal).astype(dtype))
    # Where long doubles are doubles, what is called exact is off by half a unit itself.
    assert np.max(np.abs(y - exact) / unit) <= 1.5
    odd = np.array([0.0, -0.0, -np.inf, np.nan, -1e30], dtype)
    apply(odd, odd)
    np.testing.assert_array_equal(odd, [1, 1, 0, np.nan, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_everything_agrees_with_numpy(shape, dtype):
    with guarded(normals(shape, dtype), normals(shape, dtype, 1)) as (x, dy):
        y = softmax(x)
        assert_near(y, array.softmax(x))
        scale = np.abs(dy).max(initial=1.0)
        assert_near(backward(dy, y) / scale, array.softmax_backward(dy, y) / scale)
        if len(shape) > 2:
            return
        rng = np.random.default_rng(2)
        factors = rng.standard_normal(shape[0]).astype(dtype)
        # A row of probabilities may sum to anything.
        for targets in (rng.integers(0, shape[1], shape[0]), array.softmax(dy) * dtype_two(dtype)):
            with guarded(targets) as (chosen,):
                losses, p = cross_entropy(x, chosen)
                expected, _ = array.softmax_cross_entropy(x, chosen)
                np.testing.assert_array_equal(p, y)
                assert_near(losses / 8, expected / 8, 32)
                dx = cross_entropy_backward(p, chosen, factors)
                assert_near(dx, array.softmax_cross_entropy_backward(p, chosen, factors), 32)


def dtype_two(dtype):
    return np.dtype(dtype).type(2)


def test_large_inputs():
    x = np.array([[1e4, 1e4, -1e4], [-1e30, -1e30, -1e30]], "float32")
    np.testing.assert_array_equal(softmax(x), np.float32([[0.5, 0.5, 0], [1 / 3] * 3]))
    losses, _ = cross_entropy(x, np.array([2, 0]))
    np.testing.assert_allclose(losses, [2e4 + np.log(2), np.log(3)], rtol=1e-6)


@pytest.mark.parametrize("width", [3, 40])
def test_nan_and_infinity_as_in_numpy(width):
    x = np.zeros((6, width), "float32")
    x[0, 1], x[1, 1], x[2, 1], x[3, :] = np.nan, np.inf, -np.inf, -np.inf
    x[4, 0], x[4, 1] = np.nan, np.inf
    with np.errstate(all="ignore"):
        expected = array.softmax(x)
        expected_losses, _ = array.softmax_cross_entropy(x, np.ones(6, int))
        expected_sums, _ = array.softmax_cross_entropy(x, expected)
    np.testing.assert_allclose(softmax(x), expected, rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(x, np.ones(6, int))[0], expected_losses, rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(x, expected)[0], expected_sums, rtol=1e-6)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    x, dy = normals((2, 130, 1000))
    targets, scale = np.arange(130), np.ones(130, "float32")
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        losses, p = cross_entropy(x, targets)
        dx = cross_entropy_backward(p, targets, scale)
        results.append((losses, p, dx, backward(dy, p)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_views_and_read_only_inputs():
    base = normals((12, 9))
    base.flags.writeable = False
    x, dy = base[::2].T, base[1::2].T
    y = softmax(x)
    np.testing.assert_array_equal(y, softmax(np.ascontiguousarray(x)))
    np.testing.assert_array_equal(backward(dy, y), backward(np.ascontiguousarray(dy), y))
    targets = np.arange(18, dtype=np.int32)[::2] % 6
    losses, p = cross_entropy(x, targets)
    np.testing.assert_allclose(losses, -np.log(p[np.arange(9), targets]), rtol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_class_numbers_that_do_not_exist(wrong):
    x, targets = np.zeros((2, 4), "float32"), np.array([0, wrong])
    with pytest.raises(IndexError, match=r"in \[0, 4\)"):
        cross_entropy(x, targets)
    with pytest.raises(IndexError, match="Received"):
        cross_entropy_backward(x, targets, np.ones(2, "float32"))
