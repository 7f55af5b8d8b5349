"""The reference against PyTorch, on the tables of cases and on drawn parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

import torch.nn.functional as F  # noqa: E402
from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv.testing import assert_close, assert_exact, reference  # noqa: E402
from gpuconv.testing.cases import (  # noqa: E402
    AVG_POOL_CASES,
    CONV_CASES,
    CONV_TRANSPOSE_CASES,
    MAX_POOL_CASES,
    AvgPoolCase,
    ConvCase,
    ConvTransposeCase,
    MaxPoolCase,
    generator,
    small_integers,
)

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE: dict[int, tuple[Any, Any]] = {
    1: (F.adaptive_avg_pool1d, F.adaptive_max_pool1d),
    2: (F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    3: (F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
}


def leaf(array: np.ndarray, axes: tuple[int, ...]) -> Any:
    """A float64 torch tensor with its axes moved, that collects a gradient."""
    return torch.tensor(
        np.ascontiguousarray(array.transpose(axes)), dtype=torch.float64
    ).requires_grad_()


def first(ndim: int) -> tuple[int, ...]:
    """Axes that bring channels-last to channels-first."""
    return (0, ndim - 1, *range(1, ndim - 1))


def last(tensor: Any) -> np.ndarray:
    """A channels-last NumPy array of a channels-first tensor."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def kernel_first(ndim: int) -> tuple[int, ...]:
    """Axes that bring (*k, a, b) to (b, a, *k), PyTorch's order for both convolutions."""
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def kernel_last(tensor: Any) -> np.ndarray:
    """(b, a, *k) back to (*k, a, b)."""
    array = tensor.numpy()
    return array.transpose(*range(2, array.ndim), 1, 0)


def torch_pads(pads: list[tuple[int, int]]) -> list[int]:
    """PyTorch's flat list, last dimension first."""
    return [p for pair in reversed(pads) for p in pair]


def pads_of(case: ConvCase | MaxPoolCase | AvgPoolCase, kernel: Any) -> list[tuple[int, int]]:
    options = case.options

    def axes(value: Any) -> list[int]:
        return [value] * case.rank if isinstance(value, int) else list(value)

    stride = kernel if options["stride"] is None else options["stride"]
    return reference.resolve_pads(
        options["padding"],
        case.input,
        axes(kernel),
        axes(stride),
        axes(options.get("dilation", 1)),
    )


def check_conv(case: ConvCase) -> None:
    rng = generator(case.id)
    x, w = (small_integers(rng, s, np.float64) for s in (case.x_shape, case.w_shape))
    bias = small_integers(rng, (case.filters,), np.float64)
    y = reference.conv(x, w, bias, **case.options)
    dy = small_integers(rng, y.shape, np.float64)

    tx, tw, tb = leaf(x, first(x.ndim)), leaf(w, kernel_first(w.ndim)), leaf(bias, (0,))
    mode = {"zeros": "constant"}.get(case.padding_mode, case.padding_mode)
    padded = F.pad(tx, torch_pads(pads_of(case, case.kernel)), mode=mode)
    ty = CONV[case.rank](padded, tw, tb, case.stride, 0, case.dilation, case.groups)
    assert_exact(y, last(ty))
    ty.backward(torch.tensor(dy).movedim(-1, 1))
    assert_exact(reference.conv_backward_input(dy, w, x.shape, **case.options), last(tx.grad))
    assert_exact(
        reference.conv_backward_weight(dy, x, w.shape, **case.options), kernel_last(tw.grad)
    )
    assert_exact(reference.sum_channels(dy), tb.grad.numpy())


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_convolution(case: ConvCase) -> None:
    check_conv(case)


@st.composite
def convolutions(draw: st.DrawFn) -> ConvCase:
    rank = draw(st.integers(1, 3))
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))

    def ints(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    input, kernel, dilation = ints(1, 7), ints(1, 3), ints(1, 3)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    pads = []
    for n, k, d in zip(input, kernel, dilation, strict=True):
        limit = {"reflect": n - 1, "circular": n}.get(mode, 4)
        lo, hi = draw(st.integers(0, limit)), draw(st.integers(0, limit))
        pads.append((lo, hi))
        assume(n + lo + hi > d * (k - 1))
    return ConvCase(
        id="drawn",
        input=input,
        kernel=kernel,
        batch=draw(st.integers(1, 2)),
        channels=groups * per_group,
        filters=groups * draw(st.integers(1, 2)),
        stride=ints(1, 4),
        padding=tuple(pads),
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=convolutions())
def test_drawn_convolution(case: ConvCase) -> None:
    check_conv(case)


@pytest.mark.parametrize("case", CONV_TRANSPOSE_CASES, ids=str)
def test_transposed_convolution(case: ConvTransposeCase) -> None:
    rng = generator(case.id)
    x, w = (small_integers(rng, s, np.float64) for s in (case.x_shape, case.w_shape))
    bias = small_integers(rng, (case.filters,), np.float64)
    y = reference.conv_transpose(x, w, bias, **case.options)
    dy = small_integers(rng, y.shape, np.float64)

    tx, tw, tb = leaf(x, first(x.ndim)), leaf(w, kernel_first(w.ndim)), leaf(bias, (0,))
    function = CONV_TRANSPOSE[case.rank]
    pads = reference.resolve_pads(case.padding, case.input, case.kernel, (1,) * 3, (1,) * 3)
    # PyTorch's pads are symmetric: cut them here.
    ty = function(tx, tw, tb, case.stride, 0, case.output_padding, case.groups, case.dilation)
    for axis, (lo, hi) in enumerate(pads, start=2):
        ty = ty.narrow(axis, lo, ty.shape[axis] - lo - hi)
    assert_exact(y, last(ty))
    ty.backward(torch.tensor(dy).movedim(-1, 1))
    dx = reference.conv_transpose_backward_input(dy, w, x.shape, **case.options)
    dw = reference.conv_transpose_backward_weight(dy, x, w.shape, **case.options)
    assert_exact(dx, last(tx.grad))
    assert_exact(dw, kernel_last(tw.grad))


@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_max_pool(case: MaxPoolCase) -> None:
    rng = generator(case.id)
    x = small_integers(rng, case.x_shape, np.float64, 0, 1 if case.ties else 50)
    y, indices = reference.max_pool(x, **case.options)
    dy = small_integers(rng, y.shape, np.float64)
    tx = leaf(x, first(x.ndim))
    pads = pads_of(case, case.kernel_size)
    symmetric = all(lo == hi for lo, hi in pads)
    if symmetric:
        given, padding = tx, [lo for lo, _ in pads]
    else:  # PyTorch cannot: let it see the padding as elements that never win
        given, padding = F.pad(tx, torch_pads(pads), value=-float("inf")), [0] * case.rank
    ty, torch_indices = MAX_POOL[case.rank](
        given, case.kernel_size, case.stride, padding, case.dilation, case.ceil_mode, True
    )
    assert_exact(y, last(ty))
    if symmetric:
        assert_exact(indices, last(torch_indices))
    ty.backward(torch.tensor(dy).movedim(-1, 1))
    assert_exact(reference.max_pool_backward(dy, indices, x.shape), last(tx.grad))


@pytest.mark.parametrize("case", AVG_POOL_CASES, ids=str)
def test_avg_pool(case: AvgPoolCase) -> None:
    rng = generator(case.id)
    x = rng.standard_normal(case.x_shape)
    y = reference.avg_pool(x, **case.options)
    dy = rng.standard_normal(y.shape)
    tx = leaf(x, first(x.ndim))
    pads = pads_of(case, case.kernel_size)
    padding = [lo for lo, _ in pads]

    def pool(t: Any, padding: list[int]) -> Any:
        arguments = [t, case.kernel_size, case.stride, padding, case.ceil_mode]
        arguments.append(case.count_include_pad)
        if case.rank > 1:
            arguments.append(case.divisor_override)
        return AVG_POOL[case.rank](*arguments)

    if all(lo == hi for lo, hi in pads):
        ty = pool(tx, padding)
    else:  # PyTorch cannot: pad with zeros first, and count the real elements if they count
        none = [0] * case.rank
        ty = pool(F.pad(tx, torch_pads(pads)), none)
        if not case.count_include_pad:
            ty = ty / pool(F.pad(torch.ones_like(tx), torch_pads(pads)), none)
    assert_close(y, last(ty), 27)
    ty.backward(torch.tensor(dy).movedim(-1, 1))
    assert_close(reference.avg_pool_backward(dy, x.shape, **case.options), last(tx.grad), 27)


@pytest.mark.parametrize(
    ("input", "output"), [((7,), (3,)), ((5, 8), (3, 3)), ((3, 2), (5, 4)), ((4, 5, 6), (2, 3, 1))]
)
def test_adaptive_pools(input: tuple[int, ...], output: tuple[int, ...]) -> None:
    x = generator("adaptive").standard_normal((2, *input, 3))
    tx, rank = leaf(x, first(x.ndim)), len(input)
    average, maximum = ADAPTIVE[rank]
    assert_close(reference.adaptive_avg_pool(x, output), last(average(tx, output)), 27)
    y, indices = reference.adaptive_max_pool(x, output)
    ty, torch_indices = maximum(tx, output, True)
    assert_exact(y, last(ty))
    assert_exact(indices, last(torch_indices))


TORCH_ACTIVATIONS = {
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "elu": lambda x: F.elu(x, 0.3),
    "selu": lambda x: F.selu(x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "hard_sigmoid": lambda x: F.hardsigmoid(x),
    "tanh": lambda x: torch.tanh(x),
    "exponential": lambda x: torch.exp(x),
    "gelu": lambda x: F.gelu(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x),
    "hard_silu": lambda x: F.hardswish(x),
    "mish": lambda x: F.mish(x),
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "softsign": lambda x: F.softsign(x),
}


@pytest.mark.parametrize("kind", reference.FUNCTIONS)
def test_activations(kind: str) -> None:
    x = np.array([-20.0, -6, -3, -1.5, -1e-3, 0, 1e-3, 0.5, 2, 3, 6, 8, 20])
    tx = leaf(x, (0,))
    ty = TORCH_ACTIVATIONS[kind](tx)
    ty.sum().backward()
    assert_close(reference.activation(x, kind, 0.3), ty.detach().numpy())
    backward = reference.activation_backward(np.ones_like(x), x, kind, 0.3)
    if kind == "hard_sigmoid":  # PyTorch multiplies by a float32 1/6 here
        backward = np.where(backward > 0, float(np.float32(1 / 6)), 0.0)
    assert_close(backward, tx.grad.numpy())


def test_softmax() -> None:
    x = generator("softmax").standard_normal((3, 2, 5)) * 10
    dy = generator("dy").standard_normal(x.shape)
    tx = leaf(x, (0, 1, 2))
    ty = F.softmax(tx, dim=-1)
    ty.backward(torch.tensor(dy))
    assert_close(reference.softmax(x), ty.detach().numpy())
    assert_close(reference.log_softmax(x), F.log_softmax(tx, dim=-1).detach().numpy())
    dx = reference.softmax_backward(dy, reference.softmax(x))
    assert_close(dx, tx.grad.numpy(), 5)


def test_losses() -> None:
    rng = generator("losses")
    logits, labels = 3 * rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    outputs, targets = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    binary = rng.integers(0, 2, (6, 4)).astype(float)
    t_logits, t_labels = torch.tensor(logits), torch.tensor(labels)
    t_outputs, t_targets = torch.tensor(outputs), torch.tensor(targets)
    assert_close(
        reference.sparse_categorical_crossentropy(labels, logits, True),
        F.cross_entropy(t_logits, t_labels, reduction="none").numpy(),
        4,
    )
    one_hot = reference.one_hot(labels, 4)
    assert_close(
        reference.categorical_crossentropy(one_hot, logits, True, 0.2),
        F.cross_entropy(t_logits, t_labels, reduction="none", label_smoothing=0.2).numpy(),
        4,
    )
    expected = F.binary_cross_entropy_with_logits(t_logits, torch.tensor(binary), reduction="none")
    found = reference.binary_crossentropy(binary, logits, True)
    assert_close(found, expected.mean(-1).numpy(), 4)
    for function, torch_function in (
        (reference.mean_squared_error, F.mse_loss),
        (reference.mean_absolute_error, F.l1_loss),
        (reference.huber, F.huber_loss),
    ):
        found = reference.reduce_loss(function(targets, outputs))
        assert found == pytest.approx(torch_function(t_outputs, t_targets).item(), rel=1e-13)


def test_normalizations() -> None:
    rng = generator("norms")
    x = rng.standard_normal((3, 4, 5, 6))
    gamma, beta = rng.standard_normal(6), rng.standard_normal(6)
    tx, tg, tb = leaf(x, first(4)), torch.tensor(gamma), torch.tensor(beta)

    y, mean, variance = reference.batch_norm(x, gamma, beta, 1e-3)
    running_mean, running_variance = torch.zeros(6).double(), torch.zeros(6).double()
    ty = F.batch_norm(tx, running_mean, running_variance, tg, tb, True, 1.0, 1e-3)
    assert_close(y, last(ty), 60)
    assert_close(mean, running_mean.numpy(), 60)
    assert_close(variance * 60 / 59, running_variance.numpy(), 60)
    ty = F.batch_norm(tx, running_mean, running_variance, tg, tb, False, 0.0, 1e-3)
    found = reference.batch_norm_inference(x, gamma, beta, mean, variance * 60 / 59, 1e-3)
    assert_close(found, last(ty), 60)

    ty = F.group_norm(tx, 3, tg, tb, 1e-3)
    assert_close(reference.group_norm(x, gamma, beta, 3, 1e-3), last(ty), 40)
    ty = F.layer_norm(torch.tensor(x), (6,), tg, tb, 1e-3)
    assert_close(reference.layer_norm(x, gamma, beta, 1e-3), ty.numpy(), 6)
    gamma, beta = rng.standard_normal((5, 6)), rng.standard_normal((5, 6))
    ty = F.layer_norm(torch.tensor(x), (5, 6), torch.tensor(gamma), torch.tensor(beta), 1e-3)
    assert_close(reference.layer_norm(x, gamma, beta, 1e-3, (-2, -1)), ty.numpy(), 30)


@pytest.mark.parametrize(
    ("shape", "factor", "mode"),
    [
        ((2, 5, 3), 3, "linear"),
        ((2, 3, 4, 2), (2, 3), "bilinear"),
        ((1, 1, 2, 1), 4, "bilinear"),
        ((1, 2, 3, 2, 2), (2, 1, 3), "trilinear"),
    ],
)
def test_upsampling(shape: tuple[int, ...], factor: Any, mode: str) -> None:
    x = generator(mode).standard_normal(shape)
    tx = leaf(x, first(x.ndim))
    assert_exact(
        reference.upsample_nearest(x, factor),
        last(F.interpolate(tx, scale_factor=factor, mode="nearest")),
    )
    smooth = F.interpolate(tx, scale_factor=factor, mode=mode, align_corners=False)
    assert_close(reference.upsample_bilinear(x, factor), last(smooth), 8)


def test_dense() -> None:
    rng = generator("dense")
    x, w, bias = (rng.standard_normal(s) for s in ((2, 3, 4), (4, 5), (5,)))
    tx, tw, tb = leaf(x, (0, 1, 2)), leaf(w, (1, 0)), leaf(bias, (0,))
    ty = F.linear(tx, tw, tb)
    assert_close(reference.dense(x, w, bias), ty.detach().numpy(), 4)
    dy = rng.standard_normal(ty.shape)
    ty.backward(torch.tensor(dy))
    dx, dw, dbias = reference.dense_backward(dy, x, w)
    assert_close(dx, tx.grad.numpy(), 5)
    assert_close(dw, tw.grad.numpy().T, 6)
    assert_close(dbias, tb.grad.numpy(), 6)
