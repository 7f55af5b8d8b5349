"""Compiled moments, normalisation and channel sums, against float64 and the NumPy kernels."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import normalization as array
from gpuconv_kernels.host import normalization as host
from gpuconv_kernels.threads import set_threads

EPSILON = 1e-3
SHAPES = [(0, 3), (1, 5), (5, 3), (3, 41, 31, 64), (7, 1100), (9001, 1), (257, 9, 3), (4,)]
"""Rows that are no whole number of long rows, more channels than one holds, several tasks."""


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def normals(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def axes_of(x):
    return tuple(range(x.ndim - 1))


def moments(x):
    empty = np.empty(x.shape[-1], x.dtype)
    with guarded(empty, empty) as (mean, variance):
        host.moments(x, mean, variance)
        return mean, variance


def forward(x, mean, variance, scale, offset):
    with guarded(np.empty(x.shape, x.dtype)) as (y,):
        host.normalize(x, mean, variance, scale, offset, EPSILON, y)
        return y


def backward(dy, x, mean, variance, scale, batch_statistics=True, input_gradient=True):
    empty = np.empty(x.shape[-1], x.dtype)
    with guarded(np.empty(x.shape, x.dtype), empty, empty) as (dx, dscale, doffset):
        wanted = dx if input_gradient else None
        host.normalize_backward(
            dy, x, mean, variance, scale, EPSILON, batch_statistics, wanted, dscale, doffset
        )
        return wanted, dscale, doffset


def assert_near(actual, expected, places=8):
    """Equal but for some rounding of the largest number."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    size = np.max(np.abs(expected), initial=0.0)
    tolerance = places * float(np.finfo(actual.dtype).eps) * size
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_everything_agrees_with_numpy(shape, dtype):
    with guarded(2 * normals(shape, dtype) + 3, normals(shape, dtype, 1)) as (x, dy):
        scale, offset = normals((2, shape[-1]), dtype, 2)
        mean, variance = moments(x)
        exact = x.astype("longdouble")
        if x.size:
            assert_near(mean, exact.mean(axes_of(x)).astype(dtype))
            assert_near(variance, exact.var(axes_of(x)).astype(dtype))
        else:
            assert not mean.any()
            assert not variance.any()
        for s, o in ((scale, offset), (None, None)):
            # With the same moments there is nothing to be rounded in another order.
            expected = array.normalize(x, mean, variance, s, o, EPSILON)
            np.testing.assert_array_equal(forward(x, mean, variance, s, o), expected)
            for batch in (True, False):
                dx, dscale, doffset = backward(dy, x, mean, variance, s, batch)
                expected_dx, expected_dscale, expected_doffset = array.normalize_backward(
                    dy, x, mean, variance, s, EPSILON, axes_of(x), axes_of(x), batch, True
                )
                assert_near(dx, expected_dx, 8 if batch else 0)
                assert_near(dscale, expected_dscale.reshape(-1), 16)
                assert_near(doffset, expected_doffset.reshape(-1), 16)


def test_sums_of_small_integers_are_exact():
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        x = rng.integers(-4, 5, shape).astype("float32")
        dy = rng.integers(-4, 5, shape).astype("float32")
        with guarded(np.empty(shape[-1], "float32")) as (sums,):
            host.sum_channels(x, sums)
            np.testing.assert_array_equal(sums, x.sum(axis=axes_of(x)))
        zero, one = np.zeros(shape[-1], "float32"), np.full(shape[-1], 1 - EPSILON, "float32")
        none, dscale, doffset = backward(dy, x, zero, one, None, input_gradient=False)
        assert none is None
        np.testing.assert_allclose(dscale, (dy * x).sum(axis=axes_of(x)), rtol=1e-6)
        np.testing.assert_array_equal(doffset, dy.sum(axis=axes_of(x)))


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("outlier", [False, True])
def test_moments_are_accurate_where_the_mean_is_large(mean, outlier):
    x = (normals((40_000, 3)) + mean).astype("float32")
    if outlier:
        x[0] = 1000 * mean
    exact = x.astype("float64")
    ours = moments(x)
    np.testing.assert_allclose(ours[0], exact.mean(axis=0), rtol=2e-7)
    np.testing.assert_allclose(ours[1], exact.var(axis=0), rtol=3e-6)


def test_constant_channels_have_no_variance():
    x = np.repeat(np.float32([[0.1, -1e30, 7e-40, 3e5]]), 5001, axis=0)
    mean, variance = moments(x)
    np.testing.assert_array_equal(mean, x[0])
    np.testing.assert_array_equal(variance, 0)


@pytest.mark.parametrize("row", [0, 20_000])
def test_nan_and_infinity_stay_in_their_channel(row):
    x = normals((30_000, 5))
    x[row, :4] = np.nan, np.inf, -np.inf, 1e38
    mean, variance = moments(x)
    with np.errstate(all="ignore"):
        expected = [a.reshape(-1) for a in array.moments(x, (0,))]
    np.testing.assert_array_equal(np.isnan(mean), [True, False, False, False, False])
    np.testing.assert_allclose(mean[1:], expected[0][1:], rtol=1e-4)
    np.testing.assert_array_equal(np.isnan(variance), [True, True, True, False, False])
    np.testing.assert_allclose(variance[3:], expected[1][3:], rtol=1e-5)


def test_no_offset_keeps_the_sign_of_zero():
    x, one = np.float32([[-0.0], [0.0]]), np.ones(1, "float32")
    y = forward(x, 0 * one, one, None, None)
    np.testing.assert_array_equal(np.signbit(y), [[True], [False]])


def test_no_variance_and_no_epsilon_gives_infinity():
    x, zero = np.float32([[1.0]]), np.zeros(1, "float32")
    y = np.empty_like(x)
    host.normalize(x, zero, zero, None, None, 0.0, y)
    assert np.isinf(y).all()


def test_the_bits_do_not_depend_on_the_number_of_threads():
    x, dy = normals((2, 50_003, 6))
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        mean, variance = moments(x)
        sums = np.empty(6, "float32")
        host.sum_channels(x, sums)
        y = forward(x, mean, variance, None, mean)
        results.append((mean, variance, sums, y, *backward(dy, x, mean, variance, mean)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_views_and_read_only_inputs():
    base = normals((12, 10, 8))
    base.flags.writeable = False
    x, dy = base[::2, 1:6].transpose(1, 2, 0), base[1::2, :-5].transpose(1, 2, 0)
    mean, variance = moments(x)
    scale = base[0, 0, ::-1][:6]
    y, (dx, *_) = forward(x, mean, variance, scale, scale), backward(dy, x, mean, variance, scale)
    solid = [np.ascontiguousarray(a) for a in (x, dy, scale)]
    np.testing.assert_array_equal(y, forward(solid[0], mean, variance, solid[2], solid[2]))
    np.testing.assert_array_equal(dx, backward(solid[1], solid[0], mean, variance, solid[2])[0])


def test_which_cases_are_covered():
    x, vector = np.empty((2, 3, 4, 5)), np.empty((1, 1, 1, 5))
    assert host.covers(x, (0, 1, 2))
    assert host.covers(x, (-2, 0, 1), (0, 1, 2))
    assert not host.covers(x, (1, 2))
    assert not host.covers(x, (0, 1, 2), (0, 1, 2, 3))
    assert host.by_channel(x, vector, None)
    assert not host.by_channel(x, vector, np.empty((2, 1, 1, 5)))
    assert not host.by_channel(x, np.empty((1, 1, 1, 1)))
