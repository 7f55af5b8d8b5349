"""Networks of Keras, through the files that Keras writes and reads: equal outputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("h5py")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

import gpuconv as gc  # noqa: E402
from gpuconv import layers as L  # noqa: E402
from gpuconv.io import load_keras_weights, save_keras_weights  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),
]

K = keras.layers


def randomize(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(w.shape) / np.sqrt(max(1, w.size)) for w in model.get_weights()]
    named = zip(model.weights, weights, strict=True)
    model.set_weights([abs(w) + 0.5 if "variance" in v.name else w for v, w in named])


def compare(ours: Any, theirs: Any, *shapes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    given = [rng.standard_normal((3, *shape)).astype("f4") for shape in shapes]
    x: Any = given if len(given) > 1 else given[0]
    expected = keras.ops.convert_to_numpy(theirs(x, training=False))
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


def stack(lib: Any, make: Callable[[list[Any]], Any], inputs: Callable[..., Any]) -> Any:
    """The same program for both libraries."""
    head = make([lib.Flatten(), lib.Dense(5, activation="relu"), lib.Dropout(0.2)])
    layers = [
        lib.Conv2D(4, 3, activation="relu"),
        lib.BatchNormalization(),
        lib.MaxPooling2D(2),
        lib.DepthwiseConv2D(2, depth_multiplier=2, padding="same"),
        lib.SeparableConv2D(6, 3, padding="same", use_bias=False),
        lib.LayerNormalization(),
        lib.Conv2DTranspose(3, 2, strides=2),
        lib.GroupNormalization(3, scale=False),
        head,
        lib.Dense(4, activation="softmax"),
    ]
    model = make(layers)
    model.build((None, 10, 8, 2))
    return model


def graph(lib: Any, make: Any, inputs: Callable[..., Any]) -> Any:
    """Branches of different depths and a layer that is called twice."""
    a, b = inputs((8, 8, 3)), inputs((4,))
    short = lib.Conv2D(4, 1, strides=2)(a)
    y = lib.Conv2D(4, 3, padding="same")(a)
    y = lib.BatchNormalization()(y)
    y = lib.Activation("relu")(y)
    y = lib.Conv2D(4, 3, strides=2, padding="same")(y)
    y = lib.BatchNormalization()(y)
    y = lib.Add()([lib.BatchNormalization()(short), y])
    branches = [lib.Conv2D(2, 1)(y), lib.Conv2D(2, 3, padding="same")(y), lib.MaxPooling2D(1)(y)]
    y = lib.GlobalAveragePooling2D()(lib.Concatenate()(branches))
    shared = lib.Dense(8)
    side = lib.Dense(8)(b)
    y = lib.Add()([shared(y), shared(shared(side))])
    return (a, b), lib.Dense(3)(y)


def pair(kind: str) -> tuple[Any, Any, tuple[tuple[int, ...], ...]]:
    if kind == "stack":
        shape = (10, 8, 2)
        return stack(L, gc.Sequential, gc.Input), stack(K, keras.Sequential, keras.Input), (shape,)
    theirs = keras.Model(*graph(K, None, keras.Input))
    inputs, outputs = graph(L, None, gc.Input)
    return gc.Model(list(inputs), outputs), theirs, ((8, 8, 3), (4,))


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("kind", ["stack", "graph"])
def test_from_keras(kind: str, suffix: str, before: int, tmp_path: Path) -> None:
    keras.utils.clear_session()  # names of layers begin anew
    for _ in range(before):  # other models in the process shift them
        K.Conv2D(1, 1), K.BatchNormalization(), K.Dense(1)
    ours, theirs, shapes = pair(kind)
    randomize(theirs, 1)
    path = tmp_path / f"net{suffix}"
    if suffix == ".keras":
        theirs.compile("adam", "mse")
        theirs.save(path)
    else:
        theirs.save_weights(path)
    assert load_keras_weights(ours, path).complete
    compare(ours, theirs, *shapes)


@pytest.mark.parametrize("kind", ["stack", "graph"])
def test_to_keras(kind: str, tmp_path: Path) -> None:
    ours, theirs, shapes = pair(kind)
    randomize(theirs, 3)
    path = tmp_path / "net.weights.h5"
    save_keras_weights(ours, path)
    theirs.load_weights(path)
    compare(ours, theirs, *shapes)
