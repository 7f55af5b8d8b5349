"""The weight gradient as a matrix product, against plain loops."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.testing import reference
from gpuconv.testing.cases import CONV_CASES, small_integers
from gpuconv.testing.tolerances import assert_close, assert_exact
from gpuconv_kernels.device import spatial, tiles, weight_gradient
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


def backward_weight(memory, g, dy, x, splits=None, shift=0, tile=None):
    dw = memory.empty(g.w_shape, x.dtype)
    partial = None
    if splits is not None:
        tile = tile or tiles.SIMULATED_TILE
        partial = memory.empty((weight_gradient.partial_elements(g, splits),), x.dtype)
    flat = memory.empty((dy.size + shift,), dy.dtype)
    moved = flat[shift:].reshape(dy.shape)  # begins `shift` elements behind a multiple of 16 bytes
    moved[...] = memory.put(dy)
    weight_gradient.conv_backward_weight(moved, memory.put(x), dw, g, partial, tile, splits)
    return memory.get(dw)


def check(memory, rng, g, dtype="float32", **options):
    x, dy = small_integers(rng, g.x_shape, dtype), small_integers(rng, g.y_shape, dtype)
    got = backward_weight(memory, g, dy, x, **options)
    assert got.dtype == dtype
    assert_exact(got, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_weight(memory, rng, case):
    g = geometry(
        case.x_shape, case.kernel, case.filters, case.stride, case.padding, case.dilation,
        case.groups,
    )  # fmt: skip
    check(memory, rng, g, splits=1 + len(case.id) % 3)


# Tiles of 32 x 16 x 4 in the simulator: one less, one more, and whole ones in each dimension, and
# more pixels than the 32 that are located at a time; runs of channels and filters, and others.
SHAPES = {
    "whole tiles": ((1, 4, 4, 4), (2, 4), 16, {"padding": ((0, 1), (1, 2))}),
    "a pixel more than a table": ((1, 1, 33, 4), (1, 1), 4, {}),
    "three tables": ((2, 7, 7, 4), (2, 1), 4, {"padding": ((1, 0), (0, 0))}),
    "a pixel less than a step": ((1, 3, 1, 4), (1, 1), 4, {}),
    "a row less": ((1, 3, 3, 31), (1, 1), 4, {}),
    "a row more": ((1, 3, 3, 11), (3, 1), 5, {}),
    "one channel": ((1, 4, 4, 1), (3, 3), 4, {}),
    "one filter more": ((1, 3, 3, 4), (2, 2), 17, {}),
    "groups of four": ((1, 3, 4, 8), (2, 2), 8, {"groups": 2, "padding": 1}),
    "groups of two": ((2, 3, 4, 4), (2, 2), 4, {"groups": 2, "stride": 2}),
    "volume": ((2, 3, 3, 4, 4), (2, 3, 2), 4, {"stride": (2, 1, 3), "padding": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_remainders(memory, rng, name, dtype):
    x_shape, kernel, filters, options = SHAPES[name]
    check(memory, rng, geometry(x_shape, kernel, filters, **options), dtype)


@pytest.mark.parametrize("splits", [2, 3, 5, 100])
def test_splits(memory, rng, splits):
    check(memory, rng, geometry((2, 4, 5, 4), (3, 2), 5, (1, 2), 1), splits=splits)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [1, 3, 4])
def test_memory_that_is_not_aligned(memory, rng, dtype, shift):
    check(memory, rng, geometry((1, 3, 3, 4), (2, 2), 8), dtype, shift=shift)


def test_nothing_to_sum_gives_zeros(memory, rng):
    g = geometry((0, 4, 5, 3), (3, 3), 3)
    check(memory, rng, g)
    check(memory, rng, g, splits=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_and_the_same_bits_again(memory, rng, dtype):
    g = geometry((2, 5, 4, 5), (3, 3), 6, padding=1)
    x = rng.standard_normal(g.x_shape).astype(dtype)
    dy = rng.standard_normal(g.y_shape).astype(dtype)
    dw = backward_weight(memory, g, dy, x, splits=3)
    expected = reference.conv_backward_weight(dy, x, g.w_shape, **words(g))
    scale = reference.conv_backward_weight(abs(dy), abs(x), g.w_shape, **words(g))
    assert_close(dw, expected, g.batch * int(np.prod(g.output)), scale)
    assert backward_weight(memory, g, dy, x, splits=3).tobytes() == dw.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_large_tile_of_the_device(memory, rng, dtype):
    tile = tiles.tiles(dtype)[0]
    g = geometry((1, 1, 9, 12), (1, 3), 2 * tile.lanes[1])
    check(memory, rng, g, dtype, tile=tile)


@pytest.mark.skipif(SIMULATED, reason="too much for the simulator")
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(6))
def test_every_tile_of_the_device(memory, rng, dtype, number, splits):
    if number >= len(tiles.tiles(dtype)):
        pytest.skip("fewer tiles of this dtype")
    for channels, filters in ((20, 140), (7, 133), (16, 9)):
        g = geometry((2, 11, 13, channels), (3, 3), filters, padding=1)
        check(memory, rng, g, dtype, tile=tiles.tiles(dtype)[number], splits=splits)


def test_offsets_of_64_bits(memory, rng, monkeypatch):
    g = geometry((2, 4, 3, 4), (2, 3), 4, stride=2, padding=1)
    monkeypatch.setattr(spatial, "_OFFSETS", 1)
    check(memory, rng, g)
    check(memory, rng, g, splits=2)


@pytest.mark.parametrize(
    ("k", "m", "n"), [(1, 1, 1), (5, 7, 3), (33, 8, 20), (2, 33, 16), (0, 3, 2)]
)
def test_product_transposed(memory, rng, k, m, n):
    a, b = small_integers(rng, (k, m)), small_integers(rng, (k, n))
    c = memory.empty((m, n), "float32")
    weight_gradient.product_transposed(memory.put(a), memory.put(b), c)
    assert_exact(memory.get(c), a.T.astype(float) @ b)


def test_the_choice_of_splits():
    g = geometry((32, 56, 56, 64), (3, 3), 64, padding=1)
    choice = weight_gradient.choose_splits(g, "float32", 132)
    assert choice.parts > 8  # 36 tiles of 64 x 64 are few
    assert choice.blocks >= 132
    assert f"each sum cut in {choice.parts} parts" in choice.reason
    assert choice.utilisation > 0.5
    assert weight_gradient.choose_splits(g, "float32", 132, may_split=False).parts == 1
    assert weight_gradient.partial_elements(g, 1) == 0
    assert weight_gradient.partial_elements(g, 4) == 4 * 9 * 64 * 64
    many = geometry((1, 16, 16, 4096), (3, 3), 4096, padding=1)
    assert weight_gradient.choose_splits(many, "float32", 132).parts == 1


def test_refusals(memory):
    g = geometry((1, 4, 4, 2), (2, 2), 3)
    x, w, y = (np.zeros(shape, "float32") for shape in (g.x_shape, g.w_shape, g.y_shape))
    with pytest.raises(ValueError, match=r"dw must have the shape \(2, 2, 2, 3\)"):
        weight_gradient.conv_backward_weight(y, x, y, g)
    with pytest.raises(ValueError, match="must hold 48 elements for 2 parts"):
        weight_gradient.conv_backward_weight(y, x, w, g, splits=2)


# --- broken copies ---------------------------------------------------------------------

BREAKS = {
    "no barrier after a step": (r"cuda\.syncthreads\(\)(\n\n +# Rows of)", r"pass\1"),
    "no barrier after the rows": (r"cuda\.syncthreads\(\)(\n\n +# Each pass)", r"pass\1"),
    "the same stage written": (r"now = int32\(now \^ 1\)", "pass"),
    "pixels past the last": (r"if pixel >= pixels:", "if False:"),
    "gradients past the last": (r" and k < left:", ":"),
    "one input column too many": (r"< np\.uint32\(input\[2\]\)", "<= np.uint32(input[2])"),
    "low pads forgotten": (r" - before\[1\]\)", ")"),
    "one table for all": (r"first = int32\(step \* depth\)", "first = int32(0)"),
    "the first table again": (r"pixels - left \+ span", "pixels - left"),
    "rows without their group": (r"line \* all_filters \+ first_filter", "line * all_filters"),
    "every part the first": (r"begin = index\(part \* steps_a_part\)", "begin = index(0)"),
}


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may hang a device")
@pytest.mark.parametrize("name", [None, *BREAKS])
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    source = inspect.getsource(weight_gradient.define)
    if name is not None:
        source, count = re.subn(*BREAKS[name], source)
        assert count == 1
    names = dict(vars(weight_gradient))
    exec("from __future__ import annotations\n" + source, names)
    monkeypatch.setattr(weight_gradient, "define", names["define"])
    weight_gradient._kernel.cache_clear()
    g = geometry((2, 5, 7, 8), (2, 2), 8, padding=((1, 0), (1, 0)), groups=2)
    few = geometry((1, 2, 3, 3), (2, 2), 20)
    try:
        if name is None:  # the unbroken copy passes
            check_both(memory, rng, g, few)
        else:
            with pytest.raises((AssertionError, IndexError, RuntimeWarning)):
                check_both(memory, rng, g, few)
    finally:
        weight_gradient._kernel.cache_clear()


def check_both(memory, rng, g, few):
    check(memory, rng, few)
    check(memory, rng, g)
    check(memory, rng, g, splits=4)
    # Two steps in three parts: the third adds nothing, and meets no barrier in the loop.
    check(memory, rng, geometry((1, 8, 1, 4), (1, 1), 16), splits=2)
    check(memory, rng, geometry((1, 16, 1, 16), (1, 2), 16, padding=((0, 0), (0, 1))), splits=3)
