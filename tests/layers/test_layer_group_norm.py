"""GroupNormalization against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import GroupNormalization, LayerNormalization
from gpuconv.testing import assert_close, reference
from gpuconv.testing.cases.layers import randomize


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8), (2, 3, 4, 8), (2, 2, 3, 2, 8)])
@pytest.mark.parametrize("groups", [1, 2, 4, 8, -1])
@pytest.mark.parametrize("axis", [-1, 1])
def test_normalises_groups(shape: tuple[int, ...], groups: int, axis: int) -> None:
    last = np.random.default_rng(0).normal(1.0, 2.0, shape)
    x = np.moveaxis(last, -1, axis)
    for dtype in ("float32", "float64"):
        layer = GroupNormalization(groups, axis=axis, dtype=dtype)
        layer(x)
        randomize(layer)
        count = 8 if groups == -1 else groups
        weights = layer.gamma.value, layer.beta.value
        expected = np.moveaxis(reference.group_norm(last, *weights, count, 1e-3), -1, axis)
        y, backward = layer.forward(x, training=True)
        # Groups of one value are their own mean: 0 times gamma, plus beta.
        assert_close(y, expected, reduction_length=x.size, scale=max(1.0, np.abs(expected).max()))
        assert backward(y).shape == x.shape


def test_one_group_of_features_is_layer_normalisation() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6))
    grouped = GroupNormalization(groups=1, dtype="float64")(x)
    np.testing.assert_allclose(grouped, LayerNormalization(dtype="float64")(x), rtol=1e-12)


def test_channels_first_views_stay_views() -> None:
    x = np.moveaxis(np.random.default_rng(0).normal(size=(2, 4, 5, 6)), -1, 1)
    y, backward = GroupNormalization(3, axis=1, dtype="float64").forward(x)
    assert y.strides == x.strides
    assert backward(y).strides == x.strides


def test_refusals() -> None:
    for groups in (0, -2, 1.5, "2"):
        with pytest.raises(InvalidArgumentError, match="groups must be"):
            GroupNormalization(groups)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"multiple of groups=32.*Received: 8 channels"):
        GroupNormalization()(np.ones((2, 8)))
    layer = GroupNormalization(2)
    layer(np.ones((2, 8)))
    with pytest.raises(ShapeError, match=r"Received: shape \(None, 4\)"):
        layer(np.ones((2, 4)))
