"""Winograd convolution on the CPU and its gradients: error bounds, borders, bits, memory."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.guards import guarded
from gpuconv_kernels.host import winograd, winograd_cut, winograd_filters, winograd_gradient
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.host.winograd_filters import transform_weights
from gpuconv_kernels.host.winograd_transforms import POINTS, matrices
from gpuconv_kernels.threads import set_threads

ERROR = {2: 5, 4: 25, 6: 45}
"""Norm of the error over the norm of the result, in units of epsilon, up to some 100 channels: what
the same transforms cost in float32 when NumPy's einsum carries them out."""
WIDE = Host(64, 32)
gradient = winograd_gradient.conv_backward_weight


@pytest.fixture(autouse=True)
def _usual(vectors_of):
    """Everywhere the same vectors, so that all CPUs run all of these tests."""
    vectors_of(WIDE)
    yield
    set_threads(None)
    winograd_cut.best.cache_clear()
    winograd_gradient._plan.cache_clear()


@pytest.fixture
def vectors_of(monkeypatch):
    def force(of):
        for module in (winograd, winograd_filters, winograd_gradient):
            monkeypatch.setattr(module, "host", lambda: of)

    return force


def layer(batch, channels, filters, height, width, pads=((1, 1), (1, 1))):
    one = (1, 1)
    return ConvGeometry(batch, channels, filters, (height, width), (3, 3), one, one, pads)


def values(g, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = g.x_shape, g.w_shape, (g.out_channels,), g.y_shape
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def integers(g, dtype):
    rng = np.random.default_rng(0)
    shapes = g.x_shape, g.w_shape, (g.out_channels,), g.y_shape
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def three(g, x, w, bias, dy, m, relu=False):
    """The three operations, between canaries; inputs are read-only."""
    blank = [np.full(s, np.nan, x.dtype) for s in (g.y_shape, g.x_shape, g.w_shape)]
    with guarded(x, w, bias, dy, *blank) as (x, w, bias, dy, y, dx, dw):
        for array in (x, w, bias, dy):
            array.flags.writeable = False
        winograd.conv_forward(x, w, bias, y, g, Activation("relu") if relu else None, m)
        winograd.conv_backward_input(dy, w, dx, g, m)
        gradient(dy, x, dw, g, m)
    return y, dx, dw


def expected(g, x, w, bias, dy):
    return (
        reference.conv(x, w, bias, padding=g.pads),
        reference.conv_backward_input(dy, w, g.x_shape, padding=g.pads),
        reference.conv_backward_weight(dy, x, g.w_shape, padding=g.pads),
    )


def assert_near(actual, wanted, m):
    bound = ERROR[m] * np.finfo(actual.dtype).eps
    error = actual - wanted
    assert np.linalg.norm(error) <= bound * np.linalg.norm(wanted)
    assert np.abs(error).max() <= 8 * bound * np.abs(wanted).max()


# --- the transforms -----------------------------------------------------------------------


@pytest.mark.parametrize("m", POINTS)
def test_matrices_give_the_convolution_exactly(m):
    """A bilinear identity holds if it holds for all unit vectors."""
    f = matrices(m)
    for tap in range(3):
        for pixel in range(m + 2):
            products = [
                row_g[tap] * row_b[pixel] for row_g, row_b in zip(f.g, f.b_transposed, strict=True)
            ]
            for o in range(m):
                total = sum((row[o] * p for row, p in zip(f.a, products, strict=True)), Fraction(0))
                assert total == (pixel == o + tap)


# --- results ------------------------------------------------------------------------------

GEOMETRIES = [
    layer(1, 1, 1, 1, 1),
    layer(2, 5, 7, 9, 7),
    layer(1, 20, 18, 13, 14, ((0, 2), (1, 0))),
    layer(1, 16, 16, 12, 12, ((0, 0), (0, 0))),  # no padding, whole tiles
    layer(3, 33, 70, 6, 5, ((3, 1), (2, 4))),  # several blocks, wide borders
]


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.x_shape}-{g.out_channels}")
def test_float32_against_plain_loops(g):
    inputs = values(g, np.float32)
    for actual, wanted in zip(three(g, *inputs, m=4), expected(g, *inputs), strict=True):
        assert_near(actual, wanted, 4)


@pytest.mark.parametrize(
    ("of", "dtype", "m"),
    [
        (Host(16, 16), np.float64, 2),
        (Host(32, 16), np.float32, 6),
    ],
    ids=str,
)
def test_other_vectors_dtypes_and_tiles(vectors_of, of, dtype, m):
    """LLVM cuts vectors that this CPU does not have into ones that it has."""
    vectors_of(of)
    lanes = of.lanes(np.dtype(dtype).name)
    for g in (layer(2, lanes + 1, 2 * lanes + 3, 7, 9), layer(1, 2 * lanes, lanes, 8, 6)):
        inputs = values(g, dtype)
        for actual, wanted in zip(three(g, *inputs, m=m), expected(g, *inputs), strict=True):
            assert_near(actual, wanted, m)
        if m == 2:  # its transforms divide by powers of two only: integers stay exact
            inputs = integers(g, dtype)
            for actual, wanted in zip(three(g, *inputs, m=m), expected(g, *inputs), strict=True):
                assert_exact(actual, wanted)


@pytest.mark.parametrize("of", [WIDE, Host(32, 16)], ids=str)
def test_vectors_that_are_not_full(vectors_of, of):
    """What is left of channels and filters is read and written by itself, and nothing beside."""
    vectors_of(of)
    lanes = of.lanes("float32")
    for more in (1, lanes // 2 + 1, lanes - 1):
        g = layer(2, lanes + more, 2 * lanes - more, 5, 6)
        inputs = integers(g, np.float32)
        for actual, wanted in zip(three(g, *inputs, m=2), expected(g, *inputs), strict=True):
            assert_exact(actual, wanted)


def only(monkeypatch, at_a_time):
    """So many rows of elements are computed at a time; None: all."""
    for module in (winograd_cut, winograd_gradient):
        cuts = module._cuts

        def some(*of, cuts=cuts):
            m = of[0].m if len(of) == 1 else of[3]
            passes = (m + 2) // at_a_time if at_a_time else 1
            return (c for c in cuts(*of) if c.passes == passes)

        monkeypatch.setattr(module, "_cuts", some)
    winograd_cut.best.cache_clear()
    winograd_gradient._plan.cache_clear()


@pytest.fixture(params=[2, 1])
def in_parts(monkeypatch, request):
    only(monkeypatch, request.param)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.x_shape}-{g.out_channels}")
def test_in_parts(in_parts, g, m):
    inputs = values(g, np.float32)
    found = three(g, *inputs, m=m)
    for actual, wanted in zip(found, expected(g, *inputs), strict=True):
        assert_near(actual, wanted, m)
    set_threads(3)
    again = three(g, *inputs, m=m)
    assert [a.tobytes() for a in again] == [a.tobytes() for a in found]


@pytest.mark.parametrize("limit", [None, 2**17, 0])
def test_parts_with_kept_filters_residuals_and_limits(in_parts, limit):
    g = layer(2, 40, 70, 18, 13)
    x, w, bias, residual = values(g, np.float32)
    wanted = np.maximum(reference.conv(x, w, bias, padding=g.pads) + residual, 0)
    found = []
    for kept in (None, transform_weights(w, 4)):
        y = np.full(g.y_shape, np.nan, np.float32)
        winograd.conv_forward(x, w, bias, y, g, Activation("relu"), 4, kept, limit, residual)
        assert_near(y, wanted, 4)
        found.append(y.tobytes())
    assert found[0] == found[1]


def test_parts_take_less_memory():
    set_threads(2)
    g = layer(1, 64, 64, 56, 56)
    arrays = 4 * (2 * 56 * 56 * 64 + 9 * 64 * 64)
    for op in ("conv_forward", "conv_backward_weight"):
        free = winograd.workspace_bytes(op, g, "float32", 4)
        assert winograd.workspace_bytes(op, g, "float32", 4, limit=arrays // 4) <= arrays // 4
        assert free > arrays // 2


def test_cropped_input():
    """Negative pads, as backward_input may have them."""
    g = layer(1, 6, 5, 9, 8, ((-1, 2), (2, -2)))
    whole = layer(1, 6, 5, 8, 6, ((0, 2), (2, 0)))  # of the part that is left
    x, w, bias, dy = values(g, np.float32)
    y, dx, dw = three(g, x, w, bias, dy, m=4)
    part = np.ascontiguousarray(x[:, 1:, :6])
    y_part, dx_part, dw_part = expected(whole, part, w, bias, dy)
    assert_near(y, y_part, 4)
    assert_near(dw, dw_part, 4)
    assert_near(dx[:, 1:, :6], dx_part, 4)
    beside = dx.copy()
    beside[:, 1:, :6] = 0
    assert np.abs(beside).max() < 1e-5 * np.abs(dx).max()


def test_no_images():
    g = layer(0, 4, 5, 6, 6)
    x, w, bias, dy = values(g, np.float32)
    y, dx, dw = three(g, x, w, bias, dy, m=4)
    assert y.shape == g.y_shape
    assert dx.shape == g.x_shape
    assert not dw.any()


def test_views_of_any_strides():
    g = layer(2, 5, 7, 9, 7)
    x, w, bias, dy = values(g, np.float32)
    wanted = three(g, x, w, bias, dy, m=4)
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    rows = np.repeat(np.repeat(x, 2, axis=1), 3, axis=2)[:, ::2, ::3]
    backwards = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    swapped = np.ascontiguousarray(w.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    slices = np.repeat(dy, 2, axis=3)[..., ::2]
    for view in (planes, rows, backwards):
        y, dx, dw = (np.empty(s, np.float32) for s in (g.y_shape, g.x_shape, g.w_shape))
        winograd.conv_forward(view, swapped, np.repeat(bias, 2)[::2], y, g, None, 4)
        winograd.conv_backward_input(slices, swapped, dx, g, 4)
        gradient(slices, view, dw, g, 4)
        for actual, want in zip((y, dx, dw), wanted, strict=True):
            assert actual.tobytes() == want.tobytes()


def test_relu_and_no_bias():
    g = layer(1, 8, 20, 10, 9)
    x, w, bias, dy = values(g, np.float32)
    x[0, 0, 0, 3], bias[4] = np.nan, np.nan
    plain, *_ = three(g, x, w, bias, dy, m=4)
    y, *_ = three(g, x, w, bias, dy, m=4, relu=True)
    np.testing.assert_array_equal(y, np.where(plain < 0, 0, plain))
    assert np.isnan(y[0, :4, :4]).all(), "the tile of the NaN"
    assert np.isnan(y[..., 4]).all(), "the filter whose bias is NaN"
    others = np.delete(y, 4, axis=3)[:, 4:, 4:]
    assert (others >= 0).all()
    assert (others == 0).any()
    without = np.empty_like(y)
    winograd.conv_forward(x, w, None, without, g, None, 4)
    three_zero, *_ = three(g, x, w, np.zeros_like(bias), dy, m=4)
    np.testing.assert_array_equal(without, three_zero)


# --- cutting the work ---------------------------------------------------------------------


def ways(g, m, count):
    """All ways in which the layer might be cut for so many threads."""
    tiles = g.batch * (-(-g.output[0] // m)) * (-(-g.output[1] // m))
    sizes = tiles, g.in_channels, g.out_channels
    of = winograd_cut.Layer(*sizes, m, False, False, "float32", WIDE, count)
    return [winograd_cut._plan(of, cut, 0.0) for cut in dict.fromkeys(winograd_cut._cuts(of))]


@pytest.mark.parametrize(("count", "at_a_time"), [(1, None), (2, None), (3, None), (2, 2), (2, 1)])
def test_all_ways_of_cutting_give_the_same_bits(monkeypatch, count, at_a_time):
    """Of those that compute as many rows of elements at a time."""
    only(monkeypatch, at_a_time)
    lanes = WIDE.lanes("float32")
    g = layer(2, 2 * lanes + 1, 5 * lanes + 2, 13, 22)
    x, w, bias, dy = values(g, np.float32)
    wanted, *_ = expected(g, x, w, bias, dy)
    y = np.empty_like(dy)
    winograd.conv_forward(x, w, bias, y, g, None, 4)
    assert_near(y, wanted, 4)
    plans = ways(g, 4, 2)
    assert any(p.cut.own for p in plans), "filters of every task"
    assert any(p.cut.span < g.in_channels for p in plans), "products that stay in memory"
    assert any(p.cut.together < p.cut.groups for p in plans), "filters transformed again"
    assert any(p.cut.block < g.out_channels and not p.cut.own for p in plans), "blocks of filters"
    assert any(p.cut.parts > 1 and not p.cut.own for p in plans), "a block in parts"
    assert any(p.cut.held > p.cut.chunk for p in plans), "patches that serve several chunks"
    assert len({p.cut.vectors for p in plans}) > 1
    set_threads(count)
    for plan in plans if count == 2 and not at_a_time else ways(g, 4, count)[::5]:
        monkeypatch.setattr(winograd, "best", lambda of, limit, plan=plan: plan)
        again = np.full_like(y, np.nan)
        winograd.conv_forward(x, w, bias, again, g, None, 4)
        assert again.tobytes() == y.tobytes(), plan


@pytest.mark.parametrize("at_a_time", [None, 2, 1])
def test_the_bits_depend_neither_on_threads_nor_on_when_filters_are_transformed(
    monkeypatch, at_a_time
):
    only(monkeypatch, at_a_time)
    monkeypatch.setattr(winograd_gradient, "_PARTS", (2,))
    monkeypatch.setattr(winograd_gradient, "_LEAST_TILES", 25)
    monkeypatch.setattr(winograd_gradient, "_GROUPS", (8,))
    monkeypatch.setattr(winograd_gradient, "_BLOCK_BYTES", 64)
    lanes = WIDE.lanes("float32")
    g = layer(2, 2 * lanes + 1, 3 * lanes + 2, 21, 22)
    x, w, bias, dy = values(g, np.float32)
    assert winograd_gradient._plan(g, 4, None, "float32", WIDE, 2).cut.parts == 2
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        results.append(three(g, x, w, bias, dy, m=4))
        y, dx = np.empty_like(results[0][0]), np.empty_like(x)
        winograd.conv_forward(x, w, bias, y, g, None, 4, limit=0)
        winograd.conv_backward_input(dy, w, dx, g, 4, limit=0)
        results.append((y, dx))
        y, dx = np.empty_like(y), np.empty_like(x)
        winograd.conv_forward(x, w, bias, y, g, None, 4, kept=transform_weights(w, 4))
        kept = transform_weights(w, 4, backward=True)
        winograd.conv_backward_input(dy, w, dx, g, 4, kept=kept)
        results.append((y, dx))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=False):
            assert one.tobytes() == other.tobytes()
    for actual, wanted in zip(results[0], expected(g, x, w, bias, dy), strict=True):
        assert_near(actual, wanted, 4)


def test_blocks_of_channels_leave_the_bits_of_the_gradient(monkeypatch):
    """Groups and parts, which the shape decides, are rounded each by itself."""
    g = layer(2, 40, 24, 21, 22)
    x, _, _, dy = values(g, np.float32)
    monkeypatch.setattr(winograd_gradient, "_PARTS", (1,))
    monkeypatch.setattr(winograd_gradient, "_GROUPS", (8,))
    results = set()
    for block in (256, 128, 64):
        monkeypatch.setattr(winograd_gradient, "_BLOCK_BYTES", block)
        winograd_gradient._plan.cache_clear()
        dw = np.empty(g.w_shape, np.float32)
        gradient(dy, x, dw, g, 4)
        results.add(dw.tobytes())
    assert len(results) == 1


# --- a residual ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "dtype", "m"), [(WIDE, np.float32, 4), (Host(16, 16), np.float64, 2)], ids=str
)
@pytest.mark.parametrize("relu", [False, True])
def test_a_residual_is_added_before_the_relu(vectors_of, relu, of, dtype, m):
    """Bit by bit what a pass of its own adds, whole tiles or not, and nothing beside is read."""
    vectors_of(of)
    for g in (layer(2, 16, 16, 8, 8), layer(1, 20, 70, 9, 7), layer(1, 5, 7, 3, 5)):
        x, w, bias, residual = values(g, dtype)
        residual[0, 0, 0, 0], residual[-1, -1, -1, -1] = np.nan, np.inf
        plain = np.empty_like(residual)
        winograd.conv_forward(x, w, bias, plain, g, None, m)
        wanted = plain + residual
        if relu:
            wanted = np.where(wanted < 0, 0, wanted)
        activation = Activation("relu") if relu else None
        for kept in (None, transform_weights(w, m)):
            blank = np.full(g.y_shape, np.nan, dtype)
            with guarded(x, w, bias, residual, blank) as (a, b, c, r, y):
                r.flags.writeable = False
                winograd.conv_forward(a, b, c, y, g, activation, m, kept, residual=r)
            np.testing.assert_array_equal(y, wanted)


# --- what it says --------------------------------------------------------------------------


def test_refusals():
    assert winograd.supports("conv_forward", GEOMETRIES[0]) is None
    two = (2, 2)
    for kernel, stride, dilation, groups, word in [
        ((5, 5), (1, 1), (1, 1), 1, "3x3"),
        ((3,), (1,), (1,), 1, "3x3"),
        ((3, 3), two, (1, 1), 1, "stride"),
        ((3, 3), (1, 1), two, 1, "dilation"),
        ((3, 3), (1, 1), (1, 1), 2, "group"),
    ]:
        rank = len(kernel)
        g = ConvGeometry(1, 4, 4, (9,) * rank, kernel, stride, dilation, ((1, 1),) * rank, groups)
        assert word in (winograd.supports("conv_backward_input", g) or "")


def test_workspace_is_what_is_allocated():
    set_threads(2)
    few, many = layer(1, 40, 24, 12, 12), layer(4, 16, 16, 60, 60)
    for g in (few, many):
        x, w, bias, dy = values(g, np.float32)
        y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
        calls = {
            "conv_forward": partial(winograd.conv_forward, x, w, bias, y, g, None, 4),
            "conv_backward_input": partial(winograd.conv_backward_input, dy, w, dx, g, 4),
            "conv_backward_weight": partial(gradient, dy, x, dw, g, 4),
        }
        for op, call in calls.items():
            call()
            tracemalloc.start()
            call()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            told = winograd.workspace_bytes(op, g, "float32", 4)
            assert told <= peak <= told + 20_000, op
    ahead = winograd.workspace_bytes("conv_forward", many, "float32", 4)
    kept = winograd.workspace_bytes("conv_forward", many, "float32", 4, kept=True)
    assert kept < ahead


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_weight"])
def test_a_limit_is_kept_where_possible(op):
    set_threads(2)
    g = layer(4, 256, 256, 28, 28)
    free = winograd.workspace_bytes(op, g, "float32", 4)
    for limit in (free, free // 2, 2**21):
        assert winograd.workspace_bytes(op, g, "float32", 4, limit=limit) <= limit
    least = winograd.workspace_bytes(op, g, "float32", 4, limit=0)
    assert 0 < least < 2**21
    times = [winograd.estimate(op, g, "float32", 4, limit) for limit in (None, 2**21, 2**16)]
    assert times == sorted(times)
