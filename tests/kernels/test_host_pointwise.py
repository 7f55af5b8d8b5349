"""1x1 convolutions over evenly spaced pixels: against loops, between canaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from guards import guarded, words

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, pointwise
from gpuconv_kernels.host.finishing import NOTHING
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads


def points(batch: int, channels: int, filters: int, *extents: int) -> ConvGeometry:
    one, none = (1,) * len(extents), ((0, 0),) * len(extents)
    return ConvGeometry(batch, channels, filters, extents, one, one, one, none, 1)


GEOMETRIES = {
    "one filter": points(1, 32, 1, 29, 31),
    "one channel": points(3, 1, 20, 67),
    "a vector": points(2, 5, 16, 19, 17),
    "one and a half": points(1, 96, 24, 14, 15),
    "in the first volume's last line": points(2, 17, 33, 3, 9, 7),
    "a tile more and a pixel": points(1, 7, 64, 199),
    "wide": points(2, 19, 240, 21, 23),
    "few pixels": points(1, 4, 9, 8, 8),
    "several runs": points(1, 400, 70, 30, 31),
}


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def operands(g: ConvGeometry, dtype: str = "float32") -> list[Any]:
    rng = generator(f"points-{g.in_channels}-{g.out_channels}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    return [small_integers(rng, shape, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_form_of_the_call(g: ConvGeometry, dtype: str) -> None:
    assert pointwise.pays(g, dtype)
    operands_, memories = zip(*map(guarded, operands(g, dtype)), strict=True)
    x, w, bias, other = operands_
    before = [memory.copy() for memory in memories]
    plain = reference.conv(x, w, bias, **words(g))
    without = reference.conv(x, w, None, **words(g))
    gradient = reference.conv_backward_input(other, w, g.x_shape, **words(g))
    packed, unread = direct.pack_weights(w, 1), np.full_like(w, np.nan)
    for threads in (1, 3):
        set_threads(threads)
        y, memory = guarded(np.full(g.y_shape, np.nan, dtype))
        direct.conv_forward(x, w, None, y, g)
        assert_exact(y, without)
        direct.conv_forward(x, unread, bias, y, g, Activation("relu"), packed, other)
        assert_exact(y, np.maximum(plain + other, 0))
        direct.conv_forward(x, w, bias, y, g, Activation("leaky_relu", 0.5))
        assert_exact(y, np.where(plain < 0, plain / 2, plain))
        dx, memory_of_dx = guarded(np.full(g.x_shape, np.nan, dtype))
        direct.conv_backward_input(other, w, dx, g)
        assert_exact(dx, gradient)
        for around in (memory, memory_of_dx):
            assert np.isnan(around[:64]).all()
            assert np.isnan(around[-64:]).all()
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)


@pytest.mark.parametrize("of", [Host(16, 16), Host(32, 16), Host(64, 32)], ids=str)
def test_every_width_of_vectors(of: Host) -> None:
    for g in (GEOMETRIES["one and a half"], GEOMETRIES["wide"]):
        x, w, bias, _ = operands(g)
        y = np.full(g.y_shape, np.nan, "float32")
        pointwise.convolve(x, w, bias, y, g, (0, g.out_channels, 1), NOTHING, None, of)
        assert_exact(y, reference.conv(x, w, bias, **words(g)))


@pytest.mark.parametrize("apart", [1, 2])
def test_pixels_of_wider_arrays(apart: int) -> None:
    """Some channels of them, as concatenation has them; with gaps in lines, tables are needed."""
    g = GEOMETRIES["a vector"]
    x, w, bias, _ = operands(g)
    wide = np.full((2, 19, 17 * apart, 8), np.nan, "float32")
    inside = wide[:, :, : 17 * apart : apart, 2:7]
    inside[...] = x
    gaps = np.full((2, 19, 18, 8), np.nan, "float32")
    in_gaps = gaps[:, :, :17, 2:7]
    in_gaps[...] = x
    room = np.full((2, 19, 17 * apart, 30), -7, "float32")
    y = room[:, :, ::apart, 3:19]
    assert pointwise.evenly_spaced(inside)
    assert pointwise.evenly_spaced(y)
    assert not pointwise.evenly_spaced(in_gaps)
    want = reference.conv(x, w, bias, **words(g))
    for source in (inside, in_gaps):
        direct.conv_forward(source, w, bias, y, g, Activation("elu", 1.0))
        np.testing.assert_allclose(y, np.where(want < 0, np.expm1(want), want), rtol=1e-6)
        y[...] = -7
        assert (room == -7).all()


def test_phases_of_a_stride_have_a_tap_each() -> None:
    """Which is not the first one, and leads to pixels that lie a stride apart."""
    g = ConvGeometry(1, 20, 9, (699,), (3,), (3,), (1,), ((0, 0),), 1)
    phases = [phase.geometry for phase in g.backward_input_phases]
    assert all(pointwise.pays(phase, "float32") for phase in phases)
    assert len(phases) == 3
    _, w, _, dy = operands(g)
    dx, memory = guarded(np.full(g.x_shape, np.nan, "float32"))
    direct.conv_backward_input(dy, w, dx, g)
    assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))
    assert np.isnan(memory[:64]).all()
    assert np.isnan(memory[-64:]).all()


def test_the_bits_do_not_depend_on_threads_or_the_batch() -> None:
    g, alone = points(5, 40, 70, 13, 17), points(1, 40, 70, 13, 17)
    rng = generator("points-threads")
    x, w = (rng.standard_normal(s, dtype="float32") for s in (g.x_shape, g.w_shape))
    results = []
    for threads in (1, 2, 5, 2):
        set_threads(threads)
        y = np.empty(g.y_shape, "float32")
        direct.conv_forward(x, w, None, y, g)
        results.append(y.tobytes())
    assert len(set(results)) == 1
    y = np.empty(alone.y_shape, "float32")
    direct.conv_forward(x[3:4], w, None, y, alone)
    assert y.tobytes() == results[0][3 * y.nbytes : 4 * y.nbytes]


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_blocks_hold_all_pixels_and_none_is_smaller_than_a_tile(threads: int) -> None:
    for pixels in (*range(64, 300), 4095, 100_003):
        c = pointwise._cut(points(1, 40, 70, pixels), "float32", Host(64, 32), threads)
        last = pixels - (c.blocks - 1) * c.block
        assert last >= min(c.rows, c.block)
        assert c.block % c.rows == c.run % c.rows == 0
        assert last < c.block + c.rows


def test_the_workspace_is_an_eighth_of_the_arrays_for_each_thread() -> None:
    set_threads(2)
    for g in (points(8, 100, 60, 14, 14), points(8, 64, 256, 56, 56), points(1, 32, 16, 14, 14)):
        assert pointwise.pays(g, "float32")
        numbers = sum(np.prod(s) for s in (g.x_shape, g.w_shape, g.y_shape))
        assert direct.workspace_bytes(g, "float32") <= numbers + 2**12
        assert direct.backward_input_workspace_bytes(g, "float32") <= numbers + 2**12
