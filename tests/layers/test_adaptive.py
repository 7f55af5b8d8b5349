"""AdaptiveMaxPooling and AdaptiveAveragePooling layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import AdaptiveAveragePooling2D, AdaptiveMaxPooling2D
from gpuconv.testing import assert_close, assert_exact, check_layer, reference
from gpuconv.testing.cases import distinct_values, small_integers

CASES = [
    (1, (2, 7, 3), 3, (3,)),
    (2, (2, 6, 4, 3), (3, 2), (3, 2)),
    (2, (2, 5, 4, 3), (2, 3), (2, 3)),
    (2, (2, 5, 4, 3), (None, 3), (5, 3)),
    (2, (1, 2, 3, 2), 7, (7, 7)),
    (3, (2, 3, 4, 5, 2), 2, (2, 2, 2)),
]


@pytest.mark.parametrize(("rank", "shape", "size", "whole"), CASES, ids=str)
def test_max(rank: int, shape: tuple[int, ...], size: Any, whole: tuple[int, ...]) -> None:
    x = small_integers(np.random.default_rng(0), shape)
    want, indices = reference.adaptive_max_pool(x.astype(np.float64), whole)
    dy = small_integers(np.random.default_rng(1), want.shape)
    dx = reference.max_pool_backward(dy.astype(np.float64), indices, x.shape)
    cls = getattr(layers, f"AdaptiveMaxPooling{rank}D")
    y, backward = cls(size).forward(x, training=True)
    assert_exact(y, want)
    assert_exact(backward(dy), dx)
    y, backward = cls(size, "channels_first").forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(y, np.moveaxis(want, -1, 1))
    assert_exact(backward(np.moveaxis(dy, -1, 1)), np.moveaxis(dx, -1, 1))


@pytest.mark.parametrize(("rank", "shape", "size", "whole"), CASES, ids=str)
def test_average(rank: int, shape: tuple[int, ...], size: Any, whole: tuple[int, ...]) -> None:
    x = small_integers(np.random.default_rng(0), shape)
    want = reference.adaptive_avg_pool(x.astype(np.float64), whole)
    cls = getattr(layers, f"AdaptiveAveragePooling{rank}D")
    assert_close(cls(size)(x), want, x.size)
    first = cls(size, "channels_first")
    assert_close(first(np.moveaxis(x, -1, 1)), np.moveaxis(want, -1, 1), x.size)
    assert first.compute_output_shape(np.moveaxis(x, -1, 1).shape) == np.moveaxis(want, -1, 1).shape


@pytest.mark.parametrize("size", [(3, 2), (4, 3), (2, 7)], ids=str)
def test_gradients(size: tuple[int, int]) -> None:
    x = distinct_values(np.random.default_rng(2), (2, 6, 5, 2))
    check_layer(AdaptiveMaxPooling2D(size, dtype="float64"), x)
    check_layer(AdaptiveAveragePooling2D(size, dtype="float64"), x)


def test_global_pooling_is_a_special_case() -> None:
    x = np.random.default_rng(4).standard_normal((2, 5, 7, 3)).astype(np.float32)
    assert_exact(AdaptiveAveragePooling2D(1)(x), layers.GlobalAveragePooling2D(keepdims=True)(x))


def test_configuration_keeps_none() -> None:
    layer = AdaptiveMaxPooling2D((None, 2))
    assert layer.get_config()["output_size"] == [None, 2]
    twin = AdaptiveMaxPooling2D.from_config(layer.get_config())
    assert twin.compute_output_shape((None, 5, 6, 3)) == (None, 5, 2, 3)


@pytest.mark.parametrize(
    "size", [0, -1, (2,), (1, 2, 3), None, 1.5, "2", (0, 1), (1, 2.0)], ids=str
)
def test_bad_output_sizes(size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"output_size.*Received"):
        AdaptiveAveragePooling2D(size)


def test_an_empty_input() -> None:
    for cls in (AdaptiveAveragePooling2D, AdaptiveMaxPooling2D):
        with pytest.raises(ShapeError, match="at least 1"):
            cls(2)(np.zeros((1, 0, 3, 1), np.float32))


def test_inference_asks_for_no_indices(indices_wanted: list[bool]) -> None:
    layer, x = (
        AdaptiveMaxPooling2D(2),
        np.random.default_rng(6).standard_normal((2, 4, 4, 3)).astype(np.float32),
    )
    x[0, 0, 0], x[0, 1, 1], x[1] = np.nan, -0.0, 0.0
    alone = layer(x)
    assert indices_wanted == [False]
    y, _ = layer.forward(x, training=True)
    assert indices_wanted == [False, True]
    assert alone.tobytes() == y.tobytes()
