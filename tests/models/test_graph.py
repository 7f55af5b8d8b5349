"""Graphs of layers: drawing them, running them, their gradients, what is kept and what is not."""

from __future__ import annotations

import copy
import gc as collector
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import images, labels, set_uniform_weights, small_cnn, uniform

import gpuconv as gc
from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, NotBuiltError, ShapeError
from gpuconv.layers import (
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    InputLayer,
    Layer,
    ReLU,
)


def residual(dtype: str = "float64") -> gc.Model:
    """Two convolutions beside a shortcut, twice, and a dense layer."""
    inputs = gc.Input((5, 5, 3))
    x = Conv2D(4, 3, padding="same", dtype=dtype, name="stem")(inputs)
    for number in range(2):
        y = BatchNormalization(dtype=dtype)(Conv2D(4, 3, padding="same", dtype=dtype)(x))
        x = ReLU(dtype=None, name=f"out{number}")(Add()([x, Conv2D(4, 1, dtype=dtype)(y)]))
    x = Concatenate()([GlobalAveragePooling2D()(x), Flatten()(inputs)])
    outputs = Dense(3, activation="softmax", dtype=dtype)(x)
    model = gc.Model(inputs, outputs, name="residual")
    set_uniform_weights(model, 3)
    return model


def numeric_gradient(function: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    gradient = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        gradient[place] = (function(up) - function(down)) / 2e-6
    return gradient


# --- drawing ----------------------------------------------------------------------------------


def test_calling_a_layer_with_an_input_builds_it_and_tells_the_shape() -> None:
    inputs = gc.Input((8, 6, 3))
    conv = Conv2D(4, 3, strides=2)
    outputs = conv(inputs)
    assert conv.built
    assert conv.kernel.shape == (3, 3, 3, 4)
    assert outputs.shape == (None, 3, 2, 4)
    assert conv.output.shape == outputs.shape
    assert conv.input.shape == (None, 8, 6, 3)


def test_a_chain_computes_what_a_sequential_computes() -> None:
    stack = small_cnn()
    inputs = x = gc.Input((6, 6, 2))
    for layer in stack.layers:
        x = layer(x)
    model = gc.Model(inputs, x)
    batch = images(4)
    np.testing.assert_array_equal(model.predict(batch, verbose=0), stack.predict(batch, verbose=0))
    assert model.parameters == stack.parameters  # shared, not copied


def test_layers_are_numbered_by_class_within_the_model() -> None:
    Conv2D(1, 1), Dense(1)
    model = residual()
    assert [layer.name for layer in model.layers] == [
        *("input_layer", "stem", "conv2d_1", "batch_normalization", "conv2d_2", "add", "out0"),
        *("conv2d_3", "batch_normalization_1", "conv2d_4", "add_1", "out1"),
        *("global_average_pooling2d", "flatten", "concatenate", "dense"),
    ]
    assert model.get_layer("out1") is model.layers[11]
    assert model.parameters[0].path == "residual/stem/kernel"


def test_operators_are_layers() -> None:
    a, b = gc.Input((4,)), gc.Input((4,))
    model = gc.Model([a, b], (a + b) * (a - b))
    x, y = uniform((3, 4), 1), uniform((3, 4), 2)
    np.testing.assert_allclose(model([x, y]), x * x - y * y, atol=1e-6)


def test_functions_that_keras_has_for_merging() -> None:
    a, b = gc.Input((4,)), gc.Input((4,))
    model = gc.Model(
        [a, b],
        [
            layers.add([a, b]),
            layers.subtract([a, b]),
            layers.multiply([a, b]),
            layers.average([a, b]),
            layers.maximum([a, b]),
            layers.minimum([a, b]),
            layers.concatenate([a, b], name="side_by_side"),
        ],
    )
    x, y = (uniform((3, 4), key).astype("float32") for key in (1, 2))
    both = np.concatenate([x, y], -1)
    expected = [x + y, x - y, x * y, (x + y) / 2, np.maximum(x, y), np.minimum(x, y), both]
    for ours, theirs in zip(model([x, y]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert model.layers[-1].name == "side_by_side"


def test_what_does_not_hang_together_is_refused() -> None:
    a, b = gc.Input((4,), name="left"), gc.Input((4,), name="right")
    with pytest.raises(InvalidArgumentError, match="needs right, which the inputs do not lead to"):
        gc.Model(a, Add()([a, b]))
    with pytest.raises(InvalidArgumentError, match="outputs must be symbolic tensors"):
        gc.Model(a, Dense(3))
    with pytest.raises(InvalidArgumentError, match="expected outputs of layers only"):
        Add()([a, np.ones((2, 4))])
    with pytest.raises(InvalidArgumentError, match="has no values"):
        np.asarray(a)
    with pytest.raises(InvalidArgumentError, match="different names"):
        gc.Model(a, Dense(2, name="same")(Dense(2, name="same")(a)))
    with pytest.raises(ShapeError):
        Conv2D(2, 3)(a)
    with pytest.raises(InvalidArgumentError, match="has one input"):
        Dense(2)([a, b])
    with pytest.raises(InvalidArgumentError, match="stands in no graph"):
        _ = Dense(2).output
    with pytest.raises(InvalidArgumentError, match="batch_size"):
        gc.Input((3,), batch_size=0)


# --- gradients --------------------------------------------------------------------------------


def test_gradients_of_branches_and_shared_layers() -> None:
    inputs = gc.Input((4, 4, 2))
    shared = Conv2D(2, 3, padding="same", dtype="float64")
    once = shared(inputs)
    twice = shared(once)
    flat = Flatten()(once * twice + inputs)
    model = gc.Model(inputs, [flat, twice])
    set_uniform_weights(model, 5)
    x = uniform((2, 4, 4, 2), 7)
    (a, b), backward = model.forward(x, training=True)
    wa, wb = uniform(a.shape, 8), uniform(b.shape, 9)

    def value(batch: np.ndarray[Any, Any]) -> float:
        a, b = model(batch)
        return float((a * wa).sum() + (b * wb).sum())

    model.zero_grad()
    dx = backward([wa, wb])
    np.testing.assert_allclose(dx, numeric_gradient(value, x), atol=1e-7)
    for parameter in model.parameters:
        kept = parameter.value

        def by_weights(weights: np.ndarray[Any, Any], array: Any = kept) -> float:
            before = array.copy()
            array[...] = weights
            result = value(x)
            array[...] = before
            return result

        expected = numeric_gradient(by_weights, kept.copy())
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-7)


def test_the_gradient_of_a_residual_network() -> None:
    model = residual()
    x, w = uniform((2, 5, 5, 3), 11), uniform((2, 3), 12)
    model.trainable = False  # BatchNorm by its moving statistics: a function of each image alone
    _, backward = model.forward(x)
    dx = backward(w)
    np.testing.assert_allclose(
        dx, numeric_gradient(lambda b: float((model(b) * w).sum()), x), atol=1e-6
    )


def test_an_output_without_a_gradient_counts_as_zero() -> None:
    inputs = gc.Input((3,))
    model = gc.Model(inputs, [Dense(2, dtype="float64")(inputs), Dense(2, dtype="float64")(inputs)])
    x = uniform((4, 3), 1)
    _, backward = model.run(x, training=True)
    assert backward([None, None]) is None
    dy = uniform((4, 2), 2)
    np.testing.assert_allclose(backward([dy, None]), dy @ model.layers[1].kernel.value.T)


class Counting(Layer):
    """Passes on what it gets, and counts the gradients that it computes."""

    def run(self, x: Any, training: bool) -> Any:
        def backward(dy: Any, input_gradient: bool = True) -> Any:
            self.calls = (*getattr(self, "calls", ()), input_gradient)
            return dy if input_gradient else None

        return x, backward


def test_below_what_learns_no_gradient_is_computed() -> None:
    inputs = gc.Input((4,))
    low, side, high = Counting(), Counting(), Counting()
    frozen = Dense(4, name="frozen")
    x = frozen(low(inputs))
    x = Dense(4, name="learns")(side(x))
    model = gc.Model(inputs, high(x))
    frozen.trainable = False
    _, backward = model.run(uniform((2, 4), 1).astype("float32"), training=True)
    assert backward(np.ones((2, 4), "float32"), input_gradient=False) is None
    assert high.calls == (True,)
    assert not hasattr(side, "calls")
    assert not hasattr(low, "calls")
    assert frozen.kernel.grad is None
    assert model.get_layer("learns").kernel.grad is not None


def test_training_releases_what_it_has_used() -> None:
    alive: list[int] = []

    class Watched(Layer):
        def run(self, x: Any, training: bool) -> Any:
            kept = x + 0
            reference = weakref.ref(kept)

            def backward(dy: Any, input_gradient: bool = True) -> Any:
                alive.append(sum(r() is not None for r in references))
                return dy + kept * 0

            references.append(reference)
            return x, backward

    references: list[Any] = []
    inputs = x = gc.Input((3,))
    for _ in range(4):
        x = Watched()(x)
    model = gc.Model(inputs, Dense(1)(x))
    _, backward = model.run(np.ones((2, 3), "float32"), training=True)
    backward.release = True
    backward(np.ones((2, 1), "float32"))
    assert alive == [4, 3, 2, 1]
    with pytest.raises(InvalidArgumentError, match="was released"):
        backward(np.ones((2, 1), "float32"))


# --- training and files -----------------------------------------------------------------------


def test_a_graph_learns_as_the_same_sequential_does() -> None:
    stack = small_cnn()
    inputs = x = gc.Input((6, 6, 2))
    for layer in copy.deepcopy(stack).layers:
        x = layer(x)
    graph = gc.Model(inputs, x)
    batch, target = images(20), labels(20, 3, 5)
    for model in (stack, graph):
        gc.set_seed(1)
        model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(batch, target, epochs=3, batch_size=8, verbose=0)
    for a, b in zip(stack.get_weights(), graph.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert graph.network_and_loss()[2]  # softmax and cross-entropy as one


def test_several_inputs_in_fit_and_predict() -> None:
    a, b = gc.Input((4,)), gc.Input((2,))
    model = gc.Model([a, b], Dense(2, activation="softmax")(Concatenate()([Dense(3)(a), b])))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y, target = uniform((12, 4), 1), uniform((12, 2), 2), labels(12, 2, 3)
    history = model.fit([x, y], target, epochs=2, batch_size=5, verbose=0)
    assert len(history.history["loss"]) == 2
    assert model.predict([x, y], verbose=0).shape == (12, 2)


def test_several_outputs_are_predicted() -> None:
    inputs = gc.Input((4,))
    model = gc.Model(inputs, [Dense(2)(inputs), Dense(3)(inputs)])
    x = uniform((10, 4), 1)
    first, second = model.predict(x, batch_size=4, verbose=0)
    assert first.shape == (10, 2)
    assert second.shape == (10, 3)
    np.testing.assert_allclose(first, np.asarray(model(x)[0]), rtol=1e-6)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "file"])
def test_copies_are_equal_and_independent(how: str, tmp_path: Path) -> None:
    model = residual("float32")
    x = uniform((3, 5, 5, 3), 4).astype("float32")
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        model.save(tmp_path / "m.safetensors")
        twin = gc.load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(twin.predict(x, verbose=0), model.predict(x, verbose=0))
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    inner = gc.Model(twin.inputs, twin.get_layer("out1").output)
    assert np.asarray(inner(x)).shape == (3, 5, 5, 4)
    twin.get_layer("stem").kernel.value[...] = 0
    assert np.any(model.get_layer("stem").kernel.value)


def test_several_inputs_and_outputs_are_saved(tmp_path: Path) -> None:
    a, b = gc.Input((4, 4, 1)), gc.Input((2,))
    shared = Dense(2)
    model = gc.Model([a, b], [shared(b), Flatten()(a), shared(shared(b))])
    model.save(tmp_path / "m.safetensors")
    twin = gc.load_model(tmp_path / "m.safetensors")
    x = [uniform((3, 4, 4, 1), 1), uniform((3, 2), 2)]
    for one, other in zip(model(x), twin(x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_nobody_holds_goes_without_the_collector() -> None:
    collector.disable()
    try:
        model = residual()
        kernel = weakref.ref(model.get_layer("stem"))
        del model
        assert kernel() is None
    finally:
        collector.enable()


# --- models in models, and parts of models ------------------------------------------------------


def test_a_part_of_a_sequential_by_the_name_of_a_layer() -> None:
    stack = small_cnn()
    part = gc.Model(stack.inputs, stack.get_layer("max_pooling2d").output)
    x = images(2)
    expected = stack.layers[1](stack.layers[0](x))
    np.testing.assert_array_equal(part(x), expected)
    both = gc.Model(stack.input, [layer.output for layer in stack.layers])
    assert [np.asarray(y).shape for y in both(x)] == [(2, 4, 4, 4), (2, 2, 2, 4), (2, 16), (2, 3)]


def test_a_model_may_begin_in_the_middle_of_a_graph() -> None:
    model = residual()
    part = gc.Model(model.get_layer("out0").output, model.get_layer("out1").output)
    x = uniform((2, 5, 5, 3), 5)
    before = gc.Model(model.inputs, model.get_layer("out0").output)(x)
    whole = gc.Model(model.inputs, model.get_layer("out1").output)(x)
    np.testing.assert_array_equal(part(before), whole)


def test_layers_of_one_model_may_stand_in_another_too() -> None:
    stack = small_cnn()
    longer = gc.Sequential([*stack.layers[:3], Dense(7)])
    assert longer.output_shape == (None, 7)
    part = gc.Model(stack.inputs, stack.layers[2].output)  # of its call in the first model
    again = gc.Model(longer.inputs, longer.layers[2].output)
    x = images(2)
    np.testing.assert_array_equal(part(x), again(x))


def test_models_nest_in_both_directions() -> None:
    base = residual("float32")
    features = gc.Model(base.inputs, base.get_layer("concatenate").output, name="features")
    features.trainable = False
    model = gc.Sequential([features, Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [a.copy() for a in features.get_weights()]
    x = uniform((8, 5, 5, 3), 6).astype("float32")
    model.fit(x, labels(8, 2, 7), epochs=1, verbose=0)
    for old, new in zip(before, features.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    inputs = gc.Input((5, 5, 3))
    outer = gc.Model(inputs, Dense(1)(model(inputs)))
    assert np.asarray(outer(x)).shape == (8, 1)
    assert len(outer.trainable_parameters) == 4


def test_input_says_what_a_sequential_begins_with() -> None:
    model = gc.Sequential([gc.Input((6, 6, 1)), Conv2D(2, 3), Flatten()])
    assert model.output_shape == (None, 32)
    assert len(model.layers) == 2
    other = gc.Sequential([InputLayer(input_shape=(6, 6, 1)), Conv2D(2, 3)])
    assert other.output_shape == (None, 4, 4, 2)
    with pytest.raises(InvalidArgumentError, match="comes first"):
        model.add(gc.Input((3,)))
    with pytest.raises(NotBuiltError, match="no graph yet"):
        _ = gc.Sequential([Dense(2)]).inputs


def test_images_of_other_sizes_go_through_a_graph_that_takes_them() -> None:
    inputs = gc.Input((6, 6, 2))
    model = gc.Model(inputs, GlobalAveragePooling2D()(Conv2D(3, 3)(inputs)))
    for size in (5, 9):
        assert np.asarray(model(uniform((2, size, size, 2), 1))).shape == (2, 3)
    with pytest.raises(ShapeError):
        model(uniform((2, 5, 5, 3), 1))


def test_the_summary_tells_who_reads_whom() -> None:
    lines: list[str] = []
    residual().summary(line_length=100, print_fn=lines.append)
    text = lines[0]
    assert "Connected to" in text
    assert any("add_1" in line and "out0" in line for line in text.splitlines())
    chain: list[str] = []
    inputs = gc.Input((4,))
    gc.Model(inputs, Dense(2)(Dense(3)(inputs))).summary(print_fn=chain.append)
    assert "Connected to" not in chain[0]
    assert "input_layer" in chain[0]
    classic: list[str] = []
    residual().summary(line_length=98, style="classic", print_fn=classic.append)
    assert "Connected to" in classic[0]


def test_layers_know_nothing_of_graphs_they_left() -> None:
    layer = layers.Dense(2)
    layer(gc.Input((3,)))  # nobody keeps the result
    with pytest.raises(InvalidArgumentError, match="stands in no graph"):
        _ = layer.output
