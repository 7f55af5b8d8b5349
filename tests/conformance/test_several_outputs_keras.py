"""Models of several inputs and outputs against Keras (on its torch backend): equal histories."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

import gpuconv as gc  # noqa: E402
from gpuconv import layers  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="written for Keras on torch"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning"),
]

N = 20
GENERATOR = np.random.default_rng(5)
IMAGES = GENERATOR.standard_normal((N, 6, 6, 2)).astype("f4")
FACTS = GENERATOR.standard_normal((N, 3)).astype("f4")
DIGITS = GENERATOR.integers(0, 4, N)
HEIGHTS = GENERATOR.standard_normal((N, 1)).astype("f4")
WEIGHTS = GENERATOR.uniform(0.2, 3.0, N).astype("f4")


def network(lib: Any, inputs: Callable[..., Any], model: Callable[..., Any]) -> Any:
    """The same program for both libraries; outputs in an order that is not that of their names."""
    image, facts = inputs((6, 6, 2), name="image"), inputs((3,), name="facts")
    x = lib.Flatten()(lib.Conv2D(3, 3, activation="relu", kernel_regularizer="l2")(image))
    x = lib.Concatenate()([x, lib.Dense(4, activation="tanh")(facts)])
    digit = lib.Dense(4, activation="softmax", name="digit")(x)
    return model([image, facts], [lib.Dense(1, name="tall")(x), digit])


def pair() -> tuple[Any, Any]:
    ours = network(layers, gc.Input, gc.Model)
    theirs = network(keras.layers, keras.Input, keras.Model)
    rng = np.random.default_rng(1)
    weights = [0.3 * rng.standard_normal(w.shape).astype("f4") for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    return ours, theirs


def train(model: Any, compiled: dict[str, Any], **fitted: Any) -> tuple[dict[str, Any], Any]:
    model.compile(optimizer="adam", **compiled)
    fitted = {"x": [IMAGES, FACTS], "y": [HEIGHTS, DIGITS], **fitted}
    options = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    history = model.fit(**fitted, **options)
    return history.history, model.get_weights()


LOSSES = ["mse", "sparse_categorical_crossentropy"]
BY_NAME = {"digit": "sparse_categorical_crossentropy", "tall": "mse"}


@pytest.mark.parametrize(
    ("compiled", "fitted"),
    [
        ({"loss": LOSSES}, {}),
        ({"loss": BY_NAME}, {"y": {"digit": DIGITS, "tall": HEIGHTS}}),
        ({"loss": LOSSES, "loss_weights": [0.25, 3.0]}, {"sample_weight": WEIGHTS}),
        (
            {"loss": BY_NAME, "loss_weights": {"digit": 0.1, "tall": 2}},
            {"x": {"facts": FACTS, "image": IMAGES}, "sample_weight": [WEIGHTS, WEIGHTS[::-1]]},
        ),
        ({"loss": LOSSES, "metrics": ["mae", "accuracy"]}, {"validation_split": 0.3}),
        (
            {"loss": LOSSES, "metrics": [["mae", "mse"], None]},
            {"validation_data": ([IMAGES[:5], FACTS[:5]], [HEIGHTS[:5], DIGITS[:5]])},
        ),
        ({"loss": BY_NAME, "metrics": {"digit": ["accuracy"]}}, {}),
        ({"loss": ["mse", None], "metrics": ["mae", "accuracy"]}, {}),
    ],
)
def test_histories_weights_and_evaluations(
    compiled: dict[str, Any], fitted: dict[str, Any]
) -> None:
    ours, theirs = pair()
    found, weights = train(ours, compiled, **fitted)
    expected, reference = train(theirs, compiled, **fitted)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=1e-5, err_msg=name)
    for a, b in zip(weights, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    data = {"x": [IMAGES, FACTS], "y": [HEIGHTS, DIGITS], "verbose": 0}
    np.testing.assert_allclose(ours.evaluate(**data), theirs.evaluate(**data), rtol=5e-4)
    named, same = (m.evaluate(**data, return_dict=True) for m in (ours, theirs))
    assert named.keys() == same.keys()
    predicted = [model.predict(data["x"], verbose=0) for model in (ours, theirs)]
    for a, b in zip(*predicted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "compiled",
    [
        {"loss": {"digit": "mse"}},
        {"loss": {**BY_NAME, "other": "mse"}},
        {"loss": LOSSES, "metrics": ["accuracy"]},
        {"loss": LOSSES, "metrics": {"other": "mae"}},
        {"loss": LOSSES, "loss_weights": [1.0]},
    ],
)
def test_what_both_refuse(compiled: dict[str, Any]) -> None:
    ours, theirs = pair()
    with pytest.raises(ValueError):
        train(theirs, compiled)
    with pytest.raises(ValueError, match="Received"):
        ours.compile(**compiled)
