"""Augmentation against Keras's (on its torch backend), where its random numbers have one value.

Keras computes places in float32, hence the tolerance; nearest pixels are compared at angles and
factors that lead to no ties.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from gpuconv import layers  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="written for Keras on torch"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def compare(name: str, shape: tuple[int, ...] = (3, 9, 12, 2), **arguments: Any) -> None:
    """Compare in training; ``shape`` is channels-last."""
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    if arguments.get("data_format") == "channels_first":
        x = np.moveaxis(x, -1, 1)
    expected = getattr(keras.layers, name)(**arguments)(x, training=True)
    found = getattr(layers, name)(**arguments)(x, training=True)
    expected = keras.ops.convert_to_numpy(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


resampling = [
    ("RandomRotation", {"factor": (0.07, 0.07)}),
    ("RandomRotation", {"factor": (-0.31, -0.31)}),
    ("RandomTranslation", {"height_factor": (0.23, 0.23), "width_factor": (-0.71, -0.71)}),
    ("RandomZoom", {"height_factor": (0.37, 0.37)}),
    ("RandomZoom", {"height_factor": (-0.61, -0.61), "width_factor": (0.83, 0.83)}),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", ["reflect", "wrap", "constant", "nearest"])
@pytest.mark.parametrize(("name", "arguments"), resampling)
def test_resampling(
    name: str, arguments: dict[str, Any], fill_mode: str, interpolation: str
) -> None:
    compare(name, fill_mode=fill_mode, interpolation=interpolation, fill_value=0.7, **arguments)


@pytest.mark.parametrize(("name", "arguments"), resampling)
def test_channels_first_and_defaults(name: str, arguments: dict[str, Any]) -> None:
    compare(name, data_format="channels_first", **arguments)


@pytest.mark.parametrize("size", [(12, 9), (9, 12), (20, 20), (5, 13), (30, 7), (10, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_crops_that_are_resized(size: tuple[int, int], training: bool) -> None:
    """What RandomCrop's documentation describes, and another layer of Keras's does."""
    x = np.random.default_rng(0).uniform(0, 1, (3, 9, 12, 2)).astype(np.float32)
    resizing = keras.layers.Resizing(*size, crop_to_aspect_ratio=True)
    expected = keras.ops.convert_to_numpy(resizing(x))
    found = layers.RandomCrop(*size)(x, training=training)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_contrast_with_the_same_factor() -> None:
    x = np.random.default_rng(0).uniform(0, 255, (2, 5, 6, 3)).astype(np.float32)
    theirs = keras.layers.RandomContrast(0.5)
    ours = layers.RandomContrast(0.5, seed=3)
    found = ours(x, training=True)
    middle = x.mean(axis=(1, 2), keepdims=True)
    inside = (found > 0) & (found < 255)
    factors = [np.median(((found - middle) / (x - middle))[i][inside[i]]) for i in range(2)]
    drawn = keras.ops.convert_to_tensor(np.reshape(factors, (2, 1, 1, 1)).astype(np.float32))
    expected = theirs.transform_images(
        keras.ops.convert_to_tensor(x), {"contrast_factor": drawn}, training=True
    )
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), atol=1e-3)


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_flips(mode: str) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (16, 4, 5, 2)).astype(np.float32)
    found = layers.RandomFlip(mode, seed=3)(x, training=True)
    flips = np.array([not np.array_equal(a, b) for a, b in zip(found, x, strict=True)])
    assert 0 < flips.sum() < 16
    expected = keras.layers.RandomFlip(mode).transform_images(
        keras.ops.convert_to_tensor(x),
        {"flips": keras.ops.convert_to_tensor(flips.reshape(-1, 1, 1, 1))},
        training=True,
    )
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(expected))
