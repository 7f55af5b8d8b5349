"""max_pool, avg_pool, their adaptive forms and gradients against the float64 reference."""

from __future__ import annotations

import inspect
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuconv as gc
from gpuconv import ops
from gpuconv.backends import registry
from gpuconv.errors import DTypeError, GpuconvError, InvalidArgumentError, ShapeError
from gpuconv.testing import assert_close, assert_exact, check_directional, reference
from gpuconv.testing.cases import (
    AVG_POOL_CASES,
    ERROR_CASES,
    MAX_POOL_CASES,
    AvgPoolCase,
    MaxPoolCase,
    generator,
    small_integers,
    views_of,
)

LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
RANKS = (1, 2, 3)


def channels_first(x: Any) -> Any:
    """(N, *s, C) -> a contiguous (N, C, *s)."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def frozen(*arrays: Any) -> tuple[Any, ...]:
    for array in arrays:
        array.setflags(write=False)
    return arrays


@cache
def expected_max(case: MaxPoolCase) -> tuple[Any, ...]:
    """x, y, indices, dy, dx; computed once for all tests."""
    rng = generator(case.id)
    high = 1 if case.ties else 9
    x = small_integers(rng, case.x_shape, np.float64, low=0 if case.ties else -9, high=high)
    y, indices = reference.max_pool(x, **case.options)
    dy = small_integers(rng, y.shape, np.float64)
    return frozen(x, y, indices, dy, reference.max_pool_backward(dy, indices, x.shape))


@cache
def expected_avg(case: AvgPoolCase) -> tuple[Any, ...]:
    """x, y, dy, dx; computed once for all tests."""
    rng = generator(case.id)
    x = small_integers(rng, case.x_shape, np.float64)
    y = reference.avg_pool(x, **case.options)
    dy = small_integers(rng, y.shape, np.float64)
    return frozen(x, y, dy, reference.avg_pool_backward(dy, x.shape, **case.options))


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["channels-last", "channels-first"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_max_pool_exact(case: MaxPoolCase, dtype: str, layout: dict[int, str]) -> None:
    x, y, indices, dy, dx = expected_max(case)
    if layout is FIRST:
        x, y, indices, dy, dx = (channels_first(a) for a in (x, y, indices, dy, dx))
    options = {**case.options, "layout": layout[case.rank]}
    forward = getattr(ops, f"max_pool{case.rank}d")
    backward = getattr(ops, f"max_pool{case.rank}d_backward")
    x = x.astype(dtype)
    result, where = forward(x, return_indices=True, **options)
    assert_exact(result, y)
    assert_exact(where, indices)
    assert result.dtype == dtype
    assert where.dtype == np.int64
    assert_exact(forward(x, **options), y)
    assert_exact(backward(dy.astype(dtype), where, x.shape, **options), dx)


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["channels-last", "channels-first"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", AVG_POOL_CASES, ids=str)
def test_avg_pool(case: AvgPoolCase, dtype: str, layout: dict[int, str]) -> None:
    x, y, dy, dx = expected_avg(case)
    if layout is FIRST:
        x, y, dy, dx = (channels_first(a) for a in (x, y, dy, dx))
    options = {**case.options, "layout": layout[case.rank]}
    result = getattr(ops, f"avg_pool{case.rank}d")(x.astype(dtype), **options)
    assert_close(result, y, scale=np.abs(y))  # an exact sum, divided once
    assert result.dtype == dtype
    backward = getattr(ops, f"avg_pool{case.rank}d_backward")
    found = backward(dy.astype(dtype), x.shape, **options)
    assert_close(found, dx, int(np.prod(case.kernel_size)) * case.rank)


@pytest.mark.parametrize("rank", RANKS)
def test_avg_pool_of_integers_over_a_power_of_two_is_exact(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = small_integers(rng, (2, *(6, 4, 8)[:rank], 5), np.float64)
    y = getattr(ops, f"avg_pool{rank}d")(x.astype(np.float32), 2)
    assert_exact(y, reference.avg_pool(x, 2))
    dx = getattr(ops, f"avg_pool{rank}d_backward")(y, x.shape, 2)
    assert_exact(dx, reference.avg_pool_backward(y.astype(np.float64), x.shape, 2))


def test_ties_go_to_the_first_in_row_major_order() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    assert_exact(y, np.zeros((1, 2, 2, 1)))
    assert indices[0, :, :, 0].tolist() == [[0, 2], [8, 10]]
    dx = ops.max_pool2d_backward(np.ones_like(y), indices, x.shape, 2)
    assert dx[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_a_tie_between_rows_goes_to_the_upper_row() -> None:
    # The maximum stands right in the first row and left in the second: row-major, the first wins.
    x = np.array([[0.0, 5.0], [5.0, 0.0]], np.float32).reshape(1, 2, 2, 1)
    assert ops.max_pool2d(x, 2, return_indices=True)[1].item() == 1


def test_the_first_nan_wins_and_takes_the_gradient() -> None:
    x = np.array([[9.0, np.nan, 1.0], [np.nan, 2.0, 3.0]]).reshape(1, 2, 3, 1)
    y, indices = ops.max_pool2d(x, (2, 3), return_indices=True)
    assert np.isnan(y).all()
    assert indices.item() == 1
    dx = ops.max_pool2d_backward(np.ones_like(y), indices, x.shape, (2, 3))
    assert dx.reshape(2, 3).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_negative_infinity_is_an_element_like_others() -> None:
    x = np.full((1, 2, 2, 1), -np.inf, np.float32)
    y, indices = ops.max_pool2d(x, 2, padding=1, stride=2, return_indices=True)
    assert np.isneginf(y).all()
    assert indices[0, :, :, 0].tolist() == [[0, 1], [2, 3]]


def test_a_dilated_window_may_step_over_the_input() -> None:
    x = np.ones((1, 2, 1), np.float32)
    options = {"kernel_size": 2, "dilation": 3, "padding": 1, "stride": 1}
    y, indices = ops.max_pool1d(x, return_indices=True, **options)
    want, where = reference.max_pool(x.astype(np.float64), **options)
    assert_exact(y, want)
    assert_exact(indices, where)
    assert (indices == -1).any()
    dx = ops.max_pool1d_backward(np.ones_like(y), indices, x.shape, **options)
    assert_exact(dx, reference.max_pool_backward(np.ones(y.shape), where, x.shape))


def test_count_include_pad_and_a_window_that_hangs_over() -> None:
    x = np.ones((1, 4, 1), np.float32)
    padded = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    # Windows start at -1, 1, 3; the last reaches one element beyond the right padding.
    assert_close(ops.avg_pool1d(x, **padded), np.array([2 / 3, 1, 1 / 2]).reshape(1, 3, 1))
    real = ops.avg_pool1d(x, count_include_pad=False, **padded)
    assert_close(real, np.ones((1, 3, 1)))
    assert_exact(
        ops.avg_pool1d(x, divisor_override=-2, **padded).ravel(), np.array([-1, -1.5, -0.5])
    )


POOLS = [
    c
    for c in (*MAX_POOL_CASES, *AVG_POOL_CASES)
    if c.id in ("1d", "2d-same", "2d-odd", "3d", "2d-without-pad")
]


@pytest.mark.parametrize("case", POOLS, ids=lambda c: f"{type(c).__name__}-{c.id}")
def test_any_memory_is_taken_and_none_is_modified(case: Any) -> None:
    if isinstance(case, MaxPoolCase):
        x, y, indices, dy, dx = expected_max(case)
        for kind, view in views_of(x.astype(np.float32)):
            before = view.copy()
            result = getattr(ops, f"max_pool{case.rank}d")(view, **case.options)
            assert np.array_equal(result, y), kind
            assert np.array_equal(view, before), kind
        name = f"max_pool{case.rank}d_backward"
        for (kind, up), (_, at) in zip(views_of(dy), views_of(indices), strict=True):
            before, where = up.copy(), at.copy()
            assert np.array_equal(getattr(ops, name)(up, at, x.shape, **case.options), dx), kind
            assert np.array_equal(up, before), kind
            assert np.array_equal(at, where), kind
        return
    x, y, dy, dx = expected_avg(case)
    for kind, view in views_of(x):
        before = view.copy()
        result = getattr(ops, f"avg_pool{case.rank}d")(view, **case.options)
        assert np.allclose(result, y, rtol=1e-14), kind
        assert np.array_equal(view, before), kind
    for kind, view in views_of(dy):
        before = view.copy()
        result = getattr(ops, f"avg_pool{case.rank}d_backward")(view, x.shape, **case.options)
        assert np.allclose(result, dx, rtol=1e-14, atol=1e-14), kind
        assert np.array_equal(view, before), kind


def test_tensor_in_tensor_out() -> None:
    x = gc.tensor(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1))
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    assert isinstance(y, gc.Tensor)
    assert isinstance(indices, gc.Tensor)
    assert isinstance(ops.max_pool2d_backward(y, indices, x.shape, 2), gc.Tensor)
    assert isinstance(ops.avg_pool2d(x, 2), gc.Tensor)
    assert isinstance(ops.avg_pool2d_backward(y, x.shape, 2), gc.Tensor)
    small = ops.adaptive_avg_pool2d(x, 3)
    assert isinstance(small, gc.Tensor)
    assert isinstance(ops.adaptive_avg_pool2d_backward(small, x.shape), gc.Tensor)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint64", "int64"])
def test_indices_of_any_integer_dtype(dtype: str) -> None:
    x = np.arange(24, dtype=np.float64).reshape(1, 4, 6, 1)
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    want = reference.max_pool_backward(y, indices, x.shape)
    assert_exact(ops.max_pool2d_backward(y, indices.astype(dtype), x.shape, 2), want)


# --- adaptive ------------------------------------------------------------------------------

ADAPTIVE = [
    ((7,), 3),
    ((3,), 7),
    ((6,), 3),
    ((6, 5), (2, 3)),
    ((6, 4), (3, 2)),
    ((5, 7), (None, 4)),
    ((5, 3), 1),
    ((2, 3), (5, 4)),
    ((4, 5, 3), (3, 2, 2)),
    ((4, 6, 2), 2),
]


def whole_size(extents: tuple[int, ...], size: Any) -> tuple[int, ...]:
    sizes = size if isinstance(size, tuple) else (size,) * len(extents)
    return tuple(n if s is None else s for n, s in zip(extents, sizes, strict=True))


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["channels-last", "channels-first"])
@pytest.mark.parametrize(("extents", "size"), ADAPTIVE, ids=str)
def test_adaptive_max_pool_exact(extents: tuple[int, ...], size: Any, layout: Any) -> None:
    rank, rng = len(extents), np.random.default_rng(11)
    x = small_integers(rng, (2, *extents, 3), np.float64, low=0, high=3)
    y, indices = reference.adaptive_max_pool(x, whole_size(extents, size))
    dy = small_integers(rng, y.shape, np.float64)
    dx = reference.max_pool_backward(dy, indices, x.shape)
    if layout is FIRST:
        x, y, indices, dy, dx = (channels_first(a) for a in (x, y, indices, dy, dx))
    options = {"layout": layout[rank]}
    for dtype in ("float32", "float64"):
        given = x.astype(dtype)
        result, where = getattr(ops, f"adaptive_max_pool{rank}d")(
            given, size, return_indices=True, **options
        )
        assert_exact(result, y)
        assert_exact(where, indices)
        assert result.dtype == dtype
        backward = getattr(ops, f"adaptive_max_pool{rank}d_backward")
        assert_exact(backward(dy.astype(dtype), where, x.shape, **options), dx)


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["channels-last", "channels-first"])
@pytest.mark.parametrize(("extents", "size"), ADAPTIVE, ids=str)
def test_adaptive_avg_pool(extents: tuple[int, ...], size: Any, layout: Any) -> None:
    rank, rng = len(extents), np.random.default_rng(12)
    x = small_integers(rng, (2, *extents, 3), np.float64)
    y = reference.adaptive_avg_pool(x, whole_size(extents, size))
    options = {"layout": layout[rank]}
    forward = getattr(ops, f"adaptive_avg_pool{rank}d")
    backward = getattr(ops, f"adaptive_avg_pool{rank}d_backward")
    if layout is FIRST:
        x, y = channels_first(x), channels_first(y)
    for dtype in ("float32", "float64"):
        result = forward(x.astype(dtype), size, **options)
        assert_close(result, y, x.size)
        assert result.dtype == dtype
    check_directional(
        lambda x: forward(x, size, **options), lambda dy: backward(dy, x.shape, **options), x
    )


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_maxima_are_the_same_bits_with_and_without_indices(dtype: str) -> None:
    rng = np.random.default_rng(13)
    x = rng.integers(-1, 2, (3, 11, 13, 5)).astype(dtype)  # ties everywhere, most of them at 0
    x[rng.random(x.shape) < 0.3] *= -1  # and of both signs
    x[rng.random(x.shape) < 0.05] = np.nan
    x[rng.random(x.shape) < 0.05] = -np.inf
    for words in ({}, {"stride": 1}, {"stride": 2, "padding": 1}, {"stride": 1, "dilation": 2}):
        for window in (2, 3):
            y, indices = ops.max_pool2d(x, window, return_indices=True, **words)
            assert bits(ops.max_pool2d(x, window, **words)) == bits(y)
            assert indices.dtype == np.int64
    for size in (1, 3, (11, 4), (None, 13)):
        y, _ = ops.adaptive_max_pool2d(x, size, return_indices=True)
        assert bits(ops.adaptive_max_pool2d(x, size)) == bits(y)


@pytest.mark.parametrize("wanted", [False, True])
def test_the_engine_computes_indices_only_if_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    engine = type(registry.engine(registry.engine_names("cpu")[0]))
    asked, forward = [], engine.max_pool

    def recorded(self: Any, x: Any, geometry: Any, with_indices: bool) -> Any:
        asked.append(with_indices)
        y, indices = forward(self, x, geometry, with_indices)
        assert (indices is not None) is with_indices
        return y, indices

    monkeypatch.setattr(engine, "max_pool", recorded)
    x = np.ones((1, 6, 6, 2), np.float32)
    ops.max_pool2d(x, 2, return_indices=wanted)
    ops.adaptive_max_pool2d(x, 3, return_indices=wanted)
    assert asked == [wanted, wanted]


@pytest.mark.parametrize(
    ("op", "window", "algorithm", "words"),
    [
        ("max_pool2d", 2, "separable", "one dimension of the window after the other, in 8 boxes"),
        ("avg_pool2d", 2, "separable", "one dimension of the window after the other, in 8 boxes"),
        ("avg_pool2d_backward", 2, "separable", "one dimension of the window after the other"),
        ("max_pool2d_backward", 2, "scatter", "each gradient goes where its index points"),
        ("max_pool2d", 30, "reduction", "one window"),
        ("avg_pool2d_backward", 30, "reduction", "one window"),
    ],
)
def test_the_plan_says_what_is_done(op: str, window: int, algorithm: str, words: str) -> None:
    decision = gc.explain(op, (32, 30, 30, 32), window, backend="cpu:numpy")
    assert decision.algorithm == algorithm
    assert words in decision.reason
    assert 0 < decision.workspace_bytes < 2**20


def test_a_plan_for_an_empty_batch() -> None:
    assert "in one box" in gc.explain("max_pool2d", (0, 8, 8, 3), 2, backend="cpu:numpy").reason


@pytest.mark.parametrize("output", [3, 4], ids=["uneven", "even"])
def test_adaptive_max_pool_of_nan_and_ties(output: int) -> None:
    x = np.array([1.0, 1.0, np.nan, 0.0, np.nan, 2.0, 2.0, -np.inf]).reshape(1, 8, 1)
    y, indices = ops.adaptive_max_pool1d(x, output, return_indices=True)
    want = {3: [2, 2, 5], 4: [0, 2, 4, 6]}[output]
    assert indices.ravel().tolist() == want
    assert_exact(y.ravel(), x.ravel()[want])


def test_adaptive_pools_take_any_memory() -> None:
    x = np.random.default_rng(5).standard_normal((2, 5, 4, 3))
    maximum, average = reference.adaptive_max_pool(x, (3, 3))[0], reference.adaptive_avg_pool(x, 3)
    for kind, view in views_of(x):
        before = view.copy()
        assert np.array_equal(ops.adaptive_max_pool2d(view, 3), maximum), kind
        assert np.allclose(ops.adaptive_avg_pool2d(view, 3), average, rtol=1e-13), kind
        assert np.array_equal(view, before), kind


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in ERROR_CASES if "pool" in c.function], ids=str)
def test_bad_arguments_are_refused(case: Any) -> None:
    with pytest.raises(case.error, match=case.match):
        case.call(ops)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">i4", "<i8", "uint64"])
def test_indices_of_every_integer_type(dtype: str) -> None:
    """Also such as name no element, -1, and numbers that would be negative with a sign."""
    x = np.arange(12 * 15, dtype=np.float32).reshape(1, 12, 15, 1)
    y, indices = ops.max_pool2d(x, 3, return_indices=True)
    kept = indices < 127 if dtype == "int8" else indices >= 0
    signed = np.dtype(dtype).kind == "i"
    given = np.where(kept, indices, -1 if signed else 0).astype(dtype)
    dx = ops.max_pool2d_backward(y, given, x.shape, 3)
    want = np.zeros_like(x).reshape(-1)
    want[indices[kept]] = y[kept]
    assert_exact(dx, want.reshape(x.shape))
    beyond = given.copy()
    beyond[0, 0, 0, 0] = -2 if signed else 180
    with pytest.raises(InvalidArgumentError, match=f"{beyond[0, 0, 0, 0]}"):
        ops.max_pool2d_backward(y, beyond, x.shape, 3)


X = np.zeros((2, 6, 5, 3), np.float32)
DY = np.zeros((2, 3, 2, 3), np.float32)
INDICES = np.zeros(DY.shape, np.int64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ops.max_pool2d_backward(DY[:1], INDICES, X.shape, 2), ShapeError, "dy"),
        (lambda: ops.max_pool2d_backward(DY, INDICES[:1], X.shape, 2), ShapeError, "indices"),
        (lambda: ops.max_pool2d_backward(DY, INDICES + 30, X.shape, 2), InvalidArgumentError, "29"),
        (lambda: ops.max_pool2d_backward(DY, INDICES - 2, X.shape, 2), InvalidArgumentError, "-2"),
        (lambda: ops.max_pool2d_backward(DY, DY, X.shape, 2), DTypeError, "indices.*float32"),
        (lambda: ops.max_pool2d_backward(DY, INDICES, X.shape[1:], 2), ShapeError, "x_shape"),
        (lambda: ops.max_pool2d_backward(DY, INDICES, (2, 6.5, 5, 3), 2), ValueError, "6.5"),
        (lambda: ops.avg_pool2d_backward(DY[..., :2], X.shape, 2), ShapeError, "dy"),
        (lambda: ops.avg_pool2d_backward(DY, X.shape, 2, stride=1), ShapeError, "dy"),
        (lambda: ops.avg_pool2d(X, 2, divisor_override=1.5), InvalidArgumentError, "divisor"),
        (lambda: ops.avg_pool2d(X, 2, padding=(1.0, 1.0)), InvalidArgumentError, "padding"),
        (lambda: ops.max_pool2d(X, 2, padding=2, dilation=3), InvalidArgumentError, "at most half"),
        (lambda: ops.max_pool2d(X[:, :0], 2, padding=1), ShapeError, "at least 1"),
        (lambda: ops.max_pool2d(X[..., :0], 2), ShapeError, "channel"),
        (lambda: ops.adaptive_avg_pool2d(X, 0), InvalidArgumentError, "output_size.*Received: 0"),
        (lambda: ops.adaptive_avg_pool2d(X, (1, 2, 3)), InvalidArgumentError, "output_size"),
        (lambda: ops.adaptive_avg_pool2d(X, None), InvalidArgumentError, "output_size"),
        (lambda: ops.adaptive_avg_pool2d(X, "2"), InvalidArgumentError, "output_size"),
        (lambda: ops.adaptive_max_pool2d(X[:, :0], 2), ShapeError, "at least 1"),
        (lambda: ops.adaptive_max_pool2d(X[0], 2), ShapeError, "4 dimensions"),
        (lambda: ops.adaptive_avg_pool2d(X, 2, layout="NWC"), InvalidArgumentError, "layout"),
        (lambda: ops.adaptive_avg_pool2d_backward(DY, (3, 6, 5, 3)), ShapeError, "dy"),
        (lambda: ops.adaptive_avg_pool2d_backward(DY[:, :0], X.shape), ShapeError, "dy"),
        (lambda: ops.adaptive_max_pool2d_backward(DY, INDICES + 30, X.shape), ValueError, "29"),
    ],
)  # fmt: skip
def test_more_bad_arguments_are_refused(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# --- drawn geometries ----------------------------------------------------------------------


@st.composite
def drawn(draw: Any) -> dict[str, Any]:
    """Arguments of a pooling, possible or not."""
    rank = draw(st.integers(1, 3))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(rank))

    return {
        "rank": rank,
        "shape": (draw(st.integers(0, 2)), *each(0, 1, 2, 3, 4, 5), draw(st.integers(0, 2))),
        "kernel_size": each(0, 1, 2, 2, 3, 3, 4),
        "stride": draw(st.none() | st.just(each(0, 1, 1, 2, 2, 3))),
        "padding": draw(
            st.sampled_from(["same", "valid"])
            | st.just(tuple(zip(each(-1, 0, 0, 1, 2), each(0, 0, 1, 2), strict=True)))
        ),
        "dilation": each(0, 1, 1, 1, 2, 3),
        "ceil_mode": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


def possible(a: dict[str, Any]) -> bool:
    """Whether the arguments describe a pooling, from the definitions."""
    stride = a["kernel_size"] if a["stride"] is None else a["stride"]
    if min(*a["kernel_size"], *stride, *a["dilation"], *a["shape"][1:]) < 1:
        return False
    reaches = [d * (k - 1) + 1 for k, d in zip(a["kernel_size"], a["dilation"], strict=True)]
    if a["padding"] == "same":
        return True
    pads = ((0, 0),) * a["rank"] if a["padding"] == "valid" else a["padding"]
    sizes = zip(a["shape"][1:-1], a["kernel_size"], reaches, stride, pads, strict=True)
    for n, k, e, s, (lo, hi) in sizes:
        hanging_over = s - 1 if a["ceil_mode"] else 0
        if min(lo, hi) < 0 or max(lo, hi) > k // 2 or n + lo + hi + hanging_over < e:
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(drawn())
def test_any_max_pool_is_right_or_refused(a: dict[str, Any]) -> None:
    rng = np.random.default_rng(a["seed"])
    x = small_integers(rng, a["shape"], np.float32, low=-2, high=2)
    options = {k: a[k] for k in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
    forward, backward = (getattr(ops, f"max_pool{a['rank']}d{s}") for s in ("", "_backward"))
    if not possible(a):
        with pytest.raises(GpuconvError):
            forward(x, **options)
        return
    y, indices = forward(x, return_indices=True, **options)
    want, where = reference.max_pool(x.astype(np.float64), **options)
    assert_exact(y, want)
    assert_exact(indices, where)
    dy = small_integers(rng, y.shape, np.float64)
    dx = backward(dy.astype(np.float32), indices, x.shape, **options)
    assert_exact(dx, reference.max_pool_backward(dy, where, x.shape))


@settings(max_examples=150, deadline=None)
@given(drawn(), st.booleans(), st.sampled_from([None, None, 1, 3]))
def test_any_avg_pool_is_right_or_refused(
    a: dict[str, Any], count_include_pad: bool, divisor_override: int | None
) -> None:
    a["dilation"] = (1,) * a["rank"]
    rng = np.random.default_rng(a["seed"])
    x = small_integers(rng, a["shape"], np.float64)
    options = {k: a[k] for k in ("kernel_size", "stride", "padding", "ceil_mode")}
    options |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    forward, backward = (getattr(ops, f"avg_pool{a['rank']}d{s}") for s in ("", "_backward"))
    if not possible(a):
        with pytest.raises(GpuconvError):
            forward(x, **options)
        return
    y = forward(x, **options)
    assert_close(y, reference.avg_pool(x, **options), 4)
    dy = small_integers(rng, y.shape, np.float64)
    want = reference.avg_pool_backward(dy, x.shape, **options)
    assert_close(backward(dy, x.shape, **options), want, 64)


@settings(max_examples=60, deadline=None)
@given(
    extents=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    data=st.data(),
)
def test_any_adaptive_pool_is_right(extents: list[int], data: st.DataObject) -> None:
    size = tuple(data.draw(st.integers(1, 7)) for _ in extents)
    x = small_integers(np.random.default_rng(sum(size)), (2, *extents, 2), np.float64)
    rank = len(extents)
    y, indices = getattr(ops, f"adaptive_max_pool{rank}d")(x, size, return_indices=True)
    want, where = reference.adaptive_max_pool(x, size)
    assert_exact(y, want)
    assert_exact(indices, where)
    average = getattr(ops, f"adaptive_avg_pool{rank}d")(x, size)
    assert_close(average, reference.adaptive_avg_pool(x, size), 216)


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rank"), list(itertools.product(["max", "avg"], RANKS)))
def test_signatures_are_those_of_pytorch_with_a_layout(kind: str, rank: int) -> None:
    forward = getattr(ops, f"{kind}_pool{rank}d")
    own = {
        "max": "dilation ceil_mode return_indices",
        "avg": "ceil_mode count_include_pad divisor_override",
    }
    words = f"x kernel_size stride padding {own[kind]} layout".split()
    assert list(inspect.signature(forward).parameters) == words
    assert forward.__name__ == f"{kind}_pool{rank}d"
    assert f"{kind}_pool{rank}d" in getattr(ops, f"{kind}_pool{rank}d_backward").__doc__
