"""Direct convolution and its input gradient against plain loops."""

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
from gpuconv_kernels.device import direct, direct_plans, halo
from gpuconv_kernels.device.target import SIMULATED

CASES = [case for case in CONV_CASES if case.padding_mode == "zeros"]


def geometry_of(case):
    def each(value):
        return (value,) * case.rank if isinstance(value, int) else tuple(value)

    stride, dilation = each(case.stride), each(case.dilation)
    return ConvGeometry(
        batch=case.batch,
        in_channels=case.channels,
        out_channels=case.filters,
        input=case.input,
        kernel=case.kernel,
        stride=stride,
        dilation=dilation,
        pads=resolve_padding(case.padding, case.input, case.kernel, stride, dilation),
        groups=case.groups,
    )


def geometry(x_shape, kernel, filters, stride=1, pads=0, dilation=1, groups=1):
    rank = len(kernel)

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    return ConvGeometry(
        batch=x_shape[0],
        in_channels=x_shape[-1],
        out_channels=filters,
        input=tuple(x_shape[1:-1]),
        kernel=tuple(kernel),
        stride=each(stride),
        dilation=each(dilation),
        pads=tuple((p, p) if isinstance(p, int) else p for p in each(pads)),
        groups=groups,
    )


def words(g):
    return {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}


def forward(memory, g, x, w, bias=None, kind=None, alpha=0.0):
    y = memory.empty(g.y_shape, x.dtype)
    on_device = None if bias is None else memory.put(bias)
    direct.conv_forward(memory.put(x), memory.put(w), on_device, y, g, kind, alpha)
    return memory.get(y)


def backward_input(memory, g, dy, w):
    dx = memory.empty(g.x_shape, dy.dtype)
    direct.conv_backward_input(memory.put(dy), memory.put(w), dx, g)
    return memory.get(dx)


def check_forward(memory, rng, g, dtype="float32", kind=None):
    x, w = small_integers(rng, g.x_shape, dtype), small_integers(rng, g.w_shape, dtype)
    bias = small_integers(rng, (g.out_channels,), dtype)
    expected = reference.conv(x, w, bias, **words(g))
    if kind == "relu":
        expected = np.maximum(expected, 0)
    assert_exact(forward(memory, g, x, w, bias, kind), expected)


def check_backward_input(memory, rng, g, dtype="float32"):
    dy, w = small_integers(rng, g.y_shape, dtype), small_integers(rng, g.w_shape, dtype)
    expected = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    assert_exact(backward_input(memory, g, dy, w), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_case(memory, rng, case):
    g = geometry_of(case)
    if g.in_channels // g.groups > direct_plans.MAX_CHANNELS:
        assert "channels a group" in direct_plans.supports(g, "float32")
        return
    assert direct_plans.supports(g, "float32") is None
    check_forward(memory, rng, g)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_input_case(memory, rng, case):
    g = geometry_of(case)
    if g.out_channels // g.groups > direct_plans.MAX_CHANNELS:
        reason = direct_plans.supports_backward_input(g, "float32")
        reached = any(phase.geometry is not None for phase in g.backward_input_phases)
        assert reason is None if not reached else "channels a group" in reason
        return
    assert direct_plans.supports_backward_input(g, "float32") is None
    check_backward_input(memory, rng, g)


# Remainders of tiles, lanes and vectors, one at a time.
SHAPES = {
    "one filter more than a block": ((1, 3, 5, 2), (2, 3), 9, {}),
    "fewer filters than a vector": ((2, 3, 4, 3), (3, 1), 2, {"pads": 1}),
    "two vectors of filters": ((1, 4, 3, 2), (2, 2), 8, {}),
    "one more row, one more column": ((1, 9, 18, 1), (3, 3), 4, {"pads": 1}),
    "eight channels": ((1, 4, 5, 8), (2, 2), 3, {}),
    "taps in a loop": ((1, 3, 12, 2), (1, 9), 4, {}),
    "stride 3, unrolled for 2": ((1, 4, 13, 1), (1, 3), 4, {"stride": (1, 3)}),
    "stride 2 and 3 taps": ((1, 8, 9, 1), (3, 3), 4, {"stride": 2, "pads": ((1, 0), (0, 1))}),
    "depthwise, 9 channels": ((1, 5, 4, 9), (3, 3), 9, {"pads": 1, "groups": 9}),
    "depthwise, 3 filters each": ((1, 5, 4, 5), (3, 3), 15, {"groups": 5}),
    "depthwise, 4 filters each": ((1, 5, 4, 3), (3, 3), 12, {"groups": 3}),
    "groups of 2 to 3": ((1, 4, 4, 6), (2, 2), 9, {"groups": 3}),
    "groups of 3 to 4": ((1, 4, 4, 6), (2, 2), 8, {"groups": 2}),
    "groups of 2 to 8": ((1, 3, 4, 4), (2, 2), 16, {"groups": 2}),
    "volume": ((1, 3, 4, 5, 2), (2, 3, 3), 4, {"pads": (1, 1, 1)}),
    "volume, depthwise, dilated": ((1, 4, 3, 5, 4), (2, 1, 2), 4, {"groups": 4, "dilation": 2}),
    "dilated rows": ((1, 9, 5, 2), (3, 3), 4, {"dilation": (3, 1), "pads": (2, 1)}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_remainders(memory, rng, name):
    dtype = "float64" if len(name) % 2 else "float32"
    x_shape, kernel, filters, options = SHAPES[name]
    g = geometry(x_shape, kernel, filters, **options)
    check_forward(memory, rng, g, dtype)
    if g.out_channels // g.groups <= direct_plans.MAX_CHANNELS:
        check_backward_input(memory, rng, g, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_with_a_function(memory, rng, dtype):
    g = geometry((1, 6, 7, 3), (3, 3), 5, stride=2, pads=1)
    x = rng.standard_normal(g.x_shape).astype(dtype)
    w = rng.standard_normal(g.w_shape).astype(dtype)
    bias = rng.standard_normal(5).astype(dtype)
    plain = reference.conv(x, w, bias, **words(g))
    scale = reference.conv(abs(x), abs(w), abs(bias), **words(g))
    y = forward(memory, g, x, w, bias)
    assert y.dtype == dtype
    assert_close(y, plain, g.reduction + 1, scale)
    leaky = forward(memory, g, x, w, bias, "leaky_relu", 0.1)
    assert_close(leaky, np.where(plain > 0, plain, plain * 0.1), g.reduction + 1, scale)
    smooth = forward(memory, g, x, w, bias, "sigmoid")
    assert_close(smooth, 1 / (1 + np.exp(-plain)), g.reduction + 1, scale)
    assert forward(memory, g, x, w, bias).tobytes() == y.tobytes()


def test_backward_input_of_real_numbers(memory, rng):
    g = geometry((1, 7, 6, 4), (3, 3), 8, stride=2, pads=1, groups=4)
    dy = rng.standard_normal(g.y_shape).astype("float32")
    w = rng.standard_normal(g.w_shape).astype("float32")
    expected = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    scale = reference.conv_backward_input(abs(dy), abs(w), g.x_shape, **words(g))
    assert_close(backward_input(memory, g, dy, w), expected, g.reduction * 2, scale)


@pytest.mark.parametrize("stride", [1, 2])
def test_weights_in_several_stages(memory, rng, monkeypatch, stride):
    """As where the weights of all kernel rows do not fit into shared memory together."""
    g = geometry((1, 5, 6, 2), (4, 3), 6, stride=stride, pads=2)
    rows = 0
    for room in range(512, 8192, 64):  # a block of the simulator needs less than one of a device
        monkeypatch.setattr(halo, "SHARED_BYTES", room)
        direct_plans.plan_of.cache_clear()
        if direct_plans.supports(g, "float32") is None:
            rows = direct_plans.plan_of(g, "float32").rows
        if rows > 1:
            break
    check_forward(memory, rng, g)
    direct_plans.plan_of.cache_clear()
    assert rows in (2, 3)  # of four


def test_the_usual_tile_of_the_device(memory, rng, monkeypatch):
    """The threads and registers of the hardware, whatever runs this."""
    if SIMULATED:
        monkeypatch.setattr(direct_plans, "THREADS", 256)
        monkeypatch.setattr(direct_plans, "_MAX_LANE_BITS", 3)
        monkeypatch.setattr(direct_plans, "SIMULATED", False)
        direct_plans.plan_of.cache_clear()
        direct._kernel.cache_clear()
    try:
        g = geometry((1, 5, 9, 3), (3, 3), 18, stride=(1, 2), pads=1)
        plan = direct_plans.plan_of(g, "float32")
        assert (plan.variant.run, plan.variant.vectors, plan.variant.vector) == (8, 2, 4)
        assert plan.variant.taps == 3
        check_forward(memory, rng, g)
    finally:
        direct_plans.plan_of.cache_clear()
        direct._kernel.cache_clear()


def test_refusals_say_why():
    many = geometry((1, 5, 5, 9), (3, 3), 4)
    assert "up to 8 channels a group, here there are 9" in direct_plans.supports(many, "float32")
    wide = geometry((1, 3000, 3000, 8), (3, 3), 4, dilation=999)
    assert "48 KiB of shared memory" in direct_plans.supports(wide, "float32")
    with pytest.raises(ValueError, match="Received: ConvGeometry"):
        direct.conv_forward(*[np.zeros(1, "float32")] * 4, wide)


def test_shared_memory_is_never_exceeded():
    for c, k, s, d in [(1, 3, 1, 1), (3, 7, 2, 1), (8, 11, 4, 1), (8, 5, 1, 12), (3, 63, 1, 1)]:
        for groups in (1, c):
            for dtype in ("float32", "float64"):
                g = geometry((2, 224, 224, c), (k, k), 64 * c, s, k // 2, d, groups)
                plan = direct_plans.plan_of(g, dtype)
                if isinstance(plan, str):
                    continue
                numbers = plan.channels * halo.odd(int(np.prod(plan.halo)))
                numbers += plan.rows * k * plan.width * c // groups
                assert numbers * np.dtype(dtype).itemsize <= 48 * 1024


# --- broken copies ---------------------------------------------------------------------

SOURCE = textwrap.dedent(inspect.getsource(direct._kernel_function))
BREAKS = {
    "no barrier before the sums": (r"cuda\.syncthreads\(\)(\s+weights = )", r"pass\1"),
    "a halo that begins one row late": (r"- pads\[1\]\)", "- pads[1] + 1)"),
    "a run that begins one input late": (r"uint64\(p \* STRIDE\)", "uint64(p * STRIDE + 1)"),
    "planes that overlap": (r"(load_tile\(\s+shared, weights_end, cut\[3\])", r"\1 - 2"),
    "every row is the first": (r"kh = int32\(kh \+ int32\(1\)\)", "kh = int32(0)"),
    "filters past the last are stored": (r"p < count and neighbour < filters", "p < count"),
    "outputs past the last are stored": (r"p < count and neighbour", "neighbour"),
    "no barrier before the function": (r"cuda\.syncthreads\(\)(  # until nobody)", r"pass\1"),
}


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may hang a device")
@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    pattern, replacement = BREAKS[name]
    changed, count = re.subn(pattern, replacement, SOURCE)
    assert count == 1
    names = dict(vars(direct))
    exec("from __future__ import annotations\n" + changed, names)
    g = geometry((1, 5, 7, 2), (3, 3), 5, pads=1)
    monkeypatch.setattr(direct, "_kernel_function", names["_kernel_function"])
    direct._kernel.cache_clear()
    try:
        with pytest.raises((AssertionError, IndexError)):
            check_forward(memory, rng, g, kind="relu")
    finally:
        direct._kernel.cache_clear()
