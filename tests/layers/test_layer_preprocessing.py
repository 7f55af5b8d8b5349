"""Rescaling and Normalization: values, and statistics taken from data of any size and kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.layers import Normalization, Rescaling, preprocessing
from gpuconv.tensors import Tensor


@pytest.fixture
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal([1.0, -50.0, 1e4], [1.0, 5.0, 0.1], (40, 6, 3))


# --- Rescaling -------------------------------------------------------------------------------


def test_rescaling_images() -> None:
    x = np.array([[0, 51, 255]], np.uint8)
    y = Rescaling(1 / 255)(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [[0.0, 0.2, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(Rescaling(1 / 127.5, offset=-1)(x), [[-1.0, -0.6, 1.0]], rtol=1e-6)


def test_rescaling_of_channels() -> None:
    x = np.ones((2, 2, 3), np.float32)
    layer = Rescaling([1.0, 2.0, 3.0], offset=np.array([0, 0, 1]))
    y, backward = layer.forward(x)
    assert y[1, 1].tolist() == [1.0, 2.0, 4.0]
    assert backward(x)[0, 0].tolist() == [1.0, 2.0, 3.0]
    assert layer.get_config()["scale"] == [1.0, 2.0, 3.0]
    first = Rescaling([[1.0], [2.0], [3.0]])(np.ones((2, 3, 5), np.float32))
    assert first[0, :, 4].tolist() == [1.0, 2.0, 3.0]


def test_rescaling_refuses() -> None:
    for scale in ("1/255", None, [1.0, "a"], [[1.0], [1.0, 2.0]], True):
        with pytest.raises(InvalidArgumentError, match="scale must be a number or an array"):
            Rescaling(scale)
    for shape in ((2, 4), (2, 1), (3,)):
        with pytest.raises(ShapeError, match=r"scale, of shape \(3,\), broadcasts. Received"):
            Rescaling([1.0, 2.0, 3.0])(np.ones(shape))


# --- Normalization ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 1, (1, 2), None, (-1, 1)])
def test_adapt(axis: Any, data: np.ndarray[Any, Any]) -> None:
    layer = Normalization(axis, dtype="float64")
    layer.adapt(data)
    axes = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    over = tuple(i for i in range(3) if i not in {a % 3 for a in axes})
    expected = (data - data.mean(over, keepdims=True)) / data.std(over, keepdims=True)
    np.testing.assert_allclose(layer(data), expected, rtol=1e-8, atol=1e-8)
    back = Normalization(axis, invert=True, dtype="float64")
    back.adapt(data)
    np.testing.assert_allclose(back(layer(data)), data, rtol=1e-12, atol=1e-8)


def test_adapt_equals_given_statistics(data: np.ndarray[Any, Any]) -> None:
    given = Normalization(mean=data.mean((0, 1)), variance=data.var((0, 1)), dtype="float64")
    adapted = Normalization(dtype="float64")
    adapted.adapt(data)
    np.testing.assert_allclose(given(data), adapted(data), rtol=1e-9, atol=1e-9)
    assert list(adapted.state()) == ["mean", "variance"]
    assert given.state() == {}
    twin = Normalization.from_config(given.get_config())
    np.testing.assert_array_equal(twin(data), given(data))


def forms(data: np.ndarray[Any, Any], folder: Path) -> Iterator[Any]:
    yield data
    yield data.tolist()
    yield Tensor(data)
    yield [data[:7], data[7:30], data[30:]]
    yield (batch for batch in (data[:1], data[1:]))
    yield [(data[:20], np.zeros(20)), (data[20:], np.zeros(20))]
    np.save(folder / "data.npy", data)
    yield np.load(folder / "data.npy", mmap_mode="r")
    yield Sliceable(data)


class Sliceable:
    """Data that can only be read slice by slice, as from a file."""

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self._data = data
        self.shape = data.shape
        self.longest = 0

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        self.longest = max(self.longest, rows.stop - rows.start)
        return self._data[rows]


def test_every_form_of_data_gives_the_same(data: np.ndarray[Any, Any], tmp_path: Path) -> None:
    for form in forms(data, tmp_path):
        layer = Normalization(dtype="float64")
        layer.adapt(form)
        np.testing.assert_allclose(layer.mean, data.mean((0, 1)), rtol=1e-13)
        np.testing.assert_allclose(layer.variance, data.var((0, 1)), rtol=1e-11)


def test_data_is_read_in_blocks(
    data: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "_BLOCK_BYTES", 7 * 6 * 3 * 8)
    source = Sliceable(data)
    layer = Normalization(dtype="float64")
    layer.adapt(source)
    assert source.longest == 7
    np.testing.assert_allclose(layer.variance, data.var((0, 1)), rtol=1e-11)


def test_integers_and_small_floats_are_summed_in_float64() -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1)).astype(np.uint8)
    layer = Normalization()
    layer.adapt(images)
    np.testing.assert_allclose(layer.mean, [images.mean()], rtol=1e-6)
    far = (1e6 + np.random.default_rng(0).integers(0, 3, (4000, 1))).astype(np.float32)
    layer = Normalization()
    layer.adapt(far)
    np.testing.assert_allclose(layer.variance, [far.astype(np.float64).var()], rtol=1e-6)


def test_adapt_starts_anew(data: np.ndarray[Any, Any]) -> None:
    layer = Normalization(dtype="float64")
    layer.adapt(data + 5)
    array = layer.state()["mean"]
    layer.adapt(data)
    np.testing.assert_allclose(layer.mean, data.mean((0, 1)))
    assert layer.state()["mean"] is array  # in place, as set_weights does


def test_before_adapt_it_is_the_identity(data: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(Normalization(dtype="float64")(data), data)


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    layer = Normalization(dtype="float64")
    layer.adapt(np.full((5, 2), 3.0))
    y, backward = layer.forward(np.array([[3.0, 4.0]]))
    np.testing.assert_allclose(y, [[0.0, 1e7]])
    np.testing.assert_allclose(backward(np.ones((1, 2))), [[1e7, 1e7]])


def test_given_statistics_broadcast() -> None:
    x = np.arange(12.0).reshape(2, 2, 3)
    one = Normalization(mean=3, variance=4.0, dtype="float64")
    np.testing.assert_array_equal(one(x), (x - 3) / 2)
    last = Normalization(axis=(1, 2), mean=[0, 1, 2], variance=[1, 4, 9], dtype="float64")
    np.testing.assert_allclose(last(x), (x - [0, 1, 2]) / [1, 2, 3], rtol=1e-15)


def test_to_moves_given_statistics() -> None:
    layer = Normalization(mean=3, variance=4.0)
    x = np.ones((2, 3), np.float32)
    before = layer(x)
    np.testing.assert_array_equal(layer.to("cpu")(x), before)


def test_normalization_refuses(data: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="go together"):
        Normalization(mean=1.0)
    with pytest.raises(InvalidArgumentError, match="variance must not be negative"):
        Normalization(mean=1.0, variance=-1.0)
    with pytest.raises(InvalidArgumentError, match="mean must be a number"):
        Normalization(mean="x", variance=1.0)
    with pytest.raises(ShapeError, match=r"extents of mean, \(2,\)"):
        Normalization(mean=[1, 2], variance=[1, 2])(data)
    with pytest.raises(InvalidArgumentError, match="without mean and variance"):
        Normalization(mean=1.0, variance=1.0).adapt(data)
    layer = Normalization()
    layer.adapt(data)
    with pytest.raises(ShapeError, match=r"extents \(3,\)"):
        layer.adapt(data[..., :2])
    with pytest.raises(ShapeError, match=r"extents \(3,\)"):
        layer(data[..., :2])
    for axis in (0, 3):
        with pytest.raises(ShapeError, match="an input of 3 dimensions"):
            Normalization(axis).adapt(data)


def test_adapt_refuses(data: np.ndarray[Any, Any]) -> None:
    for nothing in ([], data[:0], iter(())):
        with pytest.raises(InvalidArgumentError, match="at least one sample"):
            Normalization().adapt(nothing)
    for number in (np.nan, np.inf):
        bad = data.copy()
        bad[3, 2, 1] = number
        with pytest.raises(InvalidArgumentError, match="finite numbers"):
            Normalization().adapt(bad)
    for wrong in ("data", 3.0, None, {"x": data}):
        with pytest.raises(DTypeError, match="array or an iterable"):
            Normalization().adapt(wrong)
    with pytest.raises(DTypeError, match="real numbers"):
        Normalization().adapt(np.array([["a", "b"]]))
