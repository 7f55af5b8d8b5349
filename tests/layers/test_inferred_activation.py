"""In inference, every element-wise activation is a part of the store of the layer's result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.layers import Activation, Conv2D, Dense, DepthwiseConv2D, SeparableConv2D
from gpuconv.layers.residual import ConvAdd
from gpuconv.testing import reference

X = np.random.default_rng(0).standard_normal((2, 6, 7, 4))
MAKERS: dict[str, Any] = {
    "conv": lambda **words: Conv2D(5, 3, **words),
    "depthwise": lambda **words: DepthwiseConv2D(3, depth_multiplier=2, **words),
    "separable": lambda **words: SeparableConv2D(5, 3, **words),
    "dense": lambda **words: Dense(5, **words),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", ["relu6", "elu", "silu", "gelu", "hard_silu", "softsign"])
def test_values(kind: str, maker: str, engine_calls: list[str]) -> None:
    layer = MAKERS[maker](activation=kind, dtype="float64", bias_initializer="random_normal")
    linear = MAKERS[maker](dtype="float64")
    linear(X), layer(X)
    linear.set_weights(layer.get_weights())
    function = np.vectorize(reference.FUNCTIONS[kind])
    expected = function(linear(X), 1.0)
    engine_calls.clear()
    y = layer(X)
    assert "activation" not in engine_calls
    np.testing.assert_allclose(y, expected, atol=1e-10)
    np.testing.assert_allclose(layer.forward(X, training=True)[0], y, atol=1e-12)


@pytest.mark.parametrize("kind", [None, "softmax"])
def test_what_is_no_part_of_a_store(kind: str | None) -> None:
    layer, linear = Conv2D(5, 3, activation=kind), Conv2D(5, 3)
    x = X.astype("float32")
    layer(x), linear(x)
    linear.set_weights(layer.get_weights())
    y = linear(x)
    if kind is not None:
        y = np.exp(y) / np.exp(y).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5)


@pytest.mark.parametrize("kind", ["silu", "relu6", None])
def test_behind_a_residual(kind: str | None) -> None:
    inner = Conv2D(5, 3, padding="same", dtype="float64")
    layer = ConvAdd(inner, kind)
    residual = np.random.default_rng(1).standard_normal((2, 6, 7, 5))
    y = layer([X, residual])
    total = inner(X) + residual
    if kind is not None:
        total = np.vectorize(reference.FUNCTIONS[kind])(total, 0.0)
    np.testing.assert_allclose(y, total, atol=1e-12)


def test_an_optimized_model_has_no_pass_of_its_own(engine_calls: list[str]) -> None:
    inputs = gc.Input((6, 7, 4))
    y = Activation("silu")(Conv2D(5, 3, padding="same")(inputs))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(DepthwiseConv2D(3)(y)))
    model = gc.Model(inputs, y)
    result = model.optimize_for_inference()
    x = X.astype("float32")
    expected = model(x)
    engine_calls.clear()
    np.testing.assert_allclose(result(x), expected, rtol=1e-4, atol=1e-5)
    assert [call for call in engine_calls if call != "plan"] == ["conv_forward", "conv_forward"]
