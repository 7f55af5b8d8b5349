"""The stack of layers: adding, taking off, names, shapes, building, data formats, devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_makers import images, set_uniform_weights, small_cnn, uniform

import gpuconv as gc
from gpuconv import Sequential, layers
from gpuconv.backends import cuda_probe, registry
from gpuconv.backends.base import Probe
from gpuconv.errors import (
    BackendUnavailableError,
    InvalidArgumentError,
    NotBuiltError,
    ShapeError,
    UnknownArgumentError,
)
from gpuconv.layers import (
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    ReLU,
)


def names(model: Sequential) -> list[str]:
    return [layer.name for layer in model.layers]


def paths(model: Sequential) -> list[str]:
    return [parameter.path for parameter in model.parameters]


# --- names ------------------------------------------------------------------------------------


def test_names_count_by_class_within_the_model() -> None:
    Conv2D(1, 1), Dense(1)  # other layers of the process do not matter
    model = gc.zoo.seed_network()
    assert names(model) == [
        "conv2d",
        "max_pooling2d",
        "conv2d_1",
        "max_pooling2d_1",
        "conv2d_2",
        "flatten",
        "dense",
        "dense_1",
    ]
    assert paths(model)[:3] == ["seed/conv2d/kernel", "seed/conv2d/bias", "seed/conv2d_1/kernel"]
    assert list(model.state())[-2:] == ["dense_1/kernel", "dense_1/bias"]


def test_a_name_of_the_users_stays_and_numbering_avoids_it() -> None:
    model = Sequential([Dense(2, name="dense_1"), Dense(2), Dense(2), Dense(2, name="top")])
    assert names(model) == ["dense_1", "dense_2", "dense_3", "top"]
    assert model.get_layer("top") is model.layers[3]


def test_numbering_goes_on_after_pop() -> None:
    model = Sequential([Dense(2), Dense(2), Dense(2)])
    model.pop()
    model.add(Dense(5))
    assert names(model) == ["dense", "dense_1", "dense_2"]


def test_a_name_twice_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match=r"different names.*Received: 'a' twice"):
        Sequential([Dense(2, name="a"), Flatten(name="a")])
    model = Sequential([Dense(2)])
    with pytest.raises(InvalidArgumentError, match="'dense' twice"):
        model.add(Dense(2, name="dense"))
    assert len(model.layers) == 1


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_impossible_names(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="name must be a non-empty string"):
        Dense(2, name=name)


def test_a_layer_keeps_its_name_in_a_second_model() -> None:
    whole = Sequential([Conv2D(2, 3, input_shape=(6, 6, 2)), Conv2D(3, 3), Flatten(), Dense(3)])
    upper = Sequential(whole.layers[1:])
    assert names(upper) == ["conv2d_1", "flatten", "dense"]
    assert names(whole) == ["conv2d", "conv2d_1", "flatten", "dense"]
    assert len(whole.state()) == 6
    hidden = whole.layers[0](images(2))
    np.testing.assert_array_equal(upper(hidden), whole(images(2)))


# --- what can be added ------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [3, "dense", Dense, None, np.zeros(3)])
def test_only_layers_can_be_added(thing: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a layer"):
        Sequential().add(thing)


def test_a_layer_with_several_inputs_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="several inputs"):
        Sequential([Dense(2), Add()])


def test_a_layer_can_stand_in_a_model_once() -> None:
    layer = Dense(3)
    model = Sequential([layer])
    with pytest.raises(InvalidArgumentError, match=r"once.*Received: dense again"):
        model.add(layer)
    with pytest.raises(InvalidArgumentError, match="once"):
        model.add(Sequential([layer]))
    with pytest.raises(InvalidArgumentError, match="once"):
        model.add(model)
    assert names(model) == ["dense"]


def test_a_model_cannot_come_to_stand_in_itself() -> None:
    inner = Sequential([Dense(3)])
    outer = Sequential([inner])
    with pytest.raises(InvalidArgumentError, match="once"):
        inner.add(outer)
    assert len(inner.parameters) == 0
    assert len(inner.layers) == 1


def test_two_dtypes_are_refused() -> None:
    model = Sequential([Dense(3)])
    message = "one dtype, here float32. Received: dense_.* with float64"
    with pytest.raises(InvalidArgumentError, match=message):
        model.add(Dense(3, dtype="float64"))
    with pytest.raises(InvalidArgumentError, match="one dtype"):
        Sequential([Sequential([Dense(3)]), Dense(3, dtype="float64")])


def test_layers_without_a_dtype_go_with_any() -> None:
    model = Sequential([Flatten(dtype=None), Dense(3, dtype="float64"), ReLU(dtype=None)])
    assert model.dtype == "float64"
    assert model(images(2)).dtype == np.float64


def test_pop_frees_the_dtype() -> None:
    model = Sequential([Flatten(dtype=None), Dense(3)])
    model.pop()
    model.add(Dense(3, dtype="float64"))
    assert model.dtype == "float64"


def test_unknown_arguments() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'backend'"):
        Sequential([], bakend="cpu")  # type: ignore[call-arg]


# --- shapes and building ----------------------------------------------------------------------


def test_the_models_own_input_shape_builds_it() -> None:
    model = Sequential([Flatten(), Dense(3)], input_shape=(2, 5))
    assert model.built
    assert model.output_shape == (None, 3)
    assert model.count_params() == 33


def test_without_a_shape_the_first_data_build_it() -> None:
    model = Sequential([Flatten(), Dense(3)])
    assert not model.built
    with pytest.raises(NotBuiltError, match="no output shape yet"):
        model.output_shape  # noqa: B018
    with pytest.raises(NotBuiltError, match="no parameters yet"):
        model.count_params()
    assert model(images(4)).shape == (4, 3)
    assert model.built
    assert model.count_params() == 72 * 3 + 3


def test_build_by_hand() -> None:
    model = Sequential([Flatten(), Dense(3)])
    model.build((None, 7))
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("step", ["train_on_batch", "test_on_batch"])
def test_a_single_step_builds_a_compiled_model(step: str) -> None:
    model = Sequential([Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(getattr(model, step)(images(5), np.zeros(5, int)))
    assert model.built


def test_an_empty_model_says_so() -> None:
    with pytest.raises(NotBuiltError, match="no layers: add some first"):
        Sequential()(images(2))
    model = Sequential()
    model.compile("sgd", "mse")
    with pytest.raises(NotBuiltError, match="no layers"):
        model.fit(images(2), np.zeros(2), verbose=0)


def test_a_shape_error_leaves_a_built_model_as_it_was() -> None:
    model = small_cnn()
    before, of_all, x = names(model), model.get_weights(), images(2)
    expected = model(x)
    layer = Conv2D(2, 3)
    given = layer.name
    with pytest.raises(ShapeError, match="expected an input of 4 dimensions"):
        model.add(layer)
    assert layer.name == given
    assert not layer.built
    assert names(model) == before
    for array, old in zip(model.get_weights(), of_all, strict=True):
        np.testing.assert_array_equal(array, old)
    np.testing.assert_array_equal(model(x), expected)
    model.add(Dense(2))
    assert model.output_shape == (None, 2)


def test_a_first_layer_that_does_not_fit_its_own_shape_is_not_added() -> None:
    model = Sequential()
    with pytest.raises(ShapeError, match="kernel must fit"):
        model.add(Conv2D(2, 9, input_shape=(4, 4, 1)))
    assert model.layers == []
    model.add(Conv2D(2, 3, input_shape=(4, 4, 1)))
    assert names(model) == ["conv2d"]
    assert model.output_shape == (None, 2, 2, 2)


def test_a_stack_that_does_not_fit_in_a_lazy_model_names_the_layer() -> None:
    model = Sequential([Conv2D(2, 3), MaxPooling2D(5)])
    with pytest.raises(ShapeError, match="window must fit"):
        model(images(1))
    assert not model.built


def test_wrong_inputs_of_a_built_model() -> None:
    model = small_cnn()
    with pytest.raises(ShapeError, match="expected 2 channels"):
        model(np.zeros((1, 6, 6, 3)))
    with pytest.raises(ShapeError, match="4 dimensions"):
        model(np.zeros((6, 6, 2)))
    with pytest.raises(ShapeError, match="expected 16 features"):
        model(np.zeros((1, 8, 8, 2)))  # the dense layer was built for 6 x 6


def test_a_model_without_dense_layers_takes_other_extents() -> None:
    model = Sequential([Conv2D(3, 3, input_shape=(6, 6, 2)), GlobalAveragePooling2D()])
    assert model(np.zeros((1, 6, 6, 2))).shape == (1, 3)
    assert model(np.zeros((2, 9, 7, 2))).shape == (2, 3)


def test_pop_returns_the_layer_and_changes_the_output() -> None:
    model = small_cnn()
    top = model.layers[-1]
    assert model.pop() is top
    assert model.output_shape == (None, 16)
    assert model(images(3)).shape == (3, 16)
    while model.layers:
        model.pop()
    assert not model.built
    with pytest.raises(InvalidArgumentError, match="no layer to take off"):
        model.pop()


def test_get_layer() -> None:
    model = small_cnn()
    assert model.get_layer("dense") is model.layers[3]
    assert model.get_layer(index=-1) is model.layers[3]
    assert model.get_layer(index=0) is model.layers[0]
    with pytest.raises(InvalidArgumentError, match=r"Did you mean 'conv2d'\? Received: 'conv2'"):
        model.get_layer("conv2")
    with pytest.raises(InvalidArgumentError, match=r"has 4 layers. Received: index 4"):
        model.get_layer(index=4)
    for given in ({}, {"name": "dense", "index": 3}):
        with pytest.raises(InvalidArgumentError, match="either the name or the index"):
            model.get_layer(**given)


# --- a model as a layer -----------------------------------------------------------------------


def nested() -> tuple[Sequential, Sequential]:
    """The same layers, flat and with the middle as a model of its own."""

    def make() -> list[Any]:
        return [
            Conv2D(3, 3, padding="same", input_shape=(6, 6, 2)),
            BatchNormalization(),
            ReLU(),
            Flatten(),
            Dense(4, activation="softmax"),
        ]

    parts = make()
    flat = Sequential(make())
    deep = Sequential([parts[0], Sequential(parts[1:3], name="middle"), *parts[3:]])
    set_uniform_weights(flat, 20)
    deep.set_weights(flat.get_weights())
    return flat, deep


def test_a_nested_model_computes_what_the_flat_one_does() -> None:
    flat, deep = nested()
    x, dy = images(4), uniform((4, 4), 30).astype(np.float32)
    np.testing.assert_array_equal(deep(x), flat(x))
    for model in (flat, deep):
        _, backward = model.forward(x, training=True)
        backward(dy)
    for a, b in zip(flat.parameters, deep.parameters, strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)
    y, backward = flat.forward(x)
    z, deep_backward = deep.forward(x)
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(backward(dy), deep_backward(dy))


def test_names_and_paths_of_a_nested_model() -> None:
    _, deep = nested()
    assert names(deep) == ["conv2d", "middle", "flatten", "dense"]
    assert f"{deep.name}/middle/batch_normalization/gamma" in paths(deep)
    assert "middle/batch_normalization/moving_mean" in deep.state()
    assert len(set(paths(deep))) == len(paths(deep)) == 6
    assert deep.count_params() == sum(a.size for a in deep.get_weights())


def test_a_nested_model_brings_its_input_shape() -> None:
    inner = Sequential([Dense(5, input_shape=(3,))])
    outer = Sequential([inner, Dense(2)])
    assert outer.built
    assert outer.output_shape == (None, 2)


def test_trainable_reaches_layers_that_are_added_later() -> None:
    model = Sequential([Dense(2, input_shape=(3,))], trainable=False)
    model.add(Sequential([Dense(2)]))
    assert model.trainable_parameters == []
    assert not any(layer.trainable for layer in model.walk())


def test_configuration_round_trip() -> None:
    _, deep = nested()
    deep.layers[0].trainable = False
    twin = Sequential.from_config(deep.get_config())
    assert twin.get_config() == deep.get_config()
    assert names(twin) == names(deep)
    assert [layer.trainable for layer in twin.walk()] == [layer.trainable for layer in deep.walk()]
    twin.set_weights(deep.get_weights())
    np.testing.assert_array_equal(twin(images(2)), deep(images(2)))


def test_dropout_streams_have_the_names_of_their_layers() -> None:
    model = Sequential([Dense(2), Sequential([Dropout(0.5, seed=3)], name="inner"), Dropout(0.1)])
    streams = model.random_streams()
    assert list(streams) == ["inner/dropout/seed_stream", "dropout/seed_stream"]
    assert streams["inner/dropout/seed_stream"].state == (3, 0)


# --- data formats -----------------------------------------------------------------------------


def conv_stack(data_format: str) -> Sequential:
    shape = (9, 8, 2) if data_format == "channels_last" else (2, 9, 8)
    axis = -1 if data_format == "channels_last" else 1
    model = Sequential(
        [
            Conv2D(4, 3, padding="same", data_format=data_format, input_shape=shape),
            BatchNormalization(axis=axis),
            ReLU(),
            MaxPooling2D(2, data_format=data_format),
            Conv2D(3, 2, strides=(1, 2), padding=1, data_format=data_format),
            GlobalAveragePooling2D(data_format=data_format),
            Dense(3, activation="softmax"),
        ]
    )
    set_uniform_weights(model, 50)
    return model


def test_both_data_formats_give_the_same_numbers() -> None:
    last, first = conv_stack("channels_last"), conv_stack("channels_first")
    x = uniform((5, 9, 8, 2), 60).astype(np.float32)
    turned = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    y = np.arange(5) % 3
    for model, data in ((last, x), (first, turned)):
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(data, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(
        last.predict(x, verbose=0), first.predict(turned, verbose=0), strict=True
    )
    for a, b in zip(last.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- devices ----------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> str:
    """CUDA is missing for one reason, which is returned."""
    reason = "no device answered the call"
    found = Probe(False, reason, "Plug one in.")
    really = registry.probe_device
    monkeypatch.setattr(
        registry, "probe_device", lambda name: found if name == "cuda" else really(name)
    )
    return reason


def test_cuda_that_is_missing_raises_its_reason(no_cuda: str) -> None:
    message = f"the backend 'cuda' is not available: {no_cuda}. Plug one in."
    with pytest.raises(BackendUnavailableError) as raised:
        Sequential([Dense(2)], backend="cuda")
    assert str(raised.value) == message
    model = small_cnn()
    with pytest.raises(BackendUnavailableError) as raised:
        model.to("cuda")
    assert str(raised.value) == message
    assert model.backend == "cpu"
    assert model(images(1)).shape == (1, 3)


def test_the_reason_is_that_of_the_probe() -> None:
    found = registry.probe_device("cuda")
    if found.available:
        assert Sequential([Dense(2)], backend="cuda").backend == "cuda"
        return
    assert found.reason
    with pytest.raises(BackendUnavailableError) as raised:
        Sequential(backend="cuda")
    assert found.reason in str(raised.value)
    assert cuda_probe.probe_driver().available or "driver" in found.reason


def test_unknown_backends() -> None:
    with pytest.raises(InvalidArgumentError, match=r"unknown backend.*Did you mean 'cuda'"):
        Sequential(backend="gpu")


def test_to_the_cpu_is_allowed_and_changes_nothing() -> None:
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.train_on_batch(images(4), np.zeros(4, int))
    expected = model(images(2))
    assert model.to("cpu") is model
    assert all(layer.backend == "cpu" for layer in model.walk())
    np.testing.assert_array_equal(model(images(2)), expected)
    assert Sequential([Dense(2, input_shape=(3,))], backend="cpu").backend == "cpu"


# --- calling ----------------------------------------------------------------------------------


def test_tensors_come_back_as_tensors() -> None:
    model = small_cnn()
    y = model(gc.tensor(images(2)))
    assert isinstance(y, gc.Tensor)
    np.testing.assert_array_equal(y.numpy(), model(images(2)))


def test_an_empty_batch() -> None:
    y, backward = small_cnn().forward(images(0).reshape(0, 6, 6, 2), training=True)
    assert y.shape == (0, 3)
    assert backward(np.zeros((0, 3), np.float32)).shape == (0, 6, 6, 2)


def test_the_convolution_of_the_notes() -> None:
    layer = layers.Conv2D(
        filters=2, kernel_size=(3, 3), padding=0, input_shape=(7, 7, 3), strides=(2, 2)
    )
    assert Sequential([layer]).output_shape == (None, 3, 3, 2)


def test_build_as_in_keras() -> None:
    layer = layers.Conv2D(4, 3)
    layer.build((None, 8, 8, 2))
    layer.build((5, 9, 9, 2))
    assert [p.name for p in layer.parameters] == ["kernel", "bias"]
    with pytest.raises(ShapeError, match="expected 2 channels"):
        layer.build((None, 8, 8, 3))
    model = Sequential([layers.Flatten(), layers.Dense(3)])
    model.build((None, 4, 2))
    assert model.output_shape == (None, 3)
    assert model.count_params() == 27


def test_a_layer_written_for_keras_is_told_what_to_define() -> None:
    with pytest.raises(TypeError, match="add_parameters"):
        type("Mine", (layers.Dense,), {"build": lambda self, shape: None})


# --- slips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [Dense(3), Dense, 3, "dense", np.array(2)], ids=type)
def test_what_is_no_list_of_layers(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a list of layers.*Received: "):
        Sequential(given)


@pytest.mark.parametrize("index", ["dense", 1.0, [0], np.array([0, 1]), True])
def test_what_is_no_index_of_a_layer(index: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"index must be an integer.*Received: "):
        small_cnn().get_layer(index=index)


@pytest.mark.parametrize("shape", [784, "784", (28, -1), (28, 2.5), np.ones((2, 2))], ids=repr)
def test_what_is_no_input_shape(shape: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"input_shape must be.*Received: "):
        Dense(10, input_shape=shape)
    with pytest.raises(InvalidArgumentError, match=r"shape must be.*Received: "):
        Sequential([Dense(10)]).build(shape)


@pytest.mark.parametrize("weights", [None, 3, np.ones(2)], ids=repr)
def test_weights_are_a_list_of_arrays(weights: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a list of .* arrays. Received: "):
        small_cnn().set_weights(weights)
