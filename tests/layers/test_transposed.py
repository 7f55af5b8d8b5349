"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: extents, values, gradients, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.layers import Conv1DTranspose, Conv2DTranspose
from gpuconv.testing import assert_close, assert_exact, check_layer, reference
from gpuconv.testing.cases import small_integers


def by_definition(
    x: Any, w: Any, stride: Sequence[int], pads: Any, dilation: Sequence[int]
) -> np.ndarray[Any, Any]:
    """Keras's transposed convolution: zeros between the inputs, around them, then a convolution.

    ``x`` (N, *in, C), ``w`` (*k, F, C); ``pads`` are the zeros around the stride-dilated input.
    """
    spread = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], stride, strict=True)]
    wide = np.zeros((x.shape[0], *spread, x.shape[-1]))
    wide[(slice(None), *(slice(None, None, s) for s in stride))] = x
    rank = len(spread)
    flipped = np.swapaxes(w[(slice(None, None, -1),) * rank], -1, -2).astype(np.float64)
    return reference.conv(wide, flipped, padding=pads, dilation=tuple(dilation))


def keras_pads(k: int, s: int, d: int, padding: str, extra: int | None) -> tuple[int, int]:
    """The zeros at both ends by the rule of Keras's JAX backend."""
    reach = (k - 1) * d + 1
    if padding == "valid":
        return reach - 1, reach - 1 + (max(reach, s) - reach if extra is None else extra)
    total = s + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
    left = min(-(-total // 2), reach - 1)
    return left, total - left


@settings(max_examples=120, deadline=None)
@given(
    k=st.integers(1, 5),
    s=st.integers(1, 4),
    d=st.integers(1, 3),
    n=st.integers(1, 4),
    padding=st.sampled_from(["valid", "same"]),
    extra=st.none() | st.integers(0, 3),
)
def test_words_give_the_numbers_of_keras(
    k: int, s: int, d: int, n: int, padding: str, extra: int | None
) -> None:
    x = small_integers(np.random.default_rng(n), (2, n, 3))
    arguments = {"strides": s, "dilation_rate": d, "padding": padding, "output_padding": extra}
    if extra is not None and extra >= max(s, d):
        with pytest.raises(InvalidArgumentError, match="output_padding"):
            Conv1DTranspose(2, k, **arguments)
        return
    pads = keras_pads(k, s, d, padding, extra)
    layer = Conv1DTranspose(2, k, use_bias=False, **arguments)
    if (n - 1) * s + sum(pads) < (k - 1) * d:
        with pytest.raises(ShapeError):
            layer(x)
        return
    layer.build((None, n, 3))
    layer.kernel.assign(small_integers(np.random.default_rng(k), layer.kernel.shape))
    w = layer.kernel.numpy()
    assert_exact(layer(x), by_definition(x, w, (s,), (pads,), (d,)))


@pytest.mark.parametrize(
    ("extent", "arguments", "want"),
    [
        (5, {"kernel_size": 3}, 7),
        (5, {"kernel_size": 3, "strides": 2}, 11),
        (5, {"kernel_size": 2, "strides": 3}, 15),
        (5, {"kernel_size": 3, "strides": 2, "padding": "same"}, 10),
        (5, {"kernel_size": 3, "strides": 2, "padding": "same", "output_padding": 1}, 10),
        (5, {"kernel_size": 3, "strides": 2, "padding": "same", "output_padding": 0}, 9),
        (5, {"kernel_size": 4, "strides": 2, "padding": "valid", "output_padding": 1}, 13),
        (5, {"kernel_size": 3, "dilation_rate": 2}, 9),
        (5, {"kernel_size": 3, "strides": 2, "padding": 1}, 9),
        (5, {"kernel_size": 3, "strides": 2, "padding": 1, "output_padding": 1}, 10),
        (5, {"kernel_size": 3, "strides": 2, "padding": ((1, 0),)}, 10),
    ],
    ids=str,
)
def test_extents(extent: int, arguments: dict[str, Any], want: int) -> None:
    layer = Conv1DTranspose(4, **arguments)
    assert layer.compute_output_shape((None, extent, 2)) == (None, want, 4)
    assert layer(np.zeros((1, extent, 2), np.float32)).shape == (1, want, 4)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strides": 2, "padding": "same"},
        {"strides": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ],
    ids=str,
)
def test_values_in_both_formats(rank: int, arguments: dict[str, Any]) -> None:
    cls = getattr(layers, f"Conv{rank}DTranspose")
    x = small_integers(np.random.default_rng(0), (2, *(4, 3, 2)[:rank], 4))
    last, first = cls(6, 3, **arguments), cls(6, 3, data_format="channels_first", **arguments)
    y = last(x)
    assert last.kernel.shape == (*(3,) * rank, 6 // arguments.get("groups", 1), 4)
    rng = np.random.default_rng(1)
    last.set_weights([small_integers(rng, a.shape) for a in last.get_weights()])
    first.build((None, 4, *x.shape[1:-1]))
    first.set_weights(last.get_weights())
    y, backward = last.forward(x, training=True)
    stride = arguments.get("strides", 1)
    pads: Any = {None: (0, 0), "same": None, 1: (1, 1)}[arguments.get("padding")]
    extra = arguments.get("output_padding", 0)
    if pads is None:  # kernel 3, stride 2: the last row is cut
        pads = (0, 1)
    kernel, bias = (w.astype(np.float64) for w in last.get_weights())
    want = reference.conv_transpose(
        x.astype(np.float64),
        kernel,
        bias,
        stride,
        (pads,) * rank,
        extra,
        1,
        arguments.get("groups", 1),
    )
    assert_exact(y, want)
    y_first, backward_first = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(y_first, np.moveaxis(want, -1, 1))
    dy = small_integers(rng, y.shape)
    dx_first = backward_first(np.moveaxis(dy, -1, 1))
    assert_exact(np.moveaxis(dx_first, 1, -1), backward(dy))
    for p, q in zip(last.parameters, first.parameters, strict=True):
        assert_exact(p.grad, q.grad)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "softmax"])
def test_gradients(activation: str | None) -> None:
    layer = Conv2DTranspose(
        3, (2, 3), strides=(2, 1), padding="same", activation=activation, dtype="float64", groups=1
    )
    layer.build((None, 4, 3, 2))
    rng = np.random.default_rng(5)
    layer.set_weights([rng.standard_normal(a.shape) for a in layer.get_weights()])
    check_layer(layer, rng.standard_normal((2, 4, 3, 2)))


def test_it_undoes_the_shapes_of_a_convolution() -> None:
    down, up = layers.Conv2D(8, 3, strides=2, padding="same"), Conv2DTranspose(3, 3, 2, "same")
    assert up.compute_output_shape(down.compute_output_shape((None, 32, 30, 3))) == (
        None,
        32,
        30,
        3,
    )


def test_only_what_is_needed_is_computed(engine_calls: list[str]) -> None:
    layer = Conv2DTranspose(2, 3)
    x, dy = np.ones((1, 3, 3, 2), np.float32), np.ones((1, 5, 5, 2), np.float32)
    _, backward = layer.forward(x, training=True)
    engine_calls.clear()
    assert backward(dy, input_gradient=False) is None
    assert sorted(engine_calls) == ["conv_backward_weight", "sum_channels"]
    layer.trainable = False
    engine_calls.clear()
    assert backward(dy).shape == x.shape
    assert engine_calls == ["conv_forward"]
    engine_calls.clear()
    assert backward(dy, input_gradient=False) is None
    assert engine_calls == []


def test_the_bias_leaves_the_input_alone() -> None:
    layer = Conv1DTranspose(1, 1, kernel_initializer="ones", bias_initializer="ones")
    x = np.zeros((1, 3, 1), np.float32)
    assert_close(layer(x), np.ones((1, 3, 1)))
    assert not x.any()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"filters": 0}, "filters"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"strides": (1, 2, 3)}, "strides"),
        ({"padding": "causal"}, "transposed"),
        ({"padding": "sane"}, "Did you mean 'same'"),
        ({"padding": -1}, "padding"),
        ({"padding": 1.0}, "padding"),
        ({"output_padding": 2, "strides": 2}, "output_padding"),
        ({"output_padding": -1}, "output_padding"),
        ({"groups": 3}, "groups"),
        ({"groups": 0}, "groups"),
        ({"activation": "rleu"}, "relu"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        Conv2DTranspose(**{"filters": 4, "kernel_size": 3, **arguments})


def test_words_of_pytorch_are_explained() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'strides'"):
        Conv2DTranspose(4, 3, stride=2)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="multiple of groups"):
        Conv2DTranspose(4, 3, groups=2)(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ShapeError, match="leave something"):
        Conv2DTranspose(4, 3, padding=2)(np.zeros((1, 1, 1, 3), np.float32))
    layer = Conv2DTranspose(4, 3)
    layer(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ShapeError, match="3 channels"):
        layer(np.zeros((1, 4, 4, 2), np.float32))
