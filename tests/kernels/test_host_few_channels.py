"""Few channels, a line after the other, and weight gradients: against loops, between canaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from guards import guarded, words

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import (
    direct,
    few_channels_forward,
    few_channels_weights,
    weight_gradient,
)
from gpuconv_kernels.host.finishing import NOTHING
from gpuconv_kernels.host.target import Host, host
from gpuconv_kernels.threads import set_threads

GEOMETRIES = {
    "a long line": ConvGeometry(1, 1, 4, (5000,), (7,), (1,), (1,), ((3, 3),), 1),
    "many taps": ConvGeometry(2, 2, 20, (301,), (53,), (2,), (1,), ((5, 2),), 1),
    "depth": ConvGeometry(
        1, 3, 70, (6, 9, 11), (2, 3, 5), (1, 2, 3), (2, 1, 1), ((1, 1), (0, 2), (3, 0)), 1
    ),
    "narrow": ConvGeometry(1, 8, 9, (40, 3), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1),
    "dilated": ConvGeometry(2, 3, 33, (17, 37), (5, 5), (2, 2), (3, 1), ((2, 7), (2, 4)), 1),
    "cut away": ConvGeometry(1, 4, 5, (6, 6), (3, 3), (1, 1), (1, 1), ((-1, 2), (2, 5)), 1),
    "in place": ConvGeometry(1, 3, 64, (9, 30), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), 1),
    "more padding than image": ConvGeometry(
        1, 1, 1, (2, 2), (2, 6), (1, 1), (1, 1), ((1, 1), (9, 9)), 1
    ),
}


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def operands(g: ConvGeometry) -> list[Any]:
    rng = generator(f"few-{g.input}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    return [small_integers(rng, shape, "float32") for shape in shapes]


pytestmark = pytest.mark.usefixtures("lines_of_any_size")


def test_more_channels_than_few() -> None:
    g = ConvGeometry(6, 19, 21, (30, 50), (3, 5), (1, 2), (1, 1), ((1, 1), (2, 1)), 1)
    assert few_channels_forward.pays(g, "float32")
    x, w, bias, dy = operands(g)
    y, memory = guarded(np.full(g.y_shape, np.nan, "float32"))
    direct.conv_forward(x, w, bias, y, g)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))
    assert np.isnan(memory[:64]).all()
    assert np.isnan(memory[-64:]).all()
    dx = np.full(g.x_shape, np.nan, "float32")
    direct.conv_backward_input(dy, w, dx, g)
    assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))


@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_form_of_the_call(g: ConvGeometry) -> None:
    assert few_channels_forward.pays(g, "float32") == (g.in_channels <= 6)
    operands_, memories = zip(*map(guarded, operands(g)), strict=True)
    x, w, bias, residual = operands_
    before = [memory.copy() for memory in memories]
    plain = reference.conv(x, w, bias, **words(g))
    packed, unread = direct.pack_weights(w, 1), np.full_like(w, np.nan)
    for threads in (1, 3):
        set_threads(threads)
        y, memory = guarded(np.full(g.y_shape, np.nan, "float32"))
        direct.conv_forward(x, w, bias, y, g)
        assert_exact(y, plain)
        direct.conv_forward(x, unread, bias, y, g, Activation("relu"), packed, residual)
        assert_exact(y, np.maximum(plain + residual, 0))
        assert np.isnan(memory[:64]).all()
        assert np.isnan(memory[-64:]).all()
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradient_of_the_weights(g: ConvGeometry, dtype: str) -> None:
    numbers = [values.astype(dtype) for values in operands(g)]
    (x, _, _, dy), memories = zip(*map(guarded, numbers), strict=True)
    before = [memory.copy() for memory in memories]
    want = reference.conv_backward_weight(dy, x, g.w_shape, **words(g))
    for threads in (1, 3):
        set_threads(threads)
        dw, memory = guarded(np.full(g.w_shape, np.nan, dtype))
        weight_gradient.conv_backward_weight(dy, x, dw, g)
        assert_exact(dw, want)
        assert np.isnan(memory[:64]).all()
        assert np.isnan(memory[-64:]).all()
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)


@pytest.mark.parametrize("of", [Host(16, 16), Host(32, 16), Host(64, 32)], ids=str)
def test_every_width_of_vectors(of: Host) -> None:
    g = GEOMETRIES["dilated"]
    x, w, bias, dy = operands(g)
    y = np.full(g.y_shape, np.nan, "float32")
    few_channels_forward.conv_forward(x, w, bias, y, g, NOTHING, None, of)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))
    dw = np.full(g.w_shape, np.nan, "float32")
    few_channels_weights.conv_backward_weight(dy, x, dw, g, of)
    assert_exact(dw, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))


FEW_FILTERS = {
    "6 filters": ConvGeometry(3, 1, 6, (28, 28), (5, 5), (1, 1), (1, 1), ((2, 2), (2, 2)), 1),
    "stride 2": ConvGeometry(2, 3, 3, (17, 31), (3, 5), (2, 2), (1, 1), ((1, 1), (2, 2)), 1),
    "in place": ConvGeometry(2, 2, 1, (9, 24), (3, 3), (1, 1), (2, 1), ((0, 1), (0, 0)), 1),
    "one dimension": ConvGeometry(4, 1, 4, (40,), (3,), (1,), (1,), ((1, 1),), 1),
    "three dimensions": ConvGeometry(
        2, 1, 5, (4, 6, 12), (3, 3, 3), (1, 2, 1), (1, 1, 1), ((1, 1),) * 3, 1
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("g", FEW_FILTERS.values(), ids=FEW_FILTERS)
def test_pixels_that_are_taken_for_one(g: ConvGeometry, dtype: str) -> None:
    """With the same sums, and bits, as for any number of threads; not where dy has gaps."""
    of = Host(64, 32)
    assert few_channels_weights.cut(g, dtype, of).together > 1
    assert few_channels_weights.cut(g, dtype, of, False).together == 1
    numbers = [values.astype(dtype) for values in operands(g)]
    (x, _, _, dy), _ = zip(*map(guarded, numbers), strict=True)
    gaps = np.full((*g.y_shape[:-2], 2 * g.output[-1], g.out_channels), np.nan, dtype)[..., ::2, :]
    gaps[...] = dy
    want = reference.conv_backward_weight(dy, x, g.w_shape, **words(g))
    for threads in (1, 3):
        set_threads(threads)
        for of_y in (dy, gaps):
            dw, memory = guarded(np.full(g.w_shape, np.nan, dtype))
            few_channels_weights.conv_backward_weight(of_y, x, dw, g, of)
            assert_exact(dw, want)
            assert np.isnan(memory[:64]).all()
            assert np.isnan(memory[-64:]).all()
    random = generator("few-filters").standard_normal(g.y_shape).astype(dtype)
    results = []
    for threads in (1, 2, 5):
        set_threads(threads)
        results.append(np.empty(g.w_shape, dtype))
        few_channels_weights.conv_backward_weight(random, x, results[-1], g, of)
    assert all(other.tobytes() == results[0].tobytes() for other in results)


def test_which_lines_are_summed_together() -> None:
    """As many as stay near; all of a small image's, one of a large one's."""
    small = FEW_FILTERS["6 filters"]
    large = ConvGeometry(1, 3, 64, (224, 224), (7, 7), (2, 2), (1, 1), ((3, 3), (3, 3)), 1)
    assert few_channels_weights.cut(small, "float32", Host(64, 32)).several > 1
    assert few_channels_weights.cut(large, "float32", Host(64, 32)).several == 1


def test_lines_that_are_not_contiguous() -> None:
    g = GEOMETRIES["in place"]
    x, w, _, dy = operands(g)
    wide = np.full((1, 9, 60, 5), np.nan, "float32")
    wide[:, :, ::2, :3] = x
    room = np.full((1, 14, 28, 70), -7, "float32")
    y = room[:, ::2, :, 1:65]
    direct.conv_forward(wide[:, :, ::2, :3], w, None, y, g)
    assert_exact(y, reference.conv(x, w, None, **words(g)))
    y[...] = dy
    dw = np.full(g.w_shape, np.nan, "float32")
    weight_gradient.conv_backward_weight(y, wide[:, :, ::2, :3], dw, g)
    assert_exact(dw, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))
    y[...] = -7
    assert (room == -7).all()


@pytest.mark.parametrize("filters", [1, 3, 6, 9, 21, 70, 129])
def test_lanes_that_are_no_filters_are_left_alone(filters: int) -> None:
    """Between pixels of y lie numbers of others, which the last vector reaches over."""
    pads = ((1, 1), (0, 2))
    g = ConvGeometry(2, 5, filters, (9, 30), (3, 3), (1, 1), (1, 1), pads, 1)
    x, w, bias, other = operands(g)
    room = np.full((2, 9, 30, filters + 40), -7, "float32")
    y, residual = room[..., 3 : 3 + filters], np.full_like(room, np.nan)[..., 3 : 3 + filters]
    residual[...] = other
    want = np.maximum(reference.conv(x, w, bias, **words(g)) + other, 0)
    direct.conv_forward(x, w, bias, y, g, Activation("relu"), None, residual)
    assert_exact(y, want)
    y[...] = -7
    assert (room == -7).all()


def test_the_bits_do_not_depend_on_threads_or_neighbours() -> None:
    """Nor on where bands, stretches and tiles begin: an image alone gives what it gives in many."""
    g = ConvGeometry(5, 3, 40, (23, 50), (3, 5), (1, 2), (1, 1), ((1, 1), (2, 2)), 1)
    rng = generator("few-threads")
    shapes = (g.x_shape, g.w_shape, g.y_shape)
    x, w, dy = (rng.standard_normal(s, dtype="float32") for s in shapes)
    results, gradients = [], []
    for threads in (1, 2, 5, 2):
        set_threads(threads)
        y, dw = np.empty(g.y_shape, "float32"), np.empty(g.w_shape, "float32")
        direct.conv_forward(x, w, None, y, g)
        weight_gradient.conv_backward_weight(dy, x, dw, g)
        results.append(y)
        gradients.append(dw)
    wide = reference.conv_backward_weight(dy.astype("f8"), x.astype("f8"), g.w_shape, **words(g))
    assert_close(gradients[0], wide, 5 * 23 * 25)
    assert all(other.tobytes() == gradients[0].tobytes() for other in gradients)
    alone = ConvGeometry(1, 3, 40, (23, 50), (3, 5), (1, 2), (1, 1), ((1, 1), (2, 2)), 1)
    y = np.empty(alone.y_shape, "float32")
    direct.conv_forward(x[3:4], w, None, y, alone)
    assert all(other.tobytes() == results[0].tobytes() for other in results)
    assert y.tobytes() == results[0][3:4].tobytes()


def test_the_workspace_is_what_a_thread_copies() -> None:
    """Some lines of x for each thread, whatever the batch."""
    small, large = (
        ConvGeometry(n, 3, 64, (224, 224), (7, 7), (2, 2), (1, 1), ((3, 3), (3, 3)), 1)
        for n in (8, 64)
    )
    set_threads(2)
    needed = direct.workspace_bytes(small, "float32")
    assert needed == direct.workspace_bytes(large, "float32")
    c = few_channels_forward.cut(small, "float32", host(), 2)
    lines = (c.lines - 1) * 2 + 7
    assert 2 * (lines * 229 * 3 + 7 * 7 * 3 * 64) * 4 <= needed < 2**20
