"""Softmax and its cross-entropy on the device, against plain loops in float64."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from device_mutants import mutant

from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv_kernels.device import softmax as kernels

SHAPES = [(1, 1), (4, 7), (0, 3), (2, 3, 5), (9, 2), (3, 32), (2, 33), (3, 100)]


def softmax(memory, x, module=kernels):
    y = memory.empty(x.shape, x.dtype)
    module.softmax(memory.put(x), y)
    return memory.get(y)


def backward(memory, dy, y, module=kernels):
    dx = memory.empty(y.shape, y.dtype)
    module.softmax_backward(memory.put(dy), memory.put(y), dx)
    return memory.get(dx)


def entropy(memory, logits, targets, module=kernels):
    losses = memory.empty(logits.shape[:1], logits.dtype)
    p = memory.empty(logits.shape, logits.dtype)
    module.softmax_cross_entropy(memory.put(logits), memory.put(targets), losses, p)
    return memory.get(losses), memory.get(p)


def entropy_backward(memory, p, targets, scale, module=kernels):
    dx = memory.empty(p.shape, p.dtype)
    put = (memory.put(a) for a in (p, targets, scale))
    module.softmax_cross_entropy_backward(*put, dx)
    return memory.get(dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax_and_its_gradient(memory, rng, shape, dtype):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    y = softmax(memory, x)
    assert_close(y, reference.softmax(x.astype("float64")), shape[-1], scale=1.0)
    dy = rng.standard_normal(shape).astype(dtype)
    assert_close(backward(memory, dy, y), reference.softmax_backward(dy, y), shape[-1], scale=1.0)


def test_softmax_is_stable_for_large_inputs(memory):
    x = np.array([[1e4, 1e4, -1e4], [-1e30, -1e30, -1e30], [3e38, -3e38, 0]], "float32")
    y = softmax(memory, x)
    assert_exact(y[0], np.array([0.5, 0.5, 0]))
    np.testing.assert_allclose(y[1], 1 / 3, rtol=1e-6)
    assert_exact(y[2], np.array([1.0, 0, 0]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_and_infinity_stay_in_their_rows(memory):
    inf, nan = np.inf, np.nan
    x = np.array([[nan, 1, 2], [1, 2, nan], [0, 0, -inf], [-inf] * 3, [inf, 0, 0]])
    y = softmax(memory, x)
    assert np.isnan(y).all(axis=1).tolist() == [True, True, False, True, True]
    assert y[2].tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("integers", ["int64", "int32"])
@pytest.mark.parametrize("classes", [6, 40])
def test_cross_entropy_of_class_numbers(memory, rng, dtype, integers, classes):
    logits = (3 * rng.standard_normal((5, classes))).astype(dtype)
    labels = rng.integers(0, classes, 5).astype(integers)
    losses, p = entropy(memory, logits, labels)
    logarithms = reference.log_softmax(logits.astype("float64"))
    assert_close(losses, -logarithms[np.arange(5), labels], classes)
    assert_close(p, np.exp(logarithms), classes, scale=1.0)
    scale = rng.random(5).astype(dtype)
    expected = scale[:, None] * (p - np.eye(classes)[labels])
    assert_close(entropy_backward(memory, p, labels, scale), expected, scale=1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [5, 40])
def test_cross_entropy_of_probabilities(memory, rng, dtype, classes):
    """Rows of any sum."""
    logits = (3 * rng.standard_normal((6, classes))).astype(dtype)
    targets = rng.random((6, classes)).astype(dtype)
    losses, p = entropy(memory, logits, targets)
    logarithms = reference.log_softmax(logits.astype("float64"))
    assert_close(losses, -(targets * logarithms).sum(axis=1), classes)
    assert_close(p, np.exp(logarithms), classes, scale=1.0)
    scale = rng.random(6).astype(dtype)
    mass = targets.astype("float64").sum(axis=1, keepdims=True)
    expected = scale[:, None] * (p * mass - targets)
    assert_close(entropy_backward(memory, p, targets, scale), expected, classes)


def test_cross_entropy_is_stable_where_probabilities_vanish(memory):
    logits = np.array([[0.0, 500.0], [0.0, -500.0]], "float32")
    losses, p = entropy(memory, logits, np.array([0, 0]))
    assert_exact(losses, np.array([500.0, 0.0]))
    assert_exact(p, np.array([[0, 1], [1, 0]]))


def test_a_class_that_does_not_exist_gives_nan_and_touches_no_other_row(memory):
    logits, labels = np.zeros((4, 3), "float32"), np.array([0, 3, -1, 2])
    losses, p = entropy(memory, logits, labels)
    assert np.isnan(losses).tolist() == [False, True, True, False]
    dx = entropy_backward(memory, p, labels, np.ones(4, "float32"))
    assert np.isnan(dx).any(axis=1).tolist() == [False, True, True, False]


def test_no_rows(memory):
    logits = np.zeros((0, 3), "float32")
    losses, p = entropy(memory, logits, np.zeros(0, "int64"))
    assert losses.shape == (0,)
    assert entropy_backward(memory, p, np.zeros(0, "int64"), losses).shape == (0, 3)


def test_the_hardware_block(memory, rng, monkeypatch):
    """256 threads in one block, as a device gets them, and a row longer than that."""
    monkeypatch.setattr(kernels, "_THREADS", 256)
    x = rng.standard_normal((1, 300)).astype("float32")
    assert_close(softmax(memory, x), reference.softmax(x.astype("float64")), 300, scale=1.0)
    x = rng.standard_normal((3, 100)).astype("float32")
    assert_close(softmax(memory, x), reference.softmax(x.astype("float64")), 100, scale=1.0)


def barriers(name):
    """Which of the file's barriers stand in the function called ``name``."""
    source = inspect.getsource(kernels)
    start = source.index(f"def {name}")
    before = source[:start].count("cuda.syncthreads()")
    end = source.find("\n\n\n", start)
    return list(range(before, before + source[start:end].count("cuda.syncthreads()")))


LARGEST, SUM = barriers("largest_of_row"), barriers("sum_of_row")


def telling(rng, which):
    """Logits with which a missing barrier shows, in whatever order the threads run.

    Far from zero, where a maximum of nothing shows; and for the maximum's own barriers a class that
    only the tree brings to the first thread, so much larger that any other maximum overflows.
    """
    x = (3 * rng.standard_normal((3, 20)) - 500).astype("float32")
    if which in LARGEST:
        x[:, 3] += 400
    return x


@pytest.mark.parametrize(
    ("old", "new", "which"),
    [
        *(("cuda.syncthreads()", "pass", n) for n in LARGEST + SUM + barriers("softmax_rows")),
        *(("return held[slot - cuda.threadIdx.x]", "return held[slot]", n) for n in range(2)),
        ("y[unsigned(base + k)] /= total", "pass", 0),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_in_softmax_are_noticed(memory, rng, old, new, which):
    x = telling(rng, which if "syncthreads" in old else None)
    got = softmax(memory, x, mutant(kernels, old, new, which))
    with pytest.raises(AssertionError):
        assert_close(got, reference.softmax(x.astype("float64")), 20, scale=1.0)


@pytest.mark.parametrize("which", SUM)
def test_missing_barriers_in_the_gradient_are_noticed(memory, rng, which):
    y = np.full((3, 20), 0.05, "float32")
    dy = rng.standard_normal(y.shape).astype("float32")
    got = backward(memory, dy, y, mutant(kernels, "cuda.syncthreads()", "pass", which))
    with pytest.raises(AssertionError):
        assert_close(got, reference.softmax_backward(dy, y), 20, scale=0.05)


@pytest.mark.parametrize("which", LARGEST + SUM + barriers("cross_entropy_rows"))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_missing_barriers_in_the_loss_are_noticed(memory, rng, which):
    logits = telling(rng, which)
    targets = rng.random((3, 20)).astype("float32")
    module = mutant(kernels, "cuda.syncthreads()", "pass", which)
    losses, p = entropy(memory, logits, targets, module)
    logarithms = reference.log_softmax(logits.astype("float64"))
    got = np.column_stack([losses / 100, p])
    want = np.column_stack([-(targets * logarithms).sum(axis=1) / 100, np.exp(logarithms)])
    with pytest.raises(AssertionError):
        assert_close(got, want, 20, scale=1.0)
