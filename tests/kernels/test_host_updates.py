"""Compiled optimizer updates: the same bits as the NumPy kernels, step after step."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import updates as array
from gpuconv_kernels.host import updates as host
from gpuconv_kernels.threads import set_threads

SIZES = [0, 1, 37, host.TASK + 5]


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def sgd(states, momentum=0.9, nesterov=False, torch_form=False):
    def step(module, w, g, s, t):
        velocity = s[0] if states else None
        module.sgd_update(w, g, velocity, 0.1, momentum, nesterov, torch_form, t == 1)

    return step, states


def adam(after):
    def step(module, w, g, s, t):
        module.adam_update(w, g, *s, 1e-2, 0.9, 0.999, 1e-7, t, after)

    return step, 2


def rmsprop(centered, momentum, inside):
    def step(module, w, g, s, t):
        mean, velocity = s[1] if centered else None, s[2] if momentum else None
        module.rmsprop_update(w, g, s[0], mean, velocity, 1e-2, 0.9, 0.8, 1e-7, inside)

    return step, 3


def adagrad(inside):
    def step(module, w, g, s, t):
        module.adagrad_update(w, g, s[0], 1e-2, 1e-7, inside)

    return step, 1


CASES = {
    "sgd": sgd(0),
    "sgd, momentum": sgd(1),
    "sgd, nesterov": sgd(1, nesterov=True),
    "sgd, momentum of PyTorch": sgd(1, torch_form=True),
    "sgd, nesterov of PyTorch": sgd(1, nesterov=True, torch_form=True),
    "adam": adam(False),
    "adam of PyTorch": adam(True),
    "rmsprop": rmsprop(False, False, True),
    "rmsprop, centered, momentum": rmsprop(True, True, True),
    "rmsprop of PyTorch, centered": rmsprop(True, False, False),
    "rmsprop of PyTorch, momentum": rmsprop(False, True, False),
    "adagrad": adagrad(True),
    "adagrad of PyTorch": adagrad(False),
}
IN_FLOAT64 = ["sgd, nesterov", "adam", "rmsprop, centered, momentum", "adagrad"]


def start(size, states, dtype, first=0.1):
    rng = np.random.default_rng(0)
    value = rng.standard_normal(size).astype(dtype)
    if size > 30:
        value[3:6] = np.nan, np.inf, -0.0
    return value, [np.full(size, first, dtype) for _ in range(states)]


def gradients(size, dtype, steps=3):
    for seed in range(1, steps + 1):
        g = np.random.default_rng(seed).standard_normal(size).astype(dtype)
        if size > 30:
            g[10:17] = np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 1e30
        yield g


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    numbers, integer = ~np.isnan(expected), f"i{expected.itemsize}"
    np.testing.assert_array_equal(actual.view(integer)[numbers], expected.view(integer)[numbers])


def compare(name, size, dtype):
    step, states = CASES[name]
    value, state = start(size, states, dtype)
    with guarded(value, *state) as (w, *s), np.errstate(all="ignore"):
        for t, g in enumerate(gradients(size, dtype), 1):
            with guarded(g) as (source,):
                step(host, w, source, s, t)
                assert_same_bits(source, g)
            step(array, value, g, state, t)
            assert_same_bits(w, value)
            for mine, expected in zip(s, state, strict=True):
                assert_same_bits(mine, expected)


@pytest.mark.parametrize("name", CASES)
def test_updates_have_the_bits_of_numpy(name):
    for size in SIZES:
        compare(name, size, "float32")


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_updates_in_float64(name):
    compare(name, 37, "float64")


@pytest.mark.parametrize("torch_form", [False, True])
def test_the_first_step_of_pytorch_does_not_read_the_velocity(torch_form):
    w, g, v = np.zeros(3, "float32"), np.float32([1, -0.0, 2]), np.full(3, np.nan, "float32")
    host.sgd_update(w, g, v, 0.5, 0.9, False, torch_form, True)
    if torch_form:
        assert_same_bits(v, g)
    else:
        assert np.isnan(v).all()


def test_the_bits_do_not_depend_on_the_number_of_threads():
    size, results = 3 * host.TASK + 7, []
    step, states = CASES["adam"]
    for count in (1, 2, 3):
        set_threads(count)
        w, s = start(size, states, "float32")
        for t, g in enumerate(gradients(size, "float32", 2), 1):
            step(host, w, g, s, t)
        results.append((w, *s))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)


def test_gradients_are_views_of_any_strides():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((6, 10)).astype("float32")
    base.flags.writeable = False
    value, m, v = (np.ones((5, 3), "float32") for _ in range(3))
    expected = [a.copy() for a in (value, m, v)]
    host.adam_update(value, base[::2, ::-2].T, m, v, 1e-2, 0.9, 0.999, 1e-7, 1, False)
    array.adam_update(
        expected[0], base[::2, ::-2].T, *expected[1:], 1e-2, 0.9, 0.999, 1e-7, 1, False
    )
    for mine, other in zip((value, m, v), expected, strict=True):
        assert_same_bits(mine, other)


def test_what_is_updated_must_be_contiguous():
    w = np.zeros((4, 4), "float32")
    with pytest.raises(ValueError, match="C-contiguous"):
        host.sgd_update(w[:, ::2], w[:, ::2], None, 0.1, 0.0, False, False, True)


def test_several_parameters_in_one_call(monkeypatch):
    sizes = (5, 0, 2 * host.TASK + 3, 1, host.TASK)
    step, states = CASES["adam"]
    alone, together = ([start(size, states, "float32") for size in sizes] for _ in range(2))
    calls = []
    run = host.run
    monkeypatch.setattr(host, "run", lambda *arguments: (calls.append(1), run(*arguments)))
    for threads in (1, 3):
        set_threads(threads)
        for t in (1, 2):
            drawn = [list(gradients(size, "float32", 2))[t - 1] for size in sizes]
            for (w, s), g in zip(alone, drawn, strict=True):
                step(host, w, g, s, t)
            calls.clear()
            with host.together():
                for (w, s), g in zip(together, drawn, strict=True):
                    before = w.copy()
                    step(host, w, g, s, t)
                    assert_same_bits(w, before)  # not yet
            assert len(calls) == 1
    for (w, s), (other, others) in zip(alone, together, strict=True):
        assert_same_bits(w, other)
        for a, b in zip(s, others, strict=True):
            assert_same_bits(a, b)


def update_both(w, g):
    with host.together():
        for value, gradient in ((w, g), (w[::2], g[:2])):
            host.sgd_update(value, gradient, None, 0.5, 0.0, False, False, True)


def test_an_error_among_several_leaves_the_others_as_they_were():
    w, g = np.ones(4, "float32"), np.ones(4, "float32")
    with pytest.raises(ValueError, match="C-contiguous"):
        update_both(w, g)
    assert (w == 1).all()
    host.sgd_update(w, g, None, 0.5, 0.0, False, False, True)  # at once again
    assert (w == 0.5).all()
