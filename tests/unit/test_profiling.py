"""Profiles: what is counted is right, what is timed adds up, and the model stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import (
    Add,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    SeparableConv2D,
)
from gpuconv.profiling import Profile, profile

RNG = np.random.default_rng(8)
X = RNG.random((2, 8, 8, 3)).astype("float32")


def network() -> gc.Sequential:
    gc.set_seed(1)
    return gc.Sequential(
        [
            Conv2D(4, 3, name="conv", input_shape=(8, 8, 3)),
            BatchNormalization(),
            gc.Sequential([Dropout(0.5), MaxPooling2D(2)], name="block"),
            Flatten(),
            Dense(5, activation="softmax", name="scores"),
        ],
        name="small",
    )


def by_name(found: Profile) -> dict[str, Any]:
    return {row.name: row for row in found.rows}


def test_every_layer_has_a_row_in_the_order_of_the_network() -> None:
    found = profile(network(), X, repeats=2)
    assert [(row.name, row.kind) for row in found.rows] == [
        ("conv", "Conv2D"),
        ("batch_normalization", "BatchNormalization"),
        ("block/dropout", "Dropout"),
        ("block/max_pooling2d", "MaxPooling2D"),
        ("flatten", "Flatten"),
        ("scores", "Dense"),
    ]
    assert [row.output_shape for row in found.rows] == [
        (2, 6, 6, 4), (2, 6, 6, 4), (2, 6, 6, 4), (2, 3, 3, 4), (2, 36), (2, 5),
    ]  # fmt: skip
    assert [row.parameters for row in found.rows] == [112, 16, 0, 0, 0, 185]
    assert found.parameters == 313
    assert [row.output_bytes for row in found.rows] == [1152, 1152, 1152, 288, 288, 40]
    assert (found.model, found.batch, found.repeats) == ("small", 2, 2)


def test_multiply_adds_are_counted_twice_and_backwards_for_each_gradient() -> None:
    rows = by_name(profile(network(), X, repeats=1))
    conv, scores = rows["conv"], rows["scores"]
    assert conv.forward_flops == 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)
    assert conv.backward_flops == conv.forward_flops  # nobody needs the gradient of the images
    assert scores.forward_flops == 2 * 2 * 36 * 5
    assert scores.backward_flops == 2 * scores.forward_flops
    assert rows["block/max_pooling2d"].forward_flops == 0
    assert rows["block/max_pooling2d"].forward_gflops is None
    assert conv.forward_gflops == pytest.approx(conv.forward_flops / conv.forward_ms / 1e6)


def test_multiply_adds_of_other_convolutions() -> None:
    """Counted by loops: one for each output element and tap that meets it."""
    layers = [
        DepthwiseConv2D(3, depth_multiplier=2, strides=2, name="depthwise"),
        SeparableConv2D(5, 3, name="separable"),
        Conv2DTranspose(4, 3, strides=2, name="transposed"),
        Conv2D(8, 3, groups=4, padding="same", data_format="channels_last", name="grouped"),
    ]
    model = gc.Sequential([*layers, Flatten(), Dense(1)])
    rows = by_name(profile(model, RNG.random((1, 9, 9, 4)).astype("float32"), repeats=1))
    macs = {
        "depthwise": 4 * 4 * 8 * 9,
        "separable": 2 * 2 * (8 * 9 + 8 * 5),
        "transposed": 2 * 2 * 5 * 9 * 4,
        "grouped": 5 * 5 * 8 * 9 * 1,
    }
    assert {name: rows[name].forward_flops for name in macs} == {
        name: 2 * count for name, count in macs.items()
    }


def test_times_are_of_the_layers() -> None:
    """A layer that is made slow is seen to be slow; the rows fit into the whole."""

    class Slow(Dropout):
        def run(self, x: Any, training: bool) -> Any:
            import time

            y, backward = super().run(x, training)
            time.sleep(0.02)

            def slow(dy: Any, input_gradient: bool = True) -> Any:
                time.sleep(0.03)
                return backward(dy, input_gradient)

            return y, slow

    model = gc.Sequential([Conv2D(2, 3, name="conv"), Slow(0.1, name="slow"), Flatten(), Dense(2)])
    found = profile(model, X, repeats=3)
    rows = by_name(found)
    assert rows["slow"].forward_ms >= 20
    assert rows["slow"].backward_ms >= 30
    assert all(row.forward_ms < 20 for row in found.rows if row.name != "slow")
    assert sum(row.forward_ms for row in found.rows) <= found.forward_ms
    assert sum(row.backward_ms or 0 for row in found.rows) <= found.backward_ms


def test_what_is_frozen_is_not_run_backwards() -> None:
    model = network()
    model.layers[0].trainable = model.layers[1].trainable = False
    found = profile(model, X, repeats=1)
    rows = by_name(found)
    assert [row.name for row in found.rows if row.backward_ms is None] == [
        "conv", "batch_normalization", "block/dropout", "block/max_pooling2d", "flatten",
    ]  # fmt: skip
    assert rows["conv"].backward_flops == 0
    assert rows["scores"].backward_flops == rows["scores"].forward_flops


def test_nothing_of_the_model_changes() -> None:
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, np.array([1, 2]), verbose=0)
    before = [array.copy() for array in model.get_weights()]
    gradients = [parameter.grad for parameter in model.parameters]
    streams = {name: stream.state for name, stream in model.random_streams().items()}
    profile(model, X, np.array([1, 2]), repeats=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(a is b.grad for a, b in zip(gradients, model.parameters, strict=True))
    assert streams == {name: stream.state for name, stream in model.random_streams().items()}


def test_graphs_with_targets() -> None:
    image = gc.Input((8, 8, 3))
    x = Conv2D(4, 3, padding="same", name="first")(image)
    shared = Conv2D(4, 3, padding="same", name="shared")
    y = Add(name="sum")([x, shared(shared(x))])
    scores = Dense(3, activation="softmax", name="scores")(GlobalAveragePooling2D()(y))
    model = gc.Model(image, scores)
    model.compile("sgd", "sparse_categorical_crossentropy")
    found = profile(model, X, np.array([0, 2]), repeats=1)
    names = [row.name for row in found.rows]
    assert names[:4] == ["first", "shared", "shared", "sum"]
    assert names[-1] == "scores"
    assert all(row.backward_ms is not None for row in found.rows)


def test_decisions_come_with_their_reasons() -> None:
    rows = by_name(profile(network(), X, repeats=1))
    decisions = rows["conv"].decisions
    assert list(decisions) == ["conv_forward", "conv_backward_input", "conv_backward_weight"]
    assert rows["conv"].engine == decisions["conv_forward"].engine
    assert rows["conv"].algorithm == decisions["conv_forward"].algorithm
    assert all(decision.reason for decision in decisions.values())
    assert list(rows["block/max_pooling2d"].decisions) == ["max_pool", "max_pool_backward"]
    assert rows["flatten"].decisions == {}


def test_the_table() -> None:
    found = profile(network(), X, repeats=2)
    lines = str(found).splitlines()
    assert lines[0].startswith("small, batch of 2, on ")
    assert lines[0].endswith("least of 2 turns")
    assert lines[2].split() == [
        "layer", "output", "parameters", "memory", "engine", "algorithm",
        "forward", "GFLOP/s", "backward", "GFLOP/s",
    ]  # fmt: skip
    assert lines[4].startswith("conv (Conv2D)")
    assert "2 x 6 x 6 x 4" in lines[4]
    assert lines[-1].startswith("whole passes")
    assert "313" in lines[-1]


def test_what_cannot_be_profiled() -> None:
    with pytest.raises(InvalidArgumentError, match="a model"):
        profile(Dense(2), X)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="repeats"):
        profile(network(), X, repeats=0)
    with pytest.raises(ShapeError):
        profile(network(), X[..., :2])
