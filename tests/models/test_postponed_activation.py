"""The gradient of an activation behind max pooling: the same numbers, on a smaller array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers, tapping
from gpuconv.backends import registry
from gpuconv.geometry import PoolGeometry
from gpuconv.layers.backwards import _meets_the_input


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of all arrays that an activation's gradient is computed for."""
    found: list[tuple[int, ...]] = []
    engine = type(registry.engine("cpu:numpy"))
    method = engine.activation_backward  # which the form with sums calls

    def watched(self: Any, dy: Any, *rest: Any) -> Any:
        found.append(dy.shape)
        return method(self, dy, *rest)

    monkeypatch.setattr(engine, "activation_backward", watched)
    with gc.use_backend("cpu:numpy"):
        yield found


def gradients(model: Any, x: Any, postponing: bool) -> tuple[Any, list[Any]]:
    """The gradient of the input and of all parameters; tapped layers postpone nothing."""
    model.zero_grad()
    tapped = [] if postponing else model.layers
    with tapping.recorded(tapped):
        y, backward = model.forward(x, training=True)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)
        dx = backward(dy)
    return dx, [np.array(p.grad) for p in model.trainable_parameters]


def compare(model: Any, x: Any) -> None:
    dx, own = gradients(model, x, postponing=True)
    reference, others = gradients(model, x, postponing=False)
    np.testing.assert_allclose(dx, reference, rtol=1e-9, atol=1e-10)
    for one, other in zip(own, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "leaky_relu", "elu", None])
@pytest.mark.parametrize("pool", [{}, {"pool_size": 3, "strides": 2, "padding": 1}])
def test_the_gradients_are_those_of_layers_one_by_one(
    data_format: str, activation: str | None, pool: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    where = {"data_format": data_format, "dtype": "float64"}
    model = gc.Sequential(
        [
            layers.Conv2D(5, 3, activation=activation, bias_initializer="normal", **where),
            layers.MaxPooling2D(**pool, **where),
        ]
    )
    shape = (2, 9, 10, 3) if data_format == "channels_last" else (2, 3, 9, 10)
    compare(model, np.random.default_rng(0).standard_normal(shape))
    if activation is not None:
        assert len(shapes) == 2
        assert math.prod(shapes[0]) < math.prod(shapes[1])


def test_of_a_layer_that_is_an_activation_too(shapes: list[tuple[int, ...]]) -> None:
    model = gc.Sequential(
        [
            layers.Conv2D(4, 3, dtype="float64"),
            layers.BatchNormalization(momentum=0.0, dtype="float64"),
            layers.ReLU(dtype="float64"),
            layers.MaxPooling2D(dtype="float64"),
        ]
    )
    compare(model, np.random.default_rng(0).standard_normal((2, 10, 10, 3)))
    assert [s[1] for s in shapes] == [4, 8]


def test_not_where_another_layer_reads_the_activation(shapes: list[tuple[int, ...]]) -> None:
    inputs = gc.Input((8, 8, 2), dtype="float64")
    y = layers.Conv2D(3, 3, activation="relu", dtype="float64")(inputs)
    pooled = layers.MaxPooling2D(dtype="float64")(y)
    whole = layers.GlobalAveragePooling2D(dtype="float64")(y)
    both = layers.Concatenate(dtype="float64")(
        [layers.Flatten(dtype="float64")(pooled), layers.Flatten(dtype="float64")(whole)]
    )
    compare(gc.Model(inputs, both), np.random.default_rng(0).standard_normal((2, 8, 8, 2)))
    assert {s[1] for s in shapes} == {6}


@pytest.mark.parametrize("activation", ["silu", "softmax"])
def test_not_where_the_gradient_needs_more_than_the_maxima(
    activation: str, shapes: list[tuple[int, ...]]
) -> None:
    model = gc.Sequential(
        [
            layers.Conv2D(5, 3, activation=activation, dtype="float64"),
            layers.MaxPooling2D(dtype="float64"),
        ]
    )
    compare(model, np.random.default_rng(0).standard_normal((2, 8, 8, 3)))
    assert all(s[1] == 6 for s in shapes)


def test_windows_without_a_maximum_are_noticed() -> None:
    plain: dict[str, Any] = {"batch": 1, "channels": 1, "input": (4,)}
    assert _meets_the_input(
        PoolGeometry(**plain, window=(3,), stride=(2,), dilation=(1,), pads=((1, 1),))
    )
    assert not _meets_the_input(
        PoolGeometry(**plain, window=(2,), stride=(1,), dilation=(2,), pads=((1, 1),))
    )


def test_a_frozen_layer_costs_nothing(shapes: list[tuple[int, ...]]) -> None:
    model = gc.Sequential(
        [layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten()]
    )
    model.add(layers.Dense(2, activation="softmax"))
    model.build((None, 8, 8, 1))
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.train_on_batch(np.ones((2, 8, 8, 1), "f4"), np.array([0, 1]))
    assert shapes == []


def test_what_was_kept_goes_with_the_gradient() -> None:
    model = gc.Sequential([layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D()])
    y, backward = model.forward(np.ones((2, 8, 8, 1), "f4"), training=True)
    first = backward(np.ones_like(y))
    np.testing.assert_array_equal(backward(np.ones_like(y)), first)  # as often as wanted
