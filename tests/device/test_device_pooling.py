"""Pooling and its gradients against plain loops."""

from __future__ import annotations

import inspect
import re
import textwrap

import numpy as np
import pytest

from gpuconv.geometry import PoolGeometry, resolve_padding
from gpuconv.testing import reference
from gpuconv.testing.cases import AVG_POOL_CASES, MAX_POOL_CASES, small_integers
from gpuconv.testing.tolerances import assert_close, assert_exact
from gpuconv_kernels.array import pooling as host
from gpuconv_kernels.device import avg_pooling, global_pooling, halo, max_pooling, windows
from gpuconv_kernels.device.target import SIMULATED


def geometry(shape, window, stride=None, padding=0, dilation=1, **words):
    rank = len(shape) - 2

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    window, dilation = each(window), each(dilation)
    stride, input = window if stride is None else each(stride), tuple(shape[1:-1])
    pads = resolve_padding(padding, input, window, stride, dilation, allow_causal=False)
    return PoolGeometry(shape[0], shape[-1], input, window, stride, dilation, pads, **words)


def max_pool(memory, x, g, with_indices=True):
    y = memory.empty(g.y_shape, x.dtype)
    indices = memory.empty(g.y_shape, np.int64) if with_indices else None
    max_pooling.max_pool(memory.put(x), y, indices, g)
    return memory.get(y), memory.get(indices) if with_indices else None


def max_pool_backward(memory, dy, indices, g):
    dx = memory.empty(g.x_shape, dy.dtype)
    max_pooling.max_pool_backward(memory.put(dy), memory.put(indices), dx, g)
    return memory.get(dx)


def avg_pool(memory, x, g):
    y = memory.empty(g.y_shape, x.dtype)
    avg_pooling.avg_pool(memory.put(x), y, g)
    return memory.get(y)


def avg_pool_backward(memory, dy, g):
    dx = memory.empty(g.x_shape, dy.dtype)
    avg_pooling.avg_pool_backward(memory.put(dy), dx, g)
    return memory.get(dx)


def check_max(memory, rng, g, dtype="float32", high=9, special=True):
    x = small_integers(rng, g.x_shape, dtype, -high, high)
    if special:
        spots = rng.random(x.shape)
        x[spots < 0.1] = -np.inf
        x[spots > 0.93] = np.nan
    words = (g.window, g.stride, g.pads, g.dilation, g.ceil_mode)
    expected, places = reference.max_pool(x, *words)
    y, indices = max_pool(memory, x, g)
    assert_exact(y, expected)
    assert_exact(indices, places)
    alone, _ = max_pool(memory, x, g, with_indices=False)
    assert alone.tobytes() == y.tobytes()
    if g.batch:
        ours = host.max_pool(x, g, True)
        assert_exact(indices, ours[1])
    dy = small_integers(rng, g.y_shape, dtype, 1, 9)
    dx = max_pool_backward(memory, dy, indices, g)
    assert_exact(dx, reference.max_pool_backward(dy, indices, g.x_shape))


def check_avg(memory, rng, g, dtype="float32"):
    words = (
        g.window, g.stride, g.pads, g.ceil_mode, g.count_include_pad, g.divisor_override
    )  # fmt: skip
    x = rng.standard_normal(g.x_shape).astype(dtype)
    dy = rng.standard_normal(g.y_shape).astype(dtype)
    with np.errstate(invalid="ignore", divide="ignore"):  # windows outside give 0, not 0/0
        expected = np.nan_to_num(reference.avg_pool(x, *words))
        gradient = reference.avg_pool_backward(dy, g.x_shape, *words)
    assert_close(avg_pool(memory, x, g), expected, g.taps, scale=4.0)
    assert_close(avg_pool_backward(memory, dy, g), gradient, g.taps, scale=4.0)


@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_max_case(memory, rng, case):
    g = geometry(
        case.x_shape, case.kernel_size, case.stride, case.padding, case.dilation,
        ceil_mode=case.ceil_mode,
    )  # fmt: skip
    check_max(memory, rng, g, high=1 if case.ties else 99)


@pytest.mark.parametrize("case", AVG_POOL_CASES, ids=str)
def test_avg_case(memory, rng, case):
    g = geometry(
        case.x_shape, case.kernel_size, case.stride, case.padding, ceil_mode=case.ceil_mode,
        count_include_pad=case.count_include_pad, divisor_override=case.divisor_override,
    )  # fmt: skip
    check_avg(memory, rng, g, "float64" if case.rank == 3 else "float32")


SHAPES = {
    "one channel more than a block": ((1, 5, 6, 5), 3, 1, 1),
    "one position more than a tile": ((1, 5, 9, 3), 2, 1, 0),
    "long rows": ((1, 17, 2), 4, 2, 1),
    "apart": ((2, 7, 8, 5), 2, 3, 0),
    "volume": ((1, 4, 4, 5, 2), 2, 1, 0),
    "one window, not of the whole": ((2, 5, 4, 3), (4, 3), 9, 0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_remainders(memory, rng, name, dtype):
    g = geometry(*SHAPES[name])
    check_max(memory, rng, g, dtype, high=3)
    check_avg(memory, rng, g, dtype)


def test_both_ways_of_reading_are_taken():
    over, apart = geometry((1, 9, 9, 4), 3, 2), geometry((1, 9, 9, 4), 3, 3)
    vast = geometry((1, 999, 999, 4), 2, 1, 0, 500)
    for plan_of in (windows.forward_plan, windows.backward_plan):
        assert plan_of(over, 4).tiled
        assert not plan_of(apart, 4).tiled
        assert not plan_of(vast, 4).tiled
        assert plan_of(over, 4).numbers * 4 <= halo.SHARED_BYTES


def test_windows_that_do_not_fit_into_shared_memory(memory, rng, monkeypatch):
    g = geometry((1, 6, 5, 3), 3, 1, 1)
    monkeypatch.setattr(halo, "SHARED_BYTES", 64)
    windows.forward_plan.cache_clear()
    windows.backward_plan.cache_clear()
    try:
        assert windows.overlaps(g)
        assert not windows.forward_plan(g, 4).tiled
        check_max(memory, rng, g)
        check_avg(memory, rng, g)
    finally:
        windows.forward_plan.cache_clear()
        windows.backward_plan.cache_clear()


def test_windows_that_miss_the_input(memory, rng):
    g = geometry((1, 3, 2), 2, 1, 1, 4)
    y, indices = max_pool(memory, np.ones(g.x_shape, "float32"), g)
    assert (y == -np.inf).all()
    assert (indices == -1).all()
    assert not max_pool_backward(memory, np.ones_like(y), indices, g).any()
    check_avg(memory, rng, geometry((1, 2, 1), 2, 1, ((0, 4),)))


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 40, 5), (1, 2, 3, 4, 2), (3, 1, 1), (0, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_global(memory, rng, shape, dtype):
    g = geometry(shape, shape[1:-1])
    assert g.is_global
    check_max(memory, rng, g, dtype, high=2, special=False)
    check_max(memory, rng, g, dtype)
    check_avg(memory, rng, g, dtype)
    check_avg(memory, rng, geometry(shape, shape[1:-1], divisor_override=3), dtype)


def test_global_maximum_of_what_has_no_number(memory):
    x = np.full((1, 30, 2), -np.inf, "float32")
    x[0, 17:, 1] = np.nan
    y, indices = max_pool(memory, x, geometry(x.shape, 30))
    assert_exact(y, [[[-np.inf, np.nan]]])
    assert_exact(indices, [[[0, 17]]])


def test_averages_take_no_dilation():
    g = geometry((1, 9, 2), 2, 1, 0, 2)
    with pytest.raises(ValueError, match=r"no dilation. Received: \(2,\)"):
        avg_pooling.avg_pool(np.zeros(g.x_shape), np.zeros(g.y_shape), g)


def test_the_same_bits_again(memory, rng):
    x = rng.standard_normal((2, 6, 7, 3)).astype("float32")
    for window in (3, (6, 7)):
        g = geometry(x.shape, window, 1)
        y = avg_pool(memory, x, g)
        assert avg_pool(memory, x, g).tobytes() == y.tobytes()
        dx = avg_pool_backward(memory, y, g)
        assert avg_pool_backward(memory, y, g).tobytes() == dx.tobytes()


@pytest.mark.skipif(not SIMULATED, reason="what the hardware always does")
def test_the_usual_block_of_the_device(memory, rng, monkeypatch):
    for module, name, value in (
        (windows, "THREADS", 256),
        (max_pooling, "THREADS", 256),
        (avg_pooling, "THREADS", 256),
        (windows, "_RUN", 8),
        (windows, "_MAX_LANE_BITS", 5),
    ):
        monkeypatch.setattr(module, name, value)
    clear()
    try:
        g = geometry((1, 3, 9, 33), (2, 3), 1, (0, 1))
        check_max(memory, rng, g)
        check_avg(memory, rng, g)
    finally:
        clear()


def clear():
    windows.forward_plan.cache_clear()
    windows.backward_plan.cache_clear()
    max_pooling._max_kernel.cache_clear()
    max_pooling._max_backward_kernel.cache_clear()
    avg_pooling._avg_kernel.cache_clear()
    avg_pooling._avg_backward_kernel.cache_clear()
    global_pooling._avg_kernel.cache_clear()
    global_pooling._max_kernel.cache_clear()


# --- broken copies ---------------------------------------------------------------------

BARRIER = (r"cuda\.syncthreads\(\)", "pass")
LATE = (r"corner_h = int32\(int32\(h0 \* strides\[1\]\) - pads\[1\]\)", "corner_h = int32(h0)")
AFTER = (r"begin, min\(int32\(begin \+ cut\[2\]\), extents\[2\]\)", "begin, int32(begin + cut[2])")
BREAKS = {
    "maximum without a barrier": (max_pooling, "_max_function", check_max, BARRIER),
    "maximum with a halo that is late": (
        max_pooling, "_max_function", check_max,
        (r"corner = \(corner_d, corner_h", "corner = (corner_d, corner_h + 1"),
    ),
    "maximum past the last output": (max_pooling, "_max_function", check_max, AFTER),
    "gradient of maximum without a barrier": (
        max_pooling, "_max_backward_function", check_max, BARRIER,
    ),
    "gradient of maximum without the last window": (
        max_pooling, "_max_backward_function", check_max,
        (r"(last_w = min\(windows\.last_of\(.*?\))(, source)", r"\1 - 1\2"),
    ),
    "average without a barrier": (avg_pooling, "_avg_function", check_avg, BARRIER),
    "average with a halo that is late": (avg_pooling, "_avg_function", check_avg, LATE),
    "gradient of average without a barrier": (
        avg_pooling, "_avg_backward_function", check_avg, BARRIER,
    ),
    "gradient of average, first window of the tile": (
        avg_pooling, "_avg_backward_function", check_avg,
        (r"first_w = first_of\(int32\(w\)", "first_w = first_of(w0"),
    ),
    "global average without barriers": (global_pooling, "_avg_function", check_avg, BARRIER),
    "global maximum without barriers": (global_pooling, "_max_function", check_max, BARRIER),
}  # fmt: skip


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may harm a device")
@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    module, function, check, (pattern, replacement) = BREAKS[name]
    source = textwrap.dedent(inspect.getsource(getattr(module, function)))
    changed, count = re.subn(pattern, replacement, source)
    assert count == 1
    names = dict(vars(module))
    exec("from __future__ import annotations\n" + changed, names)
    monkeypatch.setattr(module, function, names[function])
    g = geometry((1, 6, 7, 3), (6, 7) if module is global_pooling else 3, 1)
    if module is not global_pooling:
        g = geometry((1, 6, 7, 3), 3, 1, 1)
    clear()
    try:
        with pytest.raises((AssertionError, IndexError, OverflowError)):
            check(memory, rng, g)
    finally:
        clear()
