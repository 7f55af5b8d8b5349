"""Max and average pooling against plain loops, in one box and in many."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv.errors import ShapeError
from gpuconv.geometry import PoolGeometry
from gpuconv.testing import reference
from gpuconv_kernels.array import pooling


def geometry(shape, window, stride=None, pads=0, dilation=1, **words):
    rank = len(shape) - 2

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    return PoolGeometry(
        batch=shape[0],
        channels=shape[-1],
        input=tuple(shape[1:-1]),
        window=each(window),
        stride=each(window if stride is None else stride),
        dilation=each(dilation),
        pads=tuple((p, p) if isinstance(p, int) else p for p in each(pads)),
        **words,
    )


def integers(shape, dtype="float32", seed=0, high=3):
    """Few distinct values, so that ties are the normal case."""
    return np.random.default_rng(seed).integers(-high, high + 1, shape).astype(dtype)


@pytest.fixture(params=["one box", "many boxes"])
def boxes(request, monkeypatch):
    if request.param == "many boxes":
        monkeypatch.setattr(pooling, "BOX_BYTES", 200)


@st.composite
def cases(draw, dilated):
    rank = draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(1, 4 if rank < 3 else 3)] * rank)
    extents = draw(st.tuples(*[st.integers(1, 8 if rank < 3 else 5)] * rank))
    window, stride = draw(sizes), draw(sizes)
    dilation = draw(sizes) if dilated else (1,) * rank
    pads = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in window)
    shape = (draw(st.integers(0, 3)), *extents, draw(st.integers(1, 5)))
    words = {"ceil_mode": draw(st.booleans())}
    if not dilated:
        words["count_include_pad"] = draw(st.booleans())
        words["divisor_override"] = draw(st.none() | st.integers(1, 9))
    try:
        return shape, geometry(shape, window, stride, pads, dilation, **words)
    except ShapeError:
        return draw(cases(dilated))


@settings(max_examples=150, deadline=None)
@given(cases(dilated=True), st.booleans(), st.integers(0, 99))
def test_max_pool_is_exact(case, small, seed):
    shape, g = case
    x = integers(shape, seed=seed)
    spots = np.random.default_rng(seed).random(shape)
    x[spots < 0.1] = -np.inf
    x[(spots > 0.4) & (x == 0)] = -0.0
    if seed % 3 == 0:
        x[spots > 0.9] = np.nan
    arguments = (g.window, g.stride, g.pads, g.dilation, g.ceil_mode)
    expected, expected_indices = reference.max_pool(x.astype("float64"), *arguments)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(pooling, "BOX_BYTES", 100)
        y, indices = pooling.max_pool(x, g, True)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(indices, expected_indices)
        assert y.dtype == x.dtype
        assert indices.dtype == np.int64
        alone, nothing = pooling.max_pool(x, g, False)
        assert nothing is None
        assert alone.tobytes() == y.tobytes()
        dy = integers(y.shape, seed=seed + 1, high=9)
        dx = pooling.max_pool_backward(dy, indices, g)
    np.testing.assert_array_equal(dx, reference.max_pool_backward(dy, indices, shape))
    assert dx.dtype == dy.dtype


@settings(max_examples=150, deadline=None)
@given(cases(dilated=False), st.booleans(), st.integers(0, 99))
def test_avg_pool_is_exact(case, small, seed):
    shape, g = case
    x = integers(shape, "float64", seed, high=50)
    arguments = (g.window, g.stride, g.pads, g.ceil_mode, g.count_include_pad, g.divisor_override)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(pooling, "BOX_BYTES", 100)
        y = pooling.avg_pool(x, g)
        dy = integers(y.shape, "float64", seed + 1, high=50)
        dx = pooling.avg_pool_backward(dy, g)
    np.testing.assert_array_equal(y, reference.avg_pool(x, *arguments))
    expected = reference.avg_pool_backward(dy, shape, *arguments)
    np.testing.assert_allclose(dx, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("boxes")
class TestMax:
    def test_the_first_of_equal_maxima_in_row_major_order_wins(self):
        x = np.zeros((1, 4, 4, 1), "float32")
        x[0, 0, 1, 0] = x[0, 1, 0, 0] = 5  # equal: the first row's wins, though further right
        _, indices = pooling.max_pool(x, geometry(x.shape, 2), True)
        assert indices[0, :, :, 0].tolist() == [[1, 2], [8, 10]]

    def test_the_first_nan_wins(self):
        x = np.array([[3, np.nan, 9], [np.nan, np.inf, 9], [9, 9, 9]], "float32")
        y, indices = pooling.max_pool(x[None, :, :, None], geometry((1, 3, 3, 1), 3, 1), True)
        assert np.isnan(y).all()
        assert indices.item() == 1

    def test_minus_infinity_everywhere_still_names_a_real_element(self):
        x = np.full((2, 3, 3, 2), -np.inf, "float32")
        g = geometry(x.shape, 2, 1, 1)
        y, indices = pooling.max_pool(x, g, True)
        assert (y == -np.inf).all()
        assert indices[0, :, :, 0].tolist() == [
            [0, 0, 1, 2],
            [0, 0, 1, 2],
            [3, 3, 4, 5],
            [6, 6, 7, 8],
        ]
        dx = pooling.max_pool_backward(np.ones_like(y), indices, g)
        assert dx.sum() == y.size

    def test_a_window_that_misses_the_input_gives_minus_infinity_and_no_gradient(self):
        x = np.ones((1, 3, 2), "float32")
        g = geometry(x.shape, 2, 1, 1, 4)
        y, indices = pooling.max_pool(x, g, True)
        assert (y == -np.inf).all()
        assert (indices == -1).all()
        assert not pooling.max_pool_backward(np.ones_like(y), indices, g).any()

    def test_overlapping_windows_add_up(self):
        x = np.zeros((1, 5, 5, 1), "float64")
        x[0, 2, 2, 0] = 1
        g = geometry(x.shape, 3, 1)
        y, indices = pooling.max_pool(x, g, True)
        assert (indices == 12).all()
        dx = pooling.max_pool_backward(np.arange(9.0).reshape(y.shape), indices, g)
        assert dx[0, 2, 2, 0] == 36
        assert dx.sum() == 36

    @pytest.mark.parametrize("width", [200, 70_000])
    def test_distances_beyond_one_and_two_bytes(self, width):
        x = integers((1, 3, width, 1), high=100)
        g = geometry(x.shape, (3, 2), (1, 2), (1, 0))
        y, indices = pooling.max_pool(x, g, True)
        plane = x.reshape(-1)
        np.testing.assert_array_equal(plane[indices], y)
        windows = np.stack([x[0, :, 0::2, 0], x[0, :, 1::2, 0]]).max(axis=(0, 1))
        np.testing.assert_array_equal(y[0, 1, :, 0], windows)

    def test_strided_and_read_only(self):
        base = integers((2, 3, 9, 8))
        x = base.transpose(0, 2, 3, 1)[:, ::-1, :, ::2]
        x.flags.writeable = False
        g = geometry(x.shape, (3, 2), 2, 1)
        y, indices = pooling.max_pool(x, g, True)
        expected = reference.max_pool(x, (3, 2), 2, 1)
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(indices, expected[1])
        dy = np.broadcast_to(np.float32(2), y.shape)
        dx = pooling.max_pool_backward(dy, indices, g)
        np.testing.assert_array_equal(dx, reference.max_pool_backward(dy, indices, x.shape))

    def test_same_bits_again(self):
        x = np.random.default_rng(0).standard_normal((2, 9, 9, 3)).astype("float32")
        g = geometry(x.shape, 3, 1, 1)
        y, indices = pooling.max_pool(x, g, True)
        first = pooling.max_pool_backward(y, indices, g)
        assert first.tobytes() == pooling.max_pool_backward(y, indices, g).tobytes()


def peak_bytes(function, *arguments):
    """The result, and what was allocated beside it at the worst moment of a second call."""
    function(*arguments)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = function(*arguments)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    arrays = result if isinstance(result, tuple) else (result,)
    return result, peak - sum(a.nbytes for a in arrays if a is not None)


@pytest.mark.parametrize(
    ("shape", "window", "needed"),
    [((256, 24, 24, 8), 2, 256 * 12 * 12 * 8 * 8), ((2, 64, 64, 64), 64, 64 * 64 * 64 * 4)],
    ids=["windows", "global"],
)
def test_no_memory_for_indices_that_nobody_asked_for(shape, window, needed):
    x = np.random.default_rng(0).random(shape, "float32")
    g = geometry(shape, window)
    (_, indices), beside = peak_bytes(pooling.max_pool, x, g, True)
    assert beside + indices.nbytes > 0.9 * needed
    (_, nothing), beside = peak_bytes(pooling.max_pool, x, g, False)
    assert nothing is None
    assert beside < 0.25 * needed


def strided(x):
    """The same numbers with the channels far apart."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((32, 30, 30, 32), {"window": 2}),
        ((8, 56, 56, 64), {"window": 3, "stride": 2, "pads": 1}),
        ((4, 40, 40, 6), {"window": 3, "stride": 1, "pads": 1}),
        ((8, 4000, 16), {"window": 3, "stride": 2, "pads": 1}),
        ((2, 20, 20, 20, 8), {"window": 2}),
        ((3, 60, 60, 40), {"window": (1, 3), "stride": 2}),
        ((2, 56, 56, 64), {"window": 56}),
        ((1, 300, 300, 3), {"window": 2, "stride": 1, "pads": 1, "dilation": 300}),
    ],
    ids=str,
)
def test_the_workspace_is_as_stated(shape, words, dtype):
    g = geometry(shape, **words)
    x = np.random.default_rng(0).random(shape).astype(dtype)
    y, indices = pooling.max_pool(x, g, True)
    calls = {
        "max_pool": (x, g, True),
        "max_pool_backward": (y, indices, g),
        "avg_pool": (x, g),
        "avg_pool_backward": (y, g),
    }
    for op, arguments in calls.items():
        stated = pooling.workspace_bytes(op, g, x.itemsize)
        others = [strided(a) if isinstance(a, np.ndarray) else a for a in arguments]
        _, plain = peak_bytes(getattr(pooling, op), *arguments)
        _, worst = peak_bytes(getattr(pooling, op), *others)
        assert max(plain, worst) <= stated + 8192, op  # Python's own objects
        if stated > 2**18:
            assert max(plain, worst) > 0.4 * stated, op


@pytest.mark.usefixtures("boxes")
class TestAverage:
    def test_a_window_that_hangs_over_is_divided_by_its_part_inside(self):
        x = np.ones((1, 5, 1), "float32")
        real = geometry(x.shape, 3, 2, ((1, 1),), ceil_mode=True)
        padded = geometry(x.shape, 3, 2, ((1, 1),), ceil_mode=True, count_include_pad=True)
        assert pooling.avg_pool(x, real).reshape(-1).tolist() == [1, 1, 1]
        third = np.float32(2) / np.float32(3)
        assert pooling.avg_pool(x, padded).reshape(-1).tolist() == [third, 1, third]

    def test_a_window_outside_of_the_input_gives_zero(self):
        x = np.ones((1, 2, 1), "float64")
        g = geometry(x.shape, 2, 1, ((0, 4),))
        assert pooling.avg_pool(x, g).reshape(-1).tolist() == [1, 1, 0, 0, 0]
        dx = pooling.avg_pool_backward(np.ones((1, 5, 1)), g)
        assert dx.reshape(-1).tolist() == [0.5, 1.5]

    @pytest.mark.parametrize("extent", [7, 40])
    def test_global(self, extent):
        x = np.random.default_rng(0).random((3, extent, extent, 5), "float32") + 1000
        g = geometry(x.shape, extent, 1)
        expected = x.astype("float64").mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(pooling.avg_pool(x, g), expected, rtol=5e-7)
        np.testing.assert_allclose(
            pooling.avg_pool(x.transpose(0, 2, 1, 3), g), expected, rtol=5e-7
        )
        dy = integers((3, 1, 1, 5))
        dx = pooling.avg_pool_backward(dy, g)
        np.testing.assert_array_equal(dx, np.broadcast_to(dy / np.float32(extent**2), x.shape))

    def test_backward_is_the_transpose_of_forward(self):
        shape = (2, 7, 6, 3)
        g = geometry(shape, (3, 2), (2, 3), ((1, 0), (1, 1)), ceil_mode=True)
        x = integers(shape, "float64")
        y = pooling.avg_pool(x, g)
        dy = integers(y.shape, "float64", seed=1)
        dx = pooling.avg_pool_backward(dy, g)
        np.testing.assert_allclose(np.vdot(y, dy), np.vdot(x, dx), rtol=1e-12)

    def test_strided_and_read_only(self):
        base = integers((2, 3, 9, 8), "float64")
        x = base.transpose(0, 2, 3, 1)[:, ::-1, :, ::2]
        x.flags.writeable = False
        g = geometry(x.shape, 3, 2, 1, count_include_pad=True)
        y = pooling.avg_pool(x, g)
        np.testing.assert_array_equal(y, reference.avg_pool(x, 3, 2, 1))
        dy = np.broadcast_to(1.0, y.shape)
        dx = pooling.avg_pool_backward(dy, g)
        np.testing.assert_allclose(dx, reference.avg_pool_backward(dy, x.shape, 3, 2, 1))


@pytest.mark.parametrize("window", [1, 2, 6])
def test_no_samples(window):
    x = np.zeros((0, 6, 6, 3), "float32")
    g = geometry(x.shape, window)
    y, indices = pooling.max_pool(x, g, True)
    assert y.shape == indices.shape == g.y_shape
    assert pooling.max_pool_backward(y, indices, g).shape == x.shape
    assert pooling.avg_pool(x, g).shape == g.y_shape
    assert pooling.avg_pool_backward(y, g).shape == x.shape
