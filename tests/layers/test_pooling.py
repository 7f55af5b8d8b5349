"""MaxPooling and AveragePooling layers: values, PyTorch's extras, what they keep, errors."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.layers import AveragePooling2D, MaxPooling2D
from gpuconv.testing import assert_close, assert_exact, check_layer, reference
from gpuconv.testing.cases import distinct_values, small_integers

INPUTS = {1: (2, 9, 3), 2: (2, 7, 6, 3), 3: (2, 4, 5, 6, 2)}


def run_both_formats(cls: Any, x: np.ndarray[Any, Any], **arguments: Any) -> tuple[Any, Any, Any]:
    """Check that both data formats agree; return y, dy and dx, channels-last."""
    last, first = cls(**arguments), cls(data_format="channels_first", **arguments)
    y, backward = last.forward(x, training=True)
    dy = small_integers(np.random.default_rng(1), y.shape, x.dtype)
    dx = backward(dy)
    y_first, backward_first = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(np.moveaxis(y_first, 1, -1), y)
    assert_exact(np.moveaxis(backward_first(np.moveaxis(dy, -1, 1)), 1, -1), dx)
    assert_exact(last(x), y)
    assert last.compute_output_shape(x.shape) == y.shape
    return y, dy, dx


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pool_size": 3, "strides": 1},
        {"pool_size": 3, "strides": 2, "padding": "same"},
        {"pool_size": 2, "strides": 3, "padding": "SAME"},
        {"pool_size": 3, "strides": 2, "padding": 1, "ceil_mode": True},
        {"pool_size": 2, "strides": 1, "dilation": 2},
    ],
    ids=str,
)
def test_max_pooling(rank: int, arguments: dict[str, Any]) -> None:
    x = small_integers(np.random.default_rng(0), INPUTS[rank])
    y, dy, dx = run_both_formats(getattr(layers, f"MaxPooling{rank}D"), x, **arguments)
    options = {"kernel_size": 2, "stride": None, **arguments}
    options["kernel_size"] = options.pop("pool_size", 2)
    options["stride"] = options.pop("strides", None)
    if isinstance(options.get("padding"), str):
        options["padding"] = options["padding"].lower()
    want, indices = reference.max_pool(x.astype(np.float64), **options)
    assert_exact(y, want)
    assert_exact(dx, reference.max_pool_backward(dy.astype(np.float64), indices, x.shape))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pool_size": 3, "strides": 1},
        {"pool_size": 3, "strides": 2, "padding": "same"},
        {"pool_size": 3, "strides": 2, "padding": 1, "ceil_mode": True},
        {"pool_size": 3, "strides": 2, "padding": 1, "count_include_pad": True},
        {"pool_size": 2, "divisor_override": 3},
    ],
    ids=str,
)
def test_average_pooling(rank: int, arguments: dict[str, Any]) -> None:
    x = small_integers(np.random.default_rng(0), INPUTS[rank])
    y, dy, dx = run_both_formats(getattr(layers, f"AveragePooling{rank}D"), x, **arguments)
    options = {"count_include_pad": False, **arguments}
    options["kernel_size"] = options.pop("pool_size", 2)
    options["stride"] = options.pop("strides", None)
    assert_close(y, reference.avg_pool(x.astype(np.float64), **options), 4)
    want = reference.avg_pool_backward(dy.astype(np.float64), x.shape, **options)
    assert_close(dx, want, 27)


def test_average_with_same_divides_by_real_elements() -> None:
    x = np.ones((1, 3, 3, 1))
    assert_close(AveragePooling2D(2, strides=1, padding="same")(x), np.ones((1, 3, 3, 1)))
    counted = AveragePooling2D(2, strides=1, padding="same", count_include_pad=True)(x)
    want = [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 0.25]]
    assert_close(counted, np.array(want).reshape(1, 3, 3, 1))


def test_gradient_of_overlapping_windows() -> None:
    x = distinct_values(np.random.default_rng(3), (2, 6, 5, 3))
    check_layer(MaxPooling2D(3, strides=1, padding="same", dtype="float64"), x)
    layer = AveragePooling2D((3, 2), strides=1, padding="same", dtype="float64")
    check_layer(layer, x)


@pytest.mark.parametrize("cls", [MaxPooling2D, AveragePooling2D])
def test_without_input_gradient_nothing_is_computed(cls: Any, engine_calls: list[str]) -> None:
    _, backward = cls(2).forward(np.ones((1, 4, 4, 1), np.float32), training=True)
    engine_calls.clear()
    assert backward(np.ones((1, 2, 2, 1), np.float32), input_gradient=False) is None
    assert engine_calls == []


@pytest.mark.parametrize("cls", [MaxPooling2D, AveragePooling2D])
def test_forward_does_not_keep_its_input(cls: Any) -> None:
    layer = cls(2)
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 1)).astype(np.float32)
    alive = weakref.ref(x)
    y, backward = layer.forward(x, training=True)
    del x
    assert alive() is None
    assert backward(np.ones_like(y)).shape == (1, 4, 4, 1)


def test_strides_default_to_the_pool_size() -> None:
    layer = MaxPooling2D((2, 3))
    assert layer.strides == (2, 3)
    assert layer.get_config()["pool_size"] == [2, 3]
    assert MaxPooling2D.from_config(layer.get_config()).get_config() == layer.get_config()


def test_torch_parameters_survive_the_configuration() -> None:
    layer = AveragePooling2D(3, 2, ((1, 0), (0, 1)), count_include_pad=True, divisor_override=4)
    twin = AveragePooling2D.from_config(layer.get_config())
    x = np.random.default_rng(0).standard_normal((1, 6, 7, 2))
    assert_exact(twin(x), layer(x))
    other = MaxPooling2D(2, 1, dilation=2, ceil_mode=True)
    assert_exact(MaxPooling2D.from_config(other.get_config())(x), other(x))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"pool_size": 0}, "pool_size.*Received: 0"),
        ({"pool_size": (2, 2, 2)}, "pool_size"),
        ({"pool_size": 2.0}, "pool_size"),
        ({"strides": 0}, "strides"),
        ({"padding": "sme"}, "Did you mean 'same'"),
        ({"padding": "causal"}, "padding"),
        ({"padding": -1}, "padding"),
        ({"data_format": "NHWC"}, "data_format"),
        ({"dilation": 0}, "dilation"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        MaxPooling2D(**arguments)


def test_bad_divisor() -> None:
    with pytest.raises(InvalidArgumentError, match=r"divisor_override.*Received: 0"):
        AveragePooling2D(divisor_override=0)


def test_words_of_pytorch_are_explained() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'strides'"):
        MaxPooling2D(2, stride=2)
    with pytest.raises(UnknownArgumentError, match="dilation"):
        AveragePooling2D(2, dilation=2)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="must fit"):
        MaxPooling2D(4)(np.zeros((1, 3, 9, 1), np.float32))
    with pytest.raises(ShapeError, match="4 dimensions"):
        MaxPooling2D(2)(np.zeros((3, 9, 1), np.float32))
    with pytest.raises(InvalidArgumentError, match="at most half"):
        MaxPooling2D(2, padding=2)(np.zeros((1, 9, 9, 1), np.float32))
    with pytest.raises(ShapeError, match="at least 1"):
        AveragePooling2D(2, padding="same")(np.zeros((1, 0, 4, 1), np.float32))


def test_inference_asks_for_no_indices(indices_wanted: list[bool]) -> None:
    layer, x = (
        MaxPooling2D(2),
        np.random.default_rng(6).standard_normal((2, 4, 4, 3)).astype(np.float32),
    )
    x[0, 0, 0], x[0, 1, 1], x[1] = np.nan, -0.0, 0.0
    alone = layer(x)
    assert indices_wanted == [False]
    y, _ = layer.forward(x, training=True)
    assert indices_wanted == [False, True]
    assert alone.tobytes() == y.tobytes()
