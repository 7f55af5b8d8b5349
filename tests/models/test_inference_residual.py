"""Residual connections of inference models: a convolution, its Add and ReLU become one layer."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import set_uniform_weights, uniform

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import Add, BatchNormalization, Conv2D, Dense, Flatten, ReLU
from gpuconv.layers.residual import ConvAdd
from gpuconv.testing import check_layer

WORDS: dict[str, Any] = {"padding": "same", "dtype": "float64"}


def classes(model: gc.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def optimized(model: gc.Model, *shape: int) -> gc.Model:
    set_uniform_weights(model, 5)
    x = uniform(shape, 9)
    result = model.optimize_for_inference()
    np.testing.assert_allclose(result(x), model(x), atol=1e-10)
    return result


def conv_norm(x: Any, filters: int, kernel: int, **words: Any) -> Any:
    axis = 1 if words.get("data_format") == "channels_first" else -1
    y = Conv2D(filters, kernel, use_bias=False, **{**WORDS, **words})(x)
    return BatchNormalization(axis=axis, dtype="float64")(y)


def relu() -> ReLU:
    return ReLU(dtype="float64")


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("engine", ["cpu:numpy", "cpu:jit"])
@pytest.mark.parametrize("projected", [False, True])
def test_a_residual_block(projected: bool, engine: str, data_format: str) -> None:
    shape = (6, 7, 4) if data_format == "channels_last" else (4, 6, 7)
    with gc.use_backend(engine):
        inputs = gc.Input(shape)
        start = Conv2D(4, 1, data_format=data_format, **WORDS)(inputs)
        y = relu()(conv_norm(start, 5, 1, data_format=data_format))
        y = conv_norm(y, 4, 3, data_format=data_format)
        shortcut = conv_norm(start, 4, 1, data_format=data_format) if projected else start
        model = gc.Model(inputs, relu()(Add(dtype="float64")([y, shortcut])))
        result = optimized(model, 2, *shape)
    assert classes(result).count("ConvAdd") == 1
    assert not {"Add", "ReLU", "BatchNormalization"} & set(classes(result))
    last = result.layers[-1]
    assert isinstance(last, ConvAdd)
    assert last.activation.name == "relu"
    assert last.layer.kernel.fixed


def test_a_sum_that_is_read_twice_and_one_without_relu() -> None:
    inputs = gc.Input((6, 6, 3))
    a = Conv2D(3, 1, **WORDS)(inputs)
    b = Add(dtype="float64")([conv_norm(a, 3, 3), a])  # without ReLU, and read twice
    c = Add(dtype="float64")([b, conv_norm(b, 3, 3)])  # the residual comes first
    model = gc.Model(inputs, Dense(2, dtype="float64")(Flatten(dtype="float64")(c)))
    result = optimized(model, 2, 6, 6, 3)
    assert classes(result).count("ConvAdd") == 2
    assert "Add" not in classes(result)


def test_sums_that_stay() -> None:
    inputs = gc.Input((6, 6, 3))
    start = Conv2D(3, 1, activation="tanh", **WORDS)(inputs)
    convolved = Conv2D(3, 1, **WORDS)(start)
    one = Add(dtype="float64")([convolved, start])
    other = Add(dtype="float64")([convolved, one])  # what is read twice
    twice = Conv2D(3, 1, **WORDS)(other)
    twice = Add(dtype="float64")([twice, twice])
    line = Conv2D(3, (1, 6), dtype="float64")(twice)
    repeated = Add(dtype="float64")([line, twice])  # along the line
    three = Add(dtype="float64")([Conv2D(3, 1, **WORDS)(repeated), one, other])
    active = Conv2D(3, 1, activation="tanh", **WORDS)(three)
    model = gc.Model(inputs, Add(dtype="float64")([active, three]))
    result = optimized(model, 2, 6, 6, 3)
    assert classes(result).count("Add") == 6
    assert "ConvAdd" not in classes(result)


def test_copies_and_files(tmp_path: Path) -> None:
    inputs = gc.Input((6, 6, 3))
    start = Conv2D(3, 1, **WORDS)(inputs)
    model = gc.Model(inputs, relu()(Add(dtype="float64")([conv_norm(start, 3, 3), start])))
    result = optimized(model, 2, 6, 6, 3)
    x = uniform((2, 6, 6, 3), 4)
    result.save(tmp_path / "model.safetensors")
    for twin in (
        copy.deepcopy(result),
        pickle.loads(pickle.dumps(result)),
        gc.load_model(tmp_path / "model.safetensors"),
    ):
        np.testing.assert_array_equal(twin(x), result(x))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_gradients(activation: str | None) -> None:
    layer = ConvAdd(Conv2D(4, 3, **WORDS), activation)
    x = [uniform((2, 5, 4, 3), 1), uniform((2, 5, 4, 4), 2)]
    layer(x)
    set_uniform_weights(layer, 3)
    check_layer(layer, x, training=True, directions=1)
    np.testing.assert_allclose(layer(x), layer.forward(x, training=False)[0], atol=1e-12)


def test_what_it_refuses() -> None:
    with pytest.raises(InvalidArgumentError, match="without activation"):
        ConvAdd(Conv2D(4, 3, activation="relu"))
    with pytest.raises(InvalidArgumentError, match="without activation"):
        ConvAdd(Dense(3))  # type: ignore[arg-type]
    layer = ConvAdd(Conv2D(4, 3, **WORDS))
    x = uniform((2, 5, 4, 3), 1)
    with pytest.raises(ShapeError, match="two inputs"):
        layer([x])
    with pytest.raises(ShapeError, match="second input of shape"):
        layer([x, x])
    layer([x, uniform((2, 5, 4, 4), 2)])
    with pytest.raises(ShapeError, match="a residual of shape"):
        layer.infer([x, uniform((1, 5, 4, 4), 2)])
