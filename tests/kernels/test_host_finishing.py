"""Activations and residuals as a part of a convolution's store: the bits of passes of their own."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import activations as array
from gpuconv_kernels.host import (
    activations,
    depthwise,
    direct,
    direct_cut,
    winograd,
    winograd_filters,
)
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.host.winograd_filters import transform_weights
from gpuconv_kernels.threads import set_threads

ALPHA = 0.3
FUNCTIONS = [None, *(Activation(kind, ALPHA) for kind in sorted(activations.FORWARD))]
IN_PART = [Activation("leaky_relu", ALPHA), Activation("softsign")]
IN_FLOAT64 = [None, Activation("relu"), Activation("relu6"), Activation("tanh"), *IN_PART]
"""A function of each sort; each function by itself is compared in both dtypes elsewhere."""


pytestmark = pytest.mark.usefixtures("lines_of_any_size")


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    set_threads(None)
    direct_cut.cut.cache_clear()
    depthwise._plan.cache_clear()


def geometry(batch, channels, extents, filters, kernel, stride=1, pads=0, groups=1, dilation=1):
    rank = len(extents)

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    return ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        input=tuple(extents),
        kernel=each(kernel),
        stride=each(stride),
        dilation=each(dilation),
        pads=tuple((p, p) if isinstance(p, int) else p for p in each(pads)),
        groups=groups,
    )


def each_channel(batch, channels, extents, kernel, stride=1, pads=0, dilation=1, multiplier=1):
    """A depthwise geometry."""
    filters = channels * multiplier
    return geometry(batch, channels, extents, filters, kernel, stride, pads, channels, dilation)


def values(g, dtype):
    """x, w, bias and a residual, for results on both sides of all kinks."""
    rng = np.random.default_rng(0)
    shapes = g.x_shape, g.w_shape, (g.out_channels,), g.y_shape
    x, w, bias, residual = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    w *= 4 / np.sqrt(np.prod(g.w_shape[:-1]))
    residual[..., 0] *= np.array([-np.inf, np.nan])[rng.integers(0, 2, residual.shape[:-1])]
    return x, w, bias.astype(dtype), residual.astype(dtype)


def in_passes(plain, residual, function):
    """The results of a convolution, through the sum and the function one after the other."""
    y = plain.copy() if residual is None else plain + residual
    if function is not None:
        activations.forward(y, y, function.kind, function.alpha)
    return y


def check(convolve, g, dtype="float32", functions=FUNCTIONS, with_bias=True):
    """``convolve(x, w, bias, y, g, function, residual)`` against its own results, then passes."""
    x, w, bias, residual = values(g, dtype)
    bias = bias if with_bias else None
    plain = np.empty(g.y_shape, dtype)
    convolve(x, w, bias, plain, g, None, None)
    for function in functions:
        for added in (None, residual):
            blank = np.full(g.y_shape, np.nan, dtype)
            wanted = in_passes(plain, added, function)
            with guarded(x, w, residual, blank) as (a, b, r, y):
                for given in (a, b, r):
                    given.flags.writeable = False
                convolve(a, b, bias, y, g, function, None if added is None else r)
                np.testing.assert_array_equal(y, wanted)


# --- direct --------------------------------------------------------------------------------


def by_direct(x, w, bias, y, g, function, residual):
    direct.conv_forward(x, w, bias, y, g, function, residual=residual)


DIRECT = {
    "whole tiles": geometry(1, 16, (6, 6), 64, 1),
    "a pixel more": geometry(1, 16, (7, 7), 64, 1),
    "filters beside the vectors": geometry(2, 9, (5, 6), 83, 3, 1, 1),
    "groups": geometry(2, 6, (5, 5), 10, 3, 2, 1, groups=2),
    "few channels": geometry(1, 3, (9, 9), 20, 5, 2, 2),
    "three dimensions": geometry(1, 9, (3, 4, 5), 18, 2),
}


@pytest.mark.parametrize("name", DIRECT)
def test_direct(name):
    check(by_direct, DIRECT[name])


def test_direct_in_float64_and_without_bias():
    check(by_direct, DIRECT["filters beside the vectors"], "float64", IN_FLOAT64)
    check(by_direct, DIRECT["few channels"], "float64", IN_PART, with_bias=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_behind_the_last_chunk_alone(monkeypatch, threads):
    """Results that wait for more taps and channels are not finished yet."""
    monkeypatch.setattr(direct_cut, "chunk_bytes", lambda: 2**12)
    direct_cut.cut.cache_clear()
    set_threads(threads)
    check(by_direct, geometry(1, 70, (7, 7), 150, 3, 1, 1), functions=IN_PART)


def test_with_packed_weights():
    def packed(x, w, bias, y, g, function, residual):
        kept = direct.pack_weights(w, g.groups)
        direct.conv_forward(x, w, bias, y, g, function, kept, residual)

    check(packed, DIRECT["groups"], functions=IN_PART)


# --- Winograd ------------------------------------------------------------------------------

TILES = {
    "whole tiles": geometry(2, 16, (12, 12), 16, 3, 1, 1),
    "parts of tiles": geometry(1, 20, (9, 7), 70, 3, 1, 1),
    "one pixel": geometry(1, 5, (1, 1), 7, 3, 1, 1),
}


@pytest.mark.parametrize("name", TILES)
def test_winograd(name):
    check(by_winograd(4), TILES[name])


@pytest.mark.parametrize(
    ("of", "dtype", "m"), [(Host(16, 16), "float64", 2), (Host(32, 16), "float32", 6)], ids=str
)
def test_winograd_with_other_vectors_dtypes_and_tiles(monkeypatch, of, dtype, m):
    for module in (winograd, winograd_filters):
        monkeypatch.setattr(module, "host", lambda: of)
    check(by_winograd(m), TILES["parts of tiles"], dtype, IN_PART, with_bias=False)


def test_winograd_with_kept_filters_and_little_memory():
    g = TILES["parts of tiles"]
    check(by_winograd(4, kept=True), g, functions=IN_PART)
    check(by_winograd(4, limit=0), g, functions=IN_PART)


def by_winograd(m, kept=False, limit=None):
    def convolve(x, w, bias, y, g, function, residual):
        filters = transform_weights(w, m) if kept else None
        winograd.conv_forward(x, w, bias, y, g, function, m, filters, limit, residual)

    return convolve


# --- depthwise -----------------------------------------------------------------------------


def by_depthwise(x, w, bias, y, g, function, residual):
    depthwise.conv_forward(x, w, bias, y, g, function, residual)


@pytest.fixture
def wide(monkeypatch):
    """Vectors of one kind everywhere: 70 channels are then two steps and a part of one."""
    monkeypatch.setattr(depthwise, "host", lambda: Host(64, 32))


DEPTHWISE = {
    "mobilenet": each_channel(2, 70, (9, 11), 3, 1, 1),
    "stride 2": each_channel(2, 70, (9, 12), 3, 2, 1),
    "stride 3": each_channel(1, 70, (10, 11), 3, 3, 1),
    "dilation": each_channel(1, 70, (9, 13), 3, 1, 2, 2),
    "multiplier": each_channel(1, 35, (6, 7), 3, 1, 1, multiplier=2),
    "one dimension": each_channel(2, 70, (37,), 3, 1, ((2, 0),)),
    "few channels": each_channel(2, 3, (5, 6), 3, 1, 1),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(wide, name):
    check(by_depthwise, DEPTHWISE[name])


def test_depthwise_in_float64_and_without_bias(wide):
    check(by_depthwise, DEPTHWISE["mobilenet"], "float64", IN_FLOAT64)
    check(by_depthwise, DEPTHWISE["mobilenet"], "float64", IN_PART, with_bias=False)


@pytest.mark.parametrize("stride", [1, 2])
def test_groups_that_compute_pixels_once_more(wide, stride):
    """At the end of most rows; the function sees their sums, never its own results."""
    for width in range(3, 28):
        check(by_depthwise, each_channel(1, 70, (width,), 3, stride, 1), functions=IN_PART[:1])


def test_tasks_of_some_channels_and_spans(wide, monkeypatch):
    """However the work is cut among threads, no result is finished by two of them."""
    monkeypatch.setattr(depthwise, "_WEIGHT_BYTES", 1)
    monkeypatch.setattr(depthwise, "_SPAN", 2)
    depthwise._plan.cache_clear()
    for g in (each_channel(2, 150, (9, 84), 3, 1, 1), each_channel(1, 70, (300,), 3, 1, 2, 2)):
        plan = depthwise._plan(g, np.dtype("float32"), False, depthwise.host())
        spans, parts = plan.cut[3], plan.cut[5]
        assert spans > 1
        assert parts > 1
        for threads in (1, 2):
            set_threads(threads)
            check(by_depthwise, g, functions=IN_PART[:1])


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_spans_share_no_result(monkeypatch, stride, dilation):
    monkeypatch.setattr(depthwise, "_SPAN", 4)
    for width in (*range(7, 60), 1000):
        g = each_channel(1, 16, (width,), 3, stride, dilation, dilation)
        plan = depthwise._plan.__wrapped__(g, np.dtype("float32"), False, Host(64, 32))
        groups, (span, spans) = plan.sources[3].tolist(), plan.cut[2:4]
        of_spans = [
            {
                q + p
                for q, case, _ in groups[s * span : (s + 1) * span]
                for p in range(plan.form.pixels(case))
            }
            for s in range(spans)
        ]
        assert sum(map(len, of_spans)) == g.output[0]
        assert set().union(*of_spans) == set(range(g.output[0]))
        assert spans > 1 or width < 60


# --- all of them ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu6", "hard_silu"])
def test_definitions_are_met(kind):
    """Against NumPy's function of a product that is exact in any order."""
    g = geometry(2, 9, (5, 6), 83, 3, 1, 1)
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-2, 3, shape).astype("float32") for shape in (g.x_shape, g.w_shape))
    plain, y = np.empty((2, *g.y_shape), "float32")
    direct.conv_forward(x, w, None, plain, g)
    direct.conv_forward(x, w, None, y, g, Activation(kind))
    np.testing.assert_array_equal(y, array.forward(plain, kind))


def test_bits_do_not_depend_on_threads(wide):
    calls = {
        by_direct: geometry(2, 24, (30, 31), 50, 1),
        by_winograd(4): geometry(2, 24, (30, 31), 50, 3, 1, 1),
        by_depthwise: each_channel(2, 150, (30, 31), 3, 1, 1),
    }
    for convolve, g in calls.items():
        x, w, bias, residual = values(g, "float32")
        bits = set()
        for threads in (1, 2, 3):
            set_threads(threads)
            y = np.empty(g.y_shape, "float32")
            convolve(x, w, bias, y, g, IN_PART[0], residual)
            bits.add(y.tobytes())
        assert len(bits) == 1


def test_an_empty_batch():
    for convolve, g in (
        (by_direct, geometry(0, 9, (5, 5), 7, 3)),
        (by_winograd(4), geometry(0, 9, (5, 5), 7, 3)),
        (by_depthwise, each_channel(0, 9, (5, 5), 3)),
    ):
        x, w, bias, residual = values(g, "float32")
        convolve(x, w, bias, np.empty(g.y_shape, "float32"), g, IN_PART[0], residual)
