"""Padding of the spatial axes against an index map and against NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv.testing import reference
from gpuconv_kernels.array import padding

MODES = ["zeros", "reflect", "replicate", "circular"]
LIMIT = {"zeros": 3, "replicate": 3}


@st.composite
def cases(draw):
    mode = draw(st.sampled_from(MODES))
    rank = draw(st.integers(1, 3))
    extents = draw(st.tuples(*[st.integers(1, 5)] * rank))
    pads = []
    for n in extents:
        limit = LIMIT.get(mode, n - 1 if mode == "reflect" else n)
        pads.append((draw(st.integers(0, limit)), draw(st.integers(0, limit))))
    batch, channels = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    return mode, (batch, *extents, channels), tuple(pads)


def integers(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_forward_shows_what_the_index_map_says(case):
    mode, shape, pads = case
    x = integers(shape)
    y = padding.pad(x, pads, mode)
    np.testing.assert_array_equal(y, reference.pad(x, pads, mode))
    assert y.dtype == x.dtype
    assert y.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(cases())
def test_backward_sums_all_copies(case):
    mode, shape, pads = case
    n, *extents, c = shape
    padded = (n, *(e + lo + hi for e, (lo, hi) in zip(extents, pads, strict=True)), c)
    dy = integers(padded, seed=1)
    dx = padding.pad_backward(dy, pads, mode)
    np.testing.assert_array_equal(dx, reference.pad_backward(dy, pads, mode))
    assert dx.shape == shape
    assert dx.dtype == dy.dtype


@pytest.mark.parametrize(
    ("mode", "name"),
    [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")],
)
def test_agrees_with_numpy_in_every_corner(mode, name):
    x = integers((2, 6, 7, 5, 3), "float64")
    pads = ((5, 2), (0, 3), (4, 0))
    expected = np.pad(x, ((0, 0), *pads, (0, 0)), name)
    np.testing.assert_array_equal(padding.pad(x, pads, mode), expected)


@pytest.mark.parametrize("mode", MODES)
def test_backward_is_the_transpose_of_forward(mode):
    x, pads = integers((2, 4, 5, 2), "float64"), ((2, 3), (3, 1))
    y = padding.pad(x, pads, mode)
    dy = integers(y.shape, "float64", seed=3)
    assert np.vdot(y, dy) == np.vdot(x, padding.pad_backward(dy, pads, mode))


@pytest.mark.parametrize("mode", MODES)
def test_strided_read_only_arguments_stay_as_they_are(mode):
    base = integers((2, 3, 8, 9))
    x = base.transpose(0, 2, 3, 1)[:, ::2, ::-1]
    x.flags.writeable = False
    pads = ((1, 2), (2, 0))
    before = x.copy()
    y = padding.pad(x, pads, mode)
    np.testing.assert_array_equal(y, reference.pad(before, pads, mode))
    dy = integers((2, 3, *y.shape[1:3])).transpose(0, 2, 3, 1)
    dy.flags.writeable = False
    dx = padding.pad_backward(dy, pads, mode)
    np.testing.assert_array_equal(dx, reference.pad_backward(dy, pads, mode))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", MODES)
def test_no_padding_gives_a_new_array(mode):
    x = integers((1, 3, 2))
    for result in (padding.pad(x, ((0, 0),), mode), padding.pad_backward(x, ((0, 0),), mode)):
        np.testing.assert_array_equal(result, x)
        assert not np.shares_memory(result, x)
