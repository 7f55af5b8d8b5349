"""GlobalMaxPooling and GlobalAveragePooling layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import ShapeError
from gpuconv.layers import GlobalAveragePooling2D, GlobalMaxPooling2D
from gpuconv.testing import assert_close, assert_exact

INPUTS = {1: (2, 5, 3), 2: (2, 4, 3, 5), 3: (2, 3, 2, 4, 3)}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_values_in_both_formats(kind: str, rank: int, keepdims: bool) -> None:
    cls = getattr(layers, f"Global{kind}Pooling{rank}D")
    x = np.random.default_rng(rank).permutation(int(np.prod(INPUTS[rank]))).astype(np.float32)
    x = x.reshape(INPUTS[rank])
    want = np.zeros((x.shape[0], x.shape[-1]))
    wanted_dx = np.zeros(x.shape)
    positions = list(np.ndindex(*x.shape[1:-1]))
    for n, c in np.ndindex(*want.shape):
        values = [float(x[(n, *p, c)]) for p in positions]
        want[n, c] = max(values) if kind == "Max" else sum(values) / len(values)
        for p, value in zip(positions, values, strict=True):
            share = float(value == want[n, c]) if kind == "Max" else 1 / len(values)
            wanted_dx[(n, *p, c)] = share * (n + 10 * c)
    dy = np.add.outer(np.arange(want.shape[0]), 10 * np.arange(want.shape[1])).astype(np.float32)
    last, first = cls(keepdims=keepdims), cls(keepdims=keepdims, data_format="channels_first")
    ones = (1,) * rank if keepdims else ()
    shape, shape_first = (2, *ones, want.shape[1]), (2, want.shape[1], *ones)
    y, backward = last.forward(x, training=True)
    assert_close(y, want.reshape(shape), 24)
    assert_close(backward(dy.reshape(shape)), wanted_dx)
    y, backward = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_close(y, want.reshape(shape_first), 24)
    assert_close(backward(dy.reshape(shape_first)), np.moveaxis(wanted_dx, -1, 1))
    assert_exact(first(np.moveaxis(x, -1, 1)), y)
    assert first.compute_output_shape((None, x.shape[-1], *x.shape[1:-1])) == (None, *y.shape[1:])


def test_the_maximum_of_nan_and_the_first_of_ties() -> None:
    x = np.array([[3.0, np.nan], [3.0, 1.0]]).reshape(1, 2, 2, 1)
    layer = GlobalMaxPooling2D(dtype="float64")
    assert np.isnan(layer(x)).all()
    y, backward = layer.forward(np.where(np.isnan(x), 3.0, x), training=True)
    assert y.item() == 3.0
    assert backward(np.ones((1, 1))).ravel().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("cls", [GlobalMaxPooling2D, GlobalAveragePooling2D])
def test_nothing_is_computed_that_is_not_needed(cls: Any, engine_calls: list[str]) -> None:
    layer = cls()
    x = np.ones((2, 4, 4, 3), np.float32)
    y, backward = layer.forward(x, training=True)
    engine_calls.clear()
    assert backward(np.ones_like(y), input_gradient=False) is None
    assert engine_calls == []


@pytest.mark.parametrize("cls", [GlobalMaxPooling2D, GlobalAveragePooling2D])
def test_extents_may_change_after_building(cls: Any) -> None:
    layer = cls()
    assert layer(np.ones((1, 4, 4, 3), np.float32)).shape == (1, 3)
    assert layer(np.ones((2, 9, 1, 3), np.float32)).shape == (2, 3)
    with pytest.raises(ShapeError, match="at least 1"):
        layer(np.ones((2, 0, 1, 3), np.float32))
    with pytest.raises(ShapeError, match="4 dimensions"):
        layer(np.ones((2, 9, 3), np.float32))


def test_inference_asks_for_no_indices(indices_wanted: list[bool]) -> None:
    layer, x = (
        GlobalMaxPooling2D(),
        np.random.default_rng(6).standard_normal((2, 4, 4, 3)).astype(np.float32),
    )
    x[0, 0, 0], x[0, 1, 1], x[1] = np.nan, -0.0, 0.0
    alone = layer(x)
    assert indices_wanted == [False]
    y, _ = layer.forward(x, training=True)
    assert indices_wanted == [False, True]
    assert alone.tobytes() == y.tobytes()
