"""Layers over lists of inputs: values, gradients at ties and zeros, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.errors import ShapeError
from gpuconv.layers import Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract
from gpuconv.layers.base import Layer
from gpuconv.tensors import Tensor

A = np.array([[1.0, 2.0, 0.0]])
B = np.array([[4.0, -2.0, 0.0]])
C = np.array([[0.5, 2.0, 5.0]])
DY = np.array([[1.0, 10.0, 100.0]])


@pytest.mark.parametrize(
    ("layer", "inputs", "y", "gradients"),
    [
        (Add(), [A, B, C], [5.5, 2, 5], [[1, 10, 100]] * 3),
        (Add(), [A], [1, 2, 0], [[1, 10, 100]]),
        (Subtract(), [A, B], [-3, 4, 0], [[1, 10, 100], [-1, -10, -100]]),
        (Multiply(), [A, B], [4, -4, 0], [[4, -20, 0], [1, 20, 0]]),
        (Multiply(), [A, B, C], [2, -8, 0], [[2, -40, 0], [0.5, 40, 0], [4, -40, 0]]),
        (Multiply(), [C], [0.5, 2, 5], [[1, 10, 100]]),
        (Average(), [A, B], [2.5, 0, 0], [[0.5, 5, 50]] * 2),
        (Average(), [A], [1, 2, 0], [[1, 10, 100]]),
        (Maximum(), [A, B, C], [4, 2, 5], [[0, 10, 0], [1, 0, 0], [0, 0, 100]]),
        (Minimum(), [A, B, C], [0.5, -2, 0], [[0, 0, 100], [0, 10, 0], [1, 0, 0]]),
        (Concatenate(), [A, B], [1, 2, 0, 4, -2, 0], None),
    ],
)
def test_values_and_gradients(layer: Layer, inputs: list[Any], y: Any, gradients: Any) -> None:
    found, backward = layer.forward(inputs, training=True)
    np.testing.assert_array_equal(found, np.array([y]))
    assert layer.compute_output_shape([(None, 3)] * len(inputs)) == (None, found.shape[1])
    if gradients is not None:
        dx = backward(DY)
        assert isinstance(dx, list)
        assert [d.tolist() for d in dx] == [[g] for g in gradients]
    assert backward(found, input_gradient=False) is None


@pytest.mark.parametrize(
    "shapes", [((2, 3, 4, 5), (2, 1, 1, 5)), ((2, 1, 5), (2, 3, 1)), ((2, 1), (2, 4))]
)
@pytest.mark.parametrize("cls", [Add, Subtract, Multiply, Average, Maximum, Minimum])
def test_extents_of_one_are_repeated(cls: Any, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(1)
    small = [rng.normal(size=shape) for shape in shapes]
    whole = np.broadcast_shapes(*shapes)
    large = [np.broadcast_to(array, whole).copy() for array in small]
    layer = cls(dtype="float64")
    assert layer.compute_output_shape([(None, *s[1:]) for s in shapes]) == (None, *whole[1:])
    y, backward = layer.forward(small)
    wanted, wanted_backward = cls(dtype="float64").forward(large)
    np.testing.assert_array_equal(y, wanted)
    dy = rng.normal(size=whole)
    for array, found, each in zip(small, backward(dy), wanted_backward(dy), strict=True):
        axes = tuple(a for a, n in enumerate(array.shape) if n != whole[a])
        np.testing.assert_allclose(found, each.sum(axis=axes, keepdims=True), rtol=1e-12)


def test_nan_wins_over_any_number() -> None:
    nan = np.array([[np.nan, 1.0]])
    one = np.array([[3.0, 2.0]])
    for layer in (Maximum(), Minimum()):
        for inputs in ([nan, one], [one, nan]):
            y, backward = layer.forward(inputs)
            assert np.isnan(y[0, 0])
            gradients = backward(np.ones((1, 2)))
            assert [g[0, 0] for g in gradients] == [float(x is nan) for x in inputs]


@pytest.mark.parametrize("axis", [1, -1, 2, -2])
def test_concatenate(axis: int) -> None:
    rng = np.random.default_rng(0)
    at = axis % 3
    shapes = [tuple(n if i == at else e for i, e in enumerate((2, 3, 4))) for n in (1, 5, 2)]
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    layer = Concatenate(axis)
    y, backward = layer.forward(inputs)
    np.testing.assert_array_equal(y, np.concatenate(inputs, axis=axis))
    for gradient, x in zip(backward(y), inputs, strict=True):
        np.testing.assert_array_equal(gradient, x)
    assert layer.compute_output_shape(shapes) == y.shape


def test_unknown_extents() -> None:
    shapes = [(None, None, 3), (None, None, 4)]
    assert Concatenate().compute_output_shape(shapes) == (None, None, 7)
    assert Concatenate(1).compute_output_shape([(None, None, 3)] * 2) == (None, None, 3)
    assert Add().compute_output_shape([(None, 1, 3), (None, None, 1)]) == (None, None, 3)


def test_inputs_of_several_dtypes_are_cast_and_unmodified() -> None:
    a, b = np.array([[1, 2]], np.int64), np.array([[0.5, 0.5]], np.float64)
    y = Add()([a, b])
    assert y.dtype == np.float32
    assert y.tolist() == [[1.5, 2.5]]
    assert a.tolist() == [[1, 2]]
    assert isinstance(Add()([Tensor(b), Tensor(b)]), Tensor)


def test_channels_first_views_stay_views() -> None:
    x = np.moveaxis(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), -1, 1)
    for layer in (Add(), Multiply(), Average(), Maximum()):
        layer.dtype = "float64"
        assert layer([x, x]).strides == x.strides
    joined = Concatenate(1, dtype="float64")([x, x])
    assert np.moveaxis(joined, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("cls", [Add, Subtract, Multiply, Average, Maximum, Minimum, Concatenate])
def test_refusals(cls: Any) -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ShapeError, match=r"expected a list of inputs. Received: ndarray"):
        cls()(x)
    with pytest.raises(ShapeError, match="at least one input"):
        cls()([])
    with pytest.raises(ShapeError, match=r"one batch size. Received: shapes"):
        cls()([x, np.ones((1, 3))])
    with pytest.raises(ShapeError, match="Received: shapes"):
        cls()([x, np.ones((2, 3, 1))])
    if cls is not Concatenate:
        with pytest.raises(ShapeError, match=r"one shape, .*Received: shapes"):
            cls()([x, np.ones((2, 4))])


def test_more_refusals() -> None:
    x = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ShapeError, match=r"expected two inputs. Received: 3"):
        Subtract()([x, x, x])
    with pytest.raises(ShapeError, match="agree but for axis -1"):
        Concatenate()([x, np.ones((2, 2, 4))])
    for axis in (0, 3, -4):
        with pytest.raises(ShapeError, match="Received: an input of 3 dimensions"):
            Concatenate(axis)([x, x])
