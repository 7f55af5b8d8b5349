"""Activation layers against the float64 reference, at kinks, for infinities and NaN."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import pytest

from gpuconv import activations
from gpuconv.backends import registry
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import (
    ELU,
    GELU,
    Activation,
    LeakyReLU,
    Permute,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from gpuconv.layers.base import Layer
from gpuconv.testing import reference

ELEMENTWISE = sorted(set(activations.NAMES) - {"linear", "softmax", "log_softmax"})


@pytest.fixture
def x() -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).normal(0.0, 3.0, (4, 3, 5))
    values[0, 0] = [0.0, 6.0, -3.0, 40.0, -40.0]
    return values


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_by_name(name: str, x: np.ndarray[Any, Any]) -> None:
    alpha = {"leaky_relu": 0.2, "elu": 1.0}.get(name, 0.0)
    y, backward = Activation(name, dtype="float64").forward(x)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    np.testing.assert_allclose(
        y, reference.activation(x, name, alpha), rtol=1e-12, atol=1e-12 * np.abs(x).max()
    )
    expected = reference.activation_backward(dy, x, name, alpha)
    np.testing.assert_allclose(backward(dy), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("layer", "name", "alpha"),
    [
        (ReLU(dtype="float64"), "relu", 0.0),
        (ReLU(6.0, dtype="float64"), "relu6", 0.0),
        (ReLU(negative_slope=0.1, dtype="float64"), "leaky_relu", 0.1),
        (LeakyReLU(dtype="float64"), "leaky_relu", 0.3),
        (ELU(0.5, dtype="float64"), "elu", 0.5),
        (GELU(dtype="float64"), "gelu", 0.0),
        (GELU(approximate=True, dtype="float64"), "gelu_tanh", 0.0),
        (Sigmoid(dtype="float64"), "sigmoid", 0.0),
        (Tanh(dtype="float64"), "tanh", 0.0),
        (SiLU(dtype="float64"), "silu", 0.0),
    ],
)
def test_named_layers(layer: Layer, name: str, alpha: float, x: np.ndarray[Any, Any]) -> None:
    y, backward = layer.forward(x)
    np.testing.assert_allclose(y, reference.activation(x, name, alpha), rtol=1e-12, atol=1e-15)
    dy = np.ones_like(x)
    np.testing.assert_allclose(
        backward(dy), reference.activation_backward(dy, x, name, alpha), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("layer", [ReLU(), ReLU(6.0), Activation("relu")])
def test_relu_keeps_neither_input_nor_output(layer: Layer) -> None:
    x = np.random.default_rng(0).normal(0.0, 3.0, (2, 8, 8, 16)).astype("float32")
    dy, seen = np.ones_like(x), np.array(x)
    y, backward = layer.forward(seen, training=True)
    expected = ((y > 0) & (y < 6 if layer.get_config().get("max_value") else True)).astype("f4")
    gone = weakref.ref(y), weakref.ref(seen)
    del y, seen
    if registry.engine_names("cpu")[0] == "cpu:jit":
        assert [ref() for ref in gone] == [None, None]
    np.testing.assert_array_equal(backward(dy), expected)


def test_relu_with_all_arguments() -> None:
    layer = ReLU(max_value=3.0, negative_slope=0.5, threshold=1.0, dtype="float64")
    x = np.array([[-math.inf, -1.0, 1.0, 2.0, 3.0, 9.0, math.inf, math.nan]])
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, [[-math.inf, -1.0, 0.0, 2.0, 3.0, 3.0, 3.0, math.nan]])
    assert backward(np.full_like(x, 2.0))[0, :-1].tolist() == [1, 1, 1, 2, 0, 0, 0]


def test_relu_without_slope_meets_infinity() -> None:
    y = ReLU(max_value=3.0, threshold=1.0)(np.array([[-math.inf, 0.5, 1.5, 4.0]]))
    assert y.tolist() == [[0.0, 0.0, 1.5, 3.0]]


def test_linear_is_the_identity() -> None:
    x = np.ones((2, 3), np.float32)
    y, backward = Activation(None).forward(x)
    assert np.shares_memory(y, x)
    assert np.array_equal(backward(2 * x), 2 * x)


@pytest.mark.parametrize("axis", [-1, 2, 1, (1, 2), (-1, 1), (2,)])
def test_softmax_over_axes(axis: Any) -> None:
    x = np.random.default_rng(0).normal(0, 2, (2, 3, 4))
    y, backward = Softmax(axis, dtype="float64").forward(x)
    exponentials = np.exp(x)
    expected = exponentials / exponentials.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    dy = np.random.default_rng(1).normal(size=x.shape)
    inner = (dy * expected).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(backward(dy), expected * (dy - inner), rtol=1e-10, atol=1e-14)


def test_softmax_of_large_numbers() -> None:
    x = np.array([[1000.0, 1000.0, -1000.0]], np.float32)
    assert Softmax()(x).tolist() == [[0.5, 0.5, 0.0]]
    log = Activation("log_softmax")(np.array([[1000.0, 0.0]], np.float32))
    assert log.tolist() == [[0.0, -1000.0]]


@pytest.mark.parametrize("layer", [Activation("softmax"), Softmax(), Softmax(axis=1)])
def test_without_softmax(layer: Layer) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    layer(x)
    twin = layer.without_softmax()
    assert twin is not None
    assert twin.name == layer.name
    np.testing.assert_array_equal(twin(x), x)
    np.testing.assert_allclose(layer(x).sum(axis=-1), 1.0, rtol=1e-6)  # itself unchanged


def test_without_softmax_where_the_last_axis_is_no_softmax() -> None:
    inner = Softmax(axis=1)
    inner(np.ones((2, 3, 4), np.float32))
    for layer in (inner, Activation("log_softmax"), Activation("relu"), ReLU()):
        assert layer.without_softmax() is None


def test_elementwise_results_keep_channels_first_views() -> None:
    """So a channels-first model pays no transposes between its layers."""
    x = Permute((3, 1, 2))(np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32))
    for layer in (ReLU(), ReLU(max_value=1.0), Activation("gelu"), SiLU(), Tanh()):
        y, backward = layer.forward(x)
        assert y.strides == x.strides
        assert backward(y).strides == x.strides
        np.testing.assert_array_equal(y, layer(np.ascontiguousarray(x)))


def test_refusals() -> None:
    with pytest.raises(InvalidArgumentError, match="Did you mean 'sigmoid'"):
        Activation("sigmoyd")
    with pytest.raises(InvalidArgumentError, match="gradient of other"):
        Activation(lambda x: x)
    with pytest.raises(InvalidArgumentError, match=r"max_value.*Received: -1"):
        ReLU(-1)
    with pytest.raises(InvalidArgumentError, match=r"negative_slope.*Received: None"):
        LeakyReLU(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"alpha.*Received: nan"):
        ELU(math.nan)
    with pytest.raises(InvalidArgumentError, match="axis must be an integer"):
        Softmax("last")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="at least one axis"):
        Softmax(())
    for layer in (Activation("softmax"), Softmax(), Softmax(axis=0), Softmax(axis=3)):
        with pytest.raises(ShapeError, match="Received"):
            layer(np.ones(3, np.float32))
    with pytest.raises(ShapeError, match="different axes"):
        Softmax((1, -1))(np.ones((2, 3), np.float32))
