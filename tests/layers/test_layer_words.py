"""Cropping, Resizing, CenterCrop, PReLU, noise, brightness, TimeDistributed: values by hand.

What holds for every layer, gradients among it, is in test_every_layer.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import activations, layers
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.tensors import Tensor, tensor

IMAGE = np.arange(2 * 4 * 5 * 1, dtype="float32").reshape(2, 4, 5, 1)


def test_cropping() -> None:
    cut = layers.Cropping2D(((1, 0), (2, 1)))(IMAGE)
    np.testing.assert_array_equal(cut, IMAGE[:, 1:, 2:4])
    np.testing.assert_array_equal(layers.Cropping2D(1)(IMAGE), IMAGE[:, 1:-1, 1:-1])
    np.testing.assert_array_equal(layers.Cropping2D()(IMAGE), IMAGE)
    np.testing.assert_array_equal(layers.Cropping1D()(IMAGE[..., 0]), IMAGE[:, 1:-1, :, 0])
    assert layers.Cropping3D()(np.ones((1, 3, 4, 5, 2))).shape == (1, 1, 2, 3, 2)
    assert layers.Cropping2D((1, 2)).compute_output_shape((None, None, 9, 3)) == (None, None, 5, 3)
    with pytest.raises(ShapeError, match="nothing would be left"):
        layers.Cropping2D(2)(IMAGE)
    with pytest.raises(InvalidArgumentError):
        layers.Cropping1D((1, 2, 3))


def interpolated(row: list[float], size: int) -> list[float]:
    """Linear between the centres of pixels that are areas."""
    found = []
    for p in range(size):
        centre = min(max((p + 0.5) * len(row) / size - 0.5, 0), len(row) - 1)
        below = int(centre)
        above = min(below + 1, len(row) - 1)
        found.append(row[below] * (1 - centre + below) + row[above] * (centre - below))
    return found


@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_resizing(size: int) -> None:
    row = [1.0, 4.0, 2.0, 8.0, 16.0]
    image = np.array(row, "float32").reshape(1, 1, 5, 1)
    got = layers.Resizing(1, size)(image).ravel()
    np.testing.assert_allclose(got, interpolated(row, size), rtol=1e-6)
    column = layers.Resizing(size, 1)(image.reshape(1, 5, 1, 1)).ravel()
    np.testing.assert_allclose(column, got, rtol=1e-6)


def test_resizing_by_whole_factors_is_upsampling() -> None:
    for way in ("nearest", "bilinear"):
        larger = layers.UpSampling2D((2, 3), interpolation=way)(IMAGE)
        np.testing.assert_allclose(layers.Resizing(8, 15, way)(IMAGE), larger, rtol=1e-6)
    same = layers.Resizing(2, 5, "nearest")(IMAGE)
    np.testing.assert_array_equal(same, IMAGE[:, [1, 3]])


def test_center_crop() -> None:
    np.testing.assert_array_equal(layers.CenterCrop(2, 3)(IMAGE), IMAGE[:, 1:3, 1:4])
    larger = layers.CenterCrop(8, 4)(IMAGE)  # 4 x 2 from the middle, resized
    np.testing.assert_allclose(larger, layers.Resizing(8, 4)(IMAGE[:, :, 1:3]), rtol=1e-6)


def test_prelu() -> None:
    layer = layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2])
    x = np.array([[[[-1.0, 2.0]], [[3.0, -4.0]]]])
    layer.build(x.shape)
    layer.set_weights([np.array([[[0.5, 0.25]]])])
    y, backward = layer.forward(x, training=True)
    np.testing.assert_array_equal(y, [[[[-0.5, 2]], [[3, -1]]]])
    np.testing.assert_array_equal(backward(np.ones_like(y)), [[[[0.5, 1]], [[1, 0.25]]]])
    np.testing.assert_array_equal(layer.alpha.grad, [[[-1, -4]]])
    with pytest.raises(ShapeError):
        layer(np.ones((1, 2, 1, 3)))
    assert layers.PReLU().add_parameters((None, 3, 2)) is None
    with pytest.raises(ShapeError):
        layers.PReLU().build((None, None, 2))


def test_noise_has_its_deviation_and_acts_in_training_only() -> None:
    x = np.ones((400, 50), "float32")
    added = layers.GaussianNoise(0.3, seed=1)
    np.testing.assert_array_equal(added(x), x)
    noise = added(x, training=True) - x
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    factors = layers.GaussianDropout(0.2, seed=1)(x, training=True)
    assert factors.mean() == pytest.approx(1, abs=0.02)
    assert factors.std() == pytest.approx(0.5, rel=0.02)
    assert not np.array_equal(added(x, training=True) - x, noise)
    with pytest.raises(InvalidArgumentError):
        layers.GaussianDropout(1.0)


def test_brightness() -> None:
    layer = layers.RandomBrightness(0.5, value_range=(0, 1), seed=3)
    x = np.full((200, 2, 2, 1), 0.5, "float32")
    np.testing.assert_array_equal(layer(x), x)
    change = layer(x, training=True) - x
    assert np.ptp(change, axis=(1, 2, 3)).max() == 0  # one number an image
    assert change.min() >= -0.5
    assert change.max() <= 0.5
    assert change.std() == pytest.approx(1 / 12**0.5, rel=0.1)
    darker = layers.RandomBrightness((-1.0, -1.0), seed=3)(255 * x, training=True)
    np.testing.assert_array_equal(darker, 0 * x)


def test_repeating() -> None:
    x = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(layers.RepeatVector(3)(x), [[[1, 2], [1, 2], [1, 2]]])
    np.testing.assert_array_equal(layers.Identity()(x), x)


def test_time_distributed_runs_every_step() -> None:
    x = np.random.default_rng(0).random((2, 3, 6, 5, 2)).astype("float32")
    inner = layers.Conv2D(4, 3, activation="relu")
    layer = layers.TimeDistributed(inner)
    y = layer(x)
    assert y.shape == (2, 3, 4, 3, 4)
    for step in range(3):
        np.testing.assert_allclose(y[:, step], inner(x[:, step]), rtol=1e-5, atol=1e-6)
    assert [p.path for p in layer.parameters] == [
        f"{layer.name}/{inner.name}/{name}" for name in ("kernel", "bias")
    ]
    with pytest.raises(InvalidArgumentError):
        layers.TimeDistributed(layers.Add())
    with pytest.raises(ShapeError):
        layers.TimeDistributed(layers.Conv2D(4, 3))(x[0])


def test_activations_by_their_functions() -> None:
    layer = layers.Dense(2, activation=activations.relu)
    assert layer.get_config()["activation"] == "relu"
    np.testing.assert_array_equal(activations.relu([-1.0, 2.0]), [0, 2])
    assert isinstance(activations.softmax(tensor([[1.0, 1.0]])), Tensor)
    np.testing.assert_allclose(activations.swish([0.0]), [0])
