"""Models for images of any size: the same numbers as those of a fixed size, trained and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import set_uniform_weights, uniform

import gpuconv as gc
from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.io.model_file import read_model_file
from gpuconv.layers import Conv2D, Dense, Flatten, GlobalAveragePooling2D, MaxPooling2D
from gpuconv.optimizers import SGD

SIZES = [(16, 16), (24, 16), (16, 40), (28, 36)]


def wide(height: int | None, width: int | None, first: bool = False) -> gc.Model:
    """A graph with layers of every kind, for images of 3 channels; 5 classes."""
    form: dict[str, Any] = {"data_format": "channels_first"} if first else {}
    axis = 1 if first else -1
    inputs = gc.Input((3, height, width) if first else (height, width, 3))
    x = layers.Rescaling(0.5)(inputs)
    x = Conv2D(4, 3, padding="same", activation="relu", **form)(x)
    x = layers.BatchNormalization(axis=axis)(x)
    skip = x
    x = MaxPooling2D(2, **form)(x)
    x = layers.DepthwiseConv2D(3, padding=1, **form)(x)
    x = layers.SeparableConv2D(8, 3, padding="same", strides=2, depth_multiplier=2, **form)(x)
    x = layers.AveragePooling2D(3, strides=1, padding="same", **form)(x)
    x = layers.GroupNormalization(4, axis=axis)(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, **form)(x)
    x = layers.UpSampling2D(2, **form)(x)
    x = layers.Concatenate(axis=axis)([layers.Add()([x, skip]), skip])
    x = layers.ZeroPadding2D(((1, 0), (0, 2)), **form)(x)
    x = Conv2D(4, 3, strides=3, padding=1, padding_mode="reflect", **form)(x)
    x = layers.SpatialDropout2D(0.0, **form)(layers.ReLU()(x))
    x = layers.AdaptiveAveragePooling2D(2, **form)(x)
    x = layers.GlobalMaxPooling2D(**form)(x)
    return gc.Model(inputs, Dense(5, activation="softmax")(x), name="wide")


def picture(count: int, size: tuple[int, int], key: int, first: bool = False) -> Any:
    shape = (count, 3, *size) if first else (count, *size, 3)
    return uniform(shape, key).astype(np.float32)


def segmenter(*size: int | None) -> gc.Sequential:
    """A fully convolutional network: three probabilities for each pixel."""
    return gc.Sequential(
        [
            Conv2D(
                4, 3, padding="same", activation="relu", input_shape=(*(size or (None,) * 2), 2)
            ),
            layers.BatchNormalization(momentum=0.5),
            Conv2D(3, 1, activation="softmax"),
        ],
        name="segmenter",
    )


def masks(count: int, size: tuple[int, int], key: int) -> Any:
    return (uniform((count, *size), key, 0, 3)).astype(np.int64)


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_outputs_and_steps_are_those_of_a_model_of_a_fixed_size(first: bool) -> None:
    anything = wide(None, None, first)
    anything.compile(SGD(0.1), "sparse_categorical_crossentropy")
    set_uniform_weights(anything, 3)
    y = np.array([0, 3, 4])
    for key, size in enumerate(SIZES):
        fixed = wide(*size, first)
        fixed.compile(SGD(0.1), "sparse_categorical_crossentropy")
        fixed.set_weights(anything.get_weights())
        x = picture(3, size, key, first)
        np.testing.assert_array_equal(anything(x), fixed(x))
        np.testing.assert_array_equal(anything.predict(x, verbose=0), fixed.predict(x, verbose=0))
        assert anything.evaluate(x, y, verbose=0) == fixed.evaluate(x, y, verbose=0)
        assert anything.train_on_batch(x, y) == fixed.train_on_batch(x, y)
        for a, b in zip(anything.get_weights(), fixed.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_shapes_between_the_layers() -> None:
    model = wide(None, 32)
    shapes = [shape for _, shape, _ in model.rows()]
    known = [shape for _, shape, _ in wide(48, 32).rows()]
    assert shapes[0] == (None, None, 32, 3)
    for found, expected in zip(shapes, known, strict=True):
        assert len(found) == len(expected)
        assert all(a in (b, None) for a, b in zip(found, expected, strict=True))
        assert found[2:] == expected[2:]
    assert model.output_shape == (None, 5)
    assert model.layers[1].output.shape == (None, None, 32, 3)
    assert model.get_layer("adaptive_average_pooling2d").output.shape == (None, 2, 2, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gc.Sequential([Conv2D(4, 3, input_shape=(None, None, 3))]),
        lambda: gc.Sequential([Conv2D(4, 3)], input_shape=(None, None, 3)),
        lambda: gc.Sequential([gc.Input((None, None, 3)), Conv2D(4, 3)]),
        lambda: gc.Sequential([layers.InputLayer((None, None, 3)), Conv2D(4, 3)]),
    ],
)
def test_every_way_to_begin_a_stack(make: Any) -> None:
    model = make()
    assert model.output_shape == (None, None, None, 4)
    model.add(MaxPooling2D(2))
    model.add(GlobalAveragePooling2D())
    model.add(Dense(2))
    assert model.output_shape == (None, 2)
    assert model.count_params() == 3 * 9 * 4 + 4 + 4 * 2 + 2
    for size in SIZES:
        assert model(picture(2, size, 1)).shape == (2, 2)


def batches_of_many_sizes(epoch: int = 0) -> Any:
    for number, size in enumerate([(8, 8), (6, 10), (12, 5), (8, 8)]):
        key = 10 * epoch + number
        yield uniform((2, *size, 2), key).astype(np.float32), masks(2, size, key + 50)


def test_fit_takes_batches_of_different_sizes() -> None:
    model = segmenter()
    model.compile(SGD(0.2), "sparse_categorical_crossentropy", ["accuracy"])
    set_uniform_weights(model, 1)
    twins = segmenter()
    twins.set_weights(model.get_weights())
    history = model.fit(
        batches_of_many_sizes(), verbose=0, validation_data=list(batches_of_many_sizes(3))
    ).history
    losses, samples = 0.0, 0
    for x, y in batches_of_many_sizes():  # each step by a model of that one size
        fixed = segmenter(*x.shape[1:3])
        fixed.compile(SGD(0.2), "sparse_categorical_crossentropy")
        fixed.set_weights(twins.get_weights())
        losses += len(x) * fixed.train_on_batch(x, y)
        samples += len(x)
        twins.set_weights(fixed.get_weights())
    for a, b in zip(model.get_weights(), twins.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(history["loss"], [losses / samples], rtol=1e-6)
    assert np.isfinite(history["val_loss"]).all()


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = wide(None, None)
    model.compile("adam", "sparse_categorical_crossentropy")
    set_uniform_weights(model, 2)
    model.train_on_batch(picture(2, (16, 24), 1), np.array([1, 2]))
    path = tmp_path / "model.safetensors"
    model.save(path)
    configuration, _ = read_model_file(path)
    assert configuration["input_shape"] == [None, None, None, 3]
    assert configuration["model"]["config"]["layers"][0]["config"]["shape"] == [None, None, 3]
    loaded = gc.load_model(path)
    for size in SIZES:
        x = picture(2, size, 5)
        np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.train_on_batch(picture(2, (20, 20), 7), np.array([0, 4])) == model.train_on_batch(
        picture(2, (20, 20), 7), np.array([0, 4])
    )
    stack = segmenter()
    twin = gc.Sequential.from_config(json.loads(json.dumps(stack.get_config())))
    assert twin.output_shape == (None, None, None, 3)
    stack.save(tmp_path / "stack.safetensors")
    again = gc.load_model(tmp_path / "stack.safetensors")
    assert again.output_shape == (None, None, None, 3)
    assert again.predict(np.zeros((1, 9, 7, 2)), verbose=0).shape == (1, 9, 7, 3)


@pytest.mark.parametrize("style", ["table", "classic"])
def test_the_summary_says_none(style: str) -> None:
    said: list[str] = []
    segmenter().summary(100, style, said.append)
    assert said[0].count("(None, None, None, 4)") == 2
    assert said[0].count("(None, None, None, 3)") == 1
    assert "Total params: 107" in said[0]


def test_optimized_for_inference() -> None:
    model = wide(None, None)
    set_uniform_weights(model, 4)
    fast = model.optimize_for_inference()
    assert fast.built_shape == (None, None, None, 3)
    for size in SIZES:
        x = picture(2, size, 5)
        np.testing.assert_allclose(fast(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_model_of_any_size_inside_another() -> None:
    inner = segmenter()
    inputs = gc.Input((None, 12, 2))
    model = gc.Model(inputs, GlobalAveragePooling2D()(inner(inputs)))
    assert [shape for _, shape, _ in model.rows()][1] == (None, None, 12, 3)
    x = uniform((2, 7, 12, 2), 1)
    np.testing.assert_allclose(model(x), inner(x).mean(axis=(1, 2)), rtol=1e-6)
    part = gc.Model(model.inputs, inner.layers[0](model.inputs[0]))
    assert part.output_shape == (None, None, 12, 4)


def test_images_that_are_too_small_are_found_before_anything_is_computed() -> None:
    model = gc.Sequential([Conv2D(2, 3, input_shape=(None, None, 1)), MaxPooling2D(4)])
    assert model(np.zeros((1, 6, 6, 1))).shape == (1, 1, 1, 2)
    with pytest.raises(ShapeError, match=r"window must fit .*Received: input \(3, 9\)"):
        model(np.zeros((1, 5, 11, 1)))
    with pytest.raises(ShapeError, match="expected 1 channels"):
        model.predict(np.zeros((1, 8, 8, 3)), verbose=0)


def test_branches_that_do_not_meet_are_an_error() -> None:
    inputs = gc.Input((None, None, 2))
    up = layers.UpSampling2D(2)(MaxPooling2D(2)(inputs))
    model = gc.Model(inputs, layers.Concatenate()([inputs, up]))
    assert model(np.zeros((1, 8, 6, 2))).shape == (1, 8, 6, 4)
    with pytest.raises(ShapeError, match="agree but for axis -1"):
        model(np.zeros((1, 7, 6, 2)))


def test_flatten_before_dense_says_what_to_do() -> None:
    x = Flatten()(Conv2D(4, 3)(gc.Input((None, None, 3))))
    assert x.shape == (None, None)
    with pytest.raises(
        ShapeError, match=r"number of features, must be known.*GlobalAveragePooling"
    ):
        Dense(2)(x)
    model = gc.Sequential([Conv2D(4, 3, input_shape=(None, None, 3)), Flatten()])
    with pytest.raises(ShapeError, match="number of features, must be known"):
        model.add(Dense(2))
    assert len(model.layers) == 2


def test_adaptive_pooling_gives_dense_layers_a_size() -> None:
    model = gc.Sequential(
        [
            Conv2D(4, 3, input_shape=(None, None, 3)),
            layers.AdaptiveAveragePooling2D(2),
            Flatten(),
            Dense(3),
        ]
    )
    assert [shape for _, shape, _ in model.rows()][1:] == [(None, 2, 2, 4), (None, 16), (None, 3)]
    assert model(picture(2, (9, 12), 1)).shape == (2, 3)


def test_a_stack_begins_with_the_shape_of_a_model_at_its_bottom() -> None:
    base = gc.Model(inputs := gc.Input((None, None, 3)), Conv2D(4, 3)(inputs))
    model = gc.Sequential([base, GlobalAveragePooling2D(), Dense(2)])
    assert model.built
    assert model.output_shape == (None, 2)
    assert model(picture(2, (9, 12), 1)).shape == (2, 2)
    for unbuilt in (gc.Sequential([gc.Sequential([Dense(2)])]), gc.Sequential([Dense(2)])):
        assert not unbuilt.built


def test_outputs_of_different_sizes_do_not_go_into_one_array() -> None:
    batches = [uniform((1, *size, 2), 1) for size in ((4, 4), (6, 5))]
    with pytest.raises(ShapeError, match=r"predict_on_batch.*Received: .*\(1, 6, 5, 3\)"):
        segmenter().predict(iter(batches), verbose=0)
    pooled = gc.Sequential([segmenter(), GlobalAveragePooling2D()])
    assert pooled.predict(iter(batches), verbose=0).shape == (2, 3)


ZOO = [
    (gc.zoo.resnet18, 32, {"include_top": False}),
    (gc.zoo.mobilenet_v2, 32, {"include_top": False, "pooling": "max"}),
    (gc.zoo.vgg11, 32, {"include_top": False, "pooling": None, "batch_norm": True}),
    (gc.zoo.alexnet, 63, {"include_top": False}),
    (gc.zoo.resnet18, 32, {"classes": 7}),
]


@pytest.mark.parametrize(("make", "least", "options"), ZOO)
def test_networks_of_the_zoo(make: Any, least: int, options: dict[str, Any]) -> None:
    anything = make(input_shape=(None, None, 3), **options)
    size = (least, least + 9)
    fixed = make(input_shape=(*size, 3), **options)
    assert anything.count_params() == fixed.count_params()
    fixed.set_weights(anything.get_weights())
    x = picture(1, size, 1)
    np.testing.assert_array_equal(anything(x), fixed(x))
    assert anything.output_shape[-1] == fixed.output_shape[-1]
    with pytest.raises(InvalidArgumentError, match=rf"at least {least} x {least} pixels, height"):
        make(input_shape=(None, least - 1, 3), **options)


@pytest.mark.parametrize("shape", [(32, 32, None), (None, None), (None, 0, 3), (32.0, 32, 3), None])
def test_shapes_of_images_that_make_no_sense(shape: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"input_shape must be .*Received: "):
        gc.zoo.mobilenet_v2(input_shape=shape)


@pytest.mark.parametrize("include_top", [True, False])
def test_lenet_needs_the_size(include_top: bool) -> None:
    with pytest.raises(InvalidArgumentError, match=r"28 x 28 pixels\. Received: \(None, None, 1\)"):
        gc.zoo.lenet5(input_shape=(None, None, 1), include_top=include_top)
