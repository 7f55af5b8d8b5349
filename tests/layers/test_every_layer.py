"""What holds for every layer of the package, whatever it computes."""

from __future__ import annotations

import inspect
import json
import weakref
from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import DTypeError, ShapeError, UnknownArgumentError
from gpuconv.layers import Layer
from gpuconv.tensors import Tensor
from gpuconv.testing import assert_close, check_layer
from gpuconv.testing.cases.layers import LAYER_CASES, LayerCase, randomize

CLASSES = sorted(
    {
        value
        for name in layers.__all__
        if inspect.isclass(value := getattr(layers, name)) and value is not Layer
    },
    key=lambda cls: cls.__name__,
)

every_case = pytest.mark.parametrize("case", LAYER_CASES, ids=str)
every_class = pytest.mark.parametrize("cls", CLASSES)


def built(case: LayerCase, **more: Any) -> Layer:
    """The case's layer with random weights."""
    layer, x = case.make(**more), case.input()
    layer(first(x) if more.get("data_format") == "channels_first" else x)
    randomize(layer)
    return layer


def first(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.moveaxis(x, -1, 1)


def parts(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list) else [x]


def shapes_of(x: Any, batch: int | None) -> Any:
    shapes = [(batch, *part.shape[1:]) for part in parts(x)]
    return shapes if isinstance(x, list) else shapes[0]


def rewind(layer: Layer) -> Any:
    """A function that takes a layer's random masks back to the first."""
    return lambda: [setattr(s, "state", (s.seed, 0)) for s in layer.random_streams().values()]


@every_class
def test_every_class_is_in_the_table_and_registered(cls: type[Layer]) -> None:
    cases = [case for case in LAYER_CASES if case.cls is cls]
    assert cases, f"{cls.__name__} is exported but has no case in gpuconv.testing.cases.layers"
    made = layers.deserialize(json.loads(json.dumps(layers.serialize(cases[0].make()))))
    assert type(made) is cls


@every_class
def test_docstring(cls: type[Layer]) -> None:
    assert (cls.__dict__.get("__doc__") or "").strip(), f"{cls.__name__} has no docstring"


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_gradients(case: LayerCase, training: bool) -> None:
    layer = built(case)
    check_layer(layer, case.input(), training=training, reset=rewind(layer), directions=1)


@pytest.mark.parametrize("case", [c for c in LAYER_CASES if c.has_data_format], ids=str)
def test_channels_first_computes_the_same(case: LayerCase) -> None:
    last, other = built(case), built(case, data_format="channels_first")
    x = case.input()
    y, backward = last.forward(x, training=True)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    dx = backward(dy)
    y_first, backward_first = other.forward(np.ascontiguousarray(first(x)), training=True)
    dx_first = backward_first(np.ascontiguousarray(first(dy)))
    np.testing.assert_allclose(y_first, first(y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx_first, first(dx), rtol=1e-12, atol=1e-12)
    for p, q in zip(last.parameters, other.parameters, strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-10, atol=1e-12)
    assert other.compute_output_shape(first(x).shape) == y_first.shape


@every_case
def test_configuration_round_trip(case: LayerCase) -> None:
    layer = built(case, name="some_name", trainable=False)
    config = json.loads(json.dumps(layer.get_config()))
    twin = case.cls.from_config(config)
    assert twin.get_config() == layer.get_config()
    assert twin.name == "some_name"
    assert not twin.trainable
    x = case.input()
    twin.build(shapes_of(x, None))
    weights = layer.get_weights()
    assert len(weights) == len(layer.state())
    twin.set_weights(weights)
    np.testing.assert_array_equal(twin(x), layer(x))


@every_case
def test_output_shape(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    y = layer(x)
    assert layer.compute_output_shape(shapes_of(x, parts(x)[0].shape[0])) == y.shape
    assert layer.compute_output_shape(shapes_of(x, None)) == (None, *y.shape[1:])


@every_case
def test_inference_equals_forward_without_training(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    np.testing.assert_array_equal(layer(x), layer.forward(x)[0])


@every_case
def test_inference_retains_nothing(case: LayerCase) -> None:
    layer = built(case)
    before = arrays_in(vars(layer))
    x = case.input(seed=3, batch=5)
    references = [weakref.ref(part) for part in parts(x)]
    y = layer(x)
    reference = weakref.ref(y)
    assert arrays_in(vars(layer)) == before
    del y, x
    assert reference() is None
    assert all(r() is None for r in references)


def arrays_in(value: Any) -> set[tuple[int, tuple[int, ...]]]:
    """Identity and shape of every array that is reachable through containers."""
    if isinstance(value, np.ndarray):
        return {(id(value), value.shape)}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        return {found for entry in value for found in arrays_in(entry)}
    return set()


@every_case
def test_inputs_may_be_read_only_and_strided(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    expected, backward = layer.forward(x, training=False)
    dy = np.random.default_rng(2).standard_normal(expected.shape)
    expected_dx = backward(dy)
    views = []
    for part in parts(x):
        wide = np.zeros((*part.shape[:-1], 2 * part.shape[-1]))
        view = wide[..., ::2]
        view[...] = part
        view.flags.writeable = False
        views.append(view)
    y, backward = layer.forward(views if case.several else views[0], training=False)
    dy.flags.writeable = False
    dx = backward(dy)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(parts(dx), parts(expected_dx), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@every_case
def test_float32_agrees_with_float64(case: LayerCase) -> None:
    double, single = built(case), built(case, dtype="float32")
    x = case.input()
    for training in (False, True):
        rewind(double)(), rewind(single)()
        y64, backward64 = double.forward(x, training=training)
        y32, backward32 = single.forward(x, training=training)
        assert y32.dtype == np.float32
        assert_close(y32, y64, reduction_length=400)
        dx64, dx32 = backward64(np.ones_like(y64)), backward32(np.ones_like(y32))
        for got, want in zip(parts(dx32), parts(dx64), strict=True):
            assert got.dtype == np.float32
            assert_close(got, want, reduction_length=400, scale=max(1.0, np.abs(want).max()))
    for p, q in zip(double.parameters, single.parameters, strict=True):
        assert q.dtype == np.float32
        assert q.grad is not None
        assert q.grad.dtype == np.float32
        assert_close(q.grad, p.grad, reduction_length=4000, scale=max(1.0, np.abs(p.grad).max()))


@every_case
def test_empty_batch(case: LayerCase) -> None:
    layer = built(case)
    state = layer.get_weights()
    x = case.input(batch=0)
    for training in (False, True):
        y, backward = layer.forward(x, training=training)
        assert y.shape == layer.compute_output_shape(shapes_of(x, 0))
        for part, dx in zip(parts(x), parts(backward(np.zeros_like(y))), strict=True):
            assert dx.shape == part.shape
    for parameter in layer.parameters:
        assert parameter.grad is not None
        assert not parameter.grad.any()
    for before, after in zip(state, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@every_case
def test_without_input_gradient(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    y, backward = layer.forward(x)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    assert backward(dy, input_gradient=False) is None
    alone = [p.grad for p in layer.parameters]
    layer.zero_grad()
    assert layer.forward(x)[1](dy) is not None
    for gradient, parameter in zip(alone, layer.parameters, strict=True):
        np.testing.assert_array_equal(gradient, parameter.grad)


@every_case
def test_frozen(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    state = layer.get_weights()
    layer.trainable = False
    y, backward = layer.forward(x, training=True)
    dx = backward(np.ones_like(y))
    assert all(p.grad is None for p in layer.parameters)
    assert [d.shape for d in parts(dx)] == [part.shape for part in parts(x)]
    for before, after in zip(state, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    if not layer.random_streams():
        np.testing.assert_array_equal(y, layer(x))
    assert layer.trainable_parameters == []


@every_case
def test_tensor_in_tensor_out(case: LayerCase) -> None:
    layer, x = built(case), case.input()
    given = [Tensor(part) for part in parts(x)]
    y, backward = layer.forward(given if case.several else given[0])
    assert isinstance(y, Tensor)
    np.testing.assert_array_equal(y.numpy(), layer(x))
    dx = backward(Tensor(np.ones(y.shape)))
    for part, gradient in zip(parts(x), parts(dx), strict=True):
        assert isinstance(gradient, Tensor)
        assert gradient.shape == part.shape


@every_case
def test_integers_are_cast(case: LayerCase) -> None:
    layer = built(case)
    x = [np.arange(part.size).reshape(part.shape).astype(np.uint8) for part in parts(case.input())]
    y = layer(x if case.several else x[0])
    assert y.dtype == np.float64
    floats = [part.astype(np.float64) for part in x]
    np.testing.assert_array_equal(y, layer(floats if case.several else floats[0]))


@every_class
def test_unknown_arguments_are_refused(cls: type[Layer]) -> None:
    case = next(case for case in LAYER_CASES if case.cls is cls)
    with pytest.raises(UnknownArgumentError, match=r"Did you mean 'trainable'.*Received: "):
        case.make(trainible=False)
    with pytest.raises(DTypeError, match="Received: 'float16'"):
        case.make(dtype="float16")


@every_case
def test_bad_inputs_are_refused(case: LayerCase) -> None:
    layer, x = built(case), case.input()

    def call(array: Any) -> None:
        layer([array] * len(x) if case.several else array)

    with pytest.raises(ShapeError, match="Received"):
        call(np.float64(3.0))
    with pytest.raises(DTypeError, match="Received"):
        call(np.full(parts(x)[0].shape, "text"))
    with pytest.raises(DTypeError, match="Received"):
        call(np.ones(parts(x)[0].shape, np.complex128))
    y, backward = layer.forward(x)
    with pytest.raises(ShapeError, match="Received"):
        backward(np.zeros((*y.shape, 1)))
    if layer.has_trainable:  # its weights expect these channels or features
        with pytest.raises(ShapeError, match="Received"):
            layer(np.zeros([n + 1 for n in x.shape]))


@pytest.mark.parametrize("alias", ["MaxPool", "AvgPool", "GlobalMaxPool", "GlobalAvgPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_short_names(alias: str, rank: int) -> None:
    long = alias.replace("Avg", "Average").replace("Pool", "Pooling")
    assert getattr(layers, f"{alias}{rank}D") is getattr(layers, f"{long}{rank}D")


@pytest.mark.parametrize("name", ["Conv2D", "Dense", "AveragePooling2D", "Rescaling", "GELU"])
def test_backward_does_not_keep_the_output_alive(name: str) -> None:
    case = next(case for case in LAYER_CASES if case.id == name)
    y, backward = built(case).forward(case.input(), training=True)
    shape, reference = y.shape, weakref.ref(y)
    del y
    assert reference() is None
    assert backward(np.ones(shape)) is not None
