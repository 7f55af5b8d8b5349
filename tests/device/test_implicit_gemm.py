"""Implicit GEMM, forward and backward_input, against plain loops."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.testing import reference
from gpuconv.testing.cases import CONV_CASES, small_integers
from gpuconv.testing.tolerances import assert_close, assert_exact
from gpuconv_kernels.device import implicit_gemm, spatial, tiles, transpose
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


def geometry_of(case):
    return geometry(
        case.x_shape, case.kernel, case.filters, case.stride, case.padding, case.dilation,
        case.groups,
    )  # fmt: skip


def words(g):
    return {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}


def forward(memory, g, x, w, bias=None, parts=None, shift=0, **options):
    y = memory.empty(g.y_shape, x.dtype)
    partial = None
    if parts is not None:
        options.setdefault("tile", tiles.SIMULATED_TILE)
        partial = memory.empty((parts * y.size,), x.dtype)
    implicit_gemm.conv_forward(
        shifted(memory, x, shift),
        memory.put(w),
        None if bias is None else memory.put(bias),
        y,
        g,
        partial=partial,
        parts=parts,
        **options,
    )
    return memory.get(y)


def backward(memory, g, dy, w, parts=None, **options):
    dx = memory.empty(g.x_shape, dy.dtype)
    packed = memory.empty((transpose.packed_elements(g),), dy.dtype)
    partial = None
    if parts is not None:
        options.setdefault("tile", tiles.SIMULATED_TILE)
        partial = memory.empty((parts * dx.size,), dy.dtype)
    implicit_gemm.conv_backward_input(
        memory.put(dy), memory.put(w), dx, g, packed, partial=partial, parts=parts, **options
    )
    return memory.get(dx)


def shifted(memory, array, elements):
    """A contiguous copy that begins ``elements`` behind a multiple of 16 bytes."""
    flat = memory.empty((array.size + elements,), array.dtype)
    view = flat[elements:].reshape(array.shape)
    view[...] = memory.put(array)
    return view


def check_forward(memory, rng, g, dtype="float32", **options):
    x, w = small_integers(rng, g.x_shape, dtype), small_integers(rng, g.w_shape, dtype)
    bias = small_integers(rng, (g.out_channels,), dtype)
    got = forward(memory, g, x, w, bias, **options)
    assert got.dtype == dtype
    assert_exact(got, reference.conv(x, w, bias, **words(g)))


def check_backward(memory, rng, g, dtype="float32", **options):
    dy, w = small_integers(rng, g.y_shape, dtype), small_integers(rng, g.w_shape, dtype)
    expected = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    assert_exact(backward(memory, g, dy, w, **options), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(memory, rng, case):
    check_forward(memory, rng, geometry_of(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_input(memory, rng, case):
    check_backward(memory, rng, geometry_of(case))


# Tiles of 32 x 16 x 4 in the simulator: one less, one more, and whole ones in each dimension; runs
# of 4 (or 2) channels and filters that are loaded at once, and others.
SHAPES = {
    "whole tiles": ((2, 4, 4, 4), (1, 2), 16, {"padding": ((0, 0), (0, 1))}),
    "a pixel more": ((1, 1, 33, 4), (1, 1), 16, {}),
    "a pixel less": ((1, 31, 1, 4), (1, 1), 20, {}),
    "four channels more": ((1, 3, 3, 8), (2, 2), 12, {}),
    "one channel more": ((1, 3, 3, 5), (2, 2), 4, {}),
    "one filter more": ((1, 3, 3, 4), (2, 2), 17, {}),
    "groups of four": ((1, 3, 4, 8), (2, 2), 8, {"groups": 2, "padding": 1}),
    "groups of two": ((1, 3, 4, 4), (2, 2), 4, {"groups": 2, "stride": 2}),
    "volume": ((1, 3, 3, 4, 4), (2, 3, 2), 4, {"stride": (2, 1, 3), "padding": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_remainders(memory, rng, name, dtype):
    x_shape, kernel, filters, options = SHAPES[name]
    g = geometry(x_shape, kernel, filters, **options)
    check_forward(memory, rng, g, dtype)
    check_backward(memory, rng, g, dtype)


@pytest.mark.parametrize("parts", [2, 3, 7, 100])
def test_sums_in_parts(memory, rng, parts):
    g = geometry((2, 4, 5, 8), (3, 2), 5, stride=(1, 2), padding=1)
    check_forward(memory, rng, g, parts=parts)
    check_backward(memory, rng, g, parts=parts)


def test_bias_and_activation_follow_the_parts(memory, rng):
    g = geometry((1, 4, 4, 4), (3, 3), 5, padding=1)
    x, w = small_integers(rng, g.x_shape), small_integers(rng, g.w_shape)
    bias = small_integers(rng, (5,))
    expected = reference.conv(x, w, bias, **words(g))
    for parts in (None, 3):
        got = forward(memory, g, x, w, bias, parts, kind="relu")
        assert_exact(got, np.maximum(expected, 0))
        got = forward(memory, g, x, w, bias, parts, kind="leaky_relu", alpha=0.25)
        assert_exact(got, np.where(expected > 0, expected, expected / 4))
    assert (expected < 0).any()
    assert (expected > 0).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [1, 3, 4])
def test_memory_that_is_not_aligned(memory, rng, dtype, shift):
    g = geometry((1, 3, 3, 4), (2, 2), 8)
    check_forward(memory, rng, g, dtype, shift=shift)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_and_the_same_bits_again(memory, rng, dtype):
    g = geometry((1, 5, 4, 9), (3, 3), 6, padding=1)
    x, w, dy = (
        rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.w_shape, g.y_shape)
    )
    y, dx = forward(memory, g, x, w), backward(memory, g, dy, w)
    scale = reference.conv(abs(x), abs(w), **words(g))
    assert_close(y, reference.conv(x, w, **words(g)), g.reduction, scale)
    scale = reference.conv_backward_input(abs(dy), abs(w), g.x_shape, **words(g))
    expected = reference.conv_backward_input(dy, w, g.x_shape, **words(g))
    assert_close(dx, expected, g.taps * g.out_channels, scale)
    assert forward(memory, g, x, w).tobytes() == y.tobytes()
    assert backward(memory, g, dy, w).tobytes() == dx.tobytes()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinity_beside_the_window_does_no_harm(memory, rng):
    """What is outside of a tile is not loaded and multiplied by zero."""
    g = geometry((1, 2, 2, 3), (1, 1), 3)
    x, w = small_integers(rng, g.x_shape), small_integers(rng, g.w_shape)
    x[0, 0, 1] = np.inf
    x[0, 1, 1] = np.nan
    got = forward(memory, g, x, np.abs(w) + 1)
    assert_exact(got[0, :, 0], reference.conv(x, np.abs(w) + 1)[0, :, 0])
    assert not np.isfinite(got[0, :, 1]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_large_tile_of_the_device(memory, rng, dtype):
    """The first tile, at its corner: 130 pixels and as many filters as leave one tile."""
    tile = tiles.tiles(dtype)[0]
    g = geometry((1, 1, tile.rows // 4, 9), (1, 1), 2 * tile.lanes[1])
    check_forward(memory, rng, g, dtype, tile=tile)


@pytest.mark.skipif(SIMULATED, reason="too much for the simulator")
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(6))
def test_every_tile_of_the_device(memory, rng, dtype, number, parts):
    if number >= len(tiles.tiles(dtype)):
        pytest.skip("fewer tiles of this dtype")
    tile = tiles.tiles(dtype)[number]
    for channels, filters in ((20, 140), (7, 133), (16, 9)):
        g = geometry((2, 11, 13, channels), (3, 3), filters, padding=1)
        check_forward(memory, rng, g, dtype, tile=tile, parts=parts)
        check_backward(memory, rng, g, dtype, tile=tile, parts=parts)


def test_offsets_of_64_bits(memory, rng, monkeypatch):
    g = geometry((2, 4, 3, 4), (2, 3), 4, stride=2, padding=1)
    assert not spatial.spatial(g).is_wide()
    monkeypatch.setattr(spatial, "_OFFSETS", 1)
    assert spatial.spatial(g).is_wide()
    check_forward(memory, rng, g)
    check_forward(memory, rng, g, parts=2)
    check_backward(memory, rng, g)


def test_large_tensors_need_64_bits():
    def is_wide(*arguments, **options):
        return spatial.spatial(geometry(*arguments, **options)).is_wide()

    assert not is_wide((256, 112, 112, 64), (3, 3), 64, padding=1)
    assert is_wide((2800, 112, 112, 64), (3, 3), 64, padding=1)  # x and y
    assert is_wide((48, 112, 112, 64), (1, 1), 4096)  # y alone
    assert is_wide((2, 10, 10, 40000), (1, 1), 60000)  # w alone


# --- matrices --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (5, 7, 3), (33, 8, 20), (2, 13, 16), (0, 3, 2)]
)
def test_matrix_product(memory, rng, m, k, n):
    a, b, bias = (small_integers(rng, shape) for shape in ((m, k), (k, n), (n,)))
    c = memory.empty((m, n), "float32")
    implicit_gemm.matrix_product(memory.put(a), memory.put(b), c, memory.put(bias), "relu")
    assert_exact(memory.get(c), np.maximum(a.astype(float) @ b + bias, 0))


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 17), (3, 20), (0, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transpose(memory, rng, shape, dtype):
    a = rng.standard_normal(shape).astype(dtype)
    out = memory.empty(shape[::-1], dtype)
    transpose.transpose(memory.put(a), out)
    assert_exact(memory.get(out), a.T)


def test_packed_weights_are_flipped_and_exchanged(memory, rng):
    g = geometry((1, 6, 6, 4), (3, 3), 6, stride=2, groups=2)
    w = small_integers(rng, g.w_shape)
    packed = memory.empty((transpose.packed_elements(g),), "float32")
    transpose.pack_backward_weights(memory.put(w), packed, g)
    assert transpose.packed_elements(g) == w.size
    # Phase (0, 0) sees taps 2 and 0 of both dimensions, in this order.
    first = memory.get(packed)[: 4 * 3 * 4].reshape(2, 2, 3, 4)
    for i, j in np.ndindex(2, 2):
        tap = w[2 - 2 * i, 2 - 2 * j].reshape(2, 2, 3)  # channel, group, filter
        for group in range(2):
            assert_exact(first[i, j, :, 2 * group : 2 * group + 2], tap[:, group].T)


# --- choices and refusals --------------------------------------------------------------


def test_the_choice_of_tiles():
    def choose(*arguments, dtype="float32", may_split=True):
        g = geometry(*arguments, padding=arguments[1][0] // 2)
        return implicit_gemm.choose_tile(g, dtype, 132, may_split)

    large = choose((32, 56, 56, 128), (3, 3), 128)
    assert (large.tile.rows, large.tile.columns, large.parts) == (128, 128, 1)
    assert large.blocks == 784
    assert large.utilisation > 0.6
    assert "128 x 128: 784 blocks for 132 multiprocessors" in large.reason

    narrow = choose((32, 56, 56, 64), (3, 3), 64)
    assert narrow.tile.columns == 64
    assert choose((32, 56, 56, 64), (3, 3), 16).tile.columns == 16
    assert choose((32, 56, 56, 64), (3, 3), 64, dtype="float64").tile.columns <= 64

    few_pixels = choose((32, 7, 7, 512), (3, 3), 512)
    assert few_pixels.parts > 1
    assert "each sum cut in" in few_pixels.reason
    whole = choose((32, 7, 7, 512), (3, 3), 512, may_split=False)
    assert whole.parts == 1
    assert whole.utilisation < few_pixels.utilisation

    g = geometry((32, 7, 7, 512), (3, 3), 512, padding=1)
    needed = implicit_gemm.partial_elements(g, "float32", 132)
    assert needed == few_pixels.parts * 32 * 7 * 7 * 512
    assert implicit_gemm.backward_partial_elements(g, "float32", 132) == needed
    g = geometry((32, 56, 56, 128), (3, 3), 128, padding=1)
    assert implicit_gemm.partial_elements(g, "float32", 132) == 0


def test_refusals(memory):
    g = geometry((1, 4, 4, 2), (2, 2), 3)
    x, w, y = (np.zeros(shape, "float32") for shape in (g.x_shape, g.w_shape, g.y_shape))
    with pytest.raises(ValueError, match=r"x must have the shape \(1, 4, 4, 2\)"):
        implicit_gemm.conv_forward(y, w, None, y, g)
    with pytest.raises(ValueError, match=r"bias must have the shape \(3,\). Received: \(2,\)"):
        implicit_gemm.conv_forward(x, w, np.zeros(2, "float32"), y, g)
    with pytest.raises(ValueError, match="must hold 54 elements for 2 parts"):
        implicit_gemm.conv_forward(x, w, None, y, g, parts=2)
    with pytest.raises(ValueError, match="must hold 24 elements"):
        implicit_gemm.conv_backward_input(y, w, x, g, np.zeros(1, "float32"))
    with pytest.raises(ValueError, match=r"out must have the shape \(2, 3\)"):
        transpose.transpose(np.zeros((3, 2), "float32"), np.zeros((3, 2), "float32"))


# --- broken copies ---------------------------------------------------------------------

BREAKS = {
    "no barrier after a step": (r"cuda\.syncthreads\(\)(\n\n +# Rows of)", r"pass\1"),
    "no barrier after the windows": (r"cuda\.syncthreads\(\)(\n\n +for i)", r"pass\1"),
    "the same stage written": (r"now = int32\(now \^ 1\)", "pass"),
    "one pixel too many": (r"and pixel < pixels:", "and pixel <= pixels:"),
    "one input column too many": (r"< np\.uint32\(input\[2\]\)", "<= np.uint32(input[2])"),
    "low pads forgotten": (r" - before\[2\]\)", ")"),
    "channels of the next tap": (r"if x_channel < left:", "if True:"),
    "weights of the next tap": (r" and k < left:", ":"),
    "taps without a carry": (r"t1 = int32\(t1 \+ 1\)", "pass"),
    "channels not rewound": (r"channel = int32\(0\)\n", "pass\n"),
    "bias of the first tile": (r"bias\[np\.uint32\(first_filter \+ ", "bias[np.uint32("),
    "filters past the last": (r"if c < filters_here:", "if True:"),
    "steps of a part lost": (r"min\(steps_a_part, steps - begin\)", "steps // parts"),
}


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may hang a device")
@pytest.mark.parametrize("name", [None, *BREAKS])
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    source = inspect.getsource(implicit_gemm.define)
    if name is not None:
        source, count = re.subn(*BREAKS[name], source)
        assert count == 1
    names = dict(vars(implicit_gemm))
    exec("from __future__ import annotations\n" + source, names)
    monkeypatch.setattr(implicit_gemm, "define", names["define"])
    implicit_gemm._kernel.cache_clear()
    g = geometry((1, 4, 5, 8), (3, 3), 20, padding=((1, 0), (1, 1)))
    rest = geometry((1, 5, 4, 12), (2, 2), 4)
    try:
        if name is None:  # the unbroken copy passes
            check_both(memory, rng, g, rest)
        else:
            with pytest.raises((AssertionError, IndexError, RuntimeWarning)):
                check_both(memory, rng, g, rest)
    finally:
        implicit_gemm._kernel.cache_clear()


def check_both(memory, rng, g, rest):
    deep = tiles.Tile((1, 1), (4, 4), (8, 4), 8, 1, 1.0)  # 12 channels are one and a half steps
    check_forward(memory, rng, rest, tile=deep)
    check_forward(memory, rng, g, parts=4)
    check_forward(memory, rng, g)
