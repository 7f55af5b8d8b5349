"""``gpuconv.nn``: PyTorch's words for the layers of ``gpuconv.layers``."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers, nn
from gpuconv.backends.registry import probe_device
from gpuconv.errors import (
    BackendUnavailableError,
    DTypeError,
    InvalidArgumentError,
    ShapeError,
    UnknownArgumentError,
)
from gpuconv.layers import Layer

RANKS = (1, 2, 3)


def of_rank(name: str, rank: int) -> Any:
    return getattr(nn, f"{name}{rank}d")


# --- the same classes ------------------------------------------------------------------

MADE: list[tuple[Callable[[], Layer], type[Layer]]] = [
    *[(lambda r=r: of_rank("Conv", r)(2, 4, 3), getattr(layers, f"Conv{r}D")) for r in RANKS],
    *[
        (lambda r=r: of_rank("ConvTranspose", r)(2, 4, 3), getattr(layers, f"Conv{r}DTranspose"))
        for r in RANKS
    ],
    *[(lambda r=r: of_rank("MaxPool", r)(2), getattr(layers, f"MaxPooling{r}D")) for r in RANKS],
    *[
        (lambda r=r: of_rank("AvgPool", r)(2), getattr(layers, f"AveragePooling{r}D"))
        for r in RANKS
    ],
    *[
        (lambda r=r: of_rank("AdaptiveMaxPool", r)(2), getattr(layers, f"AdaptiveMaxPooling{r}D"))
        for r in RANKS
    ],
    *[
        (
            lambda r=r: of_rank("AdaptiveAvgPool", r)(2),
            getattr(layers, f"AdaptiveAveragePooling{r}D"),
        )
        for r in RANKS
    ],
    *[(lambda r=r: of_rank("BatchNorm", r)(4), layers.BatchNormalization) for r in RANKS],
    (lambda: nn.LayerNorm((3, 4)), layers.LayerNormalization),
    (lambda: nn.GroupNorm(2, 4), layers.GroupNormalization),
    (lambda: nn.Linear(3, 4), layers.Dense),
    (lambda: nn.Flatten(), layers.Flatten),
    (lambda: nn.Dropout(), layers.Dropout),
    (lambda: nn.Dropout2d(), layers.SpatialDropout2D),
    (lambda: nn.ReLU(), layers.ReLU),
    (lambda: nn.LeakyReLU(), layers.LeakyReLU),
    (lambda: nn.ELU(), layers.ELU),
    (lambda: nn.GELU(), layers.GELU),
    (lambda: nn.SiLU(), layers.SiLU),
    (lambda: nn.Sigmoid(), layers.Sigmoid),
    (lambda: nn.Tanh(), layers.Tanh),
    (lambda: nn.Softmax(1), layers.Softmax),
    (lambda: nn.LogSoftmax(-1), layers.Activation),
    (lambda: nn.Identity(), layers.Activation),
    (lambda: nn.Upsample(scale_factor=(2,)), layers.UpSampling1D),
    (lambda: nn.Upsample(scale_factor=2), layers.UpSampling2D),
    (lambda: nn.Upsample(scale_factor=(2, 2, 2)), layers.UpSampling3D),
    (lambda: nn.ZeroPad2d(1), layers.ZeroPadding2D),
    (lambda: nn.Sequential(nn.ReLU()), gc.Sequential),
]


@pytest.mark.parametrize(("make", "cls"), MADE)
def test_constructors_make_the_layers_of_the_package(
    make: Callable[[], Layer], cls: type[Layer]
) -> None:
    layer = make()
    assert type(layer) is cls
    if hasattr(layer, "data_format") and not isinstance(layer, layers.Flatten):
        assert layer.data_format == "channels_first"
    # Configurations hold everything: the rebuilt layer has the same.
    again = layers.deserialize(layers.serialize(layer))
    assert again.get_config() == layer.get_config()


def test_every_constructor_is_in_the_list() -> None:
    losses = {"BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "L1Loss", "MSELoss"}
    assert len(MADE) == len(set(nn.__all__) - losses - {"optim"}) + 2  # Upsample has three forms


# --- parameters at construction --------------------------------------------------------


def shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    return {p.name: p.shape for p in layer.parameters}


def test_parameters_exist_at_once() -> None:
    assert shapes(nn.Conv2d(4, 6, (3, 2), groups=2)) == {"kernel": (3, 2, 2, 6), "bias": (6,)}
    assert shapes(nn.Conv1d(4, 6, 5, bias=False)) == {"kernel": (5, 4, 6)}
    assert shapes(nn.ConvTranspose3d(4, 6, 2, groups=2)) == {
        "kernel": (2, 2, 2, 3, 4),
        "bias": (6,),
    }
    assert shapes(nn.Linear(3, 5)) == {"kernel": (3, 5), "bias": (5,)}
    assert shapes(nn.BatchNorm2d(3)) == {"gamma": (3,), "beta": (3,)}
    assert shapes(nn.BatchNorm2d(3, bias=False)) == {"gamma": (3,)}
    assert shapes(nn.BatchNorm2d(3, affine=False)) == {}
    assert shapes(nn.LayerNorm((3, 4))) == {"gamma": (3, 4), "beta": (3, 4)}
    assert shapes(nn.GroupNorm(2, 6, affine=False)) == {}
    assert all(p.path.startswith("conv2d") for p in nn.Conv2d(1, 1, 1).parameters)


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda: nn.Conv1d(6, 400, 5, groups=2), 3 * 5),
        (lambda: nn.Conv2d(3, 200, (3, 2)), 3 * 6),
        (lambda: nn.Conv3d(2, 200, 2), 2 * 8),
        (lambda: nn.ConvTranspose1d(40, 200, 3), 200 * 3),
        (lambda: nn.ConvTranspose2d(64, 120, 2, groups=4), 30 * 4),
        (lambda: nn.ConvTranspose3d(8, 160, 2), 160 * 8),
        (lambda: nn.Linear(7, 400), 7),
    ],
)
def test_initial_values_are_uniform_up_to_one_by_the_root_of_the_fan(
    make: Callable[[], Layer], fan_in: int
) -> None:
    gc.set_seed(0)
    bound = 1 / math.sqrt(fan_in)
    for p in make().parameters:
        values = p.numpy()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.95 * bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_a_layer_built_from_channels_takes_any_extent_and_checks_channels() -> None:
    conv = nn.Conv2d(3, 4, 3)
    assert conv.built
    assert conv(np.zeros((2, 3, 5, 6), "float32")).shape == (2, 4, 3, 4)
    assert conv(np.zeros((1, 3, 9, 3), "float32")).shape == (1, 4, 7, 1)
    with pytest.raises(ShapeError, match=r"expected 3 channels .* Received: shape \(None, 4,"):
        conv(np.zeros((2, 4, 5, 5), "float32"))
    with pytest.raises(ShapeError, match="expected an input of 4 dimensions"):
        conv(np.zeros((3, 5, 5), "float32"))
    with pytest.raises(ShapeError):
        conv(np.zeros((2, 3, 2, 2), "float32"))


WRONG_INPUTS: list[tuple[Callable[[], Layer], tuple[int, ...]]] = [
    (lambda: nn.Linear(3, 4), (2, 4)),
    (lambda: nn.ConvTranspose2d(3, 4, 2), (2, 4, 5, 5)),
    (lambda: nn.BatchNorm1d(3), (2, 4)),
    (lambda: nn.BatchNorm1d(3), (2, 3, 4, 4)),
    (lambda: nn.BatchNorm2d(3), (2, 3)),
    (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4, 4)),
    (lambda: nn.BatchNorm3d(3), (2, 3, 4, 4)),
    (lambda: nn.LayerNorm((3, 4)), (2, 4, 4)),
    (lambda: nn.LayerNorm((3, 4)), (2, 4)),
    (lambda: nn.GroupNorm(2, 4), (2, 6, 3)),
    (lambda: nn.MaxPool2d(2), (2, 3, 4)),
    (lambda: nn.AdaptiveAvgPool1d(2), (2, 3, 4, 4)),
    (lambda: nn.Dropout2d(), (2, 3)),
    (lambda: nn.ZeroPad2d(1), (2, 3, 4)),
    (lambda: nn.Softmax(0), (2, 3)),
    (lambda: nn.Softmax(2), (2, 3)),
    (lambda: nn.Flatten(2), (2, 3)),
]


@pytest.mark.parametrize(("make", "shape"), WRONG_INPUTS)
def test_wrong_inputs_are_refused(make: Callable[[], Layer], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="Received: "):
        make()(np.zeros(shape, "float32"))


# --- arguments -------------------------------------------------------------------------


def test_same_padding_is_that_of_pytorch() -> None:
    x = np.arange(6, dtype="float32").reshape(1, 1, 6)
    conv = nn.Conv1d(1, 1, 4, padding="same", bias=False)
    conv.parameters[0].assign(np.ones((4, 1, 1)))
    # One zero on the left, two on the right.
    np.testing.assert_array_equal(conv(x)[0, 0], [3, 6, 10, 14, 12, 9])
    assert nn.Conv1d(1, 1, 2, padding="same", dilation=3).padding == ((1, 2),)
    assert nn.Conv2d(1, 1, (3, 2), padding="same").padding == ((1, 1), (0, 1))
    assert nn.Conv2d(1, 1, 3, padding="valid").padding == (0, 0)


def test_batch_norm_constants() -> None:
    layer = nn.BatchNorm1d(1, dtype="float64")
    assert layer.epsilon == 1e-5
    layer(np.array([[1.0], [2.0], [6.0]]), training=True)  # mean 3, unbiased variance 7
    assert layer.moving_mean == pytest.approx([0.9 * 0 + 0.1 * 3])
    assert layer.moving_variance == pytest.approx([0.9 * 1 + 0.1 * 7])
    average = nn.BatchNorm1d(1, momentum=None, dtype="float64")
    for batch in ([1.0, 3.0], [5.0, 5.0], [0.0, 1.0]):
        average(np.array(batch)[:, None], training=True)
    assert average.moving_mean == pytest.approx([(2 + 5 + 0.5) / 3])
    assert average.moving_variance == pytest.approx([(2 + 0 + 0.5) / 3])


def test_zero_pad_order_is_left_right_top_bottom() -> None:
    y = nn.ZeroPad2d((1, 2, 3, 0))(np.ones((1, 1, 2, 2), "float32"))
    assert y.shape == (1, 1, 5, 5)
    assert y[0, 0, 3:, 1:3].all()
    assert y.sum() == 4


def test_inplace_changes_nothing() -> None:
    x = -np.ones((2, 3), "float32")
    assert not nn.ReLU(inplace=True)(x).any()
    assert (x == -1).all()


BAD_ARGUMENTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels must be a multiple of groups"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), "out_channels must be a multiple of groups"),
    (lambda: nn.Conv2d(0, 4, 3), "in_channels"),
    (lambda: nn.Conv2d(3, 0, 3), "out_channels"),
    (lambda: nn.Conv2d(3, 4, 0), "kernel_size"),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size"),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), "stride"),
    (lambda: nn.Conv2d(3, 4, 3, dilation=0), "dilation"),
    (lambda: nn.Conv2d(3, 4, 3, groups=0), "groups"),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), "padding"),
    (lambda: nn.Conv2d(3, 4, 3, padding=((1, 2), (0, 0))), "padding"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), "padding"),
    (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), "padding='same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode"),
    (lambda: nn.Conv2d(3.0, 4, 3), "in_channels"),
    (lambda: nn.Conv2d(3, 4, 3, device="gpu"), "device"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), "padding_mode"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1), "output_padding"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "padding"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, groups=2), "in_channels"),
    (lambda: nn.MaxPool2d(2, return_indices=True), r"gpuconv\.ops\.max_pool2d"),
    (lambda: nn.AdaptiveMaxPool1d(2, return_indices=True), r"gpuconv\.ops\.adaptive_max_pool1d"),
    (lambda: nn.MaxPool2d(0), "kernel_size"),
    (lambda: nn.MaxPool2d(2, padding="same"), "padding"),
    (lambda: nn.AvgPool2d(2, divisor_override=0), "divisor_override"),
    (lambda: nn.AdaptiveAvgPool2d((2, 2, 2)), "output_size"),
    (lambda: nn.BatchNorm2d(0), "num_features"),
    (lambda: nn.BatchNorm2d(3, momentum=1.5), "momentum"),
    (lambda: nn.BatchNorm2d(3, eps=-1.0), "eps"),
    (lambda: nn.GroupNorm(3, 4), "num_channels must be a multiple of num_groups"),
    (lambda: nn.LayerNorm(()), "normalized_shape"),
    (lambda: nn.LayerNorm("ab"), "normalized_shape"),
    (lambda: nn.Linear(0, 3), "in_features"),
    (lambda: nn.Linear(3, 2.5), "out_features"),
    (lambda: nn.Dropout(1.5), "p must be"),
    (lambda: nn.GELU("erf"), "approximate"),
    (lambda: nn.Softmax(), "dim must be given"),
    (lambda: nn.LogSoftmax(1), "dim must be -1"),
    (lambda: nn.ZeroPad2d((1, 2)), "padding"),
    (lambda: nn.ZeroPad2d(-1), "padding"),
    (lambda: nn.Upsample(), "scale_factor"),
    (lambda: nn.Upsample(size=4), "size must be None"),
    (lambda: nn.Upsample(scale_factor=1.5), "scale_factor"),
    (lambda: nn.Upsample(scale_factor=(2, 2, 2), mode="bilinear"), "scale_factor"),
    (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), "mode"),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners"),
    (lambda: nn.Upsample(scale_factor=2, align_corners=False), "align_corners"),
    (lambda: nn.CrossEntropyLoss(weight=[1.0, 2.0]), "weight"),
    (lambda: nn.CrossEntropyLoss(weight=np.ones(2)), "weight"),
    (lambda: nn.CrossEntropyLoss(ignore_index=0), "ignore_index"),
    (lambda: nn.CrossEntropyLoss(reduction="average"), "reduction"),
    (lambda: nn.MSELoss(size_average=True), "size_average"),
    (lambda: nn.BCEWithLogitsLoss(pos_weight=[2.0]), "pos_weight"),
    (lambda: nn.HuberLoss(delta=0.0), "delta"),
]


@pytest.mark.parametrize(("make", "message"), BAD_ARGUMENTS)
def test_impossible_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        make()
    assert "Received: " in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("make", "suggested"),
    [
        (lambda: nn.Conv2d(3, 4, 3, strides=2), "'stride'"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, out_padding=1), "'output_padding'"),
        (lambda: nn.MaxPool2d(2, dilations=1), "'dilation'"),
        (lambda: nn.BatchNorm2d(3, epsilon=1e-3), "'eps'"),
        (lambda: nn.Linear(3, 4, use_bias=False), "'bias'"),
    ],
)
def test_unknown_keywords_get_a_suggestion(make: Callable[[], Any], suggested: str) -> None:
    with pytest.raises(UnknownArgumentError, match=f"Did you mean {suggested}"):
        make()


# --- dtype and device ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_dtype_of_parameters(dtype: Any) -> None:
    for layer in (nn.Conv2d(1, 2, 1, dtype=dtype), nn.Linear(2, 2, dtype=dtype)):
        assert {p.dtype.name for p in layer.parameters} == {"float64"}
    assert nn.BatchNorm2d(2, dtype=dtype).moving_mean.dtype == np.float64
    assert nn.Conv2d(1, 2, 1).parameters[0].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "int32", int, "torch.float32"])
def test_impossible_dtypes(dtype: Any) -> None:
    with pytest.raises(DTypeError, match="Received: "):
        nn.Conv2d(1, 2, 1, dtype=dtype)


STATELESS: list[Callable[[], Layer]] = [
    nn.ReLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    lambda: nn.MaxPool2d(2),
    lambda: nn.AvgPool2d(2, padding=1),
    lambda: nn.AdaptiveAvgPool2d(3),
    lambda: nn.AdaptiveMaxPool2d(2),
    lambda: nn.Softmax(1),
    lambda: nn.LogSoftmax(-1),
    lambda: nn.ZeroPad2d(1),
    lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
]


@pytest.mark.parametrize("make", STATELESS)
def test_layers_without_parameters_keep_the_dtype(make: Callable[[], Layer]) -> None:
    layer = make()
    for dtype in ("float64", "float32", "float64"):
        y, backward = layer.forward(np.ones((2, 3, 4, 4), dtype), training=True)
        assert y.dtype == dtype
        assert layer(np.ones((2, 3, 4, 4), dtype)).dtype == dtype
        # A gradient of another dtype is brought to that of the output.
        for other in ("float32", "float64"):
            assert backward(np.ones(y.shape, other)).dtype == dtype
    for other in ("int64", "uint8", "bool", "float16"):
        assert layer(np.ones((2, 3, 4, 4), other)).dtype == np.float32


def test_no_dtype_belongs_to_layers_without_parameters_only() -> None:
    again = layers.ReLU.from_config(layers.ReLU(dtype=None).get_config())
    assert again.dtype is None
    for make in (lambda: layers.Conv2D(2, 3, dtype=None), lambda: layers.Dense(2, dtype=None)):
        with pytest.raises(DTypeError, match="Received: None"):
            make()


def test_device() -> None:
    layer = nn.Conv2d(1, 2, 1, device="cpu")
    assert layer.backend == "cpu"
    with gc.use_backend("cpu"):
        assert nn.Linear(1, 2).backend == "cpu"


@pytest.mark.skipif(probe_device("cuda").available, reason="there is a CUDA device")
def test_a_device_that_is_named_never_falls_back() -> None:
    with pytest.raises(BackendUnavailableError, match="cuda"):
        nn.Conv2d(1, 2, 1, device="cuda")


# --- Sequential ------------------------------------------------------------------------


def small() -> gc.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 10),
    )


def test_parameters_before_the_first_input() -> None:
    model = small()
    assert sum(p.size for p in model.parameters) == 36 + 4 + 8 + 640 + 10
    kernels = [p.numpy() for p in model.parameters]
    assert model(np.zeros((3, 1, 8, 8), "float32")).shape == (3, 10)
    for p, before in zip(model.parameters, kernels, strict=True):
        np.testing.assert_array_equal(p.value, before)
    assert len({p.path for p in model.parameters}) == 6
    assert all(p.path.startswith("sequential") for p in model.parameters)


def test_a_sequential_checks_layers_that_were_built_before() -> None:
    x = np.zeros((2, 3), "float32")
    with pytest.raises(ShapeError, match="expected 5 features"):
        nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))(x)
    with pytest.raises(ShapeError, match="expected 6 channels"):
        nn.Sequential(nn.Conv1d(3, 4, 1), nn.Conv1d(6, 2, 1))(np.zeros((2, 3, 5), "float32"))
    with pytest.raises(ShapeError, match="normalized axes"):
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5))(x)
    model = nn.Sequential(nn.Linear(3, 4))
    model(x)
    with pytest.raises(ShapeError, match="expected 7 features"):
        model.add(nn.Linear(7, 2))
    assert len(model.layers) == 1
    assert model(x).shape == (2, 4)


def test_other_extents_than_the_first_ones() -> None:
    model = small()
    model(np.zeros((2, 1, 8, 8), "float32"))
    with pytest.raises(ShapeError, match="expected 64 features"):
        model(np.zeros((2, 1, 10, 8), "float32"))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert pooled(np.zeros((2, 1, 8, 8), "float32")).shape == (2, 2)
    assert pooled(np.zeros((2, 1, 5, 9), "float32")).shape == (2, 2)


def test_names_from_a_dict() -> None:
    first, second = nn.Linear(3, 4), nn.ReLU()
    model = nn.Sequential(OrderedDict([("first", first), ("second", second)]))
    assert model.layers == [first, second]
    assert model.get_layer("first") is first
    model(np.zeros((1, 3), "float32"))
    assert first.parameters[0].path.endswith("/first/kernel")
    for name in ("a/b", "", 3):
        with pytest.raises(InvalidArgumentError, match="name"):
            nn.Sequential({name: nn.ReLU()})


def test_what_a_sequential_refuses() -> None:
    with pytest.raises(InvalidArgumentError, match="expected a layer"):
        nn.Sequential(nn.ReLU(), "relu")
    with pytest.raises(InvalidArgumentError, match="expected a layer"):
        nn.Sequential([nn.ReLU()])
    with pytest.raises(InvalidArgumentError, match="one dtype"):
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, dtype="float64"))
    layer = nn.Linear(2, 2)
    with pytest.raises(InvalidArgumentError, match="once"):
        nn.Sequential(layer, layer)
    other = nn.Linear(2, 2)
    other.backend = "cuda"  # as if it lay there
    with pytest.raises(InvalidArgumentError, match="one device"):
        nn.Sequential(layer, other)


def test_layers_of_both_kinds_in_one_model() -> None:
    model = gc.Sequential(
        [
            nn.Conv2d(2, 3, 3, dtype="float64"),
            nn.ReLU(),
            layers.GlobalAveragePooling2D(data_format="channels_first", dtype="float64"),
            layers.Dense(2, dtype="float64"),
        ]
    )
    y = model(np.ones((2, 2, 4, 4)))
    assert y.dtype == np.float64
    assert y.shape == (2, 2)
    assert model.dtype == "float64"


def test_training_by_hand() -> None:
    gc.set_seed(1)
    model = small()
    optimizer = nn.optim.SGD(model.parameters, lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(20, 1, 8, 8)).astype("float32"), rng.integers(0, 10, 20)
    losses = []
    for _ in range(25):
        y, backward = model.forward(x, training=True)
        value, dy = criterion.forward(y, labels)
        backward(dy)
        optimizer.step()
        losses.append(float(value))
    assert losses[0] > 1.5
    assert losses[-1] < 0.05


def test_fit_save_and_load(tmp_path: Path) -> None:
    gc.set_seed(2)
    model = small()
    model.compile(nn.optim.Adam(lr=0.01), gc.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(20, 1, 8, 8)).astype("float32"), rng.integers(0, 10, 20)
    model.fit(x, labels, epochs=2, verbose=0)
    model.save(tmp_path / "model.safetensors")
    again = gc.load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again(x), model(x))
    # The optimizer's state was kept too: the next step is the same.
    for each in (model, again):
        each.train_on_batch(x, labels)
    np.testing.assert_array_equal(again(x), model(x))


# --- losses ----------------------------------------------------------------------------


def test_losses_take_the_output_first() -> None:
    y, target = np.array([[1.0, 4.0]]), np.array([[0.0, 0.0]])
    value, dy = nn.MSELoss().forward(y, target)
    assert value == pytest.approx(8.5)
    np.testing.assert_allclose(dy, [[1.0, 4.0]])
    value, dy = nn.L1Loss(reduction="sum").forward(y, target)
    assert value == pytest.approx(5.0)
    np.testing.assert_allclose(dy, [[1.0, 1.0]])
    value, dy = nn.HuberLoss(reduction="none", delta=2.0).forward(y, target)
    np.testing.assert_allclose(value, [[0.5, 6.0]])
    np.testing.assert_allclose(dy, [[1.0, 2.0]])


def test_cross_entropy_of_channels_first_logits() -> None:
    logits = np.array([[8.0, 1, 1], [0, 9, 1], [2, 3, 5]])
    value = nn.CrossEntropyLoss(reduction="none")(logits, np.array([0, 1, 2]))
    np.testing.assert_allclose(value, [0.001822, 0.000459, 0.169846], atol=1e-6)
    # The same three samples as three pixels of one image.
    image = logits.T[None, :, :, None]
    value, dy = nn.CrossEntropyLoss().forward(image, np.array([[[0], [1], [2]]]))
    assert value == pytest.approx(0.0573758, abs=1e-6)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(dy[0, :, :, 0].T, (p - np.eye(3)) / 3, atol=1e-12)


def test_losses_keep_the_container() -> None:
    y = gc.tensor(np.ones((2, 3), "float32"))
    value, dy = nn.CrossEntropyLoss().forward(y, [0, 2])
    assert isinstance(value, gc.Tensor)
    assert isinstance(dy, gc.Tensor)
    assert dy.shape == (2, 3)


def test_losses_refuse_what_does_not_fit() -> None:
    y = np.ones((2, 3))
    for loss in (nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss()):
        with pytest.raises(ShapeError, match="Received: "):
            loss(y, np.ones((2, 1)))
    loss = nn.CrossEntropyLoss()
    with pytest.raises(ShapeError):
        loss(y, np.array([0, 1, 2]))
    with pytest.raises(ShapeError):
        loss(np.ones(3), np.array([0, 1, 2]))
    with pytest.raises(InvalidArgumentError, match="labels must lie in"):
        loss(y, np.array([0, 3]))
    with pytest.raises(InvalidArgumentError, match="labels must lie in"):
        loss(y, np.array([0, -100]))
    with pytest.raises(DTypeError):
        loss(np.array([0, 1]), y)
