"""Weights with PyTorch's names into models and back, against layouts written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpuconv as gc
from gpuconv import layers as L
from gpuconv import nn
from gpuconv.errors import (
    DTypeError,
    FileFormatError,
    InvalidArgumentError,
    NotBuiltError,
)
from gpuconv.io import load_torch_state, save_torch_state, torch_state
from gpuconv.testing.device_stand_in import stand_in_device

Floats = np.ndarray[Any, Any]
State = dict[str, Floats]


def drawn(**shapes: tuple[int, ...]) -> State:
    rng = np.random.default_rng(7)
    return {
        name.replace("__", "."): rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def network(**names: str) -> gc.Sequential:
    """Conv, BatchNorm, ReLU, pool, Flatten, Dropout, Dense, Dense, channels last."""
    name = names.get
    return gc.Sequential(
        [
            L.Conv2D(4, 3, padding=1, input_shape=(6, 4, 3), name=name("conv")),
            L.BatchNormalization(epsilon=1e-5, name=name("norm")),
            L.ReLU(),
            L.MaxPooling2D(2),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(5, activation="relu", name=name("hidden")),
            L.Dense(2, name=name("out")),
        ]
    )


def in_order() -> State:
    """The state_dict of that network as a torch.nn.Sequential."""
    state = drawn(
        **{
            "0__weight": (4, 3, 3, 3),
            "0__bias": (4,),
            "1__weight": (4,),
            "1__bias": (4,),
            "1__running_mean": (4,),
            "1__running_var": (4,),
            "6__weight": (5, 4 * 3 * 2),
            "6__bias": (5,),
            "8__weight": (2, 5),
            "8__bias": (2,),
        }
    )
    state["1.running_var"] = np.abs(state["1.running_var"]) + 0.5
    state["1.num_batches_tracked"] = np.array(3, np.int64)
    return state


def computed(state: State, x: Floats) -> Floats:
    """The network on (N, 3, 6, 4), with loops over PyTorch's layouts."""
    n = len(x)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    z = np.zeros((n, 4, 6, 4))
    for o in range(4):
        for row in range(6):
            for column in range(4):
                window = padded[:, :, row : row + 3, column : column + 3]
                z[:, o, row, column] = (window * state["0.weight"][o]).sum(axis=(1, 2, 3))
        z[:, o] += state["0.bias"][o]
        z[:, o] -= state["1.running_mean"][o]
        z[:, o] /= np.sqrt(state["1.running_var"][o] + 1e-5)
        z[:, o] = z[:, o] * state["1.weight"][o] + state["1.bias"][o]
    z = np.maximum(z, 0).reshape(n, 4, 3, 2, 2, 2).max(axis=(3, 5))
    flat = z.reshape(n, -1)  # c, h, w
    hidden = np.maximum(flat @ state["6.weight"].T + state["6.bias"], 0)
    return hidden @ state["8.weight"].T + state["8.bias"]


def images(count: int = 3) -> Floats:
    return np.random.default_rng(1).standard_normal((count, 3, 6, 4)).astype(np.float32)


def check(model: Any, state: State, channels_first: bool = False) -> None:
    x = images()
    given = x if channels_first else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(model(given), computed(state, x), rtol=1e-4, atol=1e-4)


# --- who gets what --------------------------------------------------------------------------------


def test_by_position() -> None:
    model, state = network(), in_order()
    report = load_torch_state(model, state)
    assert report.complete
    assert report.loaded == list(model.state())
    check(model, state)


def test_a_file_that_keeps_no_order(tmp_path: Path) -> None:
    """Ten would come before six where names are sorted; their numbers tell."""
    state = in_order()
    state = {name.replace("8.", "10."): array for name, array in state.items()}
    save_file(state, tmp_path / "net.safetensors")
    model = network()
    load_torch_state(model, tmp_path / "net.safetensors")
    check(model, in_order())
    load_torch_state(again := network(), load_file(tmp_path / "net.safetensors"))
    check(again, in_order())


def test_equal_shapes_without_order_go_by_number() -> None:
    state = {f"features.{n}.weight": np.full((3, 3), n, np.float32) for n in (9, 10, 2)}
    model = gc.Sequential([L.Dense(3, use_bias=False) for _ in range(3)])
    model.build((None, 3))
    load_torch_state(model, dict(sorted(state.items())))
    assert [layer.kernel.value[0, 0] for layer in model.layers] == [2, 9, 10]
    load_torch_state(model, state)  # this one has an order
    assert [layer.kernel.value[0, 0] for layer in model.layers] == [9, 10, 2]


def test_equal_shapes_without_order_or_numbers_are_not_guessed() -> None:
    state = drawn(decoder__weight=(3, 3), encoder__weight=(3, 3))
    model = gc.Sequential(
        [L.Dense(3, use_bias=False, input_shape=(3,)), L.Dense(3, use_bias=False)]
    )
    with pytest.raises(InvalidArgumentError, match=r"no order.*decoder, encoder"):
        load_torch_state(model, state)
    load_torch_state(model, state, rename={"encoder": "dense", "decoder": "dense_1"})
    np.testing.assert_array_equal(model.layers[0].kernel.value, state["encoder.weight"].T)


def test_by_equal_names() -> None:
    named = {"0": "block.conv", "1": "block.bn", "6": "fc1", "8": "fc2"}
    state = {
        f"{named[module]}.{key}": array
        for name, array in reversed(in_order().items())
        for module, _, key in [name.partition(".")]
    }
    model = network(conv="block.conv", norm="block.bn", hidden="fc1", out="fc2")
    load_torch_state(model, state)
    check(model, in_order())


def test_names_of_nested_models() -> None:
    inner = gc.Sequential([L.Dense(4, name="fc1"), L.Dense(4, name="fc2")], name="head")
    model = gc.Sequential([L.Flatten(), inner])
    model.build((None, 2, 2))
    state = drawn(
        head__fc2__weight=(4, 4),
        head__fc2__bias=(4,),
        head__fc1__weight=(4, 4),
        head__fc1__bias=(4,),
    )
    assert load_torch_state(model, state).loaded[0] == "head/fc1/kernel"
    np.testing.assert_array_equal(inner.layers[1].kernel.value, state["head.fc2.weight"].T)
    assert set(torch_state(model)) == set(state)


@pytest.mark.parametrize(
    "rename",
    [
        {"0": "conv2d", "1": "batch_normalization", "6": "dense", "8": "dense_1"},
        lambda name: {"0": "conv2d", "1": "batch_normalization", "6": "dense"}.get(name, "dense_1"),
    ],
)
def test_rename(rename: Any) -> None:
    model = network()
    load_torch_state(model, in_order(), rename=rename)
    check(model, in_order())


def test_rename_takes_beginnings_of_names() -> None:
    model = gc.Sequential([L.Dense(2, name="base.fc", input_shape=(2,)), L.Dense(2, name="head")])
    state = drawn(
        module__net__fc__weight=(2, 2),
        module__net__fc__bias=(2,),
        module__head__weight=(2, 2),
        module__head__bias=(2,),
    )
    load_torch_state(model, state, rename={"module": "", "module.net": "base"})
    np.testing.assert_array_equal(model.layers[0].bias.value, state["module.net.fc.bias"])
    np.testing.assert_array_equal(model.layers[1].bias.value, state["module.head.bias"])


def test_rename_puts_a_name_before_all_others() -> None:
    base = gc.Sequential([L.Dense(2, name="fc")], name="base")
    model = gc.Sequential([base, L.Dense(2, name="head")])
    model.build((None, 2))
    state = drawn(fc__weight=(2, 2), fc__bias=(2,))
    report = load_torch_state(model, state, rename={"": "base"}, partial=True)
    assert report.loaded == ["base/fc/kernel", "base/fc/bias"]
    assert set(torch_state(model, rename={"base": "", "head": None})) == set(state)


def test_rename_none_leaves_a_module_out() -> None:
    model = gc.Sequential([L.Dense(2, name="fc", input_shape=(2,))])
    state = drawn(fc__weight=(2, 2), fc__bias=(2,), aux__weight=(9, 9))
    with pytest.raises(FileFormatError, match=r"aux\.weight \(9, 9\) has no place"):
        load_torch_state(model, state)
    assert load_torch_state(model, state, rename={"aux": None}).complete


def test_a_wrong_rename() -> None:
    model, state = network(), in_order()
    with pytest.raises(InvalidArgumentError, match=r"not there\..*Received: 'conv1'"):
        load_torch_state(model, state, rename={"conv1": "conv2d"})
    with pytest.raises(InvalidArgumentError, match="two modules one name"):
        load_torch_state(model, state, rename={"0": "conv2d", "1": "conv2d"})
    with pytest.raises(InvalidArgumentError, match="must give a name"):
        load_torch_state(model, state, rename=lambda name: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidArgumentError, match="dict or a function"):
        load_torch_state(model, state, rename="conv2d")  # type: ignore[arg-type]


def test_a_graph_goes_by_names_only() -> None:
    x = gc.Input((3,))
    a, b = L.Dense(3, name="a", use_bias=False)(x), L.Dense(3, name="b", use_bias=False)(x)
    model = gc.Model(x, L.Add()([a, b]))
    state = drawn(b__weight=(3, 3), a__weight=(3, 3))
    load_torch_state(model, state)
    np.testing.assert_array_equal(model.get_layer("b").kernel.value, state["b.weight"].T)
    with pytest.raises(FileFormatError, match=r"(?s)a/kernel \(3, 3\) is missing.*rename="):
        load_torch_state(model, {"0.weight": state["a.weight"], "1.weight": state["b.weight"]})


# --- layouts --------------------------------------------------------------------------------------


def test_kernels_of_every_layer() -> None:
    k = np.arange(2 * 3 * 5 * 4, dtype=np.float32)

    def loaded(layer: Any, shape: tuple[Any, ...], **state: Floats) -> Any:
        layer.build(shape)
        report = load_torch_state(layer, state)
        assert report.complete
        back = torch_state(layer)
        assert back.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(back[name], array, strict=True)
            assert back[name].flags.c_contiguous
        return layer

    w = k.reshape(4, 2, 3, 5)  # O, I, kh, kw
    conv = loaded(L.Conv2D(4, (3, 5), use_bias=False), (None, 9, 9, 2), weight=w)
    assert conv.kernel.value[2, 1, 0, 3] == w[3, 0, 2, 1]
    grouped = loaded(L.Conv2D(4, (3, 5), groups=2, use_bias=False), (None, 9, 9, 4), weight=w)
    assert grouped.kernel.value[2, 1, 0, 3] == w[3, 0, 2, 1]
    w = k.reshape(4, 2, 15)
    conv = loaded(L.Conv1D(4, 15, use_bias=False), (None, 20, 2), weight=w)
    assert conv.kernel.value[7, 1, 3] == w[3, 1, 7]
    w = k.reshape(4, 2, 3, 5)  # I, O, kh, kw
    turned = loaded(L.Conv2DTranspose(2, (3, 5), use_bias=False), (None, 9, 9, 4), weight=w)
    assert turned.kernel.value[2, 1, 0, 3] == w[3, 0, 2, 1]
    w = k.reshape(8, 1, 3, 5)  # C*m, 1, kh, kw
    depthwise = L.DepthwiseConv2D((3, 5), depth_multiplier=2, use_bias=False)
    depthwise = loaded(depthwise, (None, 9, 9, 4), weight=w)
    assert depthwise.kernel.value[2, 4, 3, 1] == w[3 * 2 + 1, 0, 2, 4]
    dense = loaded(L.Dense(4), (None, 3), weight=k[:12].reshape(4, 3), bias=k[:4])
    assert dense.kernel.value[2, 3] == dense.kernel.value.T[3, 2] == 11
    loaded(L.GroupNormalization(2), (None, 4), weight=k[:4], bias=k[4:8])
    loaded(L.LayerNormalization(), (None, 4), weight=k[:4], bias=k[4:8])


def test_a_separable_convolution_is_two_modules() -> None:
    layer = L.SeparableConv2D(6, 3, depth_multiplier=2, name="sep")
    model = gc.Sequential([L.ZeroPadding2D(1, input_shape=(5, 5, 2)), layer])
    state = drawn(
        sep__depthwise__weight=(4, 1, 3, 3),
        sep__pointwise__weight=(6, 4, 1, 1),
        sep__pointwise__bias=(6,),
    )
    load_torch_state(model, state)
    assert layer.depthwise_kernel.value[1, 2, 1, 0] == state["sep.depthwise.weight"][2, 0, 1, 2]
    assert layer.pointwise_kernel.value[0, 0, 3, 5] == state["sep.pointwise.weight"][5, 3, 0, 0]
    renamed = {name.replace("sep.depthwise", "0"): a for name, a in state.items()}
    renamed = {name.replace("sep.pointwise", "1"): a for name, a in renamed.items()}
    assert load_torch_state(model, renamed).complete


def test_batches_seen_are_kept_by_layers_that_count() -> None:
    layer = nn.BatchNorm1d(2, momentum=None)
    state = drawn(weight=(2,), bias=(2,), running_mean=(2,), running_var=(2,))
    state["num_batches_tracked"] = np.array(9, np.int64)
    load_torch_state(layer, state)
    assert layer.batches_seen == 9
    assert torch_state(layer)["num_batches_tracked"] == 9
    del state["num_batches_tracked"]
    with pytest.raises(FileFormatError, match=r"batches_seen \(\) is missing"):
        load_torch_state(layer, state)


def test_layers_of_ones_own_keep_their_names() -> None:
    class Scale(L.Layer):
        def add_parameters(self, input_shape: Any) -> None:
            self.scale = self.add_parameter("scale", (input_shape[-1],), "ones")

        def run(self, x: Any, training: bool) -> Any:
            return x * self.scale.value, None

    model = gc.Sequential([L.Normalization(input_shape=(3,)), Scale(name="scale")])
    assert load_torch_state(model, {"scale.scale": np.array([1, 2, 3.0])}).complete
    assert list(torch_state(model)) == [
        "normalization.mean",
        "normalization.variance",
        "scale.scale",
    ]
    np.testing.assert_array_equal(model.layers[1].scale.value, [1, 2, 3])


# --- flattening -----------------------------------------------------------------------------------


def rows_of(*layers: Any, shape: tuple[int, ...]) -> Floats:
    """Which of PyTorch's features each row of the Dense behind these layers takes."""
    model = gc.Sequential([*layers, L.Dense(1, use_bias=False, name="fc")])
    model.build((None, *shape))
    count = model.get_layer("fc").kernel.shape[0]
    state = {"fc.weight": np.arange(count, dtype=np.float32)[None]}
    load_torch_state(model, state, partial=True)
    np.testing.assert_array_equal(torch_state(model)["fc.weight"], state["fc.weight"])
    return np.asarray(model.get_layer("fc").kernel.value)[:, 0]


# Of a picture of 2 x 3 pixels and 2 channels; PyTorch has all of channel 0 first.
PERMUTED = [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
KEPT = list(range(12))


def test_channels_last_data_changes_places() -> None:
    pool = L.MaxPooling2D(1)
    assert list(rows_of(pool, L.Flatten(), shape=(2, 3, 2))) == PERMUTED
    inner = gc.Sequential([L.MaxPooling2D(1), L.ReLU()])
    assert list(rows_of(inner, L.Dropout(0.1), L.Flatten(), shape=(2, 3, 2))) == PERMUTED
    through = gc.Sequential([L.Flatten(), L.Activation("relu")])
    assert list(rows_of(L.MaxPooling2D(1), through, shape=(2, 3, 2))) == PERMUTED
    first = L.MaxPooling2D(1, data_format="channels_first")
    assert list(rows_of(first, L.Flatten("channels_first"), shape=(2, 2, 3))) == PERMUTED
    assert list(rows_of(L.MaxPooling1D(1), L.Flatten(), shape=(6, 2))) == PERMUTED
    assert list(rows_of(L.Flatten(), L.Flatten(), shape=(2, 3, 2))) == PERMUTED
    assert list(rows_of(L.MaxPooling2D(1), L.Reshape((-1,)), shape=(2, 3, 2))) == PERMUTED


def test_other_data_keeps_its_places() -> None:
    first = L.MaxPooling2D(1, data_format="channels_first")
    assert list(rows_of(first, L.Flatten(), shape=(2, 2, 3))) == KEPT
    assert (
        list(rows_of(L.MaxPooling2D(1), L.Permute((3, 1, 2)), L.Flatten(), shape=(2, 3, 2))) == KEPT
    )
    assert list(rows_of(L.Flatten(), shape=(3, 4))) == KEPT  # rows of a picture without channels
    assert list(rows_of(L.Flatten(), shape=(1, 3, 4))) == KEPT
    assert list(rows_of(L.GlobalAveragePooling2D(), shape=(2, 2, 3))) == [0, 1, 2]
    assert list(rows_of(L.Reshape((6, 2)), L.Flatten(), shape=(12,))) == KEPT
    # only the first Dense behind the flattening
    hidden = L.Dense(4)
    assert list(rows_of(L.Flatten(), hidden, shape=(2, 3, 2))) == [0, 1, 2, 3]


def test_a_batch_norm_between_flatten_and_dense_goes_along() -> None:
    model = gc.Sequential([L.Flatten(input_shape=(2, 3, 2)), L.BatchNormalization(), L.Dense(1)])
    state = {
        **{
            f"1.{key}": np.arange(12.0) for key in ("weight", "bias", "running_mean", "running_var")
        },
        "2.weight": np.arange(12.0)[None],
        "2.bias": np.zeros(1),
    }
    load_torch_state(model, state)
    for name, array in model.state().items():
        if array.shape[0] == 12:
            assert list(np.ravel(array)) == PERMUTED, name


def test_flattened_parts_that_are_concatenated() -> None:
    a, b, c = gc.Input((2, 3, 2)), gc.Input((3,)), gc.Input((1, 2, 2))
    flat = [L.Flatten()(a), b, L.Flatten()(L.MaxPooling2D(1)(c))]
    y = L.Dense(1, use_bias=False, name="fc")(L.Concatenate()(flat))
    model = gc.Model([a, b, c], y)
    load_torch_state(model, {"fc.weight": np.arange(19.0)[None]})
    expected = [*PERMUTED, 12, 13, 14, 15, 17, 16, 18]
    assert list(model.get_layer("fc").kernel.value[:, 0]) == expected


def test_models_of_nn_need_no_change_of_places() -> None:
    state = in_order()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(24, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    load_torch_state(model, state)  # before any data
    check(model, state, channels_first=True)


# --- what does not fit ----------------------------------------------------------------------------


def test_all_mismatches_are_listed_and_nothing_changes() -> None:
    model = network(conv="conv", norm="bn", hidden="fc1", out="fc2")
    state = drawn(
        conv__weight=(4, 3, 5, 5),
        conv__bias=(4,),
        bn__weight=(4,),
        bn__bias=(4,),
        bn__running_mean=(4,),
        fc1__weight=(5, 24),
        fc1__bias=(6,),
        fc3__weight=(2, 5),
        fc2__weight=(2, 5),
        fc2__bias=(2,),
        fc2__gain=(1,),
    )
    before = model.get_weights()
    with pytest.raises(FileFormatError) as caught:
        load_torch_state(model, state)
    text = str(caught.value)
    for line in (
        "bn/moving_variance (4,) is missing",
        "fc3.weight (2, 5) has no place in the model",
        "fc2.gain (1,) has no place in the model",
        "conv.weight has the shape (4, 3, 5, 5), the model needs (4, 3, 3, 3)",
        "fc1.bias has the shape (6,), the model needs (5,)",
    ):
        assert line in text
    assert text.endswith("Received: a dict of 11 tensors")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    report = load_torch_state(model, state, partial=True)
    assert report.missing == {"bn/moving_variance": (4,)}
    assert report.unexpected == {"fc3.weight": (2, 5), "fc2.gain": (1,)}
    assert report.mismatched == {
        "conv.weight": ((4, 3, 5, 5), (4, 3, 3, 3)),
        "fc1.bias": ((6,), (5,)),
    }
    assert len(report.loaded) == 7
    assert str(report).startswith("7 arrays loaded, 5 left\n  bn/moving_variance (4,) is missing")
    np.testing.assert_array_equal(model.layers[0].bias.value, state["conv.bias"])
    np.testing.assert_array_equal(model.layers[0].kernel.value, before[0])


def test_a_new_head_on_an_old_network_by_position() -> None:
    state = in_order()
    model = network()
    model.pop()
    model.add(L.Dense(9))
    fresh = model.layers[-1].get_weights()
    report = load_torch_state(model, state, partial=True)
    assert report.mismatched == {"8.weight": ((2, 5), (9, 5)), "8.bias": ((2,), (9,))}
    assert len(report.loaded) == 8
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], fresh[0])


def test_numbers_that_are_no_weights() -> None:
    model = gc.Sequential([L.Dense(1, use_bias=False, input_shape=(2,))])
    with pytest.raises(DTypeError, match=r"0\.weight: expected floating.*dense/kernel.*int8"):
        load_torch_state(model, {"0.weight": np.ones((1, 2), np.int8)})
    with pytest.raises(InvalidArgumentError, match="the key 3"):
        load_torch_state(model, {3: np.ones((1, 2))})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgumentError, match="a file or a dict"):
        load_torch_state(model, [1.0])  # type: ignore[arg-type]


def test_two_layers_of_one_name_with_dots() -> None:
    inner = gc.Sequential([L.Dense(2, name="fc")], name="head")
    model = gc.Sequential([inner, L.Dense(2, name="head.fc")])
    model.build((None, 2))
    with pytest.raises(InvalidArgumentError, match=r"Received: head\.fc twice"):
        torch_state(model)


def test_a_model_without_weights() -> None:
    model = gc.Sequential([L.Dense(2)])
    for function in (lambda: load_torch_state(model, {}), lambda: torch_state(model)):
        with pytest.raises(NotBuiltError, match="has no weights yet"):
            function()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_are_converted(dtype: str) -> None:
    model = gc.Sequential([L.Dense(1, use_bias=False, input_shape=(2,))])
    load_torch_state(model, {"0.weight": np.array([[0.5, 2]], dtype)})
    np.testing.assert_array_equal(model.layers[0].kernel.value, np.float32([[0.5], [2]]))
    assert model.layers[0].kernel.value.dtype == np.float32


# --- the other way --------------------------------------------------------------------------------


def test_back_to_pytorch(tmp_path: Path) -> None:
    model, state = network(), in_order()
    load_torch_state(model, state)
    rename = {"conv2d": "0", "batch_normalization": "1", "dense": "6", "dense_1": "8"}
    save_torch_state(model, tmp_path / "back.safetensors", rename=rename)
    found = load_file(tmp_path / "back.safetensors")
    del state["1.num_batches_tracked"]
    assert found.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    again = network()
    load_torch_state(again, tmp_path / "back.safetensors")
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_state_is_a_copy() -> None:
    model = gc.Sequential([L.Dense(2, input_shape=(2,))])
    state = torch_state(model)
    state["dense.weight"][...] = 7
    assert not np.any(model.layers[0].kernel.value == 7)
    assert list(torch_state(model, rename={"dense": None})) == []
    with pytest.raises(InvalidArgumentError, match="not there"):
        torch_state(model, rename={"dence": "fc"})


def test_arrays_on_a_device() -> None:
    model = gc.Sequential([L.Dense(3, input_shape=(2, 3, 2)), L.Flatten(), L.Dense(2)])
    state = {
        name: np.random.default_rng(2).standard_normal(a.shape).astype("f4")
        for name, a in torch_state(model).items()
    }
    load_torch_state(model, state)
    expected = model.get_weights()
    with stand_in_device():
        moved = gc.Sequential([L.Dense(3, input_shape=(2, 3, 2)), L.Flatten(), L.Dense(2)])
        moved.to("cuda-sim")
        load_torch_state(moved, state)
        for ours, theirs in zip(moved.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(torch_state(moved)["dense.weight"], state["dense.weight"])
