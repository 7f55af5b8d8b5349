"""Spatial layers against Keras's (on its torch backend): outputs and all gradients.

Where Keras's backends disagree (transposed convolutions with "same"), its torch backend says so
in a warning; those are left to tests/layers, which have the rule of the others.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from hypothesis import assume, given, reject, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import layers  # noqa: E402
from gpuconv.testing import assert_close  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="written for Keras on torch"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),
]

formats = st.sampled_from(["channels_last", "channels_first"])
drawn = settings(max_examples=50, deadline=None)
depthwise = st.sampled_from([(1, 3), (4, 1), (4, 2)])
"""Channels and a multiplier; of several channels, kernels are compiled for each pair."""


def compare(
    name: str,
    arguments: dict[str, Any],
    shape: tuple[int, ...],
    data_format: str | None,
    dtype: str = "float64",
) -> None:
    """Compare outputs, input gradient and all parameter gradients; ``shape`` is channels-last."""
    options = {} if data_format is None else {"data_format": data_format}
    ours = getattr(layers, name)(dtype=dtype, **arguments, **options)
    theirs = getattr(keras.layers, name)(dtype=dtype, **arguments, **options)
    rng = np.random.default_rng(len(name))
    x = rng.standard_normal(shape).astype(dtype)
    if data_format == "channels_first":
        x = np.moveaxis(x, -1, 1)
    leaf = torch.tensor(np.ascontiguousarray(x)).requires_grad_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theirs.build(x.shape)
        expected = theirs(leaf)
    if any("backends" in str(w.message) or "Clamping" in str(w.message) for w in caught):
        reject()
    ours.build((None, *x.shape[1:]))
    assert [p.shape for p in ours.parameters] == [tuple(v.shape) for v in theirs.weights]
    assert [p.name for p in ours.parameters] == [v.name for v in theirs.weights]
    weights = [rng.standard_normal(p.shape) for p in ours.parameters]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    expected = theirs(leaf)

    y, backward = ours.forward(x, training=True)
    assert y.shape == ours.compute_output_shape(x.shape) == tuple(expected.shape)
    assert_close(y, expected.detach().numpy(), 10_000)
    assert_close(ours(x), expected.detach().numpy(), 10_000)
    dy = rng.standard_normal(y.shape).astype(dtype)
    try:
        expected.backward(torch.tensor(dy))
    except RuntimeError as error:  # PyTorch's float64 convolution of some single channels
        if "must be contiguous" not in str(error):
            raise
        reject()
    assert_close(backward(dy), leaf.grad.numpy(), 10_000)
    for p, v in zip(ours.parameters, theirs.weights, strict=True):
        assert_close(p.grad, v.value.grad.numpy(), 10_000)
    same = type(ours).from_config(ours.get_config())
    assert same.get_config() == ours.get_config()


def extents(draw: Any, rank: int, low: int) -> tuple[int, ...]:
    return tuple(draw(st.integers(low, low + 3)) for _ in range(rank))


def each(draw: Any, rank: int, *values: int) -> Any:
    """One value for all dimensions, or one a dimension."""
    if draw(st.booleans()):
        return draw(st.sampled_from(values))
    return tuple(draw(st.sampled_from(values)) for _ in range(rank))


def strides_or_dilation(draw: Any, rank: int, uniform: bool = False) -> dict[str, Any]:
    """Keras refuses both above 1 at once; depthwise kernels have one stride for all."""
    word = draw(st.sampled_from(["strides", "dilation_rate"]))
    if uniform:
        return {word: draw(st.integers(1, 3))}
    return {word: each(draw, rank, 1, 2, 3)}


others = st.sampled_from([None, "relu", "tanh", "gelu"])
activations = st.sampled_from([None, "relu", "tanh", "gelu", "softmax"])


@drawn
@given(st.data(), st.integers(1, 3), formats)
def test_convolution(data: Any, rank: int, data_format: str) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2]))
    words = ["valid", "same"] + (["causal"] if rank == 1 and data_format == "channels_last" else [])
    arguments = {
        "filters": groups * data.draw(st.integers(1, 3)),
        "kernel_size": each(data.draw, rank, 1, 2, 3),
        "padding": data.draw(st.sampled_from(words)),
        "groups": groups,
        "use_bias": data.draw(st.booleans()),
        **strides_or_dilation(data.draw, rank),
    }
    # Keras's softmax runs over the last axis, whatever it is; it warns where that has extent 1.
    softmax = data_format == "channels_last" and arguments["filters"] > 1
    arguments["activation"] = data.draw(activations if softmax else others)
    shape = (2, *extents(data.draw, rank, 7), groups * 2)
    compare(f"Conv{rank}D", arguments, shape, data_format)


@drawn
@given(st.data(), st.integers(1, 3), formats)
def test_transposed_convolution(data: Any, rank: int, data_format: str) -> None:
    arguments = {
        "filters": data.draw(st.integers(1, 3)),
        "kernel_size": data.draw(st.integers(1, 4)),
        "padding": data.draw(st.sampled_from(["valid", "same"])),
        "use_bias": data.draw(st.booleans()),
        **strides_or_dilation(data.draw, rank, uniform=True),
    }
    largest = arguments.get("strides", 1) - 1
    arguments["output_padding"] = data.draw(st.none() | st.integers(0, largest))
    shape = (2, *extents(data.draw, rank, 2), 3)
    compare(f"Conv{rank}DTranspose", arguments, shape, data_format)


@drawn
@given(st.data(), st.integers(1, 2), formats)
def test_depthwise_convolution(data: Any, rank: int, data_format: str) -> None:
    channels, multiplier = data.draw(depthwise)
    arguments = {
        "kernel_size": each(data.draw, rank, 1, 2, 3),
        "padding": data.draw(st.sampled_from(["valid", "same"])),
        "depth_multiplier": multiplier,
        "use_bias": data.draw(st.booleans()),
        **strides_or_dilation(data.draw, rank, uniform=True),
    }
    shape = (2, *extents(data.draw, rank, 7), channels)
    compare(f"DepthwiseConv{rank}D", arguments, shape, data_format)


@drawn
@given(st.data(), st.integers(1, 2), formats)
def test_separable_convolution(data: Any, rank: int, data_format: str) -> None:
    channels, multiplier = data.draw(depthwise)
    arguments = {
        "filters": data.draw(st.integers(1, 4)),
        "kernel_size": each(data.draw, rank, 1, 2, 3),
        "padding": data.draw(st.sampled_from(["valid", "same"])),
        "depth_multiplier": multiplier,
        "use_bias": data.draw(st.booleans()),
        **strides_or_dilation(data.draw, rank, uniform=True),
    }
    shape = (2, *extents(data.draw, rank, 7), channels)
    compare(f"SeparableConv{rank}D", arguments, shape, data_format)


@drawn
@given(st.data(), st.integers(1, 3), st.sampled_from(["Max", "Average"]), formats)
def test_pooling(data: Any, rank: int, kind: str, data_format: str) -> None:
    arguments = {
        "pool_size": each(data.draw, rank, 1, 2, 3),
        "strides": each(data.draw, rank, 1, 2, 3) if data.draw(st.booleans()) else None,
        "padding": data.draw(st.sampled_from(["valid", "same"])),
    }
    shape = (2, *extents(data.draw, rank, 3), 3)
    if kind == "Average" and arguments["padding"] == "same":
        # Of one element more on one side, Keras on torch averages a repeated border.
        layer = getattr(layers, f"AveragePooling{rank}D")(**arguments)
        windows = zip(shape[1:-1], layer.pool_size, layer.strides, strict=True)
        assume(all(((-(-n // s) - 1) * s + k - n) % 2 == 0 or k == 1 for n, k, s in windows))
    compare(f"{kind}Pooling{rank}D", arguments, shape, data_format)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Max", "Average"])
def test_global_pooling(kind: str, rank: int, keepdims: bool, data_format: str) -> None:
    shape = (2, *(5, 4, 3)[:rank], 3)
    arguments = {"keepdims": keepdims}
    # Keras's mean is rounded to float32 on the way.
    compare(f"Global{kind}Pooling{rank}D", arguments, shape, data_format, dtype="float32")


@drawn
@given(st.data(), st.integers(1, 3), st.sampled_from(["Max", "Average"]), formats)
def test_adaptive_pooling(data: Any, rank: int, kind: str, data_format: str) -> None:
    assume(hasattr(keras.layers, "AdaptiveMaxPooling2D"))  # not in older versions
    arguments = {"output_size": each(data.draw, rank, 1, 2, 3, 5)}
    shape = (2, *extents(data.draw, rank, 2), 3)
    compare(f"Adaptive{kind}Pooling{rank}D", arguments, shape, data_format)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("rank", "padding"),
    [
        (1, 2),
        (1, (1, 3)),
        (2, 1),
        (2, (1, 2)),
        (2, ((0, 1), (2, 3))),
        (3, 2),
        (3, (1, 0, 2)),
        (3, ((0, 1), (2, 0), (1, 1))),
    ],
    ids=str,
)
def test_zero_padding(rank: int, padding: Any, data_format: str) -> None:
    shape = (2, *(5, 4, 3)[:rank], 3)
    compare(f"ZeroPadding{rank}D", {"padding": padding}, shape, data_format)


@drawn
@given(st.data(), st.integers(1, 3), formats, st.sampled_from(["nearest", "bilinear"]))
def test_upsampling(data: Any, rank: int, data_format: str, interpolation: str) -> None:
    shape = (2, *extents(data.draw, rank, 1), 3)
    if rank == 1:
        compare("UpSampling1D", {"size": data.draw(st.integers(1, 4))}, shape, None)
        return
    arguments: dict[str, Any] = {"size": each(data.draw, rank, 1, 2, 3)}
    if rank == 2:
        arguments["interpolation"] = interpolation
    compare(f"UpSampling{rank}D", arguments, shape, data_format)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Conv2D", {"filters": 32, "kernel_size": 3}),
        ("Conv3D", {"filters": 4, "kernel_size": 2}),
        ("Conv2DTranspose", {"filters": 8, "kernel_size": 3}),
        ("DepthwiseConv2D", {"kernel_size": 3}),
        ("SeparableConv2D", {"filters": 8, "kernel_size": 3}),
        ("MaxPooling2D", {}),
        ("AveragePooling2D", {"pool_size": 2}),
        ("ZeroPadding2D", {}),
        ("UpSampling2D", {}),
    ],
)
def test_defaults_are_those_of_keras(name: str, arguments: dict[str, Any]) -> None:
    ours = getattr(layers, name)(**arguments).get_config()
    theirs = getattr(keras.layers, name)(**arguments).get_config()

    def plain(value: Any) -> Any:
        if isinstance(value, dict):  # an initializer: its class
            return value["class_name"]
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    apart = {"name", "dtype"}
    for word in sorted(set(ours) & set(theirs) - apart):
        assert plain(ours[word]) == plain(theirs[word]), word
