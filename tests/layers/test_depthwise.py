"""DepthwiseConv1D and DepthwiseConv2D."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.layers import DepthwiseConv1D, DepthwiseConv2D
from gpuconv.testing import assert_exact, check_layer, reference
from gpuconv.testing.cases import small_integers


def by_definition(x: Any, kernel: Any, bias: Any, **options: Any) -> np.ndarray[Any, Any]:
    """One single-channel convolution for each channel and multiplier; channel ``c*m + i``."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    channels, multiplier = kernel.shape[-2:]
    parts = [
        reference.conv(x[..., c : c + 1], kernel[..., c, i][..., None, None], **options)
        for c in range(channels)
        for i in range(multiplier)
    ]
    return np.concatenate(parts, axis=-1) + bias


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"depth_multiplier": 2},
        {"strides": 2, "padding": "same", "depth_multiplier": 2},
        {"dilation_rate": 2, "padding": 1},
        {"strides": 2, "dilation_rate": 2, "padding": "same"},
    ],
    ids=str,
)
def test_values_in_both_formats(rank: int, arguments: dict[str, Any]) -> None:
    cls = getattr(layers, f"DepthwiseConv{rank}D")
    x = small_integers(np.random.default_rng(0), (2, *(7, 6)[:rank], 4))
    last, first = cls(3, **arguments), cls(3, data_format="channels_first", **arguments)
    last(x), first(np.moveaxis(x, -1, 1))
    multiplier = arguments.get("depth_multiplier", 1)
    assert last.kernel.shape == first.kernel.shape == (*(3,) * rank, 4, multiplier)
    assert last.bias.shape == (4 * multiplier,)
    rng = np.random.default_rng(1)
    weights = [small_integers(rng, a.shape) for a in last.get_weights()]
    last.set_weights(weights), first.set_weights(weights)
    options = {
        "stride": arguments.get("strides", 1),
        "padding": arguments.get("padding", 0),
        "dilation": arguments.get("dilation_rate", 1),
    }
    want = by_definition(x, *weights, **options)
    y, backward = last.forward(x, training=True)
    assert_exact(y, want)
    y_first, backward_first = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(y_first, np.moveaxis(want, -1, 1))
    assert last.compute_output_shape(x.shape) == want.shape
    dy = small_integers(rng, y.shape)
    dx = backward(dy)
    assert_exact(np.moveaxis(backward_first(np.moveaxis(dy, -1, 1)), 1, -1), dx)
    for p, q in zip(last.parameters, first.parameters, strict=True):
        assert p.grad.shape == p.shape
        assert_exact(p.grad, q.grad)


@pytest.mark.parametrize("activation", [None, "tanh", "silu"])
def test_gradients(activation: str | None) -> None:
    layer = DepthwiseConv2D(
        (2, 3), 2, "same", depth_multiplier=2, activation=activation, dtype="float64"
    )
    check_layer(layer, np.random.default_rng(3).standard_normal((2, 5, 4, 4)))


def test_causal_padding_looks_back_only() -> None:
    layer = DepthwiseConv1D(3, padding="causal", depthwise_initializer="ones", use_bias=False)
    x = np.zeros((1, 5, 1), np.float32)
    x[0, 2] = 1.0
    assert layer(x).ravel().tolist() == [0, 0, 1, 1, 1]


def test_only_what_is_needed_is_computed(engine_calls: list[str]) -> None:
    layer = DepthwiseConv2D(3)
    x, dy = np.ones((1, 5, 5, 2), np.float32), np.ones((1, 3, 3, 2), np.float32)
    _, backward = layer.forward(x, training=True)
    engine_calls.clear()
    assert backward(dy, input_gradient=False) is None
    assert sorted(engine_calls) == ["conv_backward_weight", "sum_channels"]
    layer.trainable = False
    engine_calls.clear()
    assert backward(dy).shape == x.shape
    assert engine_calls == ["conv_backward_input"]


def test_regularizers_and_initializers_have_their_keras_names() -> None:
    layer = DepthwiseConv2D(3, depthwise_initializer="ones", depthwise_regularizer="l2")
    layer.build((None, 5, 5, 2))
    assert layer.kernel.regularizer is not None
    assert layer.kernel.numpy().tolist() == np.ones((3, 3, 2, 1)).tolist()
    assert [p.path.partition("/")[2] for p in layer.parameters] == ["kernel", "bias"]
    twin = DepthwiseConv2D.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    with pytest.raises(UnknownArgumentError, match="kernel_initializer"):
        DepthwiseConv2D(3, kernel_initializer="ones")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"depth_multiplier": 0}, "depth_multiplier"),
        ({"padding": "causal"}, "causal"),
        ({"strides": -1}, "strides"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        DepthwiseConv2D(**{"kernel_size": 3, **arguments})


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="kernel"):
        DepthwiseConv2D(3)(np.zeros((1, 2, 5, 3), np.float32))
    with pytest.raises(ShapeError, match="channel"):
        DepthwiseConv2D(3)(np.zeros((1, 5, 5, 0), np.float32))
