"""Engine cuda:cupy, moments and normalisation over any axes, against NumPy's engine in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cupy_host import needs_compiler, on_host

from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import small_integers, views_of
from gpuconv_kernels.raw import nests, sums

CPU = CpuNumpy()
EPSILON = 1e-3

CASES = {
    # shape, axes of the moments, axes over which the parameters' gradients are summed
    "batch": ((4, 3, 2, 5), (0, 1, 2), (0, 1, 2)),
    "batch of rows": ((6, 3), (0,), (0,)),
    "batch of one channel": ((3, 4, 1), (0, 1), (0, 1)),
    "batch, packs of 16 bytes": ((5, 7, 8), (0, 1), (0, 1)),
    "batch, many segments": ((300, 2, 9), (0, 1), (0, 1)),
    "layer": ((3, 2, 7), (2,), (0, 1)),
    "layer, wide": ((2, 1300), (1,), (0,)),
    "layer over several axes": ((3, 4, 2, 3), (1, 2, 3), (0,)),
    "group": ((2, 6, 3, 4), (1, 3), (0, 1)),
    "group, one channel each": ((2, 6, 3, 1), (1, 3), (0, 1)),
    "group of volumes": ((2, 3, 2, 2, 3, 4), (1, 2, 3, 5), (0, 1, 2, 3)),
    "instance": ((2, 8, 3), (1,), (0, 1)),
    "channels first": ((3, 4, 2, 3), (0, 2, 3), (0, 2, 3)),
    "everything": ((3, 4, 2), (0, 1, 2), (0, 1, 2)),
    "negative axes": ((3, 4, 5), (-1,), (0, -2)),
    "every second axis": ((2, 3, 2, 3, 2, 3), (1, 3, 5), (0, 2, 4)),
    "every second axis the other way": ((2, 3, 2, 3, 2), (0, 2, 4), (1, 3)),
}


def kept(shape, axes):
    positive = {a % len(shape) for a in axes}
    return tuple(1 if a in positive else n for a, n in enumerate(shape))


def operands(name, dtype):
    shape, axes, parameter_axes = CASES[name]
    rng = np.random.default_rng(len(name))
    x = (rng.standard_normal(shape) * 2 + 3).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    scale, offset = (
        rng.standard_normal(kept(shape, parameter_axes)).astype(dtype) for _ in range(2)
    )
    return x, dy, scale, offset, axes, parameter_axes


def doubles(*arrays):
    return [None if a is None else a.astype("float64") for a in arrays]


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_moments_and_normalize(name, dtype):
    x, _, scale, offset, axes, _ = operands(name, dtype)
    engine, _ = on_host(reverse=dtype == "float64")
    mean, variance = engine.moments(x, axes)
    wanted = CPU.moments(x.astype("float64"), axes)
    assert mean.dtype == variance.dtype == dtype
    assert_close(mean, wanted[0], 4)
    assert_close(variance, wanted[1], 4)
    for s, o in itertools.product((scale, None), (offset, None)):
        y = engine.normalize(x, mean, variance, s, o, EPSILON)
        assert y.flags.c_contiguous
        assert_close(y, CPU.normalize(*doubles(x, mean, variance, s, o), EPSILON), 4)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_normalize_backward(name, with_scale, dtype):
    x, dy, scale, _, axes, parameter_axes = operands(name, dtype)
    scale = scale if with_scale else None
    engine, _ = on_host(reverse=dtype == "float64")
    mean, variance = CPU.moments(x, axes)
    for batch_statistics, input_gradient in itertools.product((True, False), repeat=2):
        rest = (EPSILON, axes, parameter_axes, batch_statistics, input_gradient)
        found = engine.normalize_backward(dy, x, mean, variance, scale, *rest)
        wanted = CPU.normalize_backward(*doubles(dy, x, mean, variance, scale), *rest)
        assert (found[0] is None) == (not input_gradient)
        for actual, expected in zip(found, wanted, strict=True):
            if expected is not None:
                assert actual.dtype == dtype
                scale_of_sum = float(np.abs(expected).max()) + x.size**0.5
                of_sums = scale_of_sum if actual is not found[0] else None
                assert_close(actual, expected, 16, scale=of_sums)


@needs_compiler
def test_against_the_reference():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 2, 6))
    gamma, beta = rng.standard_normal((2, 6))
    engine, _ = on_host()
    y, mean, variance = reference.batch_norm(x, gamma, beta, EPSILON)
    moments = engine.moments(x, (0, 1, 2))
    assert_close(moments[0].reshape(-1), mean, 4)
    assert_close(moments[1].reshape(-1), variance, 4)
    assert_close(engine.normalize(x, *moments, gamma, beta, EPSILON), y, 4)
    grouped = x.reshape(3, 8, 3, 2)
    scale, offset = gamma.reshape(3, 2), beta.reshape(3, 2)
    y = engine.normalize(grouped, *engine.moments(grouped, (1, 3)), scale, offset, EPSILON)
    assert_close(y.reshape(x.shape), reference.group_norm(x, gamma, beta, 3, EPSILON), 4)


@needs_compiler
@pytest.mark.parametrize("mean_shape", [(5,), (1, 1), (4, 1), (2, 1, 5), ()])
@pytest.mark.parametrize("scale_shape", [(5,), (2, 4, 5), (1, 4, 1), ()])
def test_any_broadcast(mean_shape, scale_shape):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 4, 5))
    mean, variance = rng.standard_normal(mean_shape), rng.random((1, *mean_shape)[-2:])
    scale = rng.standard_normal(scale_shape)
    engine, _ = on_host()
    y = engine.normalize(x, mean, variance, scale, scale[..., None][..., 0], EPSILON)
    normal = (x - mean) / np.sqrt(variance + EPSILON)
    assert_close(y, normal * scale + scale, 4)
    rest = (EPSILON, (0, 1), (0, 1), False, True)
    dx, dscale, doffset = engine.normalize_backward(dy, x, mean, variance, scale, *rest)
    assert_close(dx, dy * scale / np.sqrt(variance + EPSILON), 4)
    assert_close(dscale, (dy * normal).sum((0, 1), keepdims=True), 40)
    assert_close(doffset, dy.sum((0, 1), keepdims=True), 40)


@needs_compiler
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_nothing_to_average(shape):
    engine, _ = on_host()
    x = np.zeros(shape, "float32")
    mean, variance = engine.moments(x, (0, 1))
    assert_exact(mean, np.zeros((1, 1, 4)))
    assert_exact(variance, np.zeros((1, 1, 4)))
    assert engine.normalize(x, mean, variance, None, None, EPSILON).shape == shape
    rest = (EPSILON, (0, 1), (0, 1), True, True)
    dx, dscale, doffset = engine.normalize_backward(x, x, mean, variance, None, *rest)
    assert dx.shape == shape
    assert_exact(dscale, np.zeros((1, 1, 4)))
    assert_exact(doffset, np.zeros((1, 1, 4)))


@needs_compiler
def test_any_kind_of_memory():
    rng = np.random.default_rng(0)
    x, dy = small_integers(rng, (3, 4, 5)), small_integers(rng, (3, 4, 5))
    engine, _ = on_host()
    mean, variance = engine.moments(x, (0, 1))
    rest = (EPSILON, (0, 1), (0, 1), True, True)
    y = engine.normalize(x, mean, variance, None, None, EPSILON)
    dx, *_ = engine.normalize_backward(dy, x, mean, variance, None, *rest)
    for (_, vx), (_, vdy) in zip(views_of(x), views_of(dy), strict=True):
        assert_exact(engine.moments(vx, (0, 1))[1], variance)
        assert_exact(engine.normalize(vx, mean, variance, None, None, EPSILON), y)
        assert_exact(engine.normalize_backward(vdy, vx, mean, variance, None, *rest)[0], dx)


@needs_compiler
@pytest.mark.parametrize(
    "shape", [(7, 5), (3000, 3), (2, 3, 4, 70), (900, 1), (6,), (0, 4), (3, 0)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_channels(shape, dtype):
    engine, runtime = on_host(reverse=True)
    dy = small_integers(np.random.default_rng(0), shape, dtype)
    db = engine.sum_channels(dy)
    assert db.dtype == dtype
    assert_exact(db, dy.sum(tuple(range(dy.ndim - 1)), dtype="float64"))
    if dy.size:
        rows = (dy.size // shape[-1], shape[-1])
        assert sum(runtime.allocated) - db.nbytes == sums.workspace_bytes(rows, (0,))


@needs_compiler
def test_on_the_array_api_standard():
    strict = pytest.importorskip("array_api_strict")
    for name in ("batch", "layer", "group", "every second axis"):
        x, dy, scale, offset, axes, parameter_axes = operands(name, "float64")
        engine, _ = on_host(strict)
        given = [strict.asarray(a) for a in (x, dy, scale, offset)]
        mean, variance = engine.moments(given[0], axes)
        y = engine.normalize(given[0], mean, variance, given[2], given[3], EPSILON)
        host = [np.asarray(a) for a in (mean, variance)]
        assert_close(np.asarray(y), CPU.normalize(x, *host, scale, offset, EPSILON), 4)
        rest = (EPSILON, axes, parameter_axes, True, True)
        found = engine.normalize_backward(given[1], given[0], mean, variance, given[2], *rest)
        wanted = CPU.normalize_backward(dy, x, *host, scale, *rest)
        for actual, expected in zip(found, wanted, strict=True):
            assert_close(np.asarray(actual), expected, 64)
        assert_close(
            np.asarray(engine.sum_channels(given[1])), dy.reshape(-1, dy.shape[-1]).sum(0), 16
        )


# --- merging axes ----------------------------------------------------------------------------


def test_axes_that_behave_alike_are_merged():
    merged = nests.merged
    batch = merged((4, 3, 2, 5), (1, 1, 1, 5), (5,), (0, 1, 2))
    assert [(a.extent, a.x, a.mean, a.scale, a.is_reduced) for a in batch] == [
        (24, 5, 0, 0, True),
        (5, 1, 1, 1, False),
    ]
    group = merged((2, 6, 3, 4), (2, 1, 3, 1), (3, 4))
    assert [(a.extent, a.x, a.mean, a.scale) for a in group] == [
        (2, 72, 3, 0),
        (6, 12, 0, 0),
        (3, 4, 1, 4),
        (4, 1, 0, 1),
    ]
    assert merged((1, 1), (), ()) == (nests.Axis(1, 1, 0, 0, False),)
    assert len(merged((3, 1, 4), (3, 1, 4), (3, 1, 4))) == 1


@pytest.mark.parametrize("shape", [(1, 1), (100_000, 3), (3, 100_000), (64, 56, 56, 64)])
def test_segments_cover_everything_once(shape):
    for axes in ((0,), (len(shape) - 1,), tuple(range(len(shape)))):
        plan = sums.arrange(nests.merged(shape, (), (), axes))
        assert plan.kept * plan.reduced == np.prod(shape)
        assert (plan.segments - 1) * plan.per_segment < plan.reduced
        assert plan.segments * plan.per_segment >= plan.reduced
        assert plan.segments <= 65_535
        assert plan.block[0] * plan.block[1] <= 256
