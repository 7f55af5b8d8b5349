"""``gpuconv.ops`` pooling and the resampling under the layers, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

import torch.nn.functional as F  # noqa: E402
from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import ops  # noqa: E402
from gpuconv.errors import GpuconvError  # noqa: E402
from gpuconv.ops import resampling  # noqa: E402
from gpuconv.testing import assert_close, assert_exact  # noqa: E402
from gpuconv.testing.cases import small_integers  # noqa: E402

FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def leaf(array: Any) -> Any:
    """A float64 torch tensor that collects a gradient."""
    return torch.tensor(np.asarray(array), dtype=torch.float64).requires_grad_()


def in_torch(name: str) -> Any:
    return getattr(F, name)


def outcome(call: Any) -> Any:
    """What PyTorch returns, or None if it refuses."""
    try:
        return call()
    except (RuntimeError, ValueError):
        return None


@st.composite
def poolings(draw: Any) -> dict[str, Any]:
    """A shape in PyTorch's order and options; most of them possible."""
    rank = draw(st.integers(1, 3))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    return {
        "rank": rank,
        "x": (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *each(1, 2, 3, 5, 6, 7)),
        "seed": draw(st.integers(0, 2**16)),
        "kernel_size": each(1, 2, 2, 3, 3, 4),
        "stride": draw(st.none() | st.just(each(1, 1, 2, 2, 3, 5))),
        "padding": each(0, 0, 0, 1, 1, 2),
        "ceil_mode": draw(st.booleans()),
        "dilation": each(1, 1, 1, 2, 3),
    }


COMMON = ("kernel_size", "stride", "padding", "ceil_mode")


@settings(max_examples=120, deadline=None)
@given(poolings(), st.booleans())
def test_max_pool(case: dict[str, Any], ties: bool) -> None:
    rank, rng = case["rank"], np.random.default_rng(case["seed"])
    options = {k: case[k] for k in (*COMMON, "dilation")}
    high = 1 if ties else 99
    x = small_integers(rng, case["x"], low=-high, high=high)
    name, layout = f"max_pool{rank}d", FIRST[rank]
    there = leaf(x)
    result = outcome(lambda: in_torch(name)(there, return_indices=True, **options))
    if result is None:
        # PyTorch compares the padding with the dilated window for one dimension only.
        assume(all(p <= k // 2 for p, k in zip(case["padding"], case["kernel_size"], strict=True)))
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, layout=layout, **options)
        return
    y, indices = getattr(ops, name)(x, return_indices=True, layout=layout, **options)
    want, where = result
    assert_exact(y, want.detach().numpy())
    assume((indices >= 0).all())  # PyTorch has no mark for a window that meets nothing
    assert_exact(indices, where.numpy())
    dy = small_integers(rng, y.shape)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    dx = getattr(ops, f"{name}_backward")(dy, indices, x.shape, layout=layout, **options)
    assert_exact(dx, there.grad.numpy())


@settings(max_examples=120, deadline=None)
@given(poolings(), st.booleans(), st.sampled_from([None, None, 1, 3, -2]))
def test_avg_pool(case: dict[str, Any], count_include_pad: bool, divisor: int | None) -> None:
    rank, rng = case["rank"], np.random.default_rng(case["seed"])
    options = {k: case[k] for k in COMMON} | {"count_include_pad": count_include_pad}
    if rank > 1:  # PyTorch's 1-D form has no divisor
        options["divisor_override"] = divisor
    x = rng.standard_normal(case["x"])
    name, layout = f"avg_pool{rank}d", FIRST[rank]
    there = leaf(x)
    want = outcome(lambda: in_torch(name)(there, **options))
    if want is None:
        # For three dimensions only, PyTorch wants the window inside the input without its padding.
        inside = (k <= n for k, n in zip(case["kernel_size"], case["x"][2:], strict=True))
        assume(rank < 3 or all(inside))
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, layout=layout, **options)
        return
    y = getattr(ops, name)(x, layout=layout, **options)
    assert_close(y, want.detach().numpy(), 64)
    dy = rng.standard_normal(y.shape)
    want.backward(torch.tensor(dy))
    dx = getattr(ops, f"{name}_backward")(dy, x.shape, layout=layout, **options)
    assert_close(dx, there.grad.numpy(), 64)


@pytest.mark.parametrize("rank", [2, 3])
def test_divisor_zero_is_refused_by_both(rank: int) -> None:
    x = np.ones((1, 1, *(4,) * rank))
    with pytest.raises(RuntimeError):
        in_torch(f"avg_pool{rank}d")(leaf(x), 2, divisor_override=0)
    with pytest.raises(GpuconvError, match="divisor_override"):
        getattr(ops, f"avg_pool{rank}d")(x, 2, divisor_override=0, layout=FIRST[rank])


def test_values_with_nan_and_infinity() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([np.nan, np.inf, -np.inf, 1.0, 2.0], (2, 3, 7, 6))
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        want = F.max_pool2d(leaf(x), **options).detach().numpy()
        assert_exact(ops.max_pool2d(x, layout="NCHW", **options), want)


@settings(max_examples=60, deadline=None)
@given(
    extents=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    kind=st.sampled_from(["avg", "max"]),
    keep=st.booleans(),
    data=st.data(),
)
def test_adaptive_pool(extents: list[int], kind: str, keep: bool, data: st.DataObject) -> None:
    rank = len(extents)
    size: Any = tuple(data.draw(st.integers(1, 9), label="size") for _ in extents)
    if keep and rank > 1:
        size = (None, *size[1:])
    rng = np.random.default_rng(sum(extents))
    x = small_integers(rng, (2, 3, *extents), np.float64)
    name, layout = f"adaptive_{kind}_pool{rank}d", FIRST[rank]
    there = leaf(x)
    if kind == "avg":
        want = in_torch(name)(there, size)
        y = getattr(ops, name)(x, size, layout=layout)
        assert_close(y, want.detach().numpy(), 64)
        more: tuple[Any, ...] = ()
    else:
        want, where = in_torch(name)(there, size, return_indices=True)
        y, indices = getattr(ops, name)(x, size, return_indices=True, layout=layout)
        assert_exact(y, want.detach().numpy())
        assert_exact(indices, where.numpy())
        more = (indices,)
    dy = small_integers(rng, y.shape, np.float64)
    want.backward(torch.tensor(dy))
    dx = getattr(ops, f"{name}_backward")(dy, *more, x.shape, layout=layout)
    assert_close(dx, there.grad.numpy(), 729)


MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@settings(max_examples=60, deadline=None)
@given(
    extents=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    linear=st.booleans(),
    data=st.data(),
)
def test_upsampling(extents: list[int], linear: bool, data: st.DataObject) -> None:
    factors = tuple(data.draw(st.integers(1, 5), label="factor") for _ in extents)
    rng = np.random.default_rng(sum(factors))
    x = rng.standard_normal((2, 3, *extents))
    there = leaf(x)
    size = tuple(n * f for n, f in zip(extents, factors, strict=True))
    mode = {"mode": MODES[len(extents)], "align_corners": False} if linear else {"mode": "nearest"}
    want = F.interpolate(there, size=size, **mode)
    word = "bilinear" if linear else "nearest"
    y = getattr(resampling, f"upsample_{word}")(np.moveaxis(x, 1, -1), factors)
    assert_close(y, np.moveaxis(want.detach().numpy(), 1, -1), 64)
    dy = rng.standard_normal(want.shape)
    want.backward(torch.tensor(dy))
    dx = getattr(resampling, f"upsample_{word}_backward")(np.moveaxis(dy, 1, -1), factors)
    assert_close(dx, np.moveaxis(there.grad.numpy(), 1, -1), 125)
