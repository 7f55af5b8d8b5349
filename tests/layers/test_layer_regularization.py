"""Dropout and SpatialDropout: what is dropped, how often, and the same again from one state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv.random
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import Dropout, Layer, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def test_share_and_scale() -> None:
    y = Dropout(0.25, seed=0).forward(ones(200, 500), training=True)[0]
    assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75)}
    # 100,000 coins of 0.25: five standard deviations are 0.7 %.
    assert abs((y == 0).mean() - 0.25) < 0.007
    assert abs(y.mean() - 1.0) < 0.01


def test_the_gradient_takes_the_same_mask() -> None:
    y, backward = Dropout(0.5, seed=0).forward(ones(20, 30), training=True)
    np.testing.assert_array_equal(backward(ones(20, 30)), y)


def test_identity_in_inference_and_at_rate_zero() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    for layer, training in ((Dropout(0.9), False), (Dropout(0.0), True)):
        y, backward = layer.forward(x, training=training)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(backward(y), x)
        np.testing.assert_array_equal(layer(x, training=training), x)


def test_rate_one_drops_everything() -> None:
    y, backward = Dropout(1.0).forward(ones(4, 5), training=True)
    assert not y.any()
    assert not backward(ones(4, 5)).any()


def test_a_seed_repeats_and_batches_differ() -> None:
    a, b, c = Dropout(0.5, seed=3), Dropout(0.5, seed=3), Dropout(0.5, seed=4)
    x = ones(10, 20)
    first, second = (a.forward(x, training=True)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, b.forward(x, training=True)[0])
    np.testing.assert_array_equal(second, b(x, training=True))
    assert not np.array_equal(first, c(x, training=True))


def test_dtypes_have_the_same_masks() -> None:
    x = ones(10, 20)
    single, double = (Dropout(0.3, seed=3, dtype=d)(x, training=True) for d in ("f4", "f8"))
    np.testing.assert_array_equal(single == 0, double == 0)


def test_without_a_seed_the_global_one_decides() -> None:
    x = ones(10, 20)
    found = []
    for seed in (1, 1, 2):
        gpuconv.random.set_seed(seed)
        found.append(Dropout(0.5)(x, training=True))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_the_global_seed_is_drawn_on_first_use() -> None:
    gpuconv.random.set_seed(1)
    expected = gpuconv.random.next_seed()
    layer, other = Dropout(0.5), Dropout(0.5)
    gpuconv.random.set_seed(1)
    other(ones(2, 2), training=False)  # inference draws nothing
    layer(ones(2, 2), training=True)
    assert layer.seed_stream.seed == expected


def test_the_state_can_be_saved_and_restored() -> None:
    layer, x = Dropout(0.5), ones(10, 20)
    layer(x, training=True)
    state = layer.random_streams()["seed_stream"].state
    first = layer(x, training=True)
    other = Dropout(0.5)
    for one in (layer, other):
        one.random_streams()["seed_stream"].state = state
        np.testing.assert_array_equal(one(x, training=True), first)


def test_streams_of_layers_inside_are_found() -> None:
    class Pair(Layer):
        """Two layers in a row."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = [Dropout(0.5, name="a"), SpatialDropout2D(0.5, name="b")]

        @property
        def sublayers(self) -> list[Layer]:
            return list(self.inner)

    pair = Pair()
    assert list(pair.random_streams()) == ["a/seed_stream", "b/seed_stream"]
    assert pair.random_streams()["b/seed_stream"] is pair.inner[1].seed_stream


@pytest.mark.parametrize("noise_shape", [(None, 1, None), (4, 1, 5), (1, 3, None), (1, 1, 1)])
def test_noise_shape(noise_shape: tuple[int | None, ...]) -> None:
    layer = Dropout(0.5, noise_shape=noise_shape, seed=0)
    y = layer.forward(ones(4, 3, 5), training=True)[0]
    for axis, extent in enumerate(noise_shape):
        if extent == 1:
            np.testing.assert_array_equal(y, np.broadcast_to(y.take([0], axis), y.shape))


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (SpatialDropout1D, (6, 9, 8)),
        (SpatialDropout2D, (6, 3, 5, 8)),
        (SpatialDropout3D, (6, 2, 3, 2, 8)),
    ],
)
def test_spatial_dropout_drops_whole_channels(cls: Any, shape: tuple[int, ...]) -> None:
    y = cls(0.5, seed=0).forward(ones(*shape), training=True)[0]
    flat = y.reshape(shape[0], -1, shape[-1])
    np.testing.assert_array_equal(flat, np.broadcast_to(flat[:, :1], flat.shape))
    assert set(np.unique(y).tolist()) == {0.0, 2.0}
    first = cls(0.5, data_format="channels_first", seed=0)
    moved = first.forward(np.moveaxis(ones(*shape), -1, 1), training=True)[0]
    np.testing.assert_array_equal(np.moveaxis(moved, 1, -1), y)


def test_channels_first_views_stay_views() -> None:
    x = np.moveaxis(ones(2, 4, 5, 6), -1, 1)
    for layer in (Dropout(0.5), SpatialDropout2D(0.5, "channels_first")):
        y, backward = layer.forward(x, training=True)
        assert y.strides == x.strides
        assert backward(y).strides == x.strides


def test_refusals() -> None:
    for rate in (-0.1, 1.1, "0.5", None, True):
        with pytest.raises(InvalidArgumentError, match="rate must be a number from 0 to 1"):
            Dropout(rate)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="seed must be an integer"):
        Dropout(0.5, seed=-1)
    for noise_shape in (3, 2.5, "abc", (0, 1), (1.5,)):
        with pytest.raises(InvalidArgumentError, match="noise_shape"):
            Dropout(0.5, noise_shape=noise_shape)  # type: ignore[arg-type]
    for noise_shape in ((None, 1), (None, 2, None), (7, 1, 1)):
        with pytest.raises(ShapeError, match=r"noise_shape.*Received: shape"):
            Dropout(0.5, noise_shape=noise_shape)(ones(4, 3, 5), training=True)
    with pytest.raises(ShapeError, match="expected an input of 4 dimensions"):
        SpatialDropout2D(0.5)(ones(4, 3, 5))
