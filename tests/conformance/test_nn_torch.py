"""Every constructor of ``gpuconv.nn`` against the module of PyTorch that it is named after.

PyTorch computes in float64 from the same weights; outputs, input gradients and all parameter
gradients must agree, and where PyTorch refuses an input ours must refuse it too.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import nn  # noqa: E402
from gpuconv.errors import GpuconvError  # noqa: E402
from gpuconv.layers import Layer  # noqa: E402
from gpuconv.random import set_seed  # noqa: E402
from gpuconv.testing import assert_close, assert_exact  # noqa: E402

NDArray = np.ndarray[Any, Any]
Case = tuple[str, dict[str, Any], tuple[int, ...]]
"""Name of a constructor, its arguments, and the shape of an input."""

# PyTorch warns that it pads a second time for even kernels and "same".
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

TORCH_NAMES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}

dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
drawn = settings(max_examples=60, deadline=None)


# --- comparing -------------------------------------------------------------------------


def in_torch_order(name: str, array: NDArray) -> NDArray:
    """Kernels have their axes in the reverse order: (*k, a, b) here, (b, a, *k) there."""
    if name != "kernel":
        return array
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def copy_weights(ours: Layer, theirs: Any) -> None:
    """Give the module the layer's values, in float64."""
    theirs.double()
    named = dict(theirs.named_parameters())
    assert {TORCH_NAMES[p.name] for p in ours.parameters} == set(named)
    for p in ours.parameters:
        there = named[TORCH_NAMES[p.name]]
        value = in_torch_order(p.name, p.numpy())
        assert tuple(there.shape) == value.shape
        there.data = torch.tensor(np.ascontiguousarray(value), dtype=torch.float64)


def compare(ours: Layer, theirs: Any, x: NDArray, seed: int, training: bool = True) -> None:
    """Compare one pass forward and backward."""
    theirs.train(training)
    for p in ours.parameters:
        p.zero_grad()
    theirs.zero_grad()
    x_there = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y_there = theirs(x_there)
    y, backward = ours.forward(x, training=training)
    assert y.dtype == x.dtype
    terms = max(x.size, y.size, 1)
    assert_close(y, y_there.detach().numpy(), terms)
    assert_exact(ours(x, training=False), y) if not training else None

    dy = np.random.default_rng(seed).normal(size=y.shape).astype(x.dtype)
    dx = backward(dy)
    y_there.backward(torch.tensor(dy, dtype=torch.float64))
    assert dx.dtype == x.dtype
    assert_gradient(dx, x_there.grad.numpy(), terms, dy)
    named = dict(theirs.named_parameters())
    for p in ours.parameters:
        assert p.grad is not None
        assert p.grad.dtype == x.dtype
        expected = named[TORCH_NAMES[p.name]].grad.numpy()
        assert_gradient(in_torch_order(p.name, p.grad), expected, terms, dy)


def assert_gradient(actual: NDArray, expected: NDArray, terms: int, dy: NDArray) -> None:
    """Compare relative to ``dy`` where the sums of a normalisation cancel almost to nothing."""
    scale = max(np.abs(expected).max(initial=0.0), np.abs(dy).max(initial=0.0))
    assert_close(actual, expected, terms, scale)


def drawn_input(seed: int, shape: tuple[int, ...]) -> NDArray:
    """The numbers that :func:`agree` compares."""
    return np.random.default_rng(seed).normal(size=shape)


def assume_that_numbers_differ(seed: int, shape: tuple[int, ...], groups: int) -> None:
    """Leave out draws whose groups hardly deviate: dividing by that magnifies every rounding."""
    assume(drawn_input(seed, shape).reshape(groups, -1).std(axis=1).min() > 0.25)


def agree(
    name: str, arguments: dict[str, Any], shape: tuple[int, ...], dtype: str, seed: int
) -> None:
    """Both compute the same from drawn arguments, or both refuse."""
    with_dtype = (
        {"dtype": dtype} if "dtype" in inspect.signature(getattr(nn, name)).parameters else {}
    )
    x = drawn_input(seed, shape).astype(dtype)
    try:
        theirs = getattr(torch.nn, name)(**arguments).double()
        theirs(torch.tensor(x, dtype=torch.float64))
    except (RuntimeError, ValueError):
        with pytest.raises(GpuconvError):
            getattr(nn, name)(**arguments, **with_dtype)(x)
        return
    ours = getattr(nn, name)(**arguments, **with_dtype)
    copy_weights(ours, theirs)
    compare(ours, theirs, x, seed)


# --- signatures ------------------------------------------------------------------------

WITHOUT_MEANING = {"Identity", "Sigmoid", "Tanh"}
"""Modules whose ``*args, **kwargs`` PyTorch ignores or refuses."""
FUNCTIONS = [name for name in nn.__all__ if name != "optim"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_those_of_pytorch(name: str) -> None:
    ours = inspect.signature(getattr(nn, name)).parameters.values()
    theirs = list(inspect.signature(getattr(torch.nn, name).__init__).parameters.values())[1:]
    if name in WITHOUT_MEANING:
        assert not ours
        return
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


@pytest.mark.parametrize("name", nn.optim.__all__)
def test_optimizer_arguments_are_those_of_pytorch(name: str) -> None:
    ours = inspect.signature(getattr(nn.optim, name).__init__).parameters
    theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
    for word, parameter in ours.items():
        assert word in theirs
        if word not in ("self", "params"):  # params may be left out here
            assert parameter.default == theirs[word].default, word
    assert list(ours) == [word for word in theirs if word in ours]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_and_documentation(name: str) -> None:
    constructor = getattr(nn, name)
    assert constructor.__name__ == name
    assert constructor.__doc__


# --- initial values --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Conv1d", {"in_channels": 6, "out_channels": 300, "kernel_size": 5, "groups": 3}),
        ("Conv2d", {"in_channels": 3, "out_channels": 200, "kernel_size": (3, 2)}),
        ("Conv3d", {"in_channels": 4, "out_channels": 80, "kernel_size": 2, "groups": 4}),
        ("ConvTranspose1d", {"in_channels": 6, "out_channels": 300, "kernel_size": 5, "groups": 3}),
        ("ConvTranspose2d", {"in_channels": 90, "out_channels": 400, "kernel_size": (3, 2)}),
        ("ConvTranspose3d", {"in_channels": 8, "out_channels": 240, "kernel_size": 2}),
        ("Linear", {"in_features": 11, "out_features": 500}),
    ],
)
def test_initial_values_have_the_ranges_of_pytorch(name: str, arguments: dict[str, Any]) -> None:
    set_seed(0)
    torch.manual_seed(0)
    ours, theirs = getattr(nn, name)(**arguments), getattr(torch.nn, name)(**arguments)
    for p in ours.parameters:
        there = dict(theirs.named_parameters())[TORCH_NAMES[p.name]].detach().numpy()
        assert p.numpy().dtype == there.dtype
        # Maxima of hundreds of uniform numbers lie within a few per cent of the bound.
        assert np.abs(p.numpy()).max() == pytest.approx(np.abs(there).max(), rel=0.06)
        assert p.numpy().std() == pytest.approx(there.std(), rel=0.15)


# --- convolution -----------------------------------------------------------------------


def per_dimension(draw: Any, rank: int, low: int, high: int) -> Any:
    """An int, or a tuple of one a dimension."""
    numbers = st.integers(low, high)
    return draw(st.one_of(numbers, st.tuples(*[numbers] * rank)))


@st.composite
def convolutions(draw: Any, transposed: bool = False) -> Case:
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    arguments = {
        "in_channels": channels,
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": per_dimension(draw, rank, 1, 4),
        "stride": per_dimension(draw, rank, 1, 3),
        "dilation": per_dimension(draw, rank, 1, 2),
        "padding": per_dimension(draw, rank, 0, 3),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if transposed:
        arguments["output_padding"] = per_dimension(draw, rank, 0, 2)
    else:
        modes = ["zeros", "zeros", "reflect", "replicate", "circular"]
        arguments["padding_mode"] = draw(st.sampled_from(modes))
        if draw(st.integers(0, 2)) == 0:
            arguments["padding"] = draw(st.sampled_from(["same", "valid"]))
            arguments["stride"] = 1 if arguments["padding"] == "same" else arguments["stride"]
    extents = [draw(st.integers(1, 7 if rank < 3 else 5)) for _ in range(rank)]
    name = f"ConvTranspose{rank}d" if transposed else f"Conv{rank}d"
    return name, arguments, (draw(st.integers(1, 2)), channels, *extents)


@given(convolutions(), dtypes, seeds)
@settings(max_examples=150, deadline=None)
def test_convolution(case: Case, dtype: str, seed: int) -> None:
    agree(*case, dtype, seed)


@given(convolutions(transposed=True), dtypes, seeds)
@settings(max_examples=150, deadline=None)
def test_transposed_convolution(case: Case, dtype: str, seed: int) -> None:
    agree(*case, dtype, seed)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_same_padding(kernel: Any, dilation: Any, mode: str) -> None:
    arguments = {
        "in_channels": 2,
        "out_channels": 3,
        "kernel_size": kernel,
        "padding": "same",
        "dilation": dilation,
        "padding_mode": mode,
    }
    agree("Conv2d", arguments, (2, 2, 7, 8), "float64", 1)


# --- pooling ---------------------------------------------------------------------------


@st.composite
def poolings(draw: Any, kind: str) -> Case:
    """Windows that fit into the input before padding.

    PyTorch 2.13 is no oracle for others: its max pooling writes outside of its arrays where a
    window lies in the padding alone, and its 3-D average pooling alone refuses small inputs.
    """
    rank = draw(st.integers(1, 3))
    window = draw(st.tuples(*[st.integers(1, 4)] * rank))
    dilation = draw(st.tuples(*[st.integers(1, 2 if kind == "Max" else 1)] * rank))
    arguments = {
        "kernel_size": window,
        "stride": draw(st.one_of(st.none(), st.integers(1, 4))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in window),
        "ceil_mode": draw(st.booleans()),
    }
    if kind == "Max":
        arguments["dilation"] = dilation
    else:
        arguments["count_include_pad"] = draw(st.booleans())
        if rank > 1:
            arguments["divisor_override"] = draw(st.one_of(st.none(), st.integers(1, 5)))
    extents = [
        d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(window, dilation, strict=True)
    ]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *extents)
    return f"{kind}Pool{rank}d", arguments, shape


@given(poolings("Max"), dtypes, seeds)
@drawn
def test_max_pooling(case: Case, dtype: str, seed: int) -> None:
    agree(*case, dtype, seed)


@given(poolings("Avg"), dtypes, seeds)
@drawn
def test_average_pooling(case: Case, dtype: str, seed: int) -> None:
    agree(*case, dtype, seed)


@given(st.data(), st.sampled_from(["Avg", "Max"]), st.integers(1, 3), dtypes, seeds)
@drawn
def test_adaptive_pooling(data: Any, kind: str, rank: int, dtype: str, seed: int) -> None:
    sizes = st.integers(1, 6)
    if rank == 1:
        output_size = data.draw(st.one_of(sizes, st.tuples(sizes)))
    else:
        output_size = data.draw(st.one_of(sizes, st.tuples(*[st.none() | sizes] * rank)))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=rank + 2, max_size=rank + 2)))
    agree(f"Adaptive{kind}Pool{rank}d", {"output_size": output_size}, shape, dtype, seed)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 9},
        {"kernel_size": 2, "stride": 0},
        {"kernel_size": 0},
        {"kernel_size": (2, 2, 2)},
        {"kernel_size": 2, "padding": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["MaxPool2d", "AvgPool2d"])
def test_both_refuse_impossible_pooling(name: str, arguments: dict[str, Any]) -> None:
    x = np.ones((1, 2, 5, 5))
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        getattr(torch.nn, name)(**arguments)(torch.tensor(x))
    with pytest.raises(GpuconvError):
        getattr(nn, name)(**arguments)(x)


@pytest.mark.parametrize(
    ("name", "argument"), [("MaxPool2d", 3), ("MaxPool1d", 2), ("AdaptiveMaxPool2d", 3)]
)
def test_ties_go_to_the_same_position(name: str, argument: int) -> None:
    rank = int(name[-2])
    x = np.random.default_rng(2).integers(0, 2, size=(2, 3, *[8, 9][:rank])).astype("float32")
    compare(getattr(nn, name)(argument), getattr(torch.nn, name)(argument), x, 3)


# --- normalisation ---------------------------------------------------------------------

BATCH_NORM_SHAPES = [(1, (6, 4)), (1, (3, 4, 5)), (2, (3, 4, 2, 3)), (3, (2, 4, 2, 1, 3))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rank", "shape"), BATCH_NORM_SHAPES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": None},
        {"momentum": 0.3, "eps": 0.1},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_batch_norm(
    rank: int, shape: tuple[int, ...], arguments: dict[str, Any], dtype: str
) -> None:
    rng = np.random.default_rng(5)
    ours = getattr(nn, f"BatchNorm{rank}d")(4, **arguments, dtype=dtype)
    theirs = getattr(torch.nn, f"BatchNorm{rank}d")(4, **arguments)
    for p in ours.parameters:
        p.assign(rng.normal(size=p.shape))
    copy_weights(ours, theirs)
    for step in range(5):
        x = (rng.normal(size=shape) * (step + 1) + step).astype(dtype)
        compare(ours, theirs, x, step)
        if theirs.running_mean is not None:
            assert_close(ours.moving_mean, theirs.running_mean.numpy(), x.size)
            assert_close(ours.moving_variance, theirs.running_var.numpy(), x.size)
    compare(ours, theirs, rng.normal(size=shape).astype(dtype), 6, training=False)


@given(st.data(), dtypes, seeds)
@drawn
def test_layer_norm(data: Any, dtype: str, seed: int) -> None:
    extents = tuple(data.draw(st.lists(st.integers(4, 6), min_size=2, max_size=4)))
    count = data.draw(st.integers(1, len(extents)))
    shape: Any = extents[-count:]
    arguments = {
        "normalized_shape": shape[0] if count == 1 and data.draw(st.booleans()) else shape,
        "eps": data.draw(st.sampled_from([1e-5, 0.1])),
        "elementwise_affine": data.draw(st.booleans()),
        "bias": data.draw(st.booleans()),
    }
    rows = 2 * math.prod(extents) // math.prod(shape)
    assume_that_numbers_differ(seed, (2, *extents), rows)
    agree("LayerNorm", arguments, (2, *extents), dtype, seed)


@given(st.data(), dtypes, seeds)
@drawn
def test_group_norm(data: Any, dtype: str, seed: int) -> None:
    groups, each = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    extents = data.draw(st.lists(st.integers(4, 6), min_size=1, max_size=3))
    arguments = {
        "num_groups": groups,
        "num_channels": groups * each,
        "eps": data.draw(st.sampled_from([1e-5, 0.1])),
        "affine": data.draw(st.booleans()),
        "bias": data.draw(st.booleans()),
    }
    assume_that_numbers_differ(seed, (2, groups * each, *extents), 2 * groups)
    agree("GroupNorm", arguments, (2, groups * each, *extents), dtype, seed)


# --- the others ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool, dtype: str) -> None:
    agree("Linear", {"in_features": 5, "out_features": 7, "bias": bias}, shape, dtype, 3)


POINTWISE: list[tuple[str, dict[str, Any]]] = [
    ("ReLU", {}),
    ("ReLU", {"inplace": True}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.3, "inplace": True}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.5}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Softmax", {"dim": 1}),
    ("Softmax", {"dim": -1}),
    ("Softmax", {"dim": 2}),
    ("LogSoftmax", {"dim": -1}),
    ("Identity", {}),
    ("Flatten", {}),
    ("Flatten", {"start_dim": 2}),
    ("Flatten", {"start_dim": 1, "end_dim": 2}),
    ("Flatten", {"start_dim": -2, "end_dim": -1}),
    ("ZeroPad2d", {"padding": 2}),
    ("ZeroPad2d", {"padding": (1, 2, 3, 0)}),
    ("Upsample", {"scale_factor": 2}),
    ("Upsample", {"scale_factor": (3, 1)}),
    ("Upsample", {"scale_factor": 3.0, "mode": "bilinear"}),
    ("Upsample", {"scale_factor": (2, 3), "mode": "bilinear", "align_corners": False}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "given_arguments"), POINTWISE, ids=str)
def test_layers_without_parameters(name: str, given_arguments: dict[str, Any], dtype: str) -> None:
    arguments = dict(given_arguments)
    x = (np.random.default_rng(4).normal(size=(2, 3, 4, 5)) * 3).astype(dtype)
    x[0, 0, 0, :2] = 0.0
    theirs = getattr(torch.nn, name)(
        **{**arguments, **({"inplace": False} if "inplace" in arguments else {})}
    )
    ours = getattr(nn, name)(**arguments)
    compare(ours, theirs, x, 5)
    compare(ours, theirs, x, 6, training=False)


@pytest.mark.parametrize(("factors", "shape"), [((3,), (2, 3, 4)), ((2, 1, 3), (1, 2, 2, 3, 2))])
def test_upsampling_in_other_dimensions(factors: tuple[int, ...], shape: tuple[int, ...]) -> None:
    agree("Upsample", {"scale_factor": factors}, shape, "float64", 7)


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_without_chance(name: str, p: float) -> None:
    x = np.random.default_rng(8).normal(size=(2, 3, 4, 5))
    for training in (True, False):
        compare(getattr(nn, name)(p), getattr(torch.nn, name)(p), x, 9, training)


@pytest.mark.parametrize(("name", "units"), [("Dropout", 60), ("Dropout2d", 3)])
def test_dropout_drops_what_pytorch_drops(name: str, units: int) -> None:
    """Values are x / (1 - p) or 0, as often, and constant over what is dropped together."""
    p, x = 0.3, np.ones((400, 3, 4, 5))
    torch.manual_seed(0)
    masks = [
        getattr(nn, name)(p)(x, training=True),
        getattr(torch.nn, name)(p)(torch.tensor(x)).numpy(),
    ]
    for mask in masks:
        assert_close(np.unique(mask), np.array([0.0, 1 / 0.7]))
        rates = (mask == 0).reshape(400, units, -1).mean(axis=2)
        assert set(np.unique(rates)) == {0.0, 1.0}
        assert rates.mean() == pytest.approx(p, abs=0.05)


# --- containers ------------------------------------------------------------------------


def test_sequential() -> None:
    def network(lib: Any, **dtype: Any) -> Any:
        return lib.Sequential(
            lib.Conv2d(2, 6, 3, padding=1, groups=2, **dtype),
            lib.BatchNorm2d(6, **dtype),
            lib.LeakyReLU(),
            lib.MaxPool2d(3, 2, padding=1),
            lib.Conv2d(6, 4, 2, stride=2, bias=False, **dtype),
            lib.GroupNorm(2, 4, **dtype),
            lib.SiLU(),
            lib.Upsample(scale_factor=2, mode="bilinear"),
            lib.ConvTranspose2d(4, 3, 3, **dtype),
            lib.AdaptiveAvgPool2d((2, None)),
            lib.Flatten(),
            lib.LayerNorm(3 * 2 * 6, **dtype),
            lib.Linear(36, 5, **dtype),
            lib.Softmax(dim=1),
        )

    ours, theirs = network(nn, dtype="float64"), network(torch.nn).double()
    pairs = list(zip(ours.parameters, theirs.parameters(), strict=True))
    for p, there in pairs:
        value = in_torch_order(p.name, p.numpy())
        there.data = torch.tensor(np.ascontiguousarray(value))
    rng = np.random.default_rng(10)
    for training in (True, True, False):
        theirs.train(training)
        theirs.zero_grad()
        ours.zero_grad()
        x, dy = rng.normal(size=(3, 2, 8, 7)), rng.normal(size=(3, 5))
        x_there = torch.tensor(x, requires_grad=True)
        y_there = theirs(x_there)
        y_there.backward(torch.tensor(dy))
        y, backward = ours.forward(x, training=training)
        assert_close(y, y_there.detach().numpy(), 1000)
        assert_gradient(backward(dy), x_there.grad.numpy(), 10000, dy)
        for p, there in pairs:
            assert p.grad is not None
            assert_gradient(in_torch_order(p.name, p.grad), there.grad.numpy(), 10000, dy)


# --- losses ----------------------------------------------------------------------------


def compare_loss(name: str, arguments: dict[str, Any], y: NDArray, target: NDArray) -> None:
    y_there = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    value_there = getattr(torch.nn, name)(**arguments)(
        y_there, torch.tensor(target if target.dtype.kind == "i" else target.astype("float64"))
    )
    value_there.sum().backward()
    value, dy = getattr(nn, name)(**arguments).forward(y, target)
    assert value.dtype == dy.dtype == y.dtype
    assert_close(value, value_there.detach().numpy(), 100)
    assert_close(dy, y_there.grad.numpy(), 100)
    assert_exact(getattr(nn, name)(**arguments)(y, target), value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    ("name", "more"),
    [("MSELoss", {}), ("L1Loss", {}), ("HuberLoss", {"delta": 0.7}), ("BCEWithLogitsLoss", {})],
)
def test_elementwise_losses(
    name: str, more: dict[str, Any], shape: tuple[int, ...], reduction: str, dtype: str
) -> None:
    rng = np.random.default_rng(11)
    y, target = (rng.normal(size=shape) * 2).astype(dtype), rng.random(shape).astype(dtype)
    compare_loss(name, {"reduction": reduction, **more}, y, target)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3), (2, 3, 3, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(
    shape: tuple[int, ...], reduction: str, smoothing: float, dtype: str
) -> None:
    rng = np.random.default_rng(12)
    y = (rng.normal(size=shape) * 3).astype(dtype)
    arguments = {"reduction": reduction, "label_smoothing": smoothing}
    numbers = rng.integers(0, shape[1], size=(shape[0], *shape[2:]))
    compare_loss("CrossEntropyLoss", arguments, y, numbers)
    probabilities = rng.random(shape)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    compare_loss("CrossEntropyLoss", arguments, y, probabilities.astype(dtype))
