"""The numbers behind the pictures: Grad-CAM, saliency, activations, filters, confusion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import nn
from gpuconv.errors import InvalidArgumentError, NotBuiltError, ShapeError
from gpuconv.layers import (
    Add,
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    SeparableConv2D,
)
from gpuconv.viz import activations, class_activation, confusion_counts, input_gradient
from gpuconv.viz.kernels import filter_images, layer_with_filters
from gpuconv.viz.structure import structure

RNG = np.random.default_rng(3)


def averaging(weights: Any, head: Any, activation: str | None = "softmax") -> gc.Sequential:
    """1x1 convolution with the given weights, mean over the positions, dense layer."""
    model = gc.Sequential(
        [
            Conv2D(2, 1, use_bias=False, input_shape=(2, 3, 1), name="look"),
            GlobalAveragePooling2D(),
            Dense(len(head[0]), activation=activation, use_bias=False),
        ]
    )
    model.layers[0].kernel.assign(np.reshape(weights, (1, 1, 1, 2)))  # type: ignore[attr-defined]
    model.layers[2].kernel.assign(np.array(head))  # type: ignore[attr-defined]
    return model


IMAGE = np.array([[1.0, -2.0, 0.5], [4.0, 0.0, -1.0]])[..., None]


# --- Grad-CAM -----------------------------------------------------------------------------------


def test_grad_cam_by_hand() -> None:
    """A0 = 2x, A1 = -x; the logit of class 1 is -3 mean(A0) + 5 mean(A1); six positions."""
    model = averaging([2.0, -1.0], [[1.0, -3.0], [0.5, 5.0]])
    found = class_activation(model, IMAGE, "look", label=1)
    np.testing.assert_allclose(found.weights, [-3 / 6, 5 / 6], rtol=1e-6)
    by_hand = np.maximum((-3 / 6 * 2 - 5 / 6) * IMAGE[..., 0], 0)
    np.testing.assert_allclose(found.map, by_hand, rtol=1e-6)
    assert found.map.max() == pytest.approx(11 / 6 * 2)
    assert (found.label, found.layer) == (1, "look")
    assert found.score == pytest.approx(-11 * IMAGE.mean())


def test_without_a_label_the_predicted_class_is_explained() -> None:
    model = averaging([1.0, 0.0], [[-1.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    assert class_activation(model, IMAGE).label == int(model.predict(IMAGE[None]).argmax()) == 1


def test_one_output_explains_itself_or_its_negative() -> None:
    model = averaging([1.0, 1.0], [[3.0], [0.0]], activation=None)
    for_it, against = (class_activation(model, IMAGE, "look", label) for label in (1, 0))
    np.testing.assert_allclose(for_it.map, np.maximum(IMAGE[..., 0] / 2, 0), rtol=1e-6)
    np.testing.assert_allclose(against.map, np.maximum(-IMAGE[..., 0] / 2, 0), rtol=1e-6)
    assert class_activation(model, IMAGE).label == 1


def small_network(dtype: str = "float64", activation: str | None = "softmax") -> gc.Sequential:
    gc.set_seed(5)
    return gc.Sequential(
        [
            Conv2D(4, 3, activation="tanh", padding="same", dtype=dtype, input_shape=(6, 5, 3)),
            BatchNormalization(dtype=dtype),
            Conv2D(5, 3, activation="tanh", dtype=dtype, name="top"),
            Dropout(0.5, dtype=dtype),
            MaxPooling2D(2, dtype=dtype),
            Flatten(dtype=dtype),
            Dense(3, activation=activation, dtype=dtype),
        ]
    )


def test_by_default_the_last_convolution_is_looked_at() -> None:
    image = RNG.normal(size=(6, 5, 3))
    model = small_network()
    found = class_activation(model, image)
    assert found.layer == "top"
    assert found.map.shape == (4, 3)
    np.testing.assert_array_equal(found.map, class_activation(model, image, "top").map)


def test_grad_cam_weights_are_the_slope_of_the_score() -> None:
    """Adding e to channel c of the layer moves the score by e * positions * weights[c]."""
    image = RNG.normal(size=(6, 5, 3))
    model = small_network(activation=None)
    found = class_activation(model, image, "top", label=2)
    maps = activations(model, image, "top")
    for channel in range(5):
        scores = []
        for step in (1e-6, -1e-6):
            moved = maps.copy()
            moved[..., channel] += step
            y: Any = moved[None]
            for layer in model.layers[3:]:
                y = layer(y)
            scores.append(y[0, 2])
        slope = (scores[0] - scores[1]) / 2e-6
        assert slope == pytest.approx(found.weights[channel] * 12, rel=1e-5, abs=1e-7)


# --- saliency -----------------------------------------------------------------------------------


def test_input_gradient_against_finite_differences() -> None:
    image = RNG.normal(size=(6, 5, 3))
    model = small_network(activation=None)
    found = input_gradient(model, image, label=1)
    assert found.score == pytest.approx(model(image[None])[0, 1])
    numeric = np.zeros(image.shape)
    for place in np.ndindex(image.shape):
        for sign in (1, -1):
            moved = image.copy()
            moved[place] += sign * 1e-6
            numeric[place] += sign * model(moved[None])[0, 1] / 2e-6
    np.testing.assert_allclose(found.gradient, numeric, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(found.saliency, np.abs(found.gradient).max(axis=2))


def test_the_logit_counts_where_the_network_ends_in_a_softmax() -> None:
    image = RNG.normal(size=(6, 5, 3))
    logits, probabilities = small_network(activation=None), small_network()
    probabilities.set_weights(logits.get_weights())
    left, right = (input_gradient(model, image, label=2) for model in (logits, probabilities))
    np.testing.assert_array_equal(left.gradient, right.gradient)
    assert left.score == right.score


def test_nothing_of_the_model_changes() -> None:
    model = small_network()
    model.layers[0].trainable = False
    kernel = model.layers[2].kernel  # type: ignore[attr-defined]
    kernel.grad = kept = np.ones(kernel.shape)
    before = [array.copy() for array in model.get_weights()]
    flags = [parameter.trainable for parameter in model.parameters]
    class_activation(model, RNG.normal(size=(6, 5, 3)))
    input_gradient(model, RNG.normal(size=(6, 5, 3)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert flags == [parameter.trainable for parameter in model.parameters]
    assert kernel.grad is kept
    np.testing.assert_array_equal(kept, 1)
    assert [p.grad for p in model.parameters if p is not kernel] == [None] * (len(flags) - 1)
    assert all("run" not in vars(layer) for layer in model.walk())


# --- activations --------------------------------------------------------------------------------


def test_activations_are_what_the_layers_give_one_after_another() -> None:
    image = RNG.normal(size=(6, 5, 3))
    model = small_network()
    y: Any = image[None]
    for layer in model.layers:
        y = layer(y)
        found = activations(model, image, layer)
        np.testing.assert_allclose(found, y[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(found, activations(model, image, layer.name))


def test_layers_of_nested_models_have_paths() -> None:
    block = gc.Sequential([Conv2D(2, 3, name="inner"), MaxPooling2D(2)], name="block")
    model = gc.Sequential([block, Flatten(), Dense(2, activation="softmax")])
    model.build((None, 6, 6, 1))
    image = RNG.normal(size=(6, 6))  # the axis of a single channel may be missing
    np.testing.assert_array_equal(
        activations(model, image, "block/inner"), activations(model, image, "inner")
    )
    assert activations(model, image, "block").shape == (2, 2, 2)
    assert class_activation(model, image).layer == "inner"


def test_channels_first_networks_give_channels_last_arrays() -> None:
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    image = RNG.normal(size=(3, 6, 6)).astype("float32")
    expected = np.array(first.layers[0](image[None]))[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(activations(first, image, first.layers[0]), expected)
    np.testing.assert_array_equal(activations(first, image, "re_lu"), np.maximum(expected, 0))
    found = class_activation(first, image)
    assert (found.map.shape, found.weights.shape, found.layer) == ((4, 4), (4,), "re_lu")
    dy = np.zeros((1, 2), "float32")
    dy[0, found.label] = 1
    gradient = first.forward(image[None])[1](dy)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(input_gradient(first, image).gradient, gradient, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 6, 3), (6, 5), (2, 6, 5, 3), (6, 5, 4)])
def test_images_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"one image of shape \(6, 5, 3\).*Received: shape"):
        class_activation(small_network(), np.zeros(shape))


def test_layers_and_classes_that_are_not_there() -> None:
    model, image = small_network(), np.zeros((6, 5, 3))
    with pytest.raises(InvalidArgumentError, match=r"has no such layer.*top.*'conv2d'.*'convd'"):
        class_activation(model, image, "convd")
    with pytest.raises(InvalidArgumentError, match="no such layer"):
        activations(model, image, Dense(2))
    with pytest.raises(ShapeError, match=r"\(N, h, w, channels\).*flatten"):
        class_activation(model, image, "flatten")
    with pytest.raises(InvalidArgumentError, match=r"from 0 to 2\. Received: 3"):
        input_gradient(model, image, label=3)
    with pytest.raises(InvalidArgumentError, match="a model"):
        activations(model.layers[0], image, "top")  # type: ignore[arg-type]
    dense = gc.Sequential([Dense(2, input_shape=(4,))])
    with pytest.raises(InvalidArgumentError, match=r"\(N, h, w, channels\). Received: dense"):
        class_activation(dense, np.zeros(4))
    with pytest.raises(ShapeError, match="images"):
        input_gradient(dense, np.zeros(4))


def test_a_name_that_two_layers_have_needs_its_path() -> None:
    blocks = [gc.Sequential([Conv2D(2, 3, name="look")], name=name) for name in "ab"]
    model = gc.Sequential([*blocks, Flatten(), Dense(2)])
    model.build((None, 6, 6, 1))
    with pytest.raises(InvalidArgumentError, match=r"several layers.*a/look.*b/look"):
        activations(model, np.zeros((6, 6, 1)), "look")
    assert activations(model, np.zeros((6, 6, 1)), "b/look").shape == (2, 2, 2)


# --- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "element"),
    [
        (Conv2D(4, (2, 3)), (4, 3, 2, 3), lambda k, f, c, i, j: k[i, j, c, f]),
        (Conv1D(4, 3), (4, 3, 1, 3), lambda k, f, c, i, j: k[j, c, f]),
        (DepthwiseConv2D((2, 3), depth_multiplier=2), (6, 1, 2, 3),
         lambda k, f, c, i, j: k[i, j, f // 2, f % 2]),
        (SeparableConv2D(4, (2, 3)), (3, 1, 2, 3), lambda k, f, c, i, j: k[i, j, f, 0]),
        (Conv2DTranspose(4, (2, 3)), (4, 3, 2, 3), lambda k, f, c, i, j: k[i, j, f, c]),
    ],
)  # fmt: skip
def test_filters_as_images(layer: Any, shape: tuple[int, ...], element: Any) -> None:
    layer.build((None, *(6,) * layer.rank, 3))
    images = filter_images(layer_with_filters(layer))
    assert images.shape == shape
    kernel = layer.get_weights()[0]
    for place in np.ndindex(shape):
        assert images[place] == element(kernel, *place)


def test_the_first_convolution_of_a_model_is_chosen() -> None:
    model = small_network()
    assert layer_with_filters(model) is model.layers[0]
    assert layer_with_filters(model, "top") is model.layers[2]
    with pytest.raises(InvalidArgumentError, match=r"a convolution.*Received: flatten"):
        layer_with_filters(model, "flatten")
    with pytest.raises(InvalidArgumentError, match="a model with a convolution"):
        layer_with_filters(gc.Sequential([Dense(2)]))
    with pytest.raises(InvalidArgumentError, match="Conv3D"):
        layer_with_filters(Conv3D(2, 3))
    with pytest.raises(NotBuiltError):
        layer_with_filters(Conv2D(2, 3))


# --- confusion ----------------------------------------------------------------------------------


def test_confusion_counts() -> None:
    expected = [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    truth, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    scores = np.eye(3)[predicted] * 0.7
    for labels in (truth, truth[:, None], np.eye(3)[truth]):
        for outputs in (predicted, scores):
            np.testing.assert_array_equal(confusion_counts(labels, outputs), expected)
    assert confusion_counts(truth, predicted, classes=5).shape == (5, 5)
    one = np.array([[0.2], [0.9], [0.6]])
    np.testing.assert_array_equal(confusion_counts([0, 0, 1], one), [[1, 1], [0, 1]])


def test_confusion_of_what_is_not_classes() -> None:
    with pytest.raises(ShapeError, match="one prediction for each label"):
        confusion_counts([0, 1, 2], [0, 1])
    with pytest.raises(InvalidArgumentError):
        confusion_counts([0, 3], [0, 1], classes=2)
    with pytest.raises(InvalidArgumentError, match="class numbers"):
        confusion_counts([0.5, 1], [0, 1])


# --- structure ----------------------------------------------------------------------------------


def test_the_structure_of_a_stack() -> None:
    found = structure(small_network("float32"))
    assert [box.name for box in found.boxes][:4] == [
        "input", "conv2d", "batch_normalization", "top",
    ]  # fmt: skip
    assert found.arrows == tuple((n, n + 1) for n in range(7))
    assert [box.row for box in found.boxes] == list(range(8))
    assert {box.column for box in found.boxes} == {0.0}
    assert found.boxes[1].shape == (None, 6, 5, 4)
    assert [box.parameters for box in found.boxes] == [0, 112, 16, 185, 0, 0, 0, 33]
    with pytest.raises(NotBuiltError):
        structure(gc.Sequential([Dense(2)]))


# --- graphs -------------------------------------------------------------------------------------


def residual_network() -> gc.Model:
    gc.set_seed(6)
    image = gc.Input((6, 6, 3), name="image")
    x = Conv2D(4, 3, padding="same", activation="tanh", dtype="float64", name="first")(image)
    left = Conv2D(4, 3, padding="same", activation="tanh", dtype="float64", name="left")(x)
    right = Conv2D(4, 1, dtype="float64", name="right")(x)
    x = Add(dtype="float64", name="sum")([left, right, x])
    x = GlobalAveragePooling2D(dtype="float64")(x)
    y = Dense(3, activation="softmax", dtype="float64", name="scores")(x)
    return gc.Model(image, y)


def test_grad_cam_inside_a_graph() -> None:
    """The score is linear in the layer ``sum``, so its weights are those of the dense layer."""
    model, image = residual_network(), RNG.normal(size=(6, 6, 3))
    found = class_activation(model, image, label=1)
    assert found.layer == "sum"
    kernel = model.get_layer("scores").get_weights()[0]
    np.testing.assert_allclose(found.weights, kernel[:, 1] / 36, rtol=1e-12)
    both = gc.Model(model.inputs, [model.get_layer("sum").output, model.output])
    maps, probabilities = (np.array(part)[0] for part in both(image[None]))
    expected = np.maximum(maps @ kernel[:, 1] / 36, 0)
    np.testing.assert_allclose(found.map, expected, rtol=1e-10, atol=1e-12)
    assert np.argmax(probabilities) == class_activation(model, image).label


def test_the_gradient_of_a_shared_branch_is_whole() -> None:
    """All that reads ``first`` counts: both branches and the path around them."""
    model, image = residual_network(), RNG.normal(size=(6, 6, 3))
    found = class_activation(model, image, "first", label=0)
    maps = activations(model, image, "first")
    rest = gc.Model(model.get_layer("first").output, model.get_layer("scores").output)
    logits = rest.without_softmax()
    assert logits is not None
    for channel in range(4):
        moved = [maps.copy() for _ in range(2)]
        moved[0][..., channel] += 1e-6
        moved[1][..., channel] -= 1e-6
        up, down = (np.array(logits.infer(each[None]))[0, 0] for each in moved)
        assert (up - down) / 2e-6 / 36 == pytest.approx(found.weights[channel], rel=1e-5)


def test_saliency_of_a_graph() -> None:
    model, image = residual_network(), RNG.normal(size=(6, 6, 3))
    found = input_gradient(model, image, label=2)
    logits = model.without_softmax()
    assert logits is not None
    for place in [(0, 0, 0), (3, 4, 1), (5, 5, 2)]:
        moved = [image.copy() for _ in range(2)]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        up, down = (np.array(logits.infer(each[None]))[0, 2] for each in moved)
        assert (up - down) / 2e-6 == pytest.approx(found.gradient[place], rel=1e-5)


def test_the_structure_of_a_graph() -> None:
    found = structure(residual_network())
    names = [box.name for box in found.boxes]
    arrows = {(names[start], names[end]) for start, end in found.arrows}
    assert arrows == {
        ("image", "first"), ("first", "left"), ("first", "right"), ("left", "sum"),
        ("right", "sum"), ("first", "sum"), ("sum", "global_average_pooling2d"),
        ("global_average_pooling2d", "scores"),
    }  # fmt: skip
    rows = {box.name: box.row for box in found.boxes}
    assert all(rows[start] < rows[end] for start, end in arrows)
    assert rows["left"] == rows["right"] == 2
    assert {box.column for box in found.boxes if box.row == 2} == {-0.5, 0.5}


def test_a_layer_used_twice_has_its_parameters_once_in_the_structure() -> None:
    inputs = [gc.Input((4,), name=name) for name in "ab"]
    shared = Dense(3, name="shared")
    joined = Add()([shared(part) for part in inputs])
    found = structure(gc.Model(inputs, joined))
    assert [(b.name, b.kind, b.parameters) for b in found.boxes if b.name in "ab shared"] == [
        ("a", "input", 0), ("b", "input", 0), ("shared", "Dense", 15), ("shared", "Dense", 0),
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="one input"):
        activations(gc.Model(inputs, joined), np.zeros(4), "shared")
