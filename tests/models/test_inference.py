"""Models that only predict: folded normalisations, fused activations, the same outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_makers import set_uniform_weights, uniform

import gpuconv as gc
from gpuconv.errors import NotBuiltError
from gpuconv.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    ReLU,
)


def classes(model: gc.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def optimized(model: gc.Model, *shape: int, tolerance: float = 1e-10) -> gc.Model:
    """Optimise a float64 model with weights unlike each other; the outputs must stay."""
    set_uniform_weights(model, 5)
    x = uniform(shape, 9)
    before = [a.copy() for a in model.get_weights()]
    result = model.optimize_for_inference()
    np.testing.assert_allclose(result(x), model(x), atol=tolerance)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return result


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_normalisation_goes_into_the_convolution_before_it(bias: bool, data_format: str) -> None:
    first = data_format == "channels_first"
    shape = (3, 7, 6) if first else (7, 6, 3)
    model = gc.Sequential(
        [
            Conv2D(
                4, 3, use_bias=bias, dtype="float64", data_format=data_format, input_shape=shape
            ),
            BatchNormalization(axis=1 if first else -1, dtype="float64"),
            ReLU(dtype=None),
            Dropout(0.5, dtype=None),
            Flatten(dtype=None),
            Dense(3, dtype="float64"),
            BatchNormalization(center=False, scale=False, dtype="float64"),
        ]
    )
    result = optimized(model, 2, *shape)
    assert classes(result) == ["InputLayer", "Conv2D", "Flatten", "Dense"]
    assert result.get_layer(index=1).activation.name == "relu"
    assert not result.trainable_parameters


def test_depthwise_and_relu6() -> None:
    model = gc.Sequential(
        [
            DepthwiseConv2D(3, depth_multiplier=2, dtype="float64", input_shape=(6, 6, 4)),
            BatchNormalization(dtype="float64"),
            ReLU(max_value=6.0, dtype=None),
        ]
    )
    result = optimized(model, 2, 6, 6, 4)
    assert classes(result) == ["InputLayer", "DepthwiseConv2D"]
    assert result.get_layer(index=1).activation.name == "relu6"


def test_what_cannot_be_folded_stays() -> None:
    inputs = gc.Input((6, 6, 2))
    shared = Conv2D(2, 3, padding="same", dtype="float64")
    norm = BatchNormalization(dtype="float64")
    a = norm(shared(inputs))  # of a layer that is called twice
    b = shared(a)
    c = Conv2D(2, 1, dtype="float64")(b)  # read twice
    d = BatchNormalization(dtype="float64")(c)
    e = Conv2D(2, 1, activation="tanh", dtype="float64")(Add()([c, d]))
    f = BatchNormalization(dtype="float64")(e)  # behind an activation
    g = BatchNormalization(axis=1, dtype="float64")(Conv2D(2, 1, dtype="float64")(f))  # of lines
    model = gc.Model(inputs, [Activation("selu", dtype=None)(g), b])
    set_uniform_weights(model, 5)
    result = model.optimize_for_inference()
    x = uniform((2, 6, 6, 2), 9)
    for one, other in zip(model(x), result(x), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-10)
    assert classes(result).count("BatchNormalization") == 4
    assert classes(result).count("Conv2D") == 4


def test_models_inside_are_optimised_too() -> None:
    inner = gc.Sequential(
        [
            Conv2D(2, 3, dtype="float64", input_shape=(5, 5, 1)),
            BatchNormalization(dtype="float64"),
        ]
    )
    result = optimized(gc.Sequential([inner, ReLU(dtype=None)]), 2, 5, 5, 1)
    nested: Any = result.get_layer(index=1)
    assert classes(nested) == ["InputLayer", "Conv2D"]


def test_it_needs_weights() -> None:
    with pytest.raises(NotBuiltError):
        gc.Sequential([Dense(2)]).optimize_for_inference()
