"""SeparableConv1D and SeparableConv2D."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.layers import SeparableConv1D, SeparableConv2D
from gpuconv.testing import assert_exact, check_layer, reference
from gpuconv.testing.cases import small_integers


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"depth_multiplier": 2, "strides": 2, "padding": "same"},
        {"dilation_rate": 2, "padding": 1, "use_bias": False},
    ],
    ids=str,
)
def test_values_in_both_formats(rank: int, arguments: dict[str, Any]) -> None:
    cls = getattr(layers, f"SeparableConv{rank}D")
    x = small_integers(np.random.default_rng(0), (2, *(7, 6)[:rank], 4))
    last, first = cls(5, 3, **arguments), cls(5, 3, data_format="channels_first", **arguments)
    last(x), first(np.moveaxis(x, -1, 1))
    multiplier = arguments.get("depth_multiplier", 1)
    assert last.depthwise_kernel.shape == (*(3,) * rank, 4, multiplier)
    assert last.pointwise_kernel.shape == (*(1,) * rank, 4 * multiplier, 5)
    rng = np.random.default_rng(1)
    weights = [small_integers(rng, a.shape) for a in last.get_weights()]
    last.set_weights(weights), first.set_weights(weights)
    depthwise, pointwise, *bias = (w.astype(np.float64) for w in weights)
    grouped = np.concatenate([depthwise[..., c, :] for c in range(4)], axis=-1)[..., None, :]
    between = reference.conv(
        x.astype(np.float64),
        grouped,
        stride=arguments.get("strides", 1),
        padding=arguments.get("padding", 0),
        dilation=arguments.get("dilation_rate", 1),
        groups=4,
    )
    want = reference.conv(between, pointwise, bias[0] if bias else None)
    y, backward = last.forward(x, training=True)
    assert_exact(y, want)
    assert_exact(last(x), want)
    y_first, backward_first = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(y_first, np.moveaxis(want, -1, 1))
    assert last.compute_output_shape(x.shape) == want.shape
    dy = small_integers(rng, y.shape)
    dx = backward(dy)
    assert_exact(np.moveaxis(backward_first(np.moveaxis(dy, -1, 1)), 1, -1), dx)
    for p, q in zip(last.parameters, first.parameters, strict=True):
        assert_exact(p.grad, q.grad)


@pytest.mark.parametrize("activation", [None, "sigmoid", "mish"])
def test_gradients(activation: str | None) -> None:
    layer = SeparableConv2D(
        4, (2, 3), 2, "same", depth_multiplier=2, activation=activation, dtype="float64"
    )
    check_layer(layer, np.random.default_rng(3).standard_normal((2, 5, 4, 4)))


def test_causal_padding_looks_back_only() -> None:
    layer = SeparableConv1D(
        1, 3, padding="causal", depthwise_initializer="ones", pointwise_initializer="ones"
    )
    x = np.zeros((1, 5, 1), np.float32)
    x[0, 2] = 1.0
    assert layer(x).ravel().tolist() == [0, 0, 1, 1, 1]


def test_only_what_is_needed_is_computed(engine_calls: list[str]) -> None:
    layer = SeparableConv2D(4, 3)
    x, dy = np.ones((1, 5, 5, 2), np.float32), np.ones((1, 3, 3, 4), np.float32)
    _, backward = layer.forward(x, training=True)

    def calls(input_gradient: bool) -> list[str]:
        engine_calls.clear()
        dx = backward(dy, input_gradient=input_gradient)
        assert (dx is not None) == input_gradient
        return list(engine_calls)

    assert calls(False).count("conv_backward_input") == 1  # to reach the depthwise kernel
    layer.depthwise_kernel.trainable = False
    assert calls(False) == ["sum_channels", "conv_backward_weight"]
    layer.trainable = False
    assert calls(True) == ["conv_backward_input"] * 2
    assert calls(False) == []


def test_parameters_have_their_keras_names() -> None:
    layer = SeparableConv2D(4, 3, pointwise_regularizer="l1", depthwise_regularizer="l2")
    layer.build((None, 5, 5, 2))
    names = [p.path.partition("/")[2] for p in layer.parameters]
    assert names == ["depthwise_kernel", "pointwise_kernel", "bias"]
    assert layer.pointwise_kernel.regularizer is not None
    assert layer.bias is not None
    assert layer.bias.regularizer is None
    twin = SeparableConv2D.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    with pytest.raises(UnknownArgumentError, match="kernel_initializer"):
        SeparableConv2D(4, 3, kernel_initializer="ones")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"filters": 0}, "filters"),
        ({"kernel_size": (3, 0)}, "kernel_size"),
        ({"depth_multiplier": 0}, "depth_multiplier"),
        ({"padding": "causal"}, "causal"),
        ({"dilation_rate": 0}, "dilation_rate"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        SeparableConv2D(**{"filters": 4, "kernel_size": 3, **arguments})


def test_an_input_that_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="kernel"):
        SeparableConv2D(4, 3)(np.zeros((1, 2, 5, 3), np.float32))
