"""BatchNormalization against the float64 reference, and the rules of its moving statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import BatchNormalization
from gpuconv.testing import assert_close, reference
from gpuconv.testing.cases.layers import randomize


def sample(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape)


def built(shape: tuple[int, ...], **arguments: Any) -> BatchNormalization:
    layer = BatchNormalization(**{"dtype": "float64", **arguments})
    layer.build((None, *shape[1:]))
    randomize(layer)
    return layer


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (3, 4, 2, 3), (2, 3, 2, 3, 3), (1, 7, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_normalises_by_the_batch(shape: tuple[int, ...], dtype: str) -> None:
    layer, x = built(shape, dtype=dtype), sample(*shape)
    expected, _, _ = reference.batch_norm(x, layer.gamma, layer.beta, 1e-3)
    assert_close(layer.forward(x, training=True)[0], expected, reduction_length=x.size)


def test_inference_normalises_by_the_moving_statistics() -> None:
    layer, x = built((4, 3)), sample(4, 3)
    weights = [layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance]
    expected = reference.batch_norm_inference(x, *weights, 1e-3)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)
    np.testing.assert_allclose(layer.forward(x, training=False)[0], expected, rtol=1e-12)


def test_state_in_the_order_of_keras() -> None:
    layer = BatchNormalization()
    layer(np.ones((2, 3), np.float32))
    assert list(layer.state()) == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [p.name for p in layer.parameters] == ["gamma", "beta"]
    assert [w.tolist() for w in layer.get_weights()] == [[1] * 3, [0] * 3, [0] * 3, [1] * 3]
    assert layer.count_params() == 12


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.0, 1.0])
def test_moving_statistics(unbiased: bool, momentum: float) -> None:
    shape = (4, 2, 3)
    layer = built(shape, momentum=momentum, unbiased_moving_variance=unbiased)
    mean, variance = layer.moving_mean.copy(), layer.moving_variance.copy()
    for step in range(3):
        x = sample(*shape, seed=step)
        layer.forward(x, training=True)
        flat = x.reshape(-1, 3)
        mean = momentum * mean + (1 - momentum) * flat.mean(axis=0)
        variance = momentum * variance + (1 - momentum) * flat.var(axis=0, ddof=int(unbiased))
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-12)


def test_cumulative_average() -> None:
    layer = BatchNormalization(momentum=None, dtype="float64")
    batches = [sample(5, 3, seed=n) for n in range(4)]
    for x in batches:
        layer.forward(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, np.mean([x.mean(0) for x in batches], axis=0))
    np.testing.assert_allclose(layer.moving_variance, np.mean([x.var(0) for x in batches], axis=0))
    assert layer.state()["batches_seen"] == 4
    twin = BatchNormalization.from_config(layer.get_config())
    twin.build((None, 3))
    twin.set_weights(layer.get_weights())
    for one in (layer, twin):
        one.forward(sample(5, 3, seed=9), training=True)
    np.testing.assert_array_equal(twin.moving_mean, layer.moving_mean)


def test_untracked() -> None:
    layer = BatchNormalization(track_moving_statistics=False, dtype="float64")
    x = sample(5, 3)
    expected, _, _ = reference.batch_norm(x, np.ones(3), np.zeros(3), 1e-3)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)
    assert list(layer.state()) == ["gamma", "beta"]


@pytest.mark.parametrize("axis", [1, -3, 2])
def test_axis(axis: int) -> None:
    x = sample(3, 4, 5, 6)
    layer, last = built(x.shape, axis=axis), np.moveaxis(x, axis, -1)
    expected, _, _ = reference.batch_norm(last, layer.gamma, layer.beta, 1e-3)
    y, backward = layer.forward(x, training=True)
    np.testing.assert_allclose(np.moveaxis(y, axis, -1), expected, rtol=1e-10, atol=1e-12)
    assert backward(y).shape == x.shape


def test_channels_first_views_stay_views() -> None:
    x = np.moveaxis(sample(2, 4, 5, 3), -1, 1)
    y, backward = BatchNormalization(axis=1, dtype="float64").forward(x, training=True)
    assert y.strides == x.strides
    assert backward(y).strides == x.strides


@pytest.mark.parametrize(("center", "scale"), [(False, True), (True, False), (False, False)])
def test_without_center_or_scale(center: bool, scale: bool) -> None:
    x = sample(6, 3)
    layer = built(x.shape, center=center, scale=scale)
    gamma = layer.gamma.value if layer.gamma is not None else np.ones(3)
    beta = layer.beta.value if layer.beta is not None else np.zeros(3)
    assert [p.name for p in layer.parameters] == ["gamma"] * scale + ["beta"] * center
    expected, _, _ = reference.batch_norm(x, gamma, beta, 1e-3)
    np.testing.assert_allclose(layer.forward(x, training=True)[0], expected, rtol=1e-10)


def test_frozen_runs_in_inference_mode_at_once() -> None:
    x = sample(6, 3)
    layer = built(x.shape)
    layer.forward(x, training=True)
    state = layer.get_weights()
    layer.trainable = False
    y, backward = layer.forward(x, training=True)
    np.testing.assert_array_equal(y, layer(x))
    factor = layer.gamma.value / np.sqrt(layer.moving_variance + 1e-3)
    np.testing.assert_allclose(backward(np.ones_like(x)), np.tile(factor, (6, 1)), rtol=1e-12)
    for before, after in zip(state, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    layer.trainable = True
    assert not np.allclose(layer.forward(x, training=True)[0], y)


def test_a_later_batch_does_not_change_an_earlier_backward() -> None:
    x = sample(6, 3)
    layer, other = built(x.shape, momentum=0.5), built(x.shape, momentum=0.5)
    dy = sample(6, 3, seed=1)
    _, late = layer.forward(x, training=False)
    layer.forward(x, training=True)
    _, soon = other.forward(x, training=False)
    np.testing.assert_array_equal(late(dy), soon(dy))
    np.testing.assert_array_equal(layer.gamma.grad, other.gamma.grad)


def test_one_value_a_channel() -> None:
    x = sample(1, 3)
    layer = BatchNormalization(dtype="float64")
    assert not layer.forward(x, training=True)[0].any()  # it is its own mean, as in Keras
    unbiased = BatchNormalization(unbiased_moving_variance=True, dtype="float64")
    assert np.isfinite(unbiased(x)).all()
    with pytest.raises(ShapeError, match=r"at least two values.*Received: shape \(1, 3\)"):
        unbiased.forward(x, training=True)
    np.testing.assert_array_equal(unbiased.moving_mean, np.zeros(3))


def test_a_constant_channel_far_from_zero() -> None:
    x = np.full((8, 4, 1), 12345.678, np.float32)
    y, backward = BatchNormalization().forward(x, training=True)
    np.testing.assert_allclose(y, 0.0, atol=0.05)
    assert np.isfinite(backward(np.ones_like(y))).all()


def test_to_moves_everything() -> None:
    layer = built((2, 3), momentum=None)
    assert layer.to("cpu") is layer
    assert all(isinstance(a, np.ndarray) for a in layer.state().values())


def test_refusals() -> None:
    for momentum in (-0.1, 1.5, "0.9", True):
        with pytest.raises(InvalidArgumentError, match="momentum must be a number from 0 to 1"):
            BatchNormalization(momentum=momentum)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="epsilon must be a number of at least 0"):
        BatchNormalization(epsilon=-1e-3)
    with pytest.raises(InvalidArgumentError, match="axis must be an integer"):
        BatchNormalization(axis=(1, 2))  # type: ignore[arg-type]
    for axis in (0, 2, -2, 5):
        with pytest.raises(ShapeError, match="Received: an input of 2 dimensions"):
            BatchNormalization(axis=axis)(np.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"Received: shape \(None, 4\)"):
        built((2, 3))(np.ones((2, 4)))
    with pytest.raises(ShapeError, match="must be known"):
        BatchNormalization().build((None, None))
