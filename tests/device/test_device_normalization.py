"""Moments, normalisation and its gradient on the device, for every kind of layer."""

from __future__ import annotations

import numpy as np
import pytest
from device_mutants import mutant

from gpuconv.testing import reference
from gpuconv_kernels.device import gradient_sums, normalization, normalization_backward
from gpuconv_kernels.device import moments as moment_kernels
from gpuconv_kernels.device.runs import runs_of

EPSILON = 1e-3

CASES = {
    "batch": ((4, 3, 5), (0, 1), (0, 1)),
    "batch in several splits": ((70, 3), (0,), (0,)),
    "batch of one channel": ((9, 1), (0,), (0,)),
    "batch, another axis": ((3, 4, 5), (0, 2), (0, 2)),
    "layer": ((5, 7), (1,), (0,)),
    "layer of one row": ((1, 7), (1,), (0,)),
    "layer over several axes": ((3, 2, 2, 3), (1, 2, 3), (0,)),
    "layer over axes apart": ((2, 3, 2, 3), (1, 3), (0, 2)),
    "group": ((2, 6, 3, 4), (1, 3), (0, 1)),
    "group of one channel": ((2, 6, 3, 1), (1, 3), (0, 1)),
    "group without space": ((3, 3, 4), (2,), (0,)),
    "instance": ((2, 8, 3), (1,), (0, 1)),
    "one element": ((1, 1, 3), (0, 1), (0, 1)),
}


class Case:
    """Arrays for one case, and what they should give, in float64."""

    def __init__(self, name, dtype, rng):
        self.shape, self.axes, self.parameter_axes = CASES[name]
        self.dtype = dtype
        self.parameter_shape = self.kept(self.parameter_axes)
        self.x = (rng.standard_normal(self.shape) * 2 + 3).astype(dtype)
        self.dy = rng.standard_normal(self.shape).astype(dtype)
        self.scale = rng.standard_normal(self.parameter_shape).astype(dtype)
        self.offset = rng.standard_normal(self.parameter_shape).astype(dtype)
        self.mean = self.x.astype("float64").mean(self.axes, keepdims=True).astype(dtype)
        self.variance = self.x.astype("float64").var(self.axes, keepdims=True).astype(dtype)
        self.tolerance = 3e-5 if dtype == "float32" else 1e-12

    def kept(self, axes):
        return tuple(1 if axis in axes else n for axis, n in enumerate(self.shape))

    def double(self):
        return (
            a.astype("float64") for a in (self.dy, self.x, self.mean, self.variance, self.scale)
        )

    def check(self, got, expected):
        scale = max(float(np.abs(expected).max()), 1.0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=self.tolerance * scale)

    def check_all(self, got, expected):
        for one, want in zip(got, expected, strict=True):
            self.check(one, want)

    def moments(self, memory, module=moment_kernels):
        mean, variance = (memory.empty(self.kept(self.axes), self.dtype) for _ in range(2))
        needed = module.moments_elements(self.shape, self.axes)
        partial = memory.empty((needed,), self.dtype) if needed else None
        module.moments(memory.put(self.x), mean, variance, self.axes, partial)
        return memory.get(mean), memory.get(variance)

    def normalize(self, memory, scale, offset):
        y = memory.empty(self.shape, self.dtype)
        put = [None if a is None else memory.put(a) for a in (scale, offset)]
        normalization.normalize(
            memory.put(self.x), y, memory.put(self.mean), memory.put(self.variance), *put, EPSILON
        )
        return memory.get(y)

    def backward(
        self, memory, scaled=True, batch=True, to_input=True, module=normalization_backward
    ):
        dx = memory.empty(self.shape, self.dtype) if to_input else None
        dscale, doffset = (memory.empty(self.parameter_shape, self.dtype) for _ in range(2))
        needed = module.normalize_backward_elements(
            self.shape, self.axes, self.parameter_axes, batch, to_input
        )
        module.normalize_backward(
            memory.put(self.dy),
            memory.put(self.x),
            memory.put(self.mean),
            memory.put(self.variance),
            memory.put(self.scale) if scaled else None,
            dx,
            dscale,
            doffset,
            EPSILON,
            self.axes,
            self.parameter_axes,
            batch,
            memory.empty((needed,), self.dtype) if needed else None,
        )
        return (None if dx is None else memory.get(dx)), memory.get(dscale), memory.get(doffset)

    def expected_backward(self, scaled=True, batch=True):
        dy, x, mean, variance, scale = self.double()
        r = 1 / np.sqrt(variance + EPSILON)
        xhat = (x - mean) * r
        over = {"axis": self.parameter_axes, "keepdims": True}
        g = dy * scale if scaled else dy
        dx = g
        if batch:
            m = {"axis": self.axes, "keepdims": True}
            dx = g - g.mean(**m) - xhat * (g * xhat).mean(**m)
        return dx * r, (dy * xhat).sum(**over), dy.sum(**over)


@pytest.mark.parametrize("name", CASES)
class TestEveryLayer:
    def test_moments(self, memory, rng, name):
        for dtype in ("float32", "float64"):
            case = Case(name, dtype, rng)
            mean, variance = case.moments(memory)
            x = case.x.astype("float64")
            over = {"axis": case.axes, "keepdims": True}
            case.check(mean, x.mean(**over))
            case.check(variance, x.var(**over))

    def test_normalize(self, memory, rng, name):
        case = Case(name, "float32", rng)
        _, x, mean, variance, scale = case.double()
        xhat = (x - mean) / np.sqrt(variance + EPSILON)
        case.check(case.normalize(memory, case.scale, case.offset), xhat * scale + case.offset)
        case.check(case.normalize(memory, None, case.offset), xhat + case.offset)

    def test_backward(self, memory, rng, name):
        case = Case(name, "float32", rng)
        for got, want in zip(case.backward(memory), case.expected_backward(), strict=True):
            case.check(got, want)


@pytest.mark.parametrize("name", ["batch", "layer", "group"])
class TestForms:
    def test_float64_backward(self, memory, rng, name):
        case = Case(name, "float64", rng)
        for got, want in zip(case.backward(memory), case.expected_backward(), strict=True):
            case.check(got, want)

    def test_without_parameters(self, memory, rng, name):
        case = Case(name, "float64", rng)
        _, x, mean, variance, _ = case.double()
        expected = (x - mean) / np.sqrt(variance + EPSILON)
        case.check(case.normalize(memory, None, None), expected)
        got = case.backward(memory, scaled=False)
        for one, want in zip(got, case.expected_backward(scaled=False), strict=True):
            case.check(one, want)

    def test_constant_moments(self, memory, rng, name):
        case = Case(name, "float64", rng)
        case.mean, case.variance = case.mean + 0.5, case.variance + 0.5
        got = case.backward(memory, batch=False)
        for one, want in zip(got, case.expected_backward(batch=False), strict=True):
            case.check(one, want)

    def test_input_gradient_is_left_out(self, memory, rng, name):
        case = Case(name, "float64", rng)
        dx, dscale, doffset = case.backward(memory, to_input=False)
        assert dx is None
        _, *want = case.expected_backward()
        case.check(dscale, want[0])
        case.check(doffset, want[1])

    def test_no_samples(self, memory, rng, name):
        case = Case(name, "float32", rng)
        case.shape = (0, *case.shape[1:])
        case.x = case.dy = np.empty(case.shape, "float32")
        case.mean = case.variance = np.zeros(case.kept(case.axes), "float32")
        mean, variance = case.moments(memory)
        assert not mean.any()
        assert not variance.any()
        assert case.normalize(memory, case.scale, case.offset).shape == case.shape
        dx, dscale, doffset = case.backward(memory)
        assert dx.shape == case.shape
        assert not dscale.any()
        assert not doffset.any()


def test_against_loops(memory, rng):
    case = Case("group", "float64", rng)
    n, s, groups, _ = case.shape
    flat = (case.x.reshape(n, s, -1), case.scale.reshape(-1), case.offset.reshape(-1))
    expected = reference.group_norm(*flat, groups, EPSILON)
    y = case.normalize(memory, case.scale, case.offset)
    np.testing.assert_allclose(y.reshape(n, s, -1), expected, rtol=1e-12, atol=1e-13)


def test_the_same_bits_again(memory, rng):
    case = Case("batch in several splits", "float32", rng)
    for one, two in zip(case.backward(memory), case.backward(memory), strict=True):
        assert one.tobytes() == two.tobytes()


class TestAccuracy:
    def moments_of(self, memory, x):
        mean, variance = (memory.empty((1, x.shape[1]), x.dtype) for _ in range(2))
        needed = moment_kernels.moments_elements(x.shape, (0,))
        partial = memory.empty((needed,), x.dtype) if needed else None
        moment_kernels.moments(memory.put(x), mean, variance, (0,), partial)
        return memory.get(mean)[0], memory.get(variance)[0]

    def test_a_mean_that_dwarfs_the_deviation(self, memory, rng):
        x = (rng.standard_normal((2000, 2)) + 10_000).astype("float32")
        mean, variance = self.moments_of(memory, x)
        exact = x.astype("float64")
        np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=2e-7)
        np.testing.assert_allclose(variance, exact.var(axis=0), rtol=2e-6)

    def test_equal_numbers_have_no_variance(self, memory):
        mean, variance = self.moments_of(memory, np.full((50, 3), 10_000.1, "float32"))
        assert mean.tolist() == [np.float32(10_000.1)] * 3
        assert not variance.any()


def test_runs():
    runs = runs_of((4, 1, 5, 6, 7), (0, 1, 2), (4,))
    assert runs.extents == (20, 6, 7)
    assert runs.sets == ((True, False, False), (False, False, True))
    assert runs_of((1, 1), (0,)).extents == (1,)
    with pytest.raises(ValueError, match="runs of axes"):
        runs_of((2,) * 9, (0, 2, 4, 6, 8)).longest([0, 8])


@pytest.mark.parametrize(
    ("old", "new", "which"),
    [
        ("cuda.syncthreads()", "pass", 0),
        ("cuda.syncthreads()", "pass", 1),
        ("d * n_a * move", "d * n_b * move", 0),
        ("min((split + 1) * chunk, reduced)", "(split + 1) * chunk", 0),
        ("rest if row == reduced - 1 else each", "each", 0),
    ],
)
def test_mistakes_in_moments_are_noticed(memory, rng, old, new, which):
    case = Case("batch in several splits", "float64", rng)
    case.x = case.x + np.linspace(0, 9, 70)[:, None]
    try:
        mean, variance = case.moments(memory, mutant(moment_kernels, old, new, which))
    except IndexError:  # the simulator noticed an access out of bounds
        return
    got, want = (mean, variance), (f(case.x, axis=0, keepdims=True) for f in (np.mean, np.var))
    with pytest.raises(AssertionError):
        case.check_all(got, want)


@pytest.mark.parametrize(
    ("old", "new", "which"),
    [
        ("cuda.syncthreads()", "pass", 0),
        ("cuda.syncthreads()", "pass", 1),
        ("if row < stop:\n                    g", "if row < 0:\n                    g", 0),
        ("held_weighted[slot] * factor", "held_weighted[slot]", 0),
        ("held_plain[slot + half * across]", "held_plain[slot]", 1),
    ],
)
def test_mistakes_in_the_sums_are_noticed(memory, rng, monkeypatch, old, new, which):
    case = Case("batch in several splits", "float64", rng)
    broken = mutant(gradient_sums, old, new, which)
    monkeypatch.setattr(normalization_backward, "all_sums", broken.all_sums)
    got = case.backward(memory)
    with pytest.raises(AssertionError):
        case.check_all(got, case.expected_backward())


@pytest.mark.parametrize(
    ("old", "new"), [("shift + (", "shift - ("), ("range(row, stop,", "range(row, stop - 1,")]
)
def test_mistakes_in_the_input_gradient_are_noticed(memory, rng, old, new):
    case = Case("batch in several splits", "float64", rng)
    got = case.backward(memory, module=mutant(normalization_backward, old, new))
    with pytest.raises(AssertionError):
        case.check_all(got, case.expected_backward())
