"""Engine cuda:cupy: activations, products, softmax, dropout and updates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cupy_host import needs_compiler, on_host

from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT, Activation
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import small_integers, views_of

CPU = CpuNumpy()
KINDS = sorted(FROM_OUTPUT | FROM_INPUT)
ALPHA = {"leaky_relu": 0.3, "elu": 1.5}
DTYPES = ["float32", "float64"]


def values(dtype):
    """Both signs, many sizes, kinks and their neighbours."""
    grid = np.concatenate([np.linspace(-12, 12, 97), np.geomspace(1e-6, 80, 40)])
    kinks = [-3, 0, 3, 6, np.nextafter(6, 0), np.nextafter(3, 9)]
    return np.concatenate([grid, -grid, kinks]).astype(dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_activation(kind, dtype):
    engine, _ = on_host()
    x = values(dtype)
    alpha = ALPHA.get(kind, 0.0)
    y = engine.activation(x, Activation(kind, alpha))
    expected = reference.activation(x.astype("float64"), kind, alpha)
    eps = np.finfo(dtype).eps
    scale = np.maximum(1.0, np.abs(x.astype("float64")))
    if kind == "exponential":
        scale = scale * np.abs(expected)
    assert np.max(np.abs(y - expected) / scale) < 4 * eps
    assert y.dtype == dtype


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_activation_backward(kind, dtype):
    engine, _ = on_host()
    function = Activation(kind, ALPHA.get(kind, 0.0))
    x = values(dtype)
    y = CPU.activation(x, function)
    dy = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
    kept = {"x": None, "y": y} if function.from_output else {"x": x, "y": None}
    dx = engine.activation_backward(dy, activation=function, **kept)
    assert dx.dtype == dtype
    expected = CPU.activation_backward(dy, activation=function, **kept)
    with np.errstate(over="ignore"):
        scale = np.maximum(np.abs(expected), np.abs(dy) * (1 + np.abs(x)))
    assert_close(dx, expected, 1, scale=scale)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_activation_of_what_is_not_finite(kind, dtype):
    engine, _ = on_host()
    function = Activation(kind, ALPHA.get(kind, 0.0))
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30], dtype)
    with np.errstate(all="ignore"):
        expected = CPU.activation(x, function)
    assert_close(engine.activation(x, function), expected, 1, scale=1.0 + np.abs(x))
    dy = np.array([np.inf, 1, 1, np.inf, 1, 1, 1], dtype)
    kept = {"x": None, "y": expected} if function.from_output else {"x": x, "y": None}
    with np.errstate(all="ignore"):
        wanted = CPU.activation_backward(dy, activation=function, **kept)
    got = engine.activation_backward(dy, activation=function, **kept)
    finite = np.isfinite(wanted)
    assert_close(got[finite], wanted[finite], 4)
    assert_exact(got[~finite], wanted[~finite])


@needs_compiler
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1027])
@pytest.mark.parametrize("offset", [0, 1])
def test_activation_at_the_edges_of_packs(size, offset):
    memory = np.arange(size + 8, dtype="float32") - 5
    x = memory[offset : offset + size]
    engine, _ = on_host()
    assert_exact(engine.activation(x, Activation("relu")), np.maximum(x, 0))
    dx = engine.activation_backward(x, None, x, Activation("relu"))
    assert_exact(dx, np.where(x != 0, x, 0))


# --- matrix products -------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(4, 3, 5), (1, 1, 1), (1, 7, 1), (0, 3, 4), (3, 0, 4), (33, 17, 65)]
)
def test_gemm(sizes, dtype):
    m, k, n = sizes
    rng = np.random.default_rng(0)
    a, b = small_integers(rng, (m, k), dtype), small_integers(rng, (k, n), dtype)
    engine, runtime = on_host()
    c = engine.gemm(a, b)
    assert c.dtype == dtype
    assert_exact(c, a.astype("float64") @ b)
    runtime.allocated.clear()
    transposed = engine.gemm(np.ascontiguousarray(a.T).T, np.ascontiguousarray(b.T).T)
    assert_exact(transposed, c)
    assert runtime.allocated == [c.nbytes]
    for (_, va), (_, vb) in zip(views_of(a), views_of(b), strict=True):
        assert_exact(engine.gemm(va, vb), c)


@needs_compiler
@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("gelu")])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("filters", [3, 8])
def test_dense(activation, with_bias, filters):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((6, 5)), rng.standard_normal((5, filters))
    bias = rng.standard_normal(filters) if with_bias else None
    engine, _ = on_host()
    assert_close(engine.dense(x, w, bias, activation), CPU.dense(x, w, bias, activation), 5)
    assert engine.dense(x[:0], w, bias, activation).shape == (0, filters)


# --- softmax ---------------------------------------------------------------------------------

SHAPES = [(3, 5), (1, 1), (7, 2), (2, 3, 10), (3, 257), (2, 1000), (300, 3), (0, 4)]


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape) * 5).astype(dtype), rng.standard_normal(shape).astype(dtype)
    engine, _ = on_host(reverse=dtype == "float64")
    y = engine.softmax(x)
    assert_close(y, reference.softmax(x.astype("float64")), 4)
    expected = reference.softmax_backward(dy, y)
    assert_close(engine.softmax_backward(dy, y), expected, shape[-1])
    assert y.dtype == dtype


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) == 2])
def test_softmax_cross_entropy(shape, dtype):
    rows, classes = shape
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(shape) * 5).astype(dtype)
    scale = rng.random(rows).astype(dtype)
    numbers = rng.integers(0, classes, rows)
    shares = rng.random(shape).astype(dtype)
    engine, _ = on_host(reverse=dtype == "float64")
    for targets in (numbers, numbers.astype("int32"), shares, shares.astype("float64")):
        losses, p = engine.softmax_cross_entropy(logits, targets)
        wanted, wanted_p = CPU.softmax_cross_entropy(logits.astype("float64"), targets)
        assert losses.dtype == p.dtype == dtype
        assert_close(losses, wanted, classes)
        assert_close(p, wanted_p, 4)
        dx = engine.softmax_cross_entropy_backward(p, targets, scale)
        wanted = CPU.softmax_cross_entropy_backward(p.astype("float64"), targets, scale)
        assert_close(dx, wanted, classes)


@needs_compiler
def test_softmax_of_what_is_not_finite():
    engine, _ = on_host()
    nan, inf = np.nan, np.inf
    x = np.array([[1, nan, 2], [inf, 0, 0], [-inf, 0, 1], [1e38, -1e38, 0], [-inf, -inf, -inf]])
    with np.errstate(all="ignore"):
        expected = CPU.softmax(x)
    assert_close(engine.softmax(x), expected, 4)
    losses, _ = engine.softmax_cross_entropy(x, np.array([0, 1, 2, 0, 0]))
    with np.errstate(all="ignore"):
        assert_close(losses, CPU.softmax_cross_entropy(x, np.array([0, 1, 2, 0, 0]))[0], 4)


@needs_compiler
def test_a_class_number_that_is_none_is_nan_and_reads_nothing_else():
    engine, _ = on_host()
    losses, _ = engine.softmax_cross_entropy(np.zeros((3, 4)), np.array([4, -1, 2**40]))
    assert np.isnan(losses).all()


# --- random numbers --------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 5, 7), (0, 4), (4100,)])
@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**63 - 1, 2**40), (12345, 2**63)])
def test_dropout_masks_are_those_of_the_cpu_bit_for_bit(shape, key):
    for rate, dtype in ((0.5, "float32"), (0.1, "float64"), (0.0, "float32"), (0.3, "float32")):
        engine, _ = on_host()
        mask = engine.dropout_mask(shape, rate, key, dtype)
        expected = CPU.dropout_mask(shape, rate, key, dtype)
        assert mask.dtype == dtype
        assert mask.shape == shape
        assert mask.tobytes() == expected.tobytes()


# --- optimizer updates -----------------------------------------------------------------------

BOOLS = (False, True)
SIZES = [(0,), (1,), (37, 5)]


def run_both(update, states, dtype, shape, absent=()):
    """Three steps of ``update(engine, value, gradient, *state, step)`` on both engines."""
    rng = np.random.default_rng(0)
    value = rng.standard_normal(shape).astype(dtype)
    given = [None if i in absent else np.zeros(shape, dtype) for i in range(states)]
    engine, _ = on_host()
    ours = [value.copy(), *(None if s is None else s.copy() for s in given)]
    theirs = [a if a is None else a.astype("float64") for a in (value, *given)]
    for step in (1, 2, 3):
        gradient = rng.standard_normal((*shape[:-1], 2 * shape[-1])).astype(dtype)[..., ::2]
        before = gradient.copy()
        update(engine, ours[0], gradient, *ours[1:], step)
        update(CPU, theirs[0], gradient.astype("float64"), *theirs[1:], step)
        assert_exact(gradient, before)
    for mine, wanted in zip(ours, theirs, strict=True):
        if mine is not None:
            assert mine.dtype == dtype
            assert_close(mine, wanted, 4)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    ("nesterov", "torch_form", "plain"), list(itertools.product(BOOLS, BOOLS, BOOLS))
)
def test_sgd(nesterov, torch_form, plain, shape, dtype):
    def update(engine, w, g, v, step):
        engine.sgd_update(w, g, v, 0.1, 0.9, nesterov, torch_form, step == 1)

    run_both(update, 1, dtype, shape, absent=(0,) if plain else ())


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("after", BOOLS)
def test_adam(after, shape, dtype):
    def update(engine, w, g, m, v, step):
        engine.adam_update(w, g, m, v, 0.01, 0.9, 0.999, 1e-3, step, after)

    run_both(update, 2, dtype, shape)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("inside", BOOLS)
@pytest.mark.parametrize("absent", [(), (1,), (2,), (1, 2)])
def test_rmsprop(absent, inside, shape, dtype):
    def update(engine, w, g, s, c, v, step):
        engine.rmsprop_update(w, g, s, c, v, 0.01, 0.9, 0.8, 1e-2, inside)

    run_both(update, 3, dtype, shape, absent)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("inside", BOOLS)
def test_adagrad(inside, shape, dtype):
    def update(engine, w, g, s, step):
        engine.adagrad_update(w, g, s, 0.01, 1e-2, inside)

    run_both(update, 1, dtype, shape)


@needs_compiler
def test_an_update_of_memory_with_gaps_is_refused():
    engine, _ = on_host()
    with pytest.raises(TypeError, match="C-contiguous"):
        engine.adagrad_update(np.ones(8)[::2], np.ones(4), np.ones(4), 0.1, 0.1, True)


@needs_compiler
def test_on_the_array_api_standard():
    strict = pytest.importorskip("array_api_strict")
    engine, _ = on_host(strict)
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s) for s in ((4, 5), (5, 3), (3,)))
    sx, sw, sb = (strict.asarray(a) for a in (x, w, b))
    relu = Activation("relu")
    y = engine.dense(sx, sw, sb, relu)
    assert_close(np.asarray(y), CPU.dense(x, w, b, relu), 5)
    dx = np.asarray(engine.activation_backward(y, None, y, relu))
    assert_exact(dx, np.asarray(y))
    assert_close(np.asarray(engine.softmax(sx)), CPU.softmax(x), 4)
    numbers = np.array([0, 4, 2, 1])
    losses, p = engine.softmax_cross_entropy(sx, strict.asarray(numbers))
    assert_close(np.asarray(losses), CPU.softmax_cross_entropy(x, numbers)[0], 5)
    scale = strict.ones((4,), dtype=strict.float64)
    dx = engine.softmax_cross_entropy_backward(p, strict.asarray(numbers), scale)
    wanted = CPU.softmax_cross_entropy_backward(np.asarray(p), numbers, np.ones(4))
    assert_close(np.asarray(dx), wanted, 5)
    mask = engine.dropout_mask((3, 4), 0.5, (1, 2), "float32")
    assert_exact(np.asarray(mask), CPU.dropout_mask((3, 4), 0.5, (1, 2), "float32"))
    value = strict.ones((5,), dtype=strict.float64)
    engine.sgd_update(
        value, strict.ones((5,), dtype=strict.float64), None, 0.5, 0, False, False, True
    )
    assert_exact(np.asarray(value), np.full(5, 0.5))
