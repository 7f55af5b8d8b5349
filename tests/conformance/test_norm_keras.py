"""Layers against Keras: normalisation, activations, shapes, merging, preprocessing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from gpuconv import layers  # noqa: E402
from gpuconv.activations import NAMES  # noqa: E402
from gpuconv.testing.cases.layers import randomize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def host(tensor: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tensor.detach().cpu().numpy())


def close(found: Any, expected: Any) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * scale)


def compare(
    layer: Any, oracle: Any, shape: tuple[int, ...], trainings: tuple[bool, ...] = (True, False)
) -> None:
    """Give both the same weights, then compare outputs, gradients and state.

    Ours computes in float64; Keras computes these in float32 whatever it is asked for.
    """
    rng = np.random.default_rng(0)
    layer.build((None, *shape[1:]))
    oracle.build(shape)
    randomize(layer)
    assert [w.shape for w in layer.get_weights()] == [tuple(w.shape) for w in oracle.weights]
    oracle.set_weights(layer.get_weights())
    for training in trainings:
        x = rng.normal(1.0, 2.0, shape).astype(np.float32)
        theirs = torch.tensor(x, requires_grad=True)
        takes = "training" in oracle._call_signature.parameters
        expected = oracle(theirs, training=training) if takes else oracle(theirs)
        dy = rng.standard_normal(tuple(expected.shape)).astype(np.float32)
        expected.backward(torch.tensor(dy))
        y, backward = layer.forward(x, training=training)
        close(y, host(expected))
        close(backward(dy), host(theirs.grad))
        assert tuple(oracle.compute_output_shape(shape)) == layer.compute_output_shape(shape)
    for ours, variable in zip(layer.trainable_parameters, oracle.trainable_weights, strict=True):
        close(ours.grad, host(variable.value.grad))
    for ours, theirs in zip(layer.get_weights(), oracle.get_weights(), strict=True):
        close(ours, theirs)


def pair(name: str, **arguments: Any) -> tuple[Any, Any]:
    """Our layer and Keras's of one name, with the same arguments."""
    ours = getattr(layers, name)(dtype="float64", **arguments)
    return ours, getattr(keras.layers, name)(**arguments)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((6, 3), {}),
        ((4, 5, 3), {"momentum": 0.8, "epsilon": 1e-2}),
        ((3, 4, 2, 3), {"center": False}),
        ((3, 4, 2, 3), {"axis": 1, "scale": False}),
        ((2, 3, 2, 3, 4), {"axis": -1}),
        ((1, 3), {}),
    ],
)
def test_batch_normalization(shape: tuple[int, ...], arguments: Any) -> None:
    compare(*pair("BatchNormalization", **arguments), shape, (True, True, False))


def test_frozen_batch_normalization() -> None:
    compare(*pair("BatchNormalization", trainable=False), (6, 3))


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((6, 3), {}),
        ((4, 5, 3), {"epsilon": 1e-2}),
        ((3, 4, 2, 3), {"axis": [1, 2, 3]}),
        ((3, 4, 2, 3), {"axis": (2, 3), "center": False}),
        ((3, 4, 2, 3), {"axis": -1, "scale": False}),
    ],
)
def test_layer_normalization(shape: tuple[int, ...], arguments: Any) -> None:
    compare(*pair("LayerNormalization", **arguments), shape)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((3, 5, 64), {}),
        ((3, 5, 8), {"groups": 2}),
        ((3, 4, 2, 6), {"groups": -1, "center": False}),
        ((3, 6, 2, 4), {"groups": 3, "axis": 1, "scale": False}),
        ((2, 2, 3, 2, 6), {"groups": 1, "epsilon": 1e-2}),
    ],
)
def test_group_normalization(shape: tuple[int, ...], arguments: Any) -> None:
    compare(*pair("GroupNormalization", **arguments), shape)


@pytest.mark.parametrize("name", sorted({*NAMES, "swish", "hard_swish"} - {"gelu_tanh"}))
def test_activation(name: str) -> None:
    spelled = {"gelu": lambda x: keras.activations.gelu(x, approximate=False)}.get(name, name)
    oracle = keras.layers.Activation(spelled)
    compare(layers.Activation(name, dtype="float64"), oracle, (4, 30), (True,))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_value": 6.0},
        {"max_value": 2.0},
        {"negative_slope": 0.3},
        {"threshold": 1.0},
        {"max_value": 3.0, "negative_slope": 0.2, "threshold": 0.5},
        {"max_value": 1.0, "negative_slope": 0.2, "threshold": 2.0},
    ],
)
def test_relu(arguments: Any) -> None:
    compare(*pair("ReLU", **arguments), (4, 30), (True,))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LeakyReLU", {}),
        ("LeakyReLU", {"negative_slope": 0.0}),
        ("ELU", {}),
        ("ELU", {"alpha": 0.4}),
        ("Softmax", {}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {"axis": (1, 2)}),
        ("Flatten", {}),
        ("Flatten", {"data_format": "channels_first"}),
        ("Reshape", {"target_shape": (4, -1)}),
        ("Permute", {"dims": (3, 1, 2)}),
        ("Rescaling", {"scale": 0.5, "offset": -1.0}),
        ("Normalization", {"axis": (1, 3), "mean": [1.0, 2.0], "variance": [4.0, 9.0]}),
        ("Normalization", {"axis": None, "mean": 1.0, "variance": 0.0, "invert": True}),
    ],
)
def test_other_layers(name: str, arguments: Any) -> None:
    compare(*pair(name, **arguments), (3, 4, 5, 2), (True,))


@pytest.mark.parametrize(
    ("name", "count", "arguments"),
    [
        ("Add", 3, {}),
        ("Subtract", 2, {}),
        ("Multiply", 3, {}),
        ("Average", 4, {}),
        ("Maximum", 3, {}),
        ("Minimum", 3, {}),
        ("Concatenate", 3, {"axis": 1}),
    ],
)
def test_merging(name: str, count: int, arguments: Any) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(3, 4, 5)) for _ in range(count)]
    theirs = [torch.tensor(x, requires_grad=True) for x in inputs]
    layer, oracle = pair(name, **arguments)
    expected = oracle(theirs)
    dy = rng.normal(size=tuple(expected.shape))
    expected.backward(torch.tensor(dy, dtype=expected.dtype))
    y, backward = layer.forward(inputs, training=True)
    close(y, host(expected))
    for ours, tensor in zip(backward(dy), theirs, strict=True):
        close(ours, host(tensor.grad))


@pytest.mark.parametrize("axis", [-1, 1, (1, 2), None])
def test_adapt(axis: Any) -> None:
    data = np.random.default_rng(0).normal(3.0, 2.0, (50, 4, 3))
    layer, oracle = pair("Normalization", axis=axis)
    layer.adapt(data)
    oracle.adapt(data)
    close(layer(data), host(oracle(data)))
