"""Compiled pooling and its gradients against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.errors import ShapeError
from gpuconv.geometry import PoolGeometry
from gpuconv.testing import reference
from gpuconv.testing.guards import guarded
from gpuconv_kernels.host import avg_pooling, boxes, max_pooling
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads

HOSTS = {"wide": (Host(64, 32), "float32", 70), "narrow": (Host(16, 16), "float64", 3)}


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


@pytest.fixture(params=HOSTS)
def made(request, monkeypatch):
    """Dtype and channels of a test, with code for the vectors of some CPU."""
    host, dtype, channels = HOSTS[request.param]
    monkeypatch.setattr(max_pooling, "host", lambda: host)
    monkeypatch.setattr(avg_pooling, "host", lambda: host)
    return dtype, channels


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


def drawn(channels, dilated, count, seed):
    """Geometries of one to three dimensions."""
    random = np.random.default_rng(seed)
    while count:
        rank = int(random.integers(1, 4))

        def draw(low, high, rank=rank):
            return tuple(int(n) for n in random.integers(low, high, rank))

        window = draw(1, 5 if rank < 3 else 4)
        pads = tuple(tuple(int(random.integers(0, k // 2 + 1)) for _ in range(2)) for k in window)
        words = {"ceil_mode": bool(random.integers(2))}
        if not dilated:
            words["count_include_pad"] = bool(random.integers(2))
            words["divisor_override"] = 7 if random.random() < 0.2 else None
        shape = (int(random.integers(0, 3)), *draw(1, 9 if rank < 3 else 6), channels)
        dilation = draw(1, 4) if dilated else 1
        try:
            yield geometry(shape, window, draw(1, 5), pads, dilation, **words)
        except ShapeError:
            continue
        count -= 1


def integers(shape, dtype, seed=0, high=3):
    """Few distinct values, so that ties are the normal case; read-only."""
    values = np.random.default_rng(seed).integers(-high, high + 1, shape).astype(dtype)
    values.flags.writeable = False
    return values


def words_of(g):
    return g.window, g.stride, g.pads, g.ceil_mode, g.count_include_pad, g.divisor_override


def test_max_pool_is_exact(made):
    dtype, channels = made
    for seed, g in enumerate(drawn(channels, True, 60, 1)):
        x = integers(g.x_shape, dtype, seed).copy()
        spots = np.random.default_rng(seed).random(x.shape)
        x[spots < 0.1] = -np.inf
        x[(spots > 0.4) & (x == 0)] = -0.0
        if seed % 3 == 0:
            x[spots > 0.9] = np.nan
        y, indices = max_pooling.max_pool(x, g, True)
        want = reference.max_pool(x, g.window, g.stride, g.pads, g.dilation, g.ceil_mode)
        np.testing.assert_array_equal(y, want[0])
        np.testing.assert_array_equal(indices, want[1])
        assert (y.dtype, indices.dtype) == (x.dtype, np.int64)
        alone, nothing = max_pooling.max_pool(x, g, False)
        assert nothing is None
        assert alone.tobytes() == y.tobytes()
        dy = integers(g.y_shape, dtype, seed + 1, high=9)
        dx = max_pooling.max_pool_backward(dy, indices, g)
        np.testing.assert_array_equal(dx, reference.max_pool_backward(dy, indices, g.x_shape))


def test_avg_pool_is_exact(made):
    dtype, channels = made
    for seed, g in enumerate(drawn(channels, False, 60, 2)):
        x = integers(g.x_shape, dtype, seed, high=50)
        want = reference.avg_pool(x, *words_of(g)).astype(dtype)
        np.testing.assert_array_equal(avg_pooling.avg_pool(x, g), want)
        dy = integers(g.y_shape, dtype, seed + 1, high=50)
        dx = avg_pooling.avg_pool_backward(dy, g)
        want = reference.avg_pool_backward(dy, g.x_shape, *words_of(g))
        tolerance = 40 * np.finfo(dtype).eps
        np.testing.assert_allclose(dx, want, rtol=tolerance, atol=50 * tolerance)


@pytest.mark.parametrize(
    "g",
    [
        geometry((2, 17, 13, 70), (17, 13)),
        geometry((1, 5000, 70), 5000),
        geometry((1, 1300, 70), 3, 2, 1),
        geometry((2, 40, 41, 70), 3, 1, 1),
        geometry((9, 6, 6, 70), 2),
    ],
    ids=["whole plane", "long row", "many results", "overlap", "many images"],
)
def test_larger_planes(g):
    x = integers(g.x_shape, "float32", high=99)
    y, indices = max_pooling.max_pool(x, g, True)
    dy = integers(y.shape, "float32", 1)
    plane = x.reshape(len(x), -1, g.channels)
    flat = indices.reshape(len(x), -1, g.channels)
    np.testing.assert_array_equal(np.take_along_axis(plane, flat, 1).reshape(y.shape), y)
    np.testing.assert_array_equal(y, reference.max_pool(x, g.window, g.stride, g.pads)[0])
    dx = max_pooling.max_pool_backward(dy, indices, g)
    want = np.zeros(plane.shape)
    n, c = np.arange(len(x))[:, None, None], np.arange(g.channels)
    np.add.at(want, (n, flat, c), dy.reshape(flat.shape))
    np.testing.assert_array_equal(dx.reshape(plane.shape), want)
    want = reference.avg_pool(x, *words_of(g))
    np.testing.assert_allclose(avg_pooling.avg_pool(x, g), want, rtol=1e-6, atol=1e-5)
    dx = avg_pooling.avg_pool_backward(dy, g)
    assert np.isclose((dx * x).sum(dtype="float64"), (want * dy).sum(), rtol=1e-4, atol=1e-2)


def test_the_mean_of_a_large_plane_is_close():
    g = geometry((1, 300, 300, 70), 300)
    x = np.random.default_rng(0).random(g.x_shape, "float32")
    want = x.mean((1, 2), dtype="float64", keepdims=True)
    np.testing.assert_allclose(avg_pooling.avg_pool(x, g), want, rtol=2e-6)


def test_a_window_that_misses_the_input(made):
    dtype, channels = made
    x = np.ones((1, 3, channels), dtype)
    g = geometry(x.shape, 2, 1, 1, 4)
    y, indices = max_pooling.max_pool(x, g, True)
    assert (y == -np.inf).all()
    assert (indices == -1).all()
    assert not max_pooling.max_pool_backward(np.ones_like(y), indices, g).any()


def test_views_of_any_strides():
    g = geometry((2, 6, 7, 70), 3, 2, 1)
    x, dy = integers(g.x_shape, "float32"), integers(g.y_shape, "float32", 1)

    def scattered(a):
        wide = np.zeros((*(2 * e for e in a.shape[:-1]), a.shape[-1] + 3), a.dtype)
        view = wide[(*(slice(None, None, 2),) * (a.ndim - 1), slice(1, -2))]
        view[...] = a
        return view

    def backwards(a):
        return np.ascontiguousarray(a[:, ::-1, ::-1])[:, ::-1, ::-1]

    def channels_first(a):
        return np.ascontiguousarray(a.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)

    def everything(x, dy, form):
        y, indices = max_pooling.max_pool(x, g, True)
        dx = max_pooling.max_pool_backward(dy, form(indices), g)
        averages = avg_pooling.avg_pool(x, g), avg_pooling.avg_pool_backward(dy, g)
        return [a.tobytes() for a in (y, indices, dx, *averages)]

    wanted = everything(x, dy, np.asarray)
    for form in (scattered, backwards, channels_first):
        assert everything(form(x), form(dy), form) == wanted


def test_bits_do_not_depend_on_threads():
    g = geometry((3, 31, 20, 70), 3, 1, 1)
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal(s).astype("float32") for s in (g.x_shape, g.y_shape))
    bits = []
    for threads in (1, 2, 3):
        set_threads(threads)
        y, indices = max_pooling.max_pool(x, g, True)
        dx = max_pooling.max_pool_backward(dy, indices, g)
        averages = avg_pooling.avg_pool(x, g), avg_pooling.avg_pool_backward(dy, g)
        bits.append([a.tobytes() for a in (y, indices, dx, *averages)])
    assert bits[0] == bits[1] == bits[2]


def test_nothing_is_written_beside_the_results(made, monkeypatch):
    dtype, channels = made
    real = boxes.gather

    def between_canaries(plan, source, target, extra):
        arrays = [a for a in (target, extra) if a is not None]
        with guarded(*arrays) as copies:
            real(plan, source, copies[0], copies[1] if extra is not None else None)
        for array, copy in zip(arrays, copies, strict=True):
            if array.flags.writeable:
                array[...] = copy

    monkeypatch.setattr(max_pooling, "gather", between_canaries)
    monkeypatch.setattr(avg_pooling, "gather", between_canaries)
    g = geometry((2, 5, 6, channels), 3, 2, 1)
    x, dy = integers(g.x_shape, dtype), integers(g.y_shape, dtype, 1)
    y, indices = max_pooling.max_pool(x, g, True)
    np.testing.assert_array_equal(y, reference.max_pool(x, g.window, g.stride, g.pads)[0])
    dx = max_pooling.max_pool_backward(dy, indices, g)
    np.testing.assert_array_equal(dx, reference.max_pool_backward(dy, indices, g.x_shape))
    avg_pooling.avg_pool(x, g)
    avg_pooling.avg_pool_backward(dy, g)
