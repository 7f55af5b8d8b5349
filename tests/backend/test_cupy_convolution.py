"""Engine cuda:cupy, convolution: every case against the reference, whole and in chunks."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from cupy_host import needs_compiler, on_host

from gpuconv.backends.base import Plan, Refusal
from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import CONV_CASES, ConvCase, generator, small_integers, views_of
from gpuconv_kernels.raw import convolution, depthwise

UNLIMITED = 2**30
ZEROS = [case for case in CONV_CASES if case.padding_mode == "zeros"]
OPERATIONS = ("conv_forward", "conv_backward_input", "conv_backward_weight")


class Trio(NamedTuple):
    x: Any
    w: Any
    bias: Any
    dy: Any
    y: Any
    dx: Any
    dw: Any


def each(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pads_of(case: ConvCase) -> tuple[tuple[int, int], ...]:
    words = (case.padding, case.input, case.kernel)
    found = reference.resolve_pads(
        *words, each(case.stride, case.rank), each(case.dilation, case.rank)
    )
    return tuple(tuple(pair) for pair in found)


def geometry_of(case: ConvCase) -> ConvGeometry:
    """The convolution that is left when padding other than zeros has been done before."""
    pads, extents = pads_of(case), case.input
    if case.padding_mode != "zeros":
        extents = tuple(n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True))
        pads = ((0, 0),) * case.rank
    return ConvGeometry(
        batch=case.batch,
        in_channels=case.channels,
        out_channels=case.filters,
        input=tuple(extents),
        kernel=case.kernel,
        stride=each(case.stride, case.rank),
        dilation=each(case.dilation, case.rank),
        pads=pads,
        groups=case.groups,
    )


@cache
def expected(case: ConvCase) -> Trio:
    """Small integers and the reference's results, read-only."""
    rng = generator(case.id)
    x, w = (small_integers(rng, s, np.float64) for s in (case.x_shape, case.w_shape))
    bias = small_integers(rng, (case.filters,), np.float64)
    y = reference.conv(x, w, bias, **case.options)
    dy = small_integers(rng, y.shape, np.float64)
    dx = reference.conv_backward_input(dy, w, x.shape, **case.options)
    dw = reference.conv_backward_weight(dy, x, w.shape, **case.options)
    trio = Trio(x, w, bias, dy, y, dx, dw)
    for array in trio:
        array.setflags(write=False)
    return trio


def check_exact(engine: CudaCupy, case: ConvCase, dtype: str, limit: int) -> None:
    g = geometry_of(case)
    exact = expected(case)
    x, w, bias, dy = (a.astype(dtype) for a in exact[:4])
    modes = (pads_of(case), case.padding_mode)
    padded = x if case.padding_mode == "zeros" else engine.pad(x, *modes)
    y = engine.conv_forward(padded, w, bias, g, limit)
    dx = engine.conv_backward_input(dy, w, g, limit)
    if case.padding_mode != "zeros":
        dx = engine.pad_backward(dx, *modes)
    dw = engine.conv_backward_weight(dy, padded, g, limit)
    for actual, wanted in ((y, exact.y), (dx, exact.dx), (dw, exact.dw)):
        assert actual.dtype == dtype
        assert actual.flags.c_contiguous
        assert_exact(actual, wanted)


@needs_compiler
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "limit", "reverse"),
    [("float32", UNLIMITED, False), ("float64", 2000, True), ("float32", 500, True)],
)
def test_integers_are_exact(case, dtype, limit, reverse):
    engine, _ = on_host(reverse=reverse)
    check_exact(engine, case, dtype, limit)


@needs_compiler
@pytest.mark.parametrize("case", ZEROS, ids=str)
@pytest.mark.parametrize("limit", [UNLIMITED, 1500, 1])
@pytest.mark.parametrize("op", OPERATIONS)
def test_the_workspace_is_what_the_plan_states_and_stays_within_the_limit(case, op, limit):
    g = geometry_of(case)
    if limit == 1 and g.batch * math.prod(g.output) > 12:
        limit = 600  # as telling, and not a launch for each position
    engine, runtime = on_host()
    x, w, _, dy, *_ = (a.astype("float32") for a in expected(case))
    plan = engine.plan(op, g, "float32", limit)
    if op == "conv_forward":
        result = engine.conv_forward(x, w, None, g, limit)
    elif op == "conv_backward_input":
        result = engine.conv_backward_input(dy, w, g, limit)
    else:
        result = engine.conv_backward_weight(dy, x, g, limit)
    used = sum(runtime.allocated) - result.nbytes
    assert used == plan.workspace_bytes
    smallest = g.taps * g.in_channels * 4
    if g.is_depthwise:
        smallest = g.taps * g.out_channels * 8
    assert used <= max(limit, smallest)


@needs_compiler
@pytest.mark.parametrize("case", ZEROS[1::3], ids=str)
def test_random_numbers(case):
    g = geometry_of(case)
    rng = generator(case.id)
    x, w, dy = (rng.standard_normal(s).astype("float32") for s in (g.x_shape, g.w_shape, g.y_shape))
    for limit in (UNLIMITED, 700):
        engine, _ = on_host()
        y = engine.conv_forward(x, w, None, g, limit)
        dx = engine.conv_backward_input(dy, w, g, limit)
        dw = engine.conv_backward_weight(dy, x, g, limit)
        assert_close(y, reference.conv(x, w, **case.options), g.reduction)
        wanted = reference.conv_backward_input(dy, w, x.shape, **case.options)
        assert_close(dx, wanted, g.taps * g.out_channels)
        wanted = reference.conv_backward_weight(dy, x, w.shape, **case.options)
        assert_close(dw, wanted, max(g.batch * math.prod(g.output), 1))
        again = engine.conv_backward_weight(dy, x, g, limit)
        assert_exact(again, dw)


WIDE = ConvGeometry(2, 16, 8, (5, 6), (3, 3), (1, 2), (1, 1), ((1, 1), (0, 1)), 2)
WIDE_DEPTHWISE = ConvGeometry(3, 40, 40, (5, 6), (3, 3), (2, 1), (1, 2), ((1, 1), (2, 2)), 40)


@needs_compiler
@pytest.mark.parametrize("g", [WIDE, WIDE_DEPTHWISE], ids=["groups", "depthwise"])
@pytest.mark.parametrize("limit", [UNLIMITED, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0, 1])
def test_packs_of_16_bytes_and_arrays_that_are_not_aligned_to_them(g, limit, dtype, offset):
    def put(array):
        memory = np.full(array.size + 5, np.nan, dtype)
        start = -memory.ctypes.data % 16 // memory.itemsize + offset
        view = memory[start : start + array.size].reshape(array.shape)
        view[...] = array
        return view

    rng = np.random.default_rng(1)
    x, w, dy = (put(small_integers(rng, s)) for s in (g.x_shape, g.w_shape, g.y_shape))
    words = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}
    engine, _ = on_host()
    assert_exact(engine.conv_forward(x, w, None, g, limit), reference.conv(x, w, **words))
    wanted = reference.conv_backward_input(dy, w, x.shape, **words)
    assert_exact(engine.conv_backward_input(dy, w, g, limit), wanted)
    wanted = reference.conv_backward_weight(dy, x, w.shape, **words)
    assert_exact(engine.conv_backward_weight(dy, x, g, limit), wanted)


@needs_compiler
@pytest.mark.parametrize("case_id", ["2d-asymmetric-pads-stride", "2d-1x1", "2d-groups"])
def test_any_kind_of_memory(case_id):
    case = next(c for c in CONV_CASES if c.id == case_id)
    g = geometry_of(case)
    exact = expected(case)
    x, w, bias, dy = (a.astype("float32") for a in exact[:4])
    engine, _ = on_host()
    triples = zip(views_of(x), views_of(w), views_of(dy), strict=True)
    for (_, vx), (_, vw), (_, vdy) in triples:
        kept = [v.copy() for v in (vx, vw, vdy)]
        assert_exact(engine.conv_forward(vx, vw, bias, g, 500), exact.y)
        assert_exact(engine.conv_backward_input(vdy, vw, g, 500), exact.dx)
        assert_exact(engine.conv_backward_weight(vdy, vx, g, 500), exact.dw)
        for view, before in zip((vx, vw, vdy), kept, strict=True):
            assert_exact(view, before)


@needs_compiler
@pytest.mark.parametrize("case", ZEROS[::4], ids=str)
def test_on_the_array_api_standard(case):
    strict = pytest.importorskip("array_api_strict")
    g = geometry_of(case)
    exact = expected(case)
    x, w, bias, dy = (strict.asarray(a.astype("float32")) for a in exact[:4])
    for limit in (UNLIMITED, 600):
        engine, _ = on_host(strict)
        assert_exact(np.asarray(engine.conv_forward(x, w, bias, g, limit)), exact.y)
        assert_exact(np.asarray(engine.conv_backward_input(dy, w, g, limit)), exact.dx)
        assert_exact(np.asarray(engine.conv_backward_weight(dy, x, g, limit)), exact.dw)


@needs_compiler
@pytest.mark.parametrize("case_id", ["2d-same", "2d-depthwise", "2d-1x1", "2d-batch-0"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_bias_and_activation_are_fused(case_id, with_bias):
    case = next(c for c in CONV_CASES if c.id == case_id)
    g = geometry_of(case)
    x, w, bias = (a.astype("float64") for a in expected(case)[:3])
    engine, _ = on_host()
    plain = reference.conv(x, w, bias if with_bias else None, **case.options)
    for limit in (UNLIMITED, 400):
        y = engine.conv_forward(x, w, bias if with_bias else None, g, limit, Activation("elu", 0.5))
        assert_close(y, reference.activation(plain, "elu", 0.5), g.reduction)


# --- how the work is cut, from integers alone ------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100, 1000, 4096, 10**5, 10**9])
@pytest.mark.parametrize("case", ZEROS, ids=str)
def test_chunks(case, limit):
    g = geometry_of(case)
    cut = convolution.chunks(g, 4, limit)
    plane = math.prod(g.output)
    positions = g.batch * plane
    assert (cut.rows >= 1) == (g.batch > 0)
    assert cut.bytes == cut.rows * cut.row_bytes
    assert cut.bytes <= limit or cut.rows == 1
    assert cut.number == -(-positions // max(cut.rows, 1))
    assert cut.whole_samples == (cut.rows % plane == 0)


@pytest.mark.parametrize("case", ZEROS, ids=str)
def test_every_input_that_a_chunk_meets_lies_in_the_range_that_it_writes(case):
    g = geometry_of(case)
    if g.batch == 0:
        return
    plane, extent = math.prod(g.output), math.prod(g.input)
    for first, rows in ((0, 1), (plane - 1, 2), (plane // 2, plane), (0, g.batch * plane)):
        rows = min(rows, g.batch * plane - first)
        start, stop = convolution.reached(g, first, rows, whole=False)
        for q in range(first, first + rows):
            place = np.unravel_index(q % plane, g.output)
            for tap in np.ndindex(*g.kernel):
                i = [
                    p * s - lo + t * d
                    for p, s, (lo, _), t, d in zip(
                        place, g.stride, g.pads, tap, g.dilation, strict=True
                    )
                ]
                if all(0 <= a < n for a, n in zip(i, g.input, strict=True)):
                    flat = q // plane * extent + int(np.ravel_multi_index(i, g.input))
                    assert start <= flat < stop
        assert convolution.reached(g, 0, g.batch * plane, whole=True) == (0, g.batch * extent)


def test_plans_say_how_and_why():
    engine = CudaCupy()
    g = ConvGeometry(8, 64, 128, (28, 28), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    whole = engine.plan("conv_forward", g, "float32", 2**30)
    assert whole.algorithm == "im2col+gemm"
    assert whole.workspace_bytes == 8 * 28 * 28 * 9 * 64 * 4
    assert "at once" in whole.reason
    cut = engine.plan("conv_forward", g, "float32", 2**22)
    assert cut.workspace_bytes <= 2**22
    assert "chunks" in cut.reason
    small = engine.plan("conv_forward", g, "float64", 100)
    assert small.workspace_bytes == 9 * 64 * 8
    assert "one position needs 4608 bytes, more than the limit of 100" in small.reason
    assert engine.plan("conv_backward_input", g, "float32", 2**22).algorithm == "gemm+col2im"
    pointwise = ConvGeometry(8, 64, 128, (28, 28), (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))
    for op in OPERATIONS:
        assert engine.plan(op, pointwise, "float32", 1) == Plan(
            "gemm", 0, "1x1, stride 1, no padding: the pixels are the column matrix already"
        )


def test_plans_for_depthwise():
    g = ConvGeometry(8, 64, 64, (28, 28), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 64)
    engine = CudaCupy()
    assert engine.plan("conv_forward", g, "float32", 1).algorithm == "direct"
    plan = engine.plan("conv_backward_weight", g, "float32", 2**20)
    assert plan.algorithm == "direct+reduction"
    assert 0 < plan.workspace_bytes <= 2**20
    tight = engine.plan("conv_backward_weight", g, "float32", 1)
    assert tight.workspace_bytes == 9 * 64 * 8
    assert "more than the limit of 1" in tight.reason
    many = depthwise.segments(g, 2**30)
    assert many.number > 1
    assert many.rows * many.number >= 8 * 28 * 28


def test_what_cannot_be_counted_in_32_bits_is_refused():
    huge = ConvGeometry(1, 1, 1, (2**16, 2**16), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))
    for op in OPERATIONS:
        answer = CudaCupy().plan(op, huge, "float32", 2**30)
        assert isinstance(answer, Refusal)
        assert "2^31" in answer.reason
    deep = ConvGeometry(1, 2**29, 1, (3, 3), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))
    assert isinstance(CudaCupy().plan("conv_forward", deep, "float32", 2**30), Refusal)
