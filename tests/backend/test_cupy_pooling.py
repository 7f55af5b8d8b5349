"""Engine cuda:cupy, pooling and padding: against the reference, and NumPy's engine bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from cupy_host import needs_compiler, on_host
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv.backends.base import Refusal
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.errors import ShapeError
from gpuconv.geometry import PoolGeometry
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import (
    AVG_POOL_CASES,
    MAX_POOL_CASES,
    generator,
    small_integers,
    views_of,
)

CPU = CpuNumpy()


def each(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def geometry_of(case, dilation, **words):
    rank = len(case.input)
    window = each(case.kernel_size, rank)
    stride = window if case.stride is None else each(case.stride, rank)
    pads = reference.resolve_pads(case.padding, case.input, window, stride, dilation)
    return PoolGeometry(
        batch=case.batch,
        channels=case.channels,
        input=tuple(case.input),
        window=window,
        stride=stride,
        dilation=tuple(dilation),
        pads=tuple(tuple(p) for p in pads),
        ceil_mode=case.ceil_mode,
        **words,
    )


def max_geometry(case):
    return geometry_of(case, each(case.dilation, len(case.input)))


def avg_geometry(case):
    return geometry_of(
        case,
        (1,) * len(case.input),
        count_include_pad=case.count_include_pad,
        divisor_override=case.divisor_override,
    )


def ties(rng, shape, dtype):
    """Few values, so that most windows have several maxima; some NaN and infinities."""
    x = small_integers(rng, shape, dtype, -2, 2)
    spots = rng.random(shape)
    x[spots < 0.05] = np.nan
    x[(spots > 0.05) & (spots < 0.15)] = -np.inf
    return x


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_max_pool(case, dtype):
    g = max_geometry(case)
    rng = generator(case.id)
    engine, _ = on_host(reverse=dtype == "float64")
    for x in (ties(rng, g.x_shape, dtype), small_integers(rng, g.x_shape, dtype)):
        words = (g.window, g.stride, g.pads, g.dilation, g.ceil_mode)
        expected, expected_indices = reference.max_pool(x, *words)
        y, indices = engine.max_pool(x, g, True)
        assert y.dtype == dtype
        assert indices.dtype == np.int64
        assert_exact(y, expected)
        assert_exact(indices, expected_indices)
        plain, nothing = engine.max_pool(x, g, False)
        assert nothing is None
        assert plain.tobytes() == y.tobytes()
    dy = small_integers(rng, g.y_shape, dtype)
    dx = engine.max_pool_backward(dy, indices, g)
    assert_exact(dx, reference.max_pool_backward(dy, expected_indices, g.x_shape))


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", AVG_POOL_CASES, ids=str)
def test_avg_pool(case, dtype):
    g = avg_geometry(case)
    rng = generator(case.id)
    engine, _ = on_host(reverse=dtype == "float64")
    x, dy = small_integers(rng, g.x_shape, dtype), small_integers(rng, g.y_shape, dtype)
    y, dx = engine.avg_pool(x, g), engine.avg_pool_backward(dy, g)
    assert y.dtype == dx.dtype == dtype
    # Sums of small integers are exact, and one division is left.
    assert_close(y, CPU.avg_pool(x, g), 1)
    assert_close(dx, CPU.avg_pool_backward(dy, g), g.taps)
    words = (
        *(g.window, g.stride, g.pads, g.ceil_mode),
        *(g.count_include_pad, g.divisor_override),
    )
    assert_close(y, reference.avg_pool(x, *words), 1)
    assert_close(dx, reference.avg_pool_backward(dy, g.x_shape, *words), g.taps)


@st.composite
def poolings(draw, dilated):
    rank = draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(1, 3)] * rank)
    window = draw(sizes)
    words = {} if dilated else {"count_include_pad": draw(st.booleans())}
    try:
        return PoolGeometry(
            batch=draw(st.integers(0, 2)),
            channels=draw(st.integers(1, 5)),
            input=draw(st.tuples(*[st.integers(1, 6)] * rank)),
            window=window,
            stride=draw(sizes),
            dilation=draw(sizes) if dilated else (1,) * rank,
            pads=tuple(
                (draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in window
            ),
            ceil_mode=draw(st.booleans()),
            **words,
        )
    except ShapeError:
        return draw(poolings(dilated))


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(poolings(dilated=True), st.integers(0, 99))
def test_max_pool_agrees_with_the_cpu(g, seed):
    rng = np.random.default_rng(seed)
    engine, _ = on_host()
    x = ties(rng, g.x_shape, "float32")
    y, indices = engine.max_pool(x, g, True)
    expected, expected_indices = CPU.max_pool(x, g, True)
    assert_exact(y, expected)
    assert_exact(indices, expected_indices)
    dy = small_integers(rng, g.y_shape)
    assert_exact(
        engine.max_pool_backward(dy, indices, g), CPU.max_pool_backward(dy, expected_indices, g)
    )


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(poolings(dilated=False), st.integers(0, 99))
def test_avg_pool_agrees_with_the_cpu(g, seed):
    rng = np.random.default_rng(seed)
    engine, _ = on_host()
    x, dy = small_integers(rng, g.x_shape), small_integers(rng, g.y_shape)
    assert_close(engine.avg_pool(x, g), CPU.avg_pool(x, g), 1)
    assert_close(engine.avg_pool_backward(dy, g), CPU.avg_pool_backward(dy, g), g.taps)


@needs_compiler
def test_any_kind_of_memory():
    g = PoolGeometry(2, 3, (6, 5), (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1)))
    rng = np.random.default_rng(0)
    x, dy = small_integers(rng, g.x_shape), small_integers(rng, g.y_shape)
    engine, _ = on_host()
    y, indices = engine.max_pool(x, g, True)
    dx, average = engine.max_pool_backward(dy, indices, g), engine.avg_pool(x, g)
    spread = engine.avg_pool_backward(dy, g)
    for (_, vx), (_, vdy), (_, vi) in zip(
        views_of(x), views_of(dy), views_of(indices), strict=True
    ):
        assert_exact(engine.max_pool(vx, g, True)[1], indices)
        assert_exact(engine.max_pool_backward(vdy, vi, g), dx)
        assert_exact(engine.avg_pool(vx, g), average)
        assert_exact(engine.avg_pool_backward(vdy, g), spread)
    assert_exact(y, CPU.max_pool(x, g, False)[0])


def test_plans():
    g = PoolGeometry(8, 64, (28, 28), (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))
    engine = CudaCupy()
    for op in ("max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"):
        plan = engine.plan(op, g, "float32", 1)
        assert (plan.algorithm, plan.workspace_bytes) == ("gather", 0)
    whole = PoolGeometry(8, 64, (7, 7), (7, 7), (7, 7), (1, 1), ((0, 0), (0, 0)))
    assert engine.plan("avg_pool", whole, "float32", 1).algorithm == "reduction"
    huge = PoolGeometry(1, 1, (2**16, 2**16), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
    assert isinstance(engine.plan("max_pool", huge, "float32", 2**30), Refusal)


@needs_compiler
@pytest.mark.parametrize("shape", [(8, 7, 7, 64), (2, 90, 3), (1, 3, 2, 5, 4)])
def test_global_average_uses_the_memory_of_its_plan(shape):
    extents = shape[1:-1]
    zeros = ((0, 0),) * len(extents)
    ones = (1,) * len(extents)
    g = PoolGeometry(shape[0], shape[-1], extents, extents, extents, ones, zeros)
    engine, runtime = on_host()
    x = small_integers(np.random.default_rng(0), shape)
    y = engine.avg_pool(x, g)
    assert_close(y, x.mean(tuple(range(1, x.ndim - 1)), keepdims=True), 1)
    planned = engine.plan("avg_pool", g, "float32", 1).workspace_bytes
    assert sum(runtime.allocated) - y.nbytes == planned


# --- padding ---------------------------------------------------------------------------------

PADS = {
    "zeros": [((2, 0),), ((0, 3), (1, 1)), ((1, 0), (0, 2), (3, 1))],
    "reflect": [((3, 2),), ((0, 3), (1, 1)), ((1, 0), (0, 2), (2, 1))],
    "replicate": [((5, 6),), ((0, 7), (1, 1)), ((1, 0), (0, 2), (3, 1))],
    "circular": [((4, 4),), ((0, 4), (1, 3)), ((1, 0), (0, 2), (3, 1))],
}


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("mode", "pads"), [(mode, pads) for mode, listed in PADS.items() for pads in listed]
)
def test_pad(mode, pads, dtype):
    rng = np.random.default_rng(0)
    engine, _ = on_host()
    for batch in (2, 0):
        x = small_integers(rng, (batch, *(4, 5, 4)[: len(pads)], 3), dtype)
        y = engine.pad(x, pads, mode)
        assert y.dtype == dtype
        assert_exact(y, reference.pad(x, pads, mode))
        dy = small_integers(rng, y.shape, dtype)
        assert_exact(engine.pad_backward(dy, pads, mode), reference.pad_backward(dy, pads, mode))


@needs_compiler
def test_replicating_a_single_element():
    engine, _ = on_host()
    x = np.ones((1, 1, 2), "float32")
    pads = ((2, 3),)
    assert_exact(engine.pad(x, pads, "replicate"), np.ones((1, 6, 2)))
    dy = np.arange(12, dtype="float32").reshape(1, 6, 2)
    assert_exact(engine.pad_backward(dy, pads, "replicate"), dy.sum(1, keepdims=True))


@needs_compiler
def test_on_the_array_api_standard():
    strict = pytest.importorskip("array_api_strict")
    engine, _ = on_host(strict)
    rng = np.random.default_rng(0)
    g = PoolGeometry(2, 3, (6, 5), (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1)))
    x, dy = small_integers(rng, g.x_shape), small_integers(rng, g.y_shape)
    sx, sdy = strict.asarray(x), strict.asarray(dy)
    y, indices = engine.max_pool(sx, g, True)
    assert_exact(np.asarray(y), CPU.max_pool(x, g, False)[0])
    expected = CPU.max_pool_backward(dy, np.asarray(indices), g)
    assert_exact(np.asarray(engine.max_pool_backward(sdy, indices, g)), expected)
    assert_close(np.asarray(engine.avg_pool(sx, g)), CPU.avg_pool(x, g))
    pads = ((1, 2), (0, 1))
    assert_exact(np.asarray(engine.pad(sx, pads, "circular")), CPU.pad(x, pads, "circular"))
    whole = PoolGeometry(2, 3, (6, 5), (6, 5), (1, 1), (1, 1), ((0, 0), (0, 0)))
    assert_close(np.asarray(engine.avg_pool(sx, whole)), CPU.avg_pool(x, whole))
