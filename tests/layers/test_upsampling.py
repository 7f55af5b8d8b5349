"""UpSampling layers and the arithmetic under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import UpSampling1D, UpSampling2D, UpSampling3D
from gpuconv.ops import resampling
from gpuconv.testing import assert_close, assert_exact, check_directional, reference
from gpuconv.testing.cases import small_integers, views_of


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((2, 5, 3), (2,)),
        ((2, 3, 4, 3), (1, 3)),
        ((2, 1, 4, 1), (3, 2)),
        ((2, 2, 3, 2, 2), (2, 1, 3)),
        ((0, 2, 3, 1), (2, 2)),
        ((2, 2, 3, 1), (1, 1)),
    ],
    ids=str,
)
def test_nearest(shape: tuple[int, ...], factors: tuple[int, ...], dtype: str) -> None:
    x = small_integers(np.random.default_rng(0), shape, dtype)
    y = resampling.upsample_nearest(x, factors)
    assert_exact(y, reference.upsample_nearest(x.astype(np.float64), factors))
    assert y.dtype == dtype
    assert not np.shares_memory(x, y)
    dy = small_integers(np.random.default_rng(1), y.shape, dtype)
    want = np.zeros(shape)
    for o in np.ndindex(*y.shape[1:-1]):
        i = tuple(p // f for p, f in zip(o, factors, strict=True))
        want[(slice(None), *i)] += dy[(slice(None), *o)]
    assert_exact(resampling.upsample_nearest_backward(dy, factors), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((2, 5, 3), (2,)),
        ((2, 3, 4, 3), (3, 2)),
        ((2, 1, 4, 1), (4, 5)),
        ((1, 2, 3, 2, 2), (2, 1, 3)),
        ((2, 2, 3, 1), (1, 1)),
    ],
    ids=str,
)
def test_bilinear(shape: tuple[int, ...], factors: tuple[int, ...], dtype: str) -> None:
    x = small_integers(np.random.default_rng(0), shape, dtype)
    y = resampling.upsample_bilinear(x, factors)
    assert_close(y, reference.upsample_bilinear(x.astype(np.float64), factors), 8)
    assert y.dtype == dtype
    assert not np.shares_memory(x, y)
    check_directional(
        lambda x: resampling.upsample_bilinear(x, factors),
        lambda dy: resampling.upsample_bilinear_backward(dy, factors),
        x.astype(np.float64),
    )


def test_bilinear_by_hand() -> None:
    x = np.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    y = resampling.upsample_bilinear(x, (1, 2))
    assert y.ravel().tolist() == [0, 1, 3, 4]
    dx = resampling.upsample_bilinear_backward(np.ones((1, 1, 4, 1)), (1, 2))
    assert dx.ravel().tolist() == [2, 2]


def test_the_middle_of_an_odd_factor_copies_even_infinities() -> None:
    x = np.array([np.inf, 1.0, 2.0]).reshape(1, 3, 1)
    y = resampling.upsample_bilinear(x, (3,)).ravel()
    assert y[1] == np.inf
    assert y[4] == 1.0


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_any_memory_is_taken_and_none_is_modified(method: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 2))
    forward = getattr(resampling, f"upsample_{method}")
    backward = getattr(resampling, f"upsample_{method}_backward")
    want = forward(x, (2, 3))
    dy = np.random.default_rng(1).standard_normal(want.shape)
    wanted_dx = backward(dy, (2, 3))
    for kind, view in views_of(x):
        assert np.array_equal(forward(view, (2, 3)), want), kind
        assert np.array_equal(view, x), kind
    for kind, view in views_of(dy):
        assert np.allclose(backward(view, (2, 3)), wanted_dx, rtol=1e-14), kind
        assert np.array_equal(view, dy), kind


@pytest.mark.parametrize(
    ("cls", "arguments", "shape"),
    [
        (UpSampling1D, {}, (2, 3, 2)),
        (UpSampling1D, {"size": 3}, (2, 3, 2)),
        (UpSampling2D, {}, (2, 3, 2, 2)),
        (UpSampling2D, {"size": (1, 3)}, (2, 3, 2, 2)),
        (UpSampling2D, {"size": (2, 3), "interpolation": "Bilinear"}, (2, 3, 2, 2)),
        (UpSampling3D, {"size": (1, 2, 3)}, (2, 3, 2, 2, 2)),
    ],
    ids=str,
)
def test_layers_in_both_formats(cls: Any, arguments: dict[str, Any], shape: Any) -> None:
    x = small_integers(np.random.default_rng(0), shape)
    last, first = cls(**arguments), cls(data_format="channels_first", **arguments)
    bilinear = "interpolation" in arguments
    by_definition = reference.upsample_bilinear if bilinear else reference.upsample_nearest
    want = by_definition(x.astype(np.float64), arguments.get("size", 2))
    y, backward = last.forward(x, training=True)
    assert_close(y, want, 8)
    assert last.compute_output_shape(x.shape) == want.shape
    y_first, backward_first = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(np.moveaxis(y_first, 1, -1), y)
    dy = small_integers(np.random.default_rng(1), y.shape)
    dx = backward(dy)
    assert_close(np.moveaxis(backward_first(np.moveaxis(dy, -1, 1)), 1, -1), dx, 8)
    assert backward(dy, input_gradient=False) is None
    twin = cls.from_config(last.get_config())
    assert twin.get_config() == last.get_config()
    assert_exact(twin(x), y)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 0}, "size"),
        ({"size": 1.5}, "size"),
        ({"size": (2, 2, 2)}, "size"),
        ({"interpolation": "bicubic"}, "interpolation.*'bilinear'.*Received: 'bicubic'"),
        ({"interpolation": "linear"}, "Did you mean 'bilinear'"),
        ({"interpolation": None}, "interpolation"),
        ({"data_format": "last"}, "data_format"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        UpSampling2D(**arguments)


def test_bad_inputs() -> None:
    for rank in (1, 2, 3):
        with pytest.raises(ShapeError, match=f"{rank + 2} dimensions"):
            getattr(layers, f"UpSampling{rank}D")(2)(np.zeros((1, 2), np.float32))
