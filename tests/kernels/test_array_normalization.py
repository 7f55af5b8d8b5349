"""Moments, normalisation and its gradient against plain loops and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing import numerical_gradient, reference
from gpuconv_kernels.array import batch_norm, normalization
from gpuconv_kernels.array.reductions import SUM_BLOCK, sum_rows

EPSILON = 1e-3


def normals(shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Case:
    """One way in which the layers use these functions."""

    def __init__(self, shape, axes, parameter_axes):
        self.shape, self.axes, self.parameter_axes = shape, axes, parameter_axes
        self.parameter_shape = tuple(
            1 if axis in parameter_axes else n for axis, n in enumerate(shape)
        )
        self.x = normals(shape) * 2 + 3
        self.dy = normals(shape, seed=1)
        self.scale = normals(self.parameter_shape, seed=2)
        self.offset = normals(self.parameter_shape, seed=3)

    def forward(self, x, scale, offset):
        mean, variance = normalization.moments(x, self.axes)
        return normalization.normalize(x, mean, variance, scale, offset, EPSILON)

    def backward(self, dy, x, scale, batch_statistics=True, input_gradient=True, moments=None):
        mean, variance = normalization.moments(x, self.axes) if moments is None else moments
        return normalization.normalize_backward(
            dy,
            x,
            mean,
            variance,
            scale,
            EPSILON,
            self.axes,
            self.parameter_axes,
            batch_statistics,
            input_gradient,
        )


CASES = {
    "batch": Case((4, 3, 2, 5), (0, 1, 2), (0, 1, 2)),
    "batch of rows": Case((6, 3), (0,), (0,)),
    "batch of one channel": Case((3, 4, 1), (0, 1), (0, 1)),
    "layer": Case((3, 2, 7), (2,), (0, 1)),
    "layer over several axes": Case((3, 4, 2, 3), (1, 2, 3), (0,)),
    "group": Case((2, 6, 3, 4), (1, 3), (0, 1)),
    "group, one channel each": Case((2, 6, 3, 1), (1, 3), (0, 1)),
    "group, wide enough to repeat": Case((2, 70, 2, 3), (1, 3), (0, 1)),
    "instance": Case((2, 8, 3), (1,), (0, 1)),
}


@pytest.fixture(params=["one block", "many blocks"], autouse=True)
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(normalization, "BLOCK", 13)
        monkeypatch.setattr(batch_norm, "BLOCK", 13)


@pytest.mark.parametrize("name", CASES)
class TestEveryUse:
    def test_moments(self, name):
        case = CASES[name]
        before = case.x.copy()
        mean, variance = normalization.moments(case.x, case.axes)
        np.testing.assert_allclose(mean, case.x.mean(case.axes, keepdims=True), rtol=1e-13)
        np.testing.assert_allclose(variance, case.x.var(case.axes, keepdims=True), rtol=1e-12)
        np.testing.assert_array_equal(case.x, before)
        negative = tuple(axis - case.x.ndim for axis in case.axes)
        again, _ = normalization.moments(case.x, negative)
        np.testing.assert_array_equal(again, mean)

    def test_gradients_by_finite_differences(self, name):
        case = CASES[name]
        dx, dscale, doffset = case.backward(case.dy, case.x, case.scale)
        assert dx is not None
        arguments = [case.x, case.scale, case.offset]
        for position, gradient in enumerate((dx, dscale, doffset)):
            assert gradient.shape == arguments[position].shape
            for seed in range(3):
                direction = normals(gradient.shape, seed=10 + seed)

                def along(t, position=position, direction=direction):
                    given = list(arguments)
                    given[position] = given[position] + t * direction
                    return np.vdot(case.forward(*given), case.dy)

                slope = numerical_gradient(along, np.zeros(1)).item()
                np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6)

    def test_constant_moments(self, name):
        case = CASES[name]
        moments = tuple(m + 0.5 for m in normalization.moments(case.x, case.axes))
        dx, dscale, doffset = case.backward(
            case.dy, case.x, case.scale, batch_statistics=False, moments=moments
        )
        mean, variance = moments
        xhat = (case.x - mean) / np.sqrt(variance + EPSILON)
        np.testing.assert_allclose(
            dx, case.dy * case.scale / np.sqrt(variance + EPSILON), rtol=1e-12
        )
        over = {"axis": case.parameter_axes, "keepdims": True}
        np.testing.assert_allclose(dscale, (case.dy * xhat).sum(**over), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(doffset, case.dy.sum(**over), rtol=1e-10, atol=1e-12)

    def test_without_scale_and_offset(self, name):
        case = CASES[name]
        ones, zeros = np.ones(case.parameter_shape), np.zeros(case.parameter_shape)
        np.testing.assert_allclose(
            case.forward(case.x, None, None), case.forward(case.x, ones, zeros), rtol=1e-13
        )
        for bare, full in zip(
            case.backward(case.dy, case.x, None),
            case.backward(case.dy, case.x, ones),
            strict=True,
        ):
            np.testing.assert_allclose(bare, full, rtol=1e-12, atol=1e-14)

    def test_input_gradient_is_left_out(self, name):
        case = CASES[name]
        dx, dscale, doffset = case.backward(case.dy, case.x, case.scale, input_gradient=False)
        full = case.backward(case.dy, case.x, case.scale)
        assert dx is None
        np.testing.assert_array_equal(dscale, full[1])
        np.testing.assert_array_equal(doffset, full[2])

    def test_strides_do_not_matter(self, name):
        case = CASES[name]

        def strided(array):
            reversed_axes = np.ascontiguousarray(array.T).T
            reversed_axes.flags.writeable = False
            return reversed_axes

        x, dy = strided(case.x), strided(case.dy)
        np.testing.assert_allclose(
            case.forward(x, case.scale, case.offset),
            case.forward(case.x, case.scale, case.offset),
            rtol=1e-12,
            atol=1e-13,
        )
        for got, expected in zip(
            case.backward(dy, x, case.scale),
            case.backward(case.dy, case.x, case.scale),
            strict=True,
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)
            assert got.flags.c_contiguous

    def test_float32_stays_float32(self, name):
        case = CASES[name]
        x, dy, scale, offset = (
            a.astype("float32") for a in (case.x, case.dy, case.scale, case.offset)
        )
        mean, variance = normalization.moments(x, case.axes)
        y = case.forward(x, scale, offset)
        results = [mean, variance, y, *case.backward(dy, x, scale)]
        assert {r.dtype.name for r in results} == {"float32"}
        np.testing.assert_allclose(
            y, case.forward(case.x, case.scale, case.offset), rtol=1e-4, atol=1e-5
        )
        assert y.tobytes() == case.forward(x, scale, offset).tobytes()

    def test_no_samples(self, name):
        case = CASES[name]
        x = np.empty((0, *case.shape[1:]), "float32")
        mean, variance = normalization.moments(x, case.axes)
        assert not mean.any()
        assert not variance.any()
        scale = np.ones(case.parameter_shape, "float32")
        assert case.forward(x, scale, scale).shape == x.shape
        dx, dscale, doffset = case.backward(x, x, scale)
        assert dx is not None
        assert dx.shape == x.shape
        assert not dscale.any()
        assert not doffset.any()


class TestAgainstLoops:
    def test_batch(self):
        case = CASES["batch"]
        expected, mean, variance = reference.batch_norm(
            case.x, case.scale.reshape(-1), case.offset.reshape(-1), EPSILON
        )
        got_mean, got_variance = normalization.moments(case.x, case.axes)
        np.testing.assert_allclose(got_mean.reshape(-1), mean, rtol=1e-14)
        np.testing.assert_allclose(got_variance.reshape(-1), variance, rtol=1e-13)
        y = case.forward(case.x, case.scale, case.offset)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)

    def test_layer(self):
        case = CASES["layer over several axes"]
        expected = reference.layer_norm(
            case.x, case.scale[0], case.offset[0], EPSILON, axes=(1, 2, 3)
        )
        y = case.forward(case.x, case.scale, case.offset)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)

    def test_group(self):
        case = CASES["group"]
        n, s, groups, size = case.shape
        expected = reference.group_norm(
            case.x.reshape(n, s, groups * size),
            case.scale.reshape(-1),
            case.offset.reshape(-1),
            groups,
            EPSILON,
        )
        y = case.forward(case.x, case.scale, case.offset)
        np.testing.assert_allclose(y.reshape(n, s, -1), expected, rtol=1e-12, atol=1e-13)


def test_a_mean_that_dwarfs_the_deviation():
    x = (normals((4000, 3)) + 10_000).astype("float32")
    exact = x.astype("float64")
    mean, variance = normalization.moments(x, (0,))
    np.testing.assert_allclose(mean[0], exact.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(variance[0], exact.var(axis=0), rtol=2e-6)
    constant = np.full((50, 3), 10_000.1, "float32")
    mean, variance = normalization.moments(constant, (0,))
    y = normalization.normalize(constant, mean, variance, None, None, EPSILON)
    assert not y.any()


class TestSumRows:
    @pytest.mark.parametrize("channels", [1, 3, 64, 1500])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_small_integers_are_exact(self, channels, dtype):
        x = np.random.default_rng(0).integers(-9, 10, (1237, channels)).astype(dtype)
        total = sum_rows(x)
        np.testing.assert_array_equal(total, x.astype("int64").sum(axis=0))
        assert total.dtype == x.dtype

    def test_a_million_rows_of_float32(self):
        x = np.random.default_rng(0).random((1_000_000, 2), "float32")
        assert x.size > 2 * SUM_BLOCK
        np.testing.assert_allclose(sum_rows(x), x.sum(axis=0, dtype="float64"), rtol=1.2e-7)

    def test_strided(self):
        x = np.random.default_rng(0).integers(-9, 10, (7, 3000)).astype("float32").T[::-2]
        np.testing.assert_array_equal(sum_rows(x), x.sum(axis=0))

    def test_no_rows(self):
        assert sum_rows(np.empty((0, 3), "float32")).tolist() == [0, 0, 0]

    def test_same_bits_again(self):
        x = normals((5000, 5), "float32")
        assert sum_rows(x).tobytes() == sum_rows(x.copy()).tobytes()
