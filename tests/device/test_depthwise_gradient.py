"""Weight gradient for few input channels a group against plain loops."""

from __future__ import annotations

import inspect
import re
import textwrap

import numpy as np
import pytest

from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.testing import reference
from gpuconv.testing.cases import CONV_CASES, small_integers
from gpuconv.testing.tolerances import assert_close, assert_exact
from gpuconv_kernels.device import depthwise_gradient, halo
from gpuconv_kernels.device.target import SIMULATED

CASES = [case for case in CONV_CASES if case.padding_mode == "zeros"]


def geometry(x_shape, kernel, filters, stride=1, padding=0, dilation=1, groups=1):
    rank = len(kernel)

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    input, stride, dilation = tuple(x_shape[1:-1]), each(stride), each(dilation)
    return ConvGeometry(
        batch=x_shape[0],
        in_channels=x_shape[-1],
        out_channels=filters,
        input=input,
        kernel=tuple(kernel),
        stride=stride,
        dilation=dilation,
        pads=resolve_padding(padding, input, kernel, stride, dilation),
        groups=groups,
    )


def words(g):
    return {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}


def backward_weight(memory, g, dy, x, splits=None):
    dw = memory.empty(g.w_shape, x.dtype)
    needed = depthwise_gradient.partial_elements(g, str(x.dtype), splits)
    partial = memory.empty((needed,), x.dtype)
    depthwise_gradient.conv_backward_weight(memory.put(dy), memory.put(x), dw, g, partial, splits)
    return memory.get(dw)


def check(memory, rng, g, dtype="float32", splits=None):
    x, dy = small_integers(rng, g.x_shape, dtype), small_integers(rng, g.y_shape, dtype)
    expected = reference.conv_backward_weight(dy, x, g.w_shape, **words(g))
    assert_exact(backward_weight(memory, g, dy, x, splits), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(memory, rng, case):
    g = geometry(
        case.x_shape, case.kernel, case.filters, case.stride, case.padding, case.dilation,
        case.groups,
    )  # fmt: skip
    if g.in_channels // g.groups > depthwise_gradient.MAX_CHANNELS:
        assert "channels a group" in depthwise_gradient.supports(g, "float32")
        return
    assert depthwise_gradient.supports(g, "float32") is None
    check(memory, rng, g)


SHAPES = {
    "one channel more than the lanes": ((1, 4, 5, 5), (3, 3), 5, {"groups": 5}),
    "two filters a channel": ((2, 4, 3, 3), (2, 2), 6, {"groups": 3, "padding": 1}),
    "three filters a channel": ((1, 4, 5, 3), (3, 3), 9, {"groups": 3, "stride": 2}),
    "a tile and one more": ((1, 6, 9, 2), (3, 2), 2, {"groups": 2}),
    "more rows than registers": ((1, 7, 4, 1), (5, 2), 2, {}),
    "taps one by one": ((1, 3, 14, 2), (2, 9), 2, {"groups": 2}),
    "stride 3": ((1, 7, 8, 2), (3, 3), 2, {"groups": 2, "stride": 3, "padding": 1}),
    "dilation": ((1, 7, 8, 2), (3, 3), 4, {"groups": 2, "dilation": (1, 2), "padding": 2}),
    "groups of 3 to 2": ((1, 4, 4, 6), (2, 3), 4, {"groups": 2}),
    "volume": ((1, 3, 4, 4, 3), (2, 3, 3), 3, {"groups": 3, "padding": 1}),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("splits", [1, 3])
def test_remainders(memory, rng, name, splits):
    x_shape, kernel, filters, options = SHAPES[name]
    dtype = "float64" if splits == 1 else "float32"
    check(memory, rng, geometry(x_shape, kernel, filters, **options), dtype, splits)


def test_more_shares_than_tiles(memory, rng):
    check(memory, rng, geometry((1, 3, 3, 2), (2, 2), 2, groups=2), splits=5)


def test_nothing_to_sum_gives_zeros(memory, rng):
    g = geometry((0, 4, 5, 3), (3, 3), 3, groups=3)
    assert depthwise_gradient.choose_splits(g, "float32") == 1
    for splits in (None, 2):
        dy, x = np.zeros(g.y_shape, "float32"), np.zeros(g.x_shape, "float32")
        assert_exact(backward_weight(memory, g, dy, x, splits), np.zeros(g.w_shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_and_the_same_bits_again(memory, rng, dtype):
    g = geometry((2, 6, 7, 3), (3, 3), 6, padding=1, groups=3)
    x = rng.standard_normal(g.x_shape).astype(dtype)
    dy = rng.standard_normal(g.y_shape).astype(dtype)
    expected = reference.conv_backward_weight(dy, x, g.w_shape, **words(g))
    scale = reference.conv_backward_weight(abs(dy), abs(x), g.w_shape, **words(g))
    dw = backward_weight(memory, g, dy, x)
    assert dw.dtype == dtype
    assert_close(dw, expected, g.batch * int(np.prod(g.output)), scale)
    assert backward_weight(memory, g, dy, x).tobytes() == dw.tobytes()


def test_the_usual_tile_of_the_device(memory, rng, monkeypatch):
    if SIMULATED:
        monkeypatch.setattr(depthwise_gradient, "_THREADS", 256)
        monkeypatch.setattr(depthwise_gradient, "_MAX_LANE_BITS", 5)
        monkeypatch.setattr(depthwise_gradient, "SIMULATED", False)
        clear()
    try:
        g = geometry((1, 4, 9, 33), (3, 3), 33, padding=1, groups=33)
        plan = depthwise_gradient._plan(g, "float32")
        assert (plan.variant.run, plan.variant.rows, plan.variant.taps) == (8, 3, 3)
        check(memory, rng, g, splits=1)
    finally:
        clear()


def clear():
    depthwise_gradient._plan.cache_clear()
    depthwise_gradient._kernel.cache_clear()


def test_refusals_say_why(memory):
    many = geometry((1, 5, 5, 9), (3, 3), 4)
    assert "up to 8 channels a group, here there are 9" in depthwise_gradient.supports(
        many, "float32"
    )
    wide = geometry((1, 3000, 3000, 8), (3, 3), 4, dilation=999)
    assert "48 KiB of shared memory" in depthwise_gradient.supports(wide, "float32")
    with pytest.raises(ValueError, match="Received: ConvGeometry"):
        depthwise_gradient.partial_elements(wide, "float32")
    g = geometry((1, 4, 4, 2), (2, 2), 2, groups=2)
    arrays = [np.zeros(shape, "float32") for shape in (g.y_shape, g.x_shape, g.w_shape)]
    with pytest.raises(ValueError, match=r"must hold 24 numbers\. Received: 23"):
        depthwise_gradient.conv_backward_weight(*arrays, g, np.zeros(23, "float32"), 3)


# --- broken copies ---------------------------------------------------------------------

SOURCE = textwrap.dedent(inspect.getsource(depthwise_gradient._kernel_function))
BREAKS = {
    "no barrier before the sums": (r"cuda\.syncthreads\(\)(\s+if inside:)", r"pass\1"),
    "no barrier before the next tile": (r"cuda\.syncthreads\(\)(  # until nobody)", r"pass\1"),
    "no barrier before the total": (r"cuda\.syncthreads\(\)(\s+row = int32\(first_row)", r"pass\1"),
    "a halo that begins one column late": (r"- pads\[2\]\)", "- pads[2] + 1)"),
    "outputs past the last count": (r" and int32\(at_w \+ int32\(p\)\) < extents\[2\]", ""),
    "every row is the first": (
        r"row = min\(int32\(first_row \+ int32\(r\)\)",
        "row = min(int32(0)",
    ),
}


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may hang a device")
@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    pattern, replacement = BREAKS[name]
    changed, count = re.subn(pattern, replacement, SOURCE)
    assert count == 1
    names = dict(vars(depthwise_gradient))
    exec("from __future__ import annotations\n" + changed, names)
    g = geometry((2, 5, 7, 2), (3, 3), 2, padding=1, groups=2)
    assert halo.TEAM_BITS < 4
    monkeypatch.setattr(depthwise_gradient, "_kernel_function", names["_kernel_function"])
    clear()
    try:
        with pytest.raises((AssertionError, IndexError)):
            check(memory, rng, g, splits=1)
    finally:
        clear()
