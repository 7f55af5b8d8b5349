"""What the launchers of element-wise kernels share: names of dtypes, and long rows.

An operation with one number a channel is a loop over the channels of a pixel, and loops over few
numbers are slow. Some pixels that follow each other are read as one long row, and what belongs to
the channels is repeated to meet it::

    x      | p0c0 p0c1 p0c2 | p1c0 p1c1 p1c2 | ... |      one long row of ``fold`` pixels
    mean   |   m0   m1   m2 |   m0   m1   m2 | ... |      repeated, stays in the L1 cache
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

Array = Any

WIDTH_BYTES: Final = 4096
"""Of a long row, about: three of them and four repeated vectors fit the L1 cache."""


@functools.cache
def name_of(dtype: Any) -> str:
    """The name of a dtype, which NumPy puts together anew every time: slower than a kernel."""
    return str(np.dtype(dtype).name)


def fold_of(channels: int, dtype: Any) -> int:
    """How many pixels of ``channels`` numbers are read as one row."""
    return max(WIDTH_BYTES // max(channels * dtype.itemsize, 1), 1)


def repeated(dtype: Any, channels: int, *vectors: Array | float) -> Array:
    """Return vectors (C,), or numbers, repeated to a long row's width: (vectors, fold, C)."""
    rows: Array = np.empty((len(vectors), fold_of(channels, dtype), channels), dtype)
    for row, vector in zip(rows, vectors, strict=True):
        row[...] = vector
    return rows
