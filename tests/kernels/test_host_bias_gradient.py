"""The gradient of an activation and that of its bias in one pass: the bits of two passes."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing.guards import guarded
from gpuconv_kernels.host import activations, bias_gradient, normalization
from gpuconv_kernels.threads import set_threads

SHAPES = [(1, 1), (3, 7), (5, 4, 4, 3), (2, 9, 9, 64), (40_000, 5), (3, 1500), (0, 4), (6, 0)]


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def drawn(shape, dtype):
    rng = np.random.default_rng(len(shape) + shape[0])
    dy, y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    y[y < -0.3] = 0
    return dy, y


def two_passes(dy, y, kind, alpha=0.0):
    dz, sums = np.empty_like(dy), np.empty(dy.shape[-1:], dy.dtype)
    activations.backward(dy, y, dz, kind, alpha)
    normalization.sum_channels(dz, sums)
    return dz, sums


@pytest.mark.parametrize("shape", SHAPES)
def test_relu(shape):
    dy, y = drawn(shape, np.float32)
    expected, expected_sums = two_passes(dy, y, "relu")
    for threads in (1, 3):
        set_threads(threads)
        empty = np.full(shape, np.nan, np.float32), np.full(shape[-1:], np.nan, np.float32)
        with guarded(dy, y, *empty) as (gradient, output, dz, sums):
            bias_gradient.backward(gradient, output, dz, sums, "relu")
            assert dz.tobytes() == expected.tobytes()
            assert sums.tobytes() == expected_sums.tobytes()
            assert gradient.tobytes() == dy.tobytes()
            assert output.tobytes() == y.tobytes()
    np.testing.assert_array_equal(expected, np.where(y == 0, 0, dy))
    everything = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(
        expected_sums, expected.sum(everything, dtype=np.float64), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("kind", sorted(activations.BACKWARD_FROM_OUTPUT - {"relu"}))
def test_other_functions(kind):
    dtype = np.float64 if kind == "tanh" else np.float32
    dy, y = drawn((37, 13), dtype)
    alpha = 0.2 if kind == "leaky_relu" else 1.0 if kind == "elu" else 0.0
    dz, sums = np.empty_like(dy), np.empty(13, dtype)
    bias_gradient.backward(dy, y, dz, sums, kind, alpha)
    expected, expected_sums = two_passes(dy, y, kind, alpha)
    assert dz.tobytes() == expected.tobytes()
    assert sums.tobytes() == expected_sums.tobytes()


def test_views_of_any_strides():
    dy, y = drawn((8, 6, 10), np.float32)
    dz, sums = np.empty((10, 3, 8), np.float32), np.empty(8, np.float32)
    bias_gradient.backward(dy[:, ::2].T, y[:, ::2].T, dz, sums, "relu")
    np.testing.assert_array_equal(dz, np.where(y[:, ::2].T == 0, 0, dy[:, ::2].T))
    np.testing.assert_allclose(sums, dz.sum((0, 1)), rtol=1e-5, atol=1e-5)
