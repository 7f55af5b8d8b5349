"""Compiled depthwise convolution and its gradients against plain loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpuconv.backends.functions import Activation
from gpuconv.errors import ShapeError
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import reference
from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import depthwise as array
from gpuconv_kernels.host import depthwise, depthwise_weights
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads

WIDE = Host(64, 32)


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


@pytest.fixture
def use(monkeypatch):
    """Generate code for the vectors of another CPU."""

    def use(host):
        monkeypatch.setattr(depthwise, "host", lambda: host)
        monkeypatch.setattr(depthwise_weights, "host", lambda: host)

    use(WIDE)
    return use


def geometry(batch, channels, extents, kernel, stride=1, pads=0, dilation=1, multiplier=1, group=1):
    """Of groups of ``group`` channels, and ``multiplier`` filters for each channel."""
    rank = len(extents)

    def each(value):
        return (value,) * rank if isinstance(value, int) else tuple(value)

    return ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=channels * multiplier,
        input=tuple(extents),
        kernel=each(kernel),
        stride=each(stride),
        dilation=each(dilation),
        pads=tuple((p, p) if isinstance(p, int) else p for p in each(pads)),
        groups=channels // group,
    )


def operands(g, dtype="float32", seed=0):
    """x, w, bias and dy, of small integers."""
    random = np.random.default_rng(seed)
    shapes = g.x_shape, g.w_shape, (g.out_channels,), g.y_shape
    return [random.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def among_nan(values):
    """A read-only copy with NaN before and behind it, which nobody can read unseen."""
    memory = np.full(values.size + 256, np.nan, values.dtype)
    copy = memory[128 : 128 + values.size].reshape(values.shape)
    copy[...] = values
    copy.flags.writeable = False
    return copy


def run(g, x, w, bias, dy, relu=False):
    """All three operations; what they write lies between canaries and held other numbers."""
    empty = [np.full(shape, 77, x.dtype) for shape in (g.y_shape, g.x_shape, g.w_shape)]
    with guarded(*empty) as (y, dx, dw):
        depthwise.conv_forward(x, w, bias, y, g, Activation("relu") if relu else None)
        depthwise.conv_backward_input(dy, w, dx, g)
        depthwise.conv_backward_weight(dy, x, dw, g)
    return y, dx, dw


def expected(g, x, w, bias, dy):
    words = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}
    return (
        reference.conv(x, w, bias, **words),
        reference.conv_backward_input(dy, w, g.x_shape, **words),
        reference.conv_backward_weight(dy, x, g.w_shape, **words),
    )


def check(g, dtype="float32", seed=0):
    x, w, bias, dy = (among_nan(a) for a in operands(g, dtype, seed))
    results = run(g, x, w, bias, dy)
    for result, wanted in zip(results, expected(g, x, w, bias, dy), strict=True):
        np.testing.assert_array_equal(result, wanted)


CASES = {
    "mobilenet": geometry(2, 70, (9, 11), 3, 1, 1),
    "whole vectors": geometry(2, 64, (5, 6), 3, 1, 1),
    "stride 2": geometry(2, 70, (9, 12), 3, 2, 1),
    "stride 2, same": geometry(1, 70, (8, 8), 3, 2, ((0, 1), (0, 1))),
    "stride 3": geometry(1, 70, (10, 11), 3, 3, 1),
    "stride beyond the kernel": geometry(1, 70, (9, 17), 3, 5, (2, 0)),
    "dilation": geometry(1, 70, (9, 13), 3, 1, 2, 2),
    "stride and dilation": geometry(1, 70, (12, 13), 3, (2, 4), ((1, 0), (2, 3)), (3, 2)),
    "stride as dilation": geometry(1, 70, (12, 13), 3, 2, 1, 2),
    "wide padding": geometry(1, 70, (3, 2), 3, 1, 4),
    "cropped": geometry(1, 70, (9, 12), 3, 1, ((-2, -1), (-1, -3))),
    "one pixel": geometry(3, 70, (1, 1), 3, 1, 1),
    "one dimension": geometry(2, 70, (37,), 3, 1, ((2, 0),)),
    "three dimensions": geometry(1, 70, (4, 5, 6), 3, (1, 2, 1), (1, 0, 1)),
}


SMALL_GROUPS = {
    "4 channels": geometry(2, 32, (9, 11), 3, 1, 1, group=4),
    "8 channels, stride 2": geometry(1, 24, (9, 12), 3, 2, 1, group=8),
    "3 channels": geometry(1, 21, (6, 9), 3, 1, 1, group=3),
    "2 channels, 6 filters": geometry(1, 14, (6, 9), (3, 2), 1, (1, 0), group=2, multiplier=3),
    "4 channels, stride 3, dilation": geometry(1, 32, (12, 13), 3, 3, 2, 2, group=4),
    "6 channels, 2 filters": dataclasses.replace(
        geometry(1, 42, (6, 9), (3, 2), 1, (1, 0), group=6), out_channels=14
    ),
    "multiplier 2": geometry(2, 35, (9, 11), 3, 1, 1, multiplier=2),
    "single taps": geometry(2, 20, (5, 7), 1, 1, group=4),
    "three dimensions": geometry(1, 32, (4, 5, 6), 3, (1, 2, 1), (1, 0, 1), group=4),
}


@pytest.mark.parametrize("name", SMALL_GROUPS)
def test_groups_of_few_channels(use, name):
    """Across groups in vectors of 16, 8 and 4 numbers, of which a group may fill none or all."""
    check(SMALL_GROUPS[name])


@pytest.mark.parametrize(
    ("host", "dtype", "name"),
    [
        (Host(16, 16), "float32", "8 channels, stride 2"),
        (Host(16, 16), "float64", "3 channels"),
        (Host(32, 16), "float32", "6 channels, 2 filters"),
    ],
)
def test_groups_in_every_vector_width(use, host, dtype, name):
    use(host)
    check(SMALL_GROUPS[name], dtype)


def test_what_other_kernels_compute():
    """Not without groups, not groups that fill a vector, and not next to nothing."""
    assert depthwise.covers(geometry(1, 32, (20, 20), 3, group=8))
    assert not depthwise.covers(geometry(1, 32, (5, 5), 3, group=8))
    assert depthwise.covers(geometry(1, 32, (5, 5), 3, multiplier=8))
    assert not depthwise.covers(geometry(1, 8, (5, 5), 3, group=8))
    assert not depthwise.covers(geometry(1, 32, (5, 5), 3, group=16))
    assert not depthwise.covers(geometry(1, 32, (5, 5), 3, multiplier=9))


@pytest.mark.parametrize("name", CASES)
def test_exact_on_small_integers(use, name):
    check(CASES[name])


def test_exact_on_drawn_geometries(use):
    random, checked = np.random.default_rng(5), 0
    while checked < 30:
        rank = int(random.integers(1, 4))

        def draw(low, high, rank=rank):
            return tuple(int(n) for n in random.integers(low, high, rank))

        try:
            g = geometry(
                batch=int(random.integers(0, 3)),
                channels=70,
                extents=draw(1, 8),
                kernel=(*draw(1, 4)[1:], 3),
                stride=draw(1, 4),
                pads=tuple(zip(draw(0, 3), draw(0, 3), strict=True)),
                dilation=draw(1, 3),
            )
        except ShapeError:
            continue
        check(g, seed=checked)
        checked += 1


@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (0, 1), (2, 1), (3, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_of_every_width(use, stride, pads):
    """However a row is cut into groups of pixels, of which some lack columns of their windows."""
    for width in range(3, 28):
        check(geometry(1, 70, (width,), 3, stride, (pads,)), seed=width)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads"), [(2, 1, (0, 1)), (5, 2, (2, 2)), (7, 1, (3, 3))]
)
def test_other_kernels_at_the_borders(use, kernel, stride, pads):
    use(Host(16, 16))
    for width in range(5, 20, 2):
        check(geometry(1, 9, (width,), kernel, stride, (pads,)), seed=width)


@pytest.mark.parametrize(("kernel", "pads"), [(5, (2, 2)), (5, (1, 2)), (7, (3, 3))])
@pytest.mark.parametrize("stride", [1, 2])
def test_long_rows_of_taps(use, kernel, pads, stride):
    """In groups of 16, 14 and fewer pixels, which lack columns left, right or on both sides."""
    for width in (7, 8, 14, 15, 16, 28, 31, 33):
        check(geometry(1, 20, (3, width), kernel, stride, ((2, 2), pads)), seed=width)


@pytest.mark.parametrize(("taps", "pads"), [(3, 1), (5, 2), (7, 3)])
def test_usual_rows_are_cut_without_rest(taps, pads):
    """No pixel of them is computed twice, and none tap by tap."""
    for width in (7, 8, 14, 16, 28, 32, 56, 64, 112):
        g = geometry(1, 16, (1, width), (1, taps), 1, (0, pads))
        plan = depthwise._plan(g, np.dtype("float32"), False, WIDE)
        pixels = [plan.form.pixels(case) for _, case, _ in plan.sources[3].tolist()]
        assert sum(pixels) == width
        assert 1 not in pixels
        few = 14 if width % 7 == 0 else 16
        assert len(pixels) == -(-width // few)


@pytest.mark.parametrize(
    ("host", "dtype", "g"),
    [
        (Host(16, 16), "float32", geometry(2, 3, (19,), 7, 2, 3)),
        (Host(32, 16), "float64", geometry(2, 5, (7, 9), 4, 1, ((1, 2), (2, 1)))),
        (Host(32, 16), "float32", geometry(1, 9, (6, 7), 3, (1, 2), 1, multiplier=3)),
        (Host(16, 32), "float64", geometry(2, 1, (5, 6), 1, 2)),
    ],
    ids=["4 lanes", "4 lanes, float64", "multiplier", "one channel"],
)
def test_every_vector_width(use, host, dtype, g):
    use(host)
    check(g, dtype)


@pytest.mark.parametrize(
    "g",
    [
        geometry(1, 70, (2, 1100), 3, 1, 1),
        geometry(2, 70, (40, 40), 3, 2, 1),
        geometry(1, 1350, (5, 5), 3, 1, 1),
    ],
    ids=["wide rows", "many rows", "many channels"],
)
def test_what_is_cut_into_tasks(use, g):
    """Against the NumPy kernels; the gradient of x by its inner product with x."""
    x, w, bias, dy = operands(g)
    y, dx, dw = run(g, x, w, bias, dy)
    workspace = array.Workspace(g, 4, 1 << 30)
    wanted_y, wanted_dw = np.empty_like(y), np.empty_like(dw)
    array.forward(x, w, wanted_y, g, workspace)
    array.backward_weight(dy, x, wanted_dw, g, workspace)
    np.testing.assert_array_equal(y, wanted_y + bias)
    np.testing.assert_array_equal(dw, wanted_dw)
    inner = np.sum(wanted_y.astype("float64") * dy, axis=(0, 1, 2))
    np.testing.assert_array_equal(np.sum(dx.astype("float64") * x, axis=(0, 1, 2)), inner)


def test_bias_and_relu(use):
    g = CASES["mobilenet"]
    x, w, bias, dy = operands(g)
    y = expected(g, x, w, bias, dy)[0]
    np.testing.assert_array_equal(run(g, x, w, bias, dy, relu=True)[0], np.maximum(y, 0))
    np.testing.assert_array_equal(run(g, x, w, None, dy)[0], y - bias)


def test_views_of_any_strides(use):
    g = geometry(2, 70, (6, 7), 3, 2, 1)
    x, w, bias, dy = operands(g)

    def scattered(a):
        wide = np.zeros((*(2 * e for e in a.shape[:-1]), a.shape[-1] + 3), a.dtype)
        view = wide[(*(slice(None, None, 2),) * (a.ndim - 1), slice(1, -2))]
        view[...] = a
        return view

    def backwards(a):
        return np.ascontiguousarray(a[:, ::-1, ::-1])[:, ::-1, ::-1]

    def channels_first(a):
        return np.ascontiguousarray(a.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)

    wanted = run(g, x, w, bias, dy)
    for form in (scattered, backwards, channels_first):
        views = form(x), np.asfortranarray(w), np.repeat(bias, 2)[::2], form(dy)
        for result, want in zip(run(g, *views), wanted, strict=True):
            assert result.tobytes() == want.tobytes()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (7, 1)])
def test_bits_do_not_depend_on_threads(use, kernel, stride):
    g = geometry(3, 70, (45, 31), kernel, stride, kernel // 2)
    random = np.random.default_rng(0)
    shapes = g.x_shape, g.w_shape, (g.out_channels,), g.y_shape
    x, w, bias, dy = (random.standard_normal(shape).astype("float32") for shape in shapes)
    bits = []
    for threads in (1, 2, 3):
        set_threads(threads)
        bits.append([result.tobytes() for result in run(g, x, w, bias, dy)])
    assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("shape", [(8, 960, (7, 7)), (8, 192, (28, 28)), (1, 32, (112, 112))])
def test_sums_of_blocks_take_little_memory(use, shape):
    g = geometry(*shape, 3, 1, 1)
    arrays = 4 * (np.prod(g.x_shape) + np.prod(g.y_shape))
    assert depthwise_weights.workspace_bytes(g, "float32") <= arrays / 10


def test_close_to_float64_over_many_pixels(use):
    g = geometry(4, 70, (60, 60), 3, 1, 1)
    random = np.random.default_rng(0)
    x, dy = (random.random(shape).astype("float32") for shape in (g.x_shape, g.y_shape))
    dw = np.empty(g.w_shape, "float32")
    depthwise.conv_backward_weight(dy, x, dw, g)
    middle = np.einsum("nhwc,nhwc->c", dy, x, dtype="float64")
    np.testing.assert_allclose(dw[1, 1, 0], middle, rtol=3e-6)


def test_nan_stays_in_its_windows_and_its_channel(use):
    g = geometry(1, 70, (6, 6), 3, 1, 1)
    x, w, bias, dy = operands(g)
    x[0, 2, 3, 4] = np.nan
    y, _, dw = run(g, x, w, bias, dy, relu=True)
    assert np.isnan(y[0, 1:4, 2:5, 4]).all()
    assert np.isnan(y).sum() == 9
    assert np.isnan(dw[..., 4]).all()
    assert np.isnan(dw).sum() == 9


def test_an_empty_batch(use):
    g = geometry(0, 70, (6, 6), 3, 1, 1)
    y, dx, dw = run(g, *operands(g))
    assert y.shape == g.y_shape
    assert dx.shape == g.x_shape
    assert not dw.any()
