"""conv1d/2d/3d, conv_transpose1d/2d/3d and their gradients against the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuconv as gc
from gpuconv import ops
from gpuconv.errors import DTypeError, GpuconvError, InvalidArgumentError, ShapeError
from gpuconv.testing import assert_close, assert_exact, check_inner_product, reference
from gpuconv.testing.cases import (
    CONV_CASES,
    CONV_TRANSPOSE_CASES,
    ERROR_CASES,
    ConvCase,
    ConvTransposeCase,
    generator,
    small_integers,
    views_of,
)

FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
Case = ConvCase | ConvTransposeCase
CASES: tuple[Case, ...] = (*CONV_CASES, *CONV_TRANSPOSE_CASES)


class Trio(NamedTuple):
    """Operands of one case, channels-last, and what the three operations must give."""

    x: Any
    w: Any
    bias: Any
    dy: Any
    y: Any
    dx: Any
    dw: Any


def family(case: Case) -> str:
    """The name of the case's forward operation."""
    return (
        f"conv_transpose{case.rank}d"
        if isinstance(case, ConvTransposeCase)
        else f"conv{case.rank}d"
    )


def case_id(case: Case) -> str:
    return f"{family(case)}-{case.id}"


@cache
def expected(case: Case) -> Trio:
    """Small integers and the reference's results, read-only; computed once for all tests."""
    transposed = isinstance(case, ConvTransposeCase)
    name = "conv_transpose" if transposed else "conv"
    rng = generator(case_id(case))
    x, w = (small_integers(rng, s, np.float64) for s in (case.x_shape, case.w_shape))
    bias = small_integers(rng, (case.filters,), np.float64)
    y = getattr(reference, name)(x, w, bias, **case.options)
    dy = small_integers(rng, y.shape, np.float64)
    dx = getattr(reference, f"{name}_backward_input")(dy, w, x.shape, **case.options)
    dw = getattr(reference, f"{name}_backward_weight")(dy, x, w.shape, **case.options)
    trio = Trio(x, w, bias, dy, y, dx, dw)
    for array in trio:
        array.setflags(write=False)
    return trio


def channels_first(x: Any) -> Any:
    """(N, *s, C) -> a contiguous (N, C, *s)."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def kernel_first(w: Any) -> Any:
    """(*k, I, O) -> a contiguous (O, I, *k)."""
    return np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))


def run(case: Case, trio: Trio) -> tuple[Any, Any, Any]:
    """The three operations on these operands, channels-last."""
    name = family(case)
    return (
        getattr(ops, name)(trio.x, trio.w, trio.bias, **case.options),
        getattr(ops, f"{name}_backward_input")(trio.dy, trio.w, case.x_shape, **case.options),
        getattr(ops, f"{name}_backward_weight")(trio.dy, trio.x, case.w_shape, **case.options),
    )


def as_dtype(trio: Trio, dtype: str) -> Trio:
    return Trio(*(a.astype(dtype) for a in trio))


@pytest.fixture(params=[1, 1024])
def small_workspace(request: pytest.FixtureRequest) -> Iterator[int]:
    """The workspace limit lowered to some bytes."""
    gc.config.workspace_limit = request.param
    yield request.param
    gc.config.workspace_limit = None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_small_integers_exact_channels_last(case: Case, dtype: str) -> None:
    want = expected(case)
    results = run(case, as_dtype(want, dtype))
    for result, wanted in zip(results, (want.y, want.dx, want.dw), strict=True):
        assert_exact(result, wanted)
        assert result.dtype == dtype


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_small_integers_exact_channels_first(case: Case) -> None:
    want = expected(case)
    x, w, bias, dy, *_ = as_dtype(want, "float32")
    x, dy, w = channels_first(x), channels_first(dy), kernel_first(w)
    name, options = family(case), {**case.options, "layout": FIRST[case.rank]}
    y = getattr(ops, name)(x, w, bias, **options)
    dx = getattr(ops, f"{name}_backward_input")(dy, w, x.shape, **options)
    dw = getattr(ops, f"{name}_backward_weight")(dy, x, w.shape, **options)
    assert_exact(y, channels_first(want.y))
    assert_exact(dx, channels_first(want.dx))
    assert_exact(dw, kernel_first(want.dw))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_same_result_under_a_small_workspace(case: Case, small_workspace: int) -> None:
    want = expected(case)
    for result, wanted in zip(
        run(case, as_dtype(want, "float32")), (want.y, want.dx, want.dw), strict=True
    ):
        assert_exact(result, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.id in ("2d", "2d-groups", "3d", "2d-stride-2-3")], ids=case_id
)
def test_random_floats(case: Case, dtype: str) -> None:
    rng = generator(case_id(case))
    x, w, bias = (
        rng.standard_normal(s).astype(dtype) for s in (case.x_shape, case.w_shape, (case.filters,))
    )
    name = "conv_transpose" if isinstance(case, ConvTransposeCase) else "conv"
    wide = [a.astype("float64") for a in (x, w, bias)]
    want = getattr(reference, name)(*wide, **case.options)
    y = getattr(ops, family(case))(x, w, bias, **case.options)
    assert_close(y, want, case.reduction_length + 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((3, 19, 17, 24), (3, 3, 24, 40), {"padding": 1}),
        ((2, 23, 20, 12), (5, 3, 4, 33), {"stride": (2, 3), "padding": "same", "groups": 3}),
        ((5, 38, 41, 4), (3, 3, 1, 8), {"stride": 2, "padding": 1, "groups": 4}),
        ((4, 13, 13, 48), (1, 1, 48, 65), {}),
        ((2, 16, 15, 8), (3, 4, 8, 9), {"padding": 2, "padding_mode": "reflect", "dilation": 2}),
    ],
    ids=["3x3", "groups-strided", "depthwise", "1x1", "reflect-dilated"],
)
def test_gradients_satisfy_the_inner_product_identity(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: str
) -> None:
    rng = np.random.default_rng(7)
    x, w = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape))
    dy = rng.standard_normal(ops.conv2d(x, w, **options).shape).astype(dtype)
    check_inner_product(
        lambda x, w: ops.conv2d(x, w, **options),
        lambda dy, w: ops.conv2d_backward_input(dy, w, x_shape, **options),
        lambda dy, x: ops.conv2d_backward_weight(dy, x, w_shape, **options),
        x,
        w,
        dy,
    )


MANNERS: list[Case] = [
    case
    for case in CASES
    if case.id
    in (
        "1d-groups",
        "2d",
        "2d-1x1",
        "2d-circular",
        "2d-depthwise-multiplier",
        "2d-groups",
        "2d-same-stride-2",
        "2d-output-padding",
        "3d",
    )
]


@pytest.mark.parametrize("case", MANNERS, ids=case_id)
def test_any_memory_is_taken_and_none_is_modified(case: Case) -> None:
    want = as_dtype(expected(case), "float32")
    for operand in ("x", "w", "dy"):
        for kind, view in views_of(getattr(want, operand)):
            before = view.copy()
            results = run(case, want._replace(**{operand: view}))
            for result, wanted in zip(results, (want.y, want.dx, want.dw), strict=True):
                assert np.array_equal(result, wanted), f"{operand} {kind}"
            assert np.array_equal(view, before), f"{operand} {kind} was modified"


@pytest.mark.parametrize("case", MANNERS, ids=case_id)
def test_results_are_fresh_writable_arrays(case: Case) -> None:
    want = as_dtype(expected(case), "float32")
    for result in run(case, want):
        assert result.flags.writeable
        assert not any(np.shares_memory(result, a) for a in want)


@pytest.mark.parametrize("case", MANNERS, ids=case_id)
def test_tensor_in_tensor_out(case: Case) -> None:
    want = as_dtype(expected(case), "float32")
    tensors = Trio(*(gc.tensor(a) for a in want))
    for result, wanted in zip(run(case, tensors), (want.y, want.dx, want.dw), strict=True):
        assert isinstance(result, gc.Tensor)
        assert_exact(result.numpy(), wanted)


def test_the_first_operand_decides_the_container() -> None:
    x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
    assert isinstance(ops.conv2d(gc.tensor(x), w), gc.Tensor)
    assert isinstance(ops.conv2d(x, gc.tensor(w)), np.ndarray)


def test_lists_are_not_silently_taken_for_float32() -> None:
    y = ops.conv1d([[[1.0], [2.0], [3.0]]], np.ones((2, 1, 1), np.float32))
    assert_exact(y, np.array([[[3.0], [5.0]]]))
    with pytest.raises(DTypeError, match="int"):
        ops.conv1d([[[1], [2], [3]]], np.ones((2, 1, 1), np.float32))


def test_the_same_bits_on_every_call() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 17, 15, 12)).astype("float32")
    w = rng.standard_normal((3, 3, 12, 20)).astype("float32")
    dy = rng.standard_normal((2, 17, 15, 20)).astype("float32")
    first, second = (
        (
            ops.conv2d(x, w, padding=1),
            ops.conv2d_backward_input(dy, w, x.shape, padding=1),
            ops.conv2d_backward_weight(dy, x, w.shape, padding=1),
        )
        for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()


def test_nan_and_infinity_come_through() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 0, 0], x[0, 3, 3, 0] = np.nan, np.inf
    y = ops.conv2d(x, np.ones((2, 2, 1, 1), np.float32))
    assert np.isnan(y[0, 0, 0, 0])
    assert np.isposinf(y[0, 2, 2, 0])
    assert np.isfinite(y[0, 1, 1, 0])


@pytest.mark.parametrize("name", [f"conv{r}d" for r in (1, 2, 3)])
def test_signatures_are_those_of_pytorch_with_a_layout(name: str) -> None:
    import inspect

    words = list(inspect.signature(getattr(ops, name)).parameters)
    assert words[:7] == ["x", "w", "bias", "stride", "padding", "dilation", "groups"]
    assert getattr(ops, name).__name__ == name
    assert name in (getattr(ops, f"{name}_backward_input").__doc__ or "")


# --- errors --------------------------------------------------------------------------------

CONV_ERRORS = [c for c in ERROR_CASES if c.function.startswith("conv")]


@pytest.mark.parametrize("case", CONV_ERRORS, ids=str)
def test_bad_arguments_are_refused(case: Any) -> None:
    with pytest.raises(case.error, match=case.match):
        case.call(ops)


@pytest.mark.parametrize(
    ("padding", "good"),
    [(1.0, 1), (True, 1), ((1.0, 1.0), (1, 1)), (((1, 1.0), (1, 1)), 1), ({1}, 1), ({}, 1)],
    ids=repr,
)
def test_padding_that_equals_a_cached_one_is_refused_too(padding: Any, good: Any) -> None:
    x, w = np.zeros((1, 5, 5, 1), np.float32), np.zeros((3, 3, 1, 1), np.float32)
    ops.conv2d(x, w, padding=good)
    with pytest.raises(InvalidArgumentError, match="padding"):
        ops.conv2d(x, w, padding=padding)


@pytest.mark.parametrize("padding", [np.int64(1), np.array([1, 1]), [1, 1], [[1, 1], (1, 1)]])
def test_padding_in_any_form_of_integers(padding: Any) -> None:
    x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
    assert_exact(ops.conv2d(x, w, padding=padding), ops.conv2d(x, w, padding=1))


@pytest.mark.parametrize("mode", [["zeros"], None, {}])
def test_a_padding_mode_that_is_no_word(mode: Any) -> None:
    x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
    with pytest.raises(InvalidArgumentError, match="padding_mode"):
        ops.conv2d(x, w, padding_mode=mode)


# --- drawn geometries ----------------------------------------------------------------------


@st.composite
def drawn(draw: Any, transposed: bool) -> dict[str, Any]:
    """Arguments of a convolution, possible or not."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([0, 1, 1, 1, 2, 3, -1]))
    extents = [draw(st.integers(0, 7 if rank < 3 else 4)) for _ in range(rank)]

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    per_group = draw(st.sampled_from([0, 1, 1, 2]))
    other = draw(st.sampled_from([0, 1, 2, 3, 4]))
    return {
        "rank": rank,
        "batch": draw(st.integers(0, 2)),
        "extents": extents,
        "kernel": each(0, 1, 2, 2, 3, 3, 4),
        "stride": each(0, 1, 1, 1, 2, 3),
        "dilation": each(0, 1, 1, 1, 2, 3),
        "pads": tuple(zip(each(-1, 0, 0, 1, 2, 3), each(0, 0, 1, 2), strict=True)),
        "extra": each(0, 0, 0, 1, 2) if transposed else None,
        "groups": group,
        "per_group": per_group,
        "other": other,
        "seed": draw(st.integers(0, 1000)),
    }


def possible(a: dict[str, Any], transposed: bool) -> bool:
    """Whether the arguments describe a convolution, from the definitions."""
    sizes = (*a["kernel"], *a["stride"], *a["dilation"], a["groups"], a["per_group"], a["other"])
    if min(sizes) < 1 or min(p for pair in a["pads"] for p in pair) < 0:
        return False
    if a["other"] % a["groups"]:
        return False
    for axis, (n, k) in enumerate(zip(a["extents"], a["kernel"], strict=True)):
        s, d, (lo, hi) = a["stride"][axis], a["dilation"][axis], a["pads"][axis]
        reach = d * (k - 1) + 1
        if not transposed and n + lo + hi < reach:
            return False
        if transposed:
            extra = a["extra"][axis]
            if n < 1 or extra >= max(s, d) or (n - 1) * s + reach - lo - hi + extra < 1:
                return False
    return True


@settings(max_examples=150, deadline=None)
@given(drawn(transposed=False))
def test_any_convolution_is_right_or_refused(a: dict[str, Any]) -> None:
    rng = np.random.default_rng(a["seed"])
    x_shape = (a["batch"], *a["extents"], a["per_group"] * max(a["groups"], 1))
    w_shape = (*a["kernel"], a["per_group"], a["other"])
    x, w = (small_integers(rng, s, np.float32) for s in (x_shape, w_shape))
    options = {key: a[key] for key in ("stride", "dilation", "groups")} | {"padding": a["pads"]}
    name = f"conv{a['rank']}d"
    if not possible(a, transposed=False):
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, w, **options)
        return
    wide = [v.astype(np.float64) for v in (x, w)]
    y = getattr(ops, name)(x, w, **options)
    assert_exact(y, reference.conv(*wide, **options))
    dy = small_integers(rng, y.shape, np.float64)
    assert_exact(
        getattr(ops, f"{name}_backward_input")(dy.astype(np.float32), w, x_shape, **options),
        reference.conv_backward_input(dy, wide[1], x_shape, **options),
    )
    assert_exact(
        getattr(ops, f"{name}_backward_weight")(dy.astype(np.float32), x, w_shape, **options),
        reference.conv_backward_weight(dy, wide[0], w_shape, **options),
    )


@settings(max_examples=100, deadline=None)
@given(drawn(transposed=True))
def test_any_transposed_convolution_is_right_or_refused(a: dict[str, Any]) -> None:
    rng = np.random.default_rng(a["seed"])
    x_shape = (a["batch"], *a["extents"], a["other"])
    w_shape = (*a["kernel"], a["per_group"], a["other"])
    x, w = (small_integers(rng, s, np.float32) for s in (x_shape, w_shape))
    options = {key: a[key] for key in ("stride", "dilation", "groups")}
    options |= {"padding": a["pads"], "output_padding": a["extra"]}
    name = f"conv_transpose{a['rank']}d"
    if not possible(a, transposed=True):
        with pytest.raises(GpuconvError):
            getattr(ops, name)(x, w, **options)
        return
    wide = [v.astype(np.float64) for v in (x, w)]
    y = getattr(ops, name)(x, w, **options)
    assert_exact(y, reference.conv_transpose(*wide, **options))
    dy = small_integers(rng, y.shape, np.float64)
    assert_exact(
        getattr(ops, f"{name}_backward_input")(dy.astype(np.float32), w, x_shape, **options),
        reference.conv_transpose_backward_input(dy, wide[1], x_shape, **options),
    )
    assert_exact(
        getattr(ops, f"{name}_backward_weight")(dy.astype(np.float32), x, w_shape, **options),
        reference.conv_transpose_backward_weight(dy, wide[0], w_shape, **options),
    )


@settings(max_examples=60, deadline=None)
@given(
    extents=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    pads=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    mode=st.sampled_from(["reflect", "replicate", "circular"]),
    stride=st.integers(1, 2),
)
def test_any_padding_mode_is_right_or_refused(
    extents: list[int], pads: tuple[int, int], mode: str, stride: int
) -> None:
    rng = np.random.default_rng(len(extents))
    x = small_integers(rng, (2, *extents, 2), np.float32)
    w = small_integers(rng, (*(2,) * len(extents), 2, 3), np.float32)
    options = {"stride": stride, "padding": (pads,) * len(extents), "padding_mode": mode}
    name = f"conv{len(extents)}d"
    limits = {"reflect": min(extents) - 1, "circular": min(extents), "replicate": 7}
    if max(pads) > limits[mode] or min(extents) + sum(pads) < 2:
        with pytest.raises(ShapeError):
            getattr(ops, name)(x, w, **options)
        return
    wide = [v.astype(np.float64) for v in (x, w)]
    y = getattr(ops, name)(x, w, **options)
    assert_exact(y, reference.conv(*wide, **options))
    dy = small_integers(rng, y.shape, np.float64)
    assert_exact(
        getattr(ops, f"{name}_backward_input")(dy.astype(np.float32), w, x.shape, **options),
        reference.conv_backward_input(dy, wide[1], x.shape, **options),
    )


IMAGE, KERNEL = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 1), np.float32)


@pytest.mark.parametrize("shape", [None, 3, 3.0, IMAGE, "1442", object()], ids=type)
def test_what_is_no_shape(shape: Any) -> None:
    dy = np.ones((1, 2, 2, 1), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"x_shape must be a tuple of .*Received: "):
        ops.conv2d_backward_input(dy, KERNEL, shape)
    with pytest.raises(InvalidArgumentError, match=r"w_shape must be a tuple of .*Received: "):
        ops.conv2d_backward_weight(dy, IMAGE, shape)


def test_messages_show_arrays_by_their_shape() -> None:
    """An array where a number belongs is a common slip; a page of numbers would hide it."""
    for words in ({"stride": IMAGE}, {"layout": IMAGE}, {"padding_mode": IMAGE}):
        with pytest.raises(InvalidArgumentError) as raised:
            ops.conv2d(IMAGE, KERNEL, **words)
        assert "Received: ndarray of shape (1, 4, 4, 2) and dtype float32" in str(raised.value)
    with pytest.raises(InvalidArgumentError) as raised:
        ops.conv2d(IMAGE, KERNEL, stride=IMAGE.tolist() * 9)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["x", "w", "bias"])
def test_messages_name_the_array(name: str) -> None:
    arrays: dict[str, Any] = {"x": IMAGE, "w": KERNEL, name: "abc"}
    with pytest.raises(DTypeError, match=f"^{name}: expected real numbers. Received: str 'abc'"):
        ops.conv2d(**arrays)
