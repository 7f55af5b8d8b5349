"""``gpuconv.ops`` convolutions against PyTorch: drawn parameters, and layers of known networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import ops  # noqa: E402
from gpuconv.errors import GpuconvError  # noqa: E402
from gpuconv.testing import assert_close, assert_exact  # noqa: E402
from gpuconv.testing.cases import small_integers  # noqa: E402

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def leaf(array: Any) -> Any:
    """A float64 torch tensor that collects a gradient."""
    return torch.tensor(np.asarray(array), dtype=torch.float64).requires_grad_()


def torch_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """``(lo, hi)`` a dimension in the order of ``torch.nn.functional.pad``: the last first."""
    return [p for pair in reversed(pads) for p in pair]


@st.composite
def convolutions(draw: Any, transposed: bool = False) -> dict[str, Any]:
    """Shapes in PyTorch's order and options; most of them possible."""
    rank = draw(st.integers(1, 3))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, filters_of_group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if groups > 1 and min(per_group, filters_of_group) == 1:
        # Depthwise, or that transposed: a kernel is compiled for each number of channels.
        groups = 4
        per_group, filters_of_group = draw(st.sampled_from([(1, 1), (1, 2), (2, 1)]))
    filters = groups * filters_of_group
    extents = each(1, 2, 3, 5, 8) if rank == 3 else each(1, 3, 6, 9, 12)
    kernel = each(1, 1, 2, 3, 3, 4)
    options: dict[str, Any] = {
        "stride": each(1, 1, 2, 3),
        "dilation": each(1, 1, 1, 2, 3),
        "groups": groups,
    }
    channels = per_group * groups
    if transposed:
        options["padding"] = each(0, 0, 1, 2)
        options["output_padding"] = each(0, 0, 0, 1, 2)
        w_shape: tuple[int, ...] = (channels, filters // groups, *kernel)
    else:
        options["padding"] = tuple(zip(each(0, 0, 1, 2, 4), each(0, 0, 1, 3), strict=True))
        options["padding_mode"] = draw(
            st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])
        )
        w_shape = (filters, per_group, *kernel)
    return {
        "rank": rank,
        "x": (draw(st.sampled_from([1, 1, 2, 3])), channels, *extents),
        "w": w_shape,
        "filters": filters,
        "options": options,
        "seed": draw(st.integers(0, 2**16)),
    }


def refused(call: Any) -> bool:
    """Whether PyTorch refuses a call."""
    try:
        call()
    except (RuntimeError, ValueError):
        return True
    return False


@settings(max_examples=120, deadline=None)
@given(convolutions())
def test_convolution(case: dict[str, Any]) -> None:
    rank, rng, options = case["rank"], np.random.default_rng(case["seed"]), case["options"]
    x, w = small_integers(rng, case["x"]), small_integers(rng, case["w"])
    bias = small_integers(rng, (case["filters"],))
    there = {k: options[k] for k in ("stride", "dilation", "groups")}
    mode = {"zeros": "constant"}.get(options["padding_mode"], options["padding_mode"])

    def in_torch(x: Any, w: Any, bias: Any) -> Any:
        padded = F.pad(x, torch_pads(options["padding"]), mode)
        return CONV[rank](padded, w, bias, **there)

    name, layout = f"conv{rank}d", FIRST[rank]
    leaves = leaf(x), leaf(w), leaf(bias)
    if refused(lambda: in_torch(*leaves)):
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, w, bias, layout=layout, **options)
        return
    want = in_torch(*leaves)
    assert_exact(getattr(ops, name)(x, w, bias, layout=layout, **options), want.detach().numpy())
    dy = small_integers(rng, tuple(want.shape))
    want.backward(torch.tensor(dy, dtype=torch.float64))
    dx = getattr(ops, f"{name}_backward_input")(dy, w, x.shape, layout=layout, **options)
    dw = getattr(ops, f"{name}_backward_weight")(dy, x, w.shape, layout=layout, **options)
    assert_exact(dx, leaves[0].grad.numpy())
    assert_exact(dw, leaves[1].grad.numpy())


@settings(max_examples=100, deadline=None)
@given(convolutions(transposed=True))
def test_transposed_convolution(case: dict[str, Any]) -> None:
    rank, rng, options = case["rank"], np.random.default_rng(case["seed"]), case["options"]
    x, w = small_integers(rng, case["x"]), small_integers(rng, case["w"])
    bias = small_integers(rng, (case["filters"],))
    name, layout = f"conv_transpose{rank}d", FIRST[rank]
    leaves = leaf(x), leaf(w), leaf(bias)
    if refused(lambda: CONV_TRANSPOSE[rank](*leaves, **options)):
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, w, bias, layout=layout, **options)
        return
    want = CONV_TRANSPOSE[rank](*leaves, **options)
    assert_exact(getattr(ops, name)(x, w, bias, layout=layout, **options), want.detach().numpy())
    dy = small_integers(rng, tuple(want.shape))
    want.backward(torch.tensor(dy, dtype=torch.float64))
    dx = getattr(ops, f"{name}_backward_input")(dy, w, x.shape, layout=layout, **options)
    dw = getattr(ops, f"{name}_backward_weight")(dy, x, w.shape, layout=layout, **options)
    assert_exact(dx, leaves[0].grad.numpy())
    assert_exact(dw, leaves[1].grad.numpy())


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_same_at_stride_1_is_that_of_pytorch(kernel: int, dilation: int) -> None:
    rng = np.random.default_rng(kernel)
    x, w = small_integers(rng, (2, 3, 9, 8)), small_integers(rng, (4, 3, kernel, kernel))
    want = F.conv2d(leaf(x), leaf(w), padding="same", dilation=dilation).detach().numpy()
    y = ops.conv2d(x, w, padding="same", dilation=dilation, layout="NCHW")
    assert_exact(y, want)


KNOWN: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 64, 64), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    ((2, 128, 28, 28), (128, 128, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 256, 14, 14), (512, 256, 1, 1), {"stride": 2}),
    ((2, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    ((1, 3, 64, 64), (64, 3, 11, 11), {"stride": 4, "padding": 2}),
    ((1, 144, 28, 28), (144, 1, 5, 5), {"stride": 2, "padding": 2, "groups": 144}),
    ((1, 128, 14, 14), (256, 4, 3, 3), {"padding": 1, "groups": 32}),
    ((1, 32, 33, 33), (32, 32, 3, 3), {"padding": 4, "dilation": 4}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), KNOWN, ids=str)
def test_layers_of_known_networks(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: str
) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape))
    leaves = leaf(x), leaf(w)
    want = F.conv2d(*leaves, **options)
    dy = rng.standard_normal(want.shape).astype(dtype)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    y = ops.conv2d(x, w, layout="NCHW", **options)
    dx = ops.conv2d_backward_input(dy, w, x_shape, layout="NCHW", **options)
    dw = ops.conv2d_backward_weight(dy, x, w_shape, layout="NCHW", **options)
    taps = w_shape[-1] * w_shape[-2]
    assert_close(y, want.detach().numpy(), w_shape[1] * taps)
    assert_close(dx, leaves[0].grad.numpy(), w_shape[0] * taps)
    assert_close(dw, leaves[1].grad.numpy(), int(np.prod(dy.shape[2:])) * dy.shape[0])
