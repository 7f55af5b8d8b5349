"""Where windows lie, as a part of kernels writes it down, beside plain loops."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from gpuconv_kernels.host import windows
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


@pytest.mark.parametrize("case", CASES)
def test_the_tables_of_a_block(case):
    input, output, stride, dilation, before, kernel, first, here, rows = case
    x_steps, y_steps = (70_000, 9_000, 800, 40), (60_000, 7_000, 600, 24)
    extents = np.array([n for of in (*case[:6], x_steps, y_steps) for n in of], np.int64)
    taps, tiles = int(np.prod(kernel)), -(-here // rows)
    table, order = np.full((tiles, taps, rows), CANARY), np.full((tiles, taps), CANARY)
    upto = np.full((tiles, taps + 1), CANARY)
    pixel = np.full(windows.pixel_words(here, taps) + 1, CANARY)
    places = np.full(windows.place_words(here) + 1, CANARY)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 12)
    kind(windows.locating())(
        address(extents), X, Y, ZEROS, first, here, rows,
        *map(address, (table, order, upto, pixel, places)),
    )  # fmt: skip
    assert pixel[-1] == CANARY == places[-1]

    positions = list(itertools.product(range(99), *map(range, output)))[first : first + here]
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
