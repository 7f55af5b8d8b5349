"""Sums over the rows of a matrix, and the blocks of rows that make them fast.

With few channels a row is too short for NumPy's inner loops. Rows that lie next to each
other in memory can be read as one long row: (M, C) becomes (M/f, f*C), and a vector of C
numbers is repeated f times to meet it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np

NDArray = np.ndarray[Any, Any]

WIDTH: Final = 1024
"""Elements of a long row, about."""

SUM_BLOCK: Final = 512 * 1024
"""Elements whose sum is formed in the array's own dtype before float64 takes over: at most
``SUM_BLOCK / WIDTH`` additions for each long column."""


def fold_of(channels: int) -> int:
    """How many rows of ``channels`` numbers are read as one, at most."""
    return max(WIDTH // channels, 1)


@lru_cache(maxsize=4096)
def _fold(rows: int, channels: int) -> int:
    """The same for so many rows: if possible a little less, so that no rows are left over."""
    most = fold_of(channels)
    for fold in range(most, most // 2, -1):
        if rows % fold == 0:
            return fold
    return most


def row_blocks(x: NDArray, elements: int) -> Iterator[NDArray]:
    """Yield ``x`` (M, C) in blocks (R, width) of about ``elements`` numbers.

    ``width`` is up to ``fold_of(C) * C``, and what is left over comes as one row at the end. The
    blocks are views of a C-contiguous ``x``, else copies. Arrays of one shape give blocks of the
    same shapes, so they can be zipped.
    """
    rows, channels = x.shape
    fold = _fold(rows, channels)
    step = max(elements // (fold * channels), 1)
    for start in range(0, rows, step * fold):
        block = x[start : start + step * fold]
        if not block.flags.c_contiguous:
            block = np.ascontiguousarray(block)
        whole = len(block) // fold * fold
        if whole:
            yield block[:whole].reshape(-1, fold * channels)
        if whole < len(block):
            yield block[whole:].reshape(1, -1)


def sum_rows(x: NDArray) -> NDArray:
    """Sum ``x`` (M, C) over its rows: (C,), in the dtype of ``x``; zeros for no rows.

    Blocks are summed by BLAS in the dtype of ``x`` and added up in float64.
    """
    return sum_rows64(x).astype(x.dtype)


def sum_rows64(x: NDArray) -> NDArray:
    """As :func:`sum_rows`, before the result is rounded to the dtype of ``x``."""
    total: NDArray = np.zeros(x.shape[1])
    for block in row_blocks(x, SUM_BLOCK):
        total += column_sums(block, x.shape[1])
    return total


def column_sums(block: NDArray, channels: int) -> NDArray:
    """Sum each channel of a block of :func:`row_blocks`: (C,) in float64."""
    partial = np.ones(len(block), block.dtype) @ block
    return unfold(partial, channels)


def unfold(partial: NDArray, channels: int) -> NDArray:
    """Sum the copies of each channel in a long row: (width,) -> (C,) in float64."""
    sums: NDArray = partial.reshape(-1, channels).sum(axis=0, dtype=np.float64)
    return sums
