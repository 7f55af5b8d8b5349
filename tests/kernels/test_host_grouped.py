"""Groups of one or two vectors of filters, line by line: against loops, between canaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from guards import guarded, words

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, grouped
from gpuconv_kernels.host.target import ITEMSIZE, LINE, host
from gpuconv_kernels.threads import set_threads

LANES = host().lanes("float32")


def of_lanes(batch, input, kernel, stride, dilation, pads, groups, channels, vectors):  # type: ignore[no-untyped-def]
    """Groups of so many ``channels`` and so many vectors of filters."""
    filters = vectors * LANES * groups
    return ConvGeometry(
        batch, channels * groups, filters, input, kernel, stride, dilation, pads, groups
    )


SAME = ((1, 1), (1, 1))
GEOMETRIES = {
    "one vector": of_lanes(2, (9, 14), (3, 3), (1, 1), (1, 1), SAME, 4, LANES, 1),
    "two vectors": of_lanes(1, (7, 17), (3, 3), (1, 1), (1, 1), SAME, 3, 2 * LANES, 2),
    "odd channels": of_lanes(1, (6, 30), (3, 5), (1, 1), (2, 1), ((2, 2), (2, 2)), 6, 5, 1),
    "strided": of_lanes(3, (15, 29), (3, 3), (2, 2), (1, 1), SAME, 4, LANES, 1),
    "strided, no padding": of_lanes(1, (8, 21), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), 2, 8, 2),
    "cut away": of_lanes(1, (8, 16), (3, 3), (1, 1), (1, 1), ((-1, 2), (2, -2)), 2, 8, 1),
    "mostly padding": of_lanes(1, (2, 3), (2, 4), (1, 1), (1, 1), ((2, 1), (7, 5)), 2, 4, 1),
    "a line": of_lanes(2, (50,), (5,), (1,), (1,), ((4, 0),), 2, LANES, 1),
    "depth": of_lanes(
        2, (4, 5, 20), (3, 2, 3), (1, 2, 1), (1, 1, 1), ((1, 1), (0, 1), (1, 1)), 3, 6, 2
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(grouped, "_LEAST_PRODUCTS", 0)
    grouped.pays.cache_clear()
    yield
    grouped.pays.cache_clear()
    grouped.cut.cache_clear()
    set_threads(None)


def is_guarded(memory: Any) -> bool:
    return bool(np.isnan(memory[:64]).all() and np.isnan(memory[-64:]).all())


def operands(g: ConvGeometry, dtype: str) -> list[Any]:
    """x, w, bias, dy, and a residual."""
    rng = generator(f"grouped-{g.input}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape, g.y_shape)
    return [small_integers(rng, shape, dtype) for shape in shapes]


@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_form_of_the_call(g: ConvGeometry) -> None:
    assert grouped.pays(g, "float32", host())
    numbers, memories = zip(*map(guarded, operands(g, "float32")), strict=True)
    x, w, bias, dy, residual = numbers
    before = [memory.copy() for memory in memories]
    plain = reference.conv(x, w, bias, **words(g))
    backward = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    packed, unread = direct.pack_weights(w, g.groups), np.full_like(w, np.nan)
    for threads in (1, 3):
        set_threads(threads)
        y, memory = guarded(np.full(g.y_shape, np.nan, "float32"))
        direct.conv_forward(x, w, bias, y, g)
        assert_exact(y, plain)
        direct.conv_forward(x, unread, bias, y, g, Activation("relu"), packed, residual)
        assert_exact(y, np.maximum(plain + residual, 0))
        direct.conv_forward(x, unread, bias, y, g, Activation("leaky_relu", 0.25), packed)
        assert_exact(y, np.where(plain > 0, plain, plain / 4))
        assert is_guarded(memory)
        dx, memory = guarded(np.full(g.x_shape, np.nan, "float32"))
        direct.conv_backward_input(dy, w, dx, g)
        assert_exact(dx, backward)
        assert is_guarded(memory)
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)


def test_float64() -> None:
    g = GEOMETRIES["one vector"]
    g = dataclasses.replace(g, out_channels=host().lanes("float64") * g.groups)
    assert grouped.pays(g, "float64", host())
    x, w, bias, dy, _ = operands(g, "float64")
    y, dx = np.full(g.y_shape, np.nan), np.full(g.x_shape, np.nan)
    direct.conv_forward(x, w, bias, y, g)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))
    direct.conv_backward_input(dy, w, dx, g)
    assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))


@pytest.mark.parametrize("piece", [4, 2 * LANES * 4, 1 << 20])
def test_any_number_of_groups_together(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """And bands of the fewest lines."""
    for name, value in (("_PIECE", piece), ("_LEAST_PIECE", 4), ("_SHARE", 0.01)):
        monkeypatch.setattr(grouped, name, value)
    monkeypatch.setattr(grouped, "_BAND_BYTES", 1)
    grouped.cut.cache_clear()
    g = GEOMETRIES["one vector"]
    c = grouped.cut(g, "float32", host(), 3, False)
    assert c.together == {4: 1, 2 * LANES * 4: 2}.get(piece, 4)
    assert c.bands > 1
    x, w, bias, _, _ = operands(g, "float32")
    set_threads(3)
    y = np.full(g.y_shape, np.nan, "float32")
    direct.conv_forward(x, w, bias, y, g)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))


def test_lines_that_are_not_contiguous() -> None:
    g = GEOMETRIES["one vector"]
    x, w, _, _, _ = operands(g, "float32")
    n, height, width, channels = g.x_shape
    wide = np.full((n, height, 2 * width, channels + 3), np.nan, "float32")
    wide[:, :, ::2, :channels] = x
    room = np.full((n, 2 * height, width, g.out_channels + 6), -7, "float32")
    y = room[:, ::2, :, 1 : g.out_channels + 1]
    direct.conv_forward(wide[:, :, ::2, :channels], w, None, y, g)
    assert_exact(y, reference.conv(x, w, None, **words(g)))
    y[...] = -7
    assert (room == -7).all()


def test_the_bits_do_not_depend_on_threads_or_neighbours() -> None:
    """An image alone gives what it gives in many."""
    g = of_lanes(5, (23, 30), (3, 3), (1, 1), (1, 1), SAME, 4, LANES, 1)
    rng = generator("grouped-threads")
    x, w = (rng.standard_normal(s, dtype="float32") for s in (g.x_shape, g.w_shape))
    results = []
    for threads in (1, 2, 5, 2):
        set_threads(threads)
        y = np.empty(g.y_shape, "float32")
        direct.conv_forward(x, w, None, y, g)
        results.append(y)
    assert all(other.tobytes() == results[0].tobytes() for other in results)
    exact = reference.conv(x.astype("f8"), w.astype("f8"), None, **words(g))
    assert_close(results[0], exact, 9 * LANES)
    alone = dataclasses.replace(g, batch=1)
    y = np.empty(alone.y_shape, "float32")
    direct.conv_forward(x[3:4], w, None, y, alone)
    assert y.tobytes() == results[0][3:4].tobytes()


def test_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    g, of = GEOMETRIES["one vector"], host()
    fewer = dataclasses.replace(g, out_channels=g.out_channels - g.groups)  # not whole vectors
    dense = dataclasses.replace(g, groups=1)
    short = dataclasses.replace(g, input=(9, 5))
    apart = dataclasses.replace(g, dilation=(1, 2), pads=((1, 1), (2, 2)))
    far = dataclasses.replace(g, stride=(1, 4))
    for other in (fewer, dense, short, apart, far):
        assert not grouped.pays(other, "float32", of)
    monkeypatch.undo()
    grouped.pays.cache_clear()
    assert not grouped.pays(GEOMETRIES["a line"], "float32", of)  # little to compute


def test_the_workspace_is_what_threads_copy_and_pack() -> None:
    g = of_lanes(8, (14, 14), (3, 3), (1, 1), (1, 1), SAME, 32, LANES, 1)
    for threads in (1, 2):
        set_threads(threads)
        for kept in (False, True):
            c = grouped.cut(g, "float32", host(), threads, kept)
            copied = (c.lines + 2) * 16 * LANES * ITEMSIZE["float32"]
            packed = 0 if kept else 9 * LANES * LANES * ITEMSIZE["float32"]
            least = threads * c.together * (copied + packed)
            needed = grouped.workspace_bytes(g, "float32", kept)
            assert least <= needed <= least + threads * 64 * LINE
    arrays = sum(int(np.prod(shape)) for shape in (g.x_shape, g.w_shape, g.y_shape)) * 4
    assert direct.workspace_bytes(g, "float32") <= arrays // 4
    assert direct.backward_input_workspace_bytes(g, "float32") <= arrays // 4
