"""Layers by name: serialize, deserialize, and layers of a user's own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, UnknownArgumentError
from gpuconv.layers import Conv2D, Dense, Layer, deserialize, register, serialize


def test_round_trip_through_json() -> None:
    layer = Conv2D(4, (3, 2), padding=((1, 0), (0, 1)), activation="relu", kernel_regularizer="l2")
    data = serialize(layer)
    assert data["class_name"] == "Conv2D"
    again = deserialize(json.loads(json.dumps(data)))
    assert isinstance(again, Conv2D)
    assert again.get_config() == layer.get_config()


def test_a_users_layer() -> None:
    @register
    class Doubling(Layer):
        """Twice its input."""

        def __init__(self, times: int = 2, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.times = times

        def run(self, x: Any, training: bool) -> tuple[Any, Any]:
            return x * self.times, lambda dy, input_gradient=True: dy * self.times

    again = deserialize(serialize(Doubling(3, name="three")))
    assert isinstance(again, Doubling)
    assert again.name == "three"
    assert again(np.ones((1, 2))).tolist() == [[3.0, 3.0]]


def test_a_layer_that_was_not_registered() -> None:
    class Unknown(Layer):
        """Not registered."""

    with pytest.raises(InvalidArgumentError, match=r"registered layer.*Received: <Unknown"):
        serialize(Unknown())


def test_refusals() -> None:
    with pytest.raises(InvalidArgumentError, match=r"subclass of Layer. Received: .*int"):
        register(int)  # type: ignore[type-var]
    with pytest.raises(InvalidArgumentError, match="class_name"):
        deserialize("Dense")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="Did you mean 'conv2d'"):
        deserialize({"class_name": "Conv2d", "config": {}})
    with pytest.raises(UnknownArgumentError, match="Did you mean 'units'"):
        deserialize({"class_name": "Dense", "config": {"unit": 3}})


def test_names_count_up_per_class() -> None:
    first, second = Dense(1), Dense(1)
    stem, _, number = first.name.rpartition("_")
    assert second.name == (f"{stem}_{int(number) + 1}" if stem else "dense_1")
    assert layers.GlobalAveragePooling2D().name.startswith("global_average_pooling2d")
    assert layers.ReLU().name.startswith("re_lu")
