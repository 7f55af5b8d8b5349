"""Direct convolution whose taps of a line count as one: against loops, between canaries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from guards import guarded, words

from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, direct_cut, few_channels_gradient
from gpuconv_kernels.host.few_channels import Margins, margins
from gpuconv_kernels.host.target import host
from gpuconv_kernels.threads import set_threads

# Batch, channels, filters, input, kernel, stride, dilation, pads.
GEOMETRIES = {
    "square": ConvGeometry(2, 7, 9, (13, 17), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    "strided": ConvGeometry(1, 10, 20, (5, 30), (3, 5), (2, 2), (1, 1), ((1, 1), (2, 2))),
    "all of a line at its ends": ConvGeometry(
        3, 16, 16, (9, 9), (7, 7), (1, 1), (1, 1), ((3, 3), (3, 3))
    ),
    "a pad wider than the kernel": ConvGeometry(
        2, 8, 33, (9, 9), (3, 3), (1, 1), (2, 1), ((2, 2), (5, 4))
    ),
    "and steps over it": ConvGeometry(2, 8, 33, (9, 8), (3, 3), (1, 3), (2, 1), ((2, 2), (7, 1))),
    "depth": ConvGeometry(
        2, 12, 5, (4, 6, 7), (2, 3, 3), (1, 2, 1), (1, 1, 1), ((1, 0), (1, 1), (1, 1))
    ),
    "one end of lines": ConvGeometry(4, 18, 9, (15, 15), (2, 2), (1, 1), (1, 1), ((1, 0), (1, 0))),
    "one end in each phase": ConvGeometry(
        4, 9, 18, (30, 30), (4, 4), (2, 2), (1, 1), ((1, 1), (1, 1))
    ),
    "a line": ConvGeometry(2, 9, 5, (40,), (8,), (4,), (1,), ((2, 3),)),
    "several chunks": ConvGeometry(4, 40, 150, (12, 12), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    "the kernel is the image": ConvGeometry(
        5, 11, 70, (4, 3), (3, 3), (1, 1), (1, 1), ((1, 1),) * 2
    ),
}


@pytest.fixture(autouse=True)
def _joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However little memory there is for margins and weights."""
    monkeypatch.setattr(direct_cut, "_JOINED_SHARE", 1e-6)
    monkeypatch.setattr(few_channels_gradient, "pays", lambda g, dtype: False)
    direct_cut.cut.cache_clear()
    yield
    direct_cut.cut.cache_clear()
    set_threads(None)


@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_forward_and_backward_input(g: ConvGeometry) -> None:
    assert direct_cut.cut(g, "float32", host(), 2, True).joined == g.kernel[-1]
    rng = generator(f"joined-{g.input}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    numbers = [small_integers(rng, shape, "float32") for shape in shapes]
    (x, w, bias, dy), memories = zip(*map(guarded, numbers), strict=True)
    before = [memory.copy() for memory in memories]
    want = reference.conv(x, w, bias, **words(g))
    want_dx = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    for threads in (1, 3):
        set_threads(threads)
        for packed in (None, direct.pack_weights(w, 1)):
            y, memory = guarded(np.full(g.y_shape, np.nan, "float32"))
            direct.conv_forward(x, w, bias, y, g, packed=packed)
            assert_exact(y, want)
            assert np.isnan(memory[:64]).all()
            assert np.isnan(memory[-64:]).all()
        dx, memory = guarded(np.full(g.x_shape, np.nan, "float32"))
        direct.conv_backward_input(dy, w, dx, g)
        assert_exact(dx, want_dx)
        assert np.isnan(memory[:64]).all()
        assert np.isnan(memory[-64:]).all()
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)


def test_pixels_that_do_not_follow_each_other() -> None:
    g = GEOMETRIES["square"]
    rng = generator("apart")
    x, w = (small_integers(rng, shape, "float32") for shape in (g.x_shape, g.w_shape))
    wide = np.full((*g.x_shape[:-1], 10), np.nan, "float32")
    wide[..., 1:8] = x
    y = np.full(g.y_shape, np.nan, "float32")
    direct.conv_forward(wide[..., 1:8], w, None, y, g)
    assert_exact(y, reference.conv(x, w, None, **words(g)))


@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry(2, 8, 8, (9, 9), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 2),
        ConvGeometry(2, 8, 8, (9, 9), (3, 3), (1, 1), (1, 2), ((1, 1), (2, 2))),
        ConvGeometry(2, 8, 8, (9, 9), (3, 3), (1, 1), (1, 1), ((1, 1), (-1, 1))),
        ConvGeometry(2, 8, 8, (9, 2), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    ],
    ids=["groups", "dilation", "cut away", "a line shorter than the kernel"],
)
def test_where_taps_do_not_follow_each_other(g: ConvGeometry) -> None:
    assert direct_cut.cut(g, "float32", host(), 2, True).joined == 1


def test_margins_are_the_windows_at_both_ends() -> None:
    # x of 10, windows of 4, 3 apart, from -4: -4 and -1 begin in the padding, 8 ends there.
    g = ConvGeometry(1, 1, 1, (10,), (4,), (3,), (1,), ((4, 2),))
    assert g.output == (5,)
    assert margins(g) == Margins(left=7, first=8, right=4)
    inside = ConvGeometry(1, 1, 1, (10,), (4,), (3,), (1,), ((0, 0),))
    assert margins(inside)[::2] == (0, 0)


def test_joined_taps_take_a_small_part_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    direct_cut.cut.cache_clear()
    # Margins of 2 + 2 pixels a line of 4, and weights as large as all images.
    g = ConvGeometry(1, 96, 64, (5, 4), (1, 3), (1, 1), (1, 1), ((0, 0), (1, 1)))
    assert direct_cut.cut(g, "float32", host(), 2, True).joined == 1
    # Tables for each of 49 taps would need more than margins do.
    g = ConvGeometry(1, 16, 16, (40, 40), (7, 7), (1, 1), (1, 1), ((3, 3), (3, 3)))
    assert direct_cut.cut(g, "float32", host(), 2, True).joined == 7
