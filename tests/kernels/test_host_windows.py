"""Where windows lie, as a part of kernels writes it down, beside plain loops."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from gpuconv.geometry import ConvGeometry
from gpuconv_kernels.host import few_channels, windows
from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.memory import address

X, Y, ZEROS = 1_000_000, 5_000_000, 77
CANARY = -123456789

CASES = [
    # input, output, stride, dilation, before, kernel, first, here, rows
    ((1, 1, 9), (1, 1, 9), (1, 1, 1), (1, 1, 1), (0, 0, 1), (1, 1, 3), 0, 9, 6),
    ((1, 6, 5), (1, 6, 5), (1, 1, 1), (1, 1, 1), (0, 1, 1), (1, 3, 3), 7, 41, 14),
    ((1, 9, 11), (1, 4, 5), (1, 2, 2), (1, 1, 1), (0, 0, 0), (1, 3, 3), 0, 40, 14),
    ((1, 7, 7), (1, 7, 7), (1, 1, 1), (1, 2, 2), (0, 2, 2), (1, 3, 3), 30, 1, 16),
    ((3, 4, 5), (2, 4, 3), (1, 1, 2), (2, 1, 1), (1, 1, 0), (2, 3, 2), 5, 37, 6),
    ((1, 1, 1), (1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), (1, 1, 1), 0, 9, 4),
]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_tables_of_a_block(case, images):
    input, output, stride, dilation, before, kernel, first, here, rows = case
    x_steps, y_steps = (70_000, 9_000, 800, 40), (60_000, 7_000, 600, 24)
    joined = (1, 0, 0, 0, images)
    extents = np.array([n for of in (*case[:6], x_steps, y_steps, joined) for n in of], np.int64)
    taps, tiles = int(np.prod(kernel)), -(-here // rows)
    table, order = np.full((tiles, taps, rows), CANARY), np.full((tiles, taps), CANARY)
    upto = np.full((tiles, taps + 1), CANARY)
    pixel = np.full(windows.pixel_words(here, taps) + 1, CANARY)
    places = np.full(windows.place_words(tiles * rows) + 1, CANARY)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 12)
    kind(windows.locating())(
        address(extents), X, Y, ZEROS, first, here, rows,
        *map(address, (table, order, upto, pixel, places)),
    )  # fmt: skip
    assert pixel[-1] == CANARY == places[-1]

    if images > 1:  # all of them at one place, before the next one
        places_first = itertools.product(*map(range, output), range(images))
        positions = [(image, *at) for *at, image in places_first]
    else:
        positions = list(itertools.product(range(99), *map(range, output)))
    positions = positions[first : first + here]
    expected = np.full((tiles * rows, taps), ZEROS)
    for n, (image, *at) in enumerate(positions):
        assert places[n] == Y + np.dot((image, *at), y_steps)
        for t, tap in enumerate(np.ndindex(*kernel)):
            q = [
                p * s - b + k * d
                for p, s, b, k, d in zip(at, stride, before, tap, dilation, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(q, input, strict=True)):
                expected[n, t] = X + np.dot((image, *q), x_steps)
    expected = expected.reshape(tiles, rows, taps).swapaxes(1, 2)
    for tile in range(tiles):
        needed = [t for t in range(taps) if (expected[tile, t] != ZEROS).any()]
        assert order[tile, : len(needed)].tolist() == needed
        assert upto[tile].tolist() == [sum(n < t for n in needed) for t in range(taps + 1)]
        np.testing.assert_array_equal(table[tile, needed], expected[tile, needed])


@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry(2, 3, 1, (5, 9), (3, 5), (1, 1), (1, 1), ((1, 1), (2, 2)), 1),
        ConvGeometry(2, 2, 1, (7, 10), (3, 4), (2, 3), (2, 1), ((2, 1), (1, 3)), 1),
        ConvGeometry(1, 1, 1, (3, 4, 6), (2, 2, 3), (1, 2, 1), (1, 1, 1), ((1, 0), (0, 1), (9, 4))),
        ConvGeometry(3, 4, 1, (8,), (8,), (1,), (1,), ((7, 7),), 1),
        ConvGeometry(2, 2, 1, (2, 3, 4), (2, 3, 3), (1, 1, 1), (1, 1, 1), ((1, 1),) * 3, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize(("first", "here", "rows"), [(0, 12, 6), (5, 17, 6), (3, 12, 12)])
def test_windows_of_joined_taps_lie_one_behind_the_other(g, first, here, rows):
    channels, joined, lines = g.in_channels, g.kernel[-1], int(np.prod(g.kernel[:-1]))
    x = np.arange(1, np.prod(g.x_shape) + 1, dtype="float32").reshape(g.x_shape)
    here = min(here, int(np.prod(g.y_shape)) - first)
    x3 = x.reshape((g.batch,) + (1,) * (3 - g.rank) + (*g.input, channels))
    three = lambda values, fill: (fill,) * (3 - g.rank) + tuple(values)  # noqa: E731
    before = [lo for lo, _ in g.pads]
    margins = few_channels.margins(g)
    extents = np.array(
        [
            *three((*g.input[:-1], g.input[-1] - joined + 1), 1),
            *(n for of in (g.output, g.stride, g.dilation) for n in three(of, 1)),
            *three(before, 0),
            *three((*g.kernel[:-1], 1), 1),
            *x3.strides[:4],
            *(7000, 700, 70, 7),
            *(joined, *margins, 1),
        ],
        np.int64,
    )
    tiles = -(-here // rows)
    e = extents_of(g)
    size = windows.margin_lines(here, e.output, e.kernel, e.stride[1], e.dilation[1])
    size *= (margins.left + margins.right) * channels  # in numbers of 4 bytes
    words = windows.place_words(tiles * rows)
    places = np.full(words + -(-size // 2) + 1, CANARY)
    zeros = np.zeros(joined * channels, "float32")
    table, order = np.zeros((tiles, lines, rows), int), np.zeros((tiles, lines), int)
    upto, pixel = np.zeros((tiles, lines + 1), int), np.zeros(windows.pixel_words(here, lines), int)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 12)
    kind(windows.locating())(
        address(extents), address(x), Y, address(zeros), first, here, rows,
        *map(address, (table, order, upto, pixel, places)),
    )  # fmt: skip
    assert (places[words + -(-size // 2) :] == CANARY).all()

    padded = np.pad(x, [(0, 0), *g.pads, (0, 0)])
    positions = list(np.ndindex(g.batch, *g.output))[first : first + here]
    for n, (image, *at) in enumerate(positions):
        tile, m = divmod(n, rows)
        needed = order[tile, : upto[tile, -1]].tolist()
        for t, tap in enumerate(np.ndindex(*g.kernel[:-1])):
            q = [
                p * s + k * d
                for p, s, k, d in zip(at, g.stride, (*tap, 0), g.dilation, strict=True)
            ]
            want = padded[(image, *q[:-1], slice(q[-1], q[-1] + joined))].ravel()
            if t in needed:
                got = (ctypes.c_float * want.size).from_address(int(table[tile, t, m]))
                np.testing.assert_array_equal(np.array(got), want)
            else:
                assert not want.any()
