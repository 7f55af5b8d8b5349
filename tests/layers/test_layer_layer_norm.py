"""LayerNormalization against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import LayerNormalization
from gpuconv.testing import assert_close, reference
from gpuconv.testing.cases.layers import randomize


@pytest.mark.parametrize(
    ("shape", "axis", "axes"),
    [
        ((4, 6), -1, (1,)),
        ((2, 3, 5), -1, (2,)),
        ((2, 3, 5), 1, (1,)),
        ((2, 3, 5), (-1, -2), (1, 2)),
        ((2, 3, 4, 5), (-1, 1), (1, 3)),
        ((2, 3, 4, 5), [1, 2, 3], (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalises_each_sample(
    shape: tuple[int, ...], axis: Any, axes: tuple[int, ...], dtype: str
) -> None:
    x = np.random.default_rng(0).normal(1.0, 2.0, shape)
    layer = LayerNormalization(axis, dtype=dtype)
    layer(x)
    randomize(layer)
    assert layer.gamma.shape == tuple(shape[a] for a in axes)
    expected = reference.layer_norm(x, layer.gamma.value, layer.beta.value, 1e-3, axes)
    for training in (False, True):
        assert_close(layer.forward(x, training)[0], expected, reduction_length=x.size)


def test_samples_do_not_mix() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6))
    layer = LayerNormalization(dtype="float64")
    np.testing.assert_array_equal(layer(x)[1:2], layer(x[1:2]))


def test_without_center_or_scale() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6))
    layer = LayerNormalization(center=False, scale=False, epsilon=0.0, dtype="float64")
    y = layer(x)
    assert layer.parameters == []
    np.testing.assert_allclose(y.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=1), 1.0, rtol=1e-12)


def test_refusals() -> None:
    with pytest.raises(InvalidArgumentError, match="axis"):
        LayerNormalization(axis="channels")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="different axes"):
        LayerNormalization(axis=(1, -1))(np.ones((2, 3)))
    with pytest.raises(ShapeError, match="Received: an input of 2 dimensions"):
        LayerNormalization(axis=2)(np.ones((2, 3)))
    layer = LayerNormalization()
    layer(np.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"extents \(3,\).*Received: shape \(None, 5\)"):
        layer(np.ones((2, 5)))
