"""Normalisation by one mean and variance a channel, the case that decides a network's speed.

Everything is (M, C), C-contiguous, with vectors (C,); see ``normalization`` for the formulas. Rows
are read in long blocks that stay in cache (``reductions.row_blocks``), once for each sum and
once for each result.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gpuconv_kernels.array.reductions import column_sums, fold_of, row_blocks, sum_rows64

NDArray = np.ndarray[Any, Any]

BLOCK: Final = 64 * 1024
"""Elements of a block: with a temporary and an output of float32 it fits a 1 MiB L2."""


def moments(x: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and biased variance (C,) of ``x`` (M, C); 0 for no rows."""
    rows, channels = x.shape
    count = max(rows, 1)
    mean = (sum_rows64(x) / count).astype(x.dtype)
    centre = _long(mean)
    total = np.zeros(channels)
    for block in row_blocks(x, BLOCK):
        deviation = block - centre[: block.shape[1]]
        deviation *= deviation
        total += column_sums(deviation, channels)
    return mean, (total / count).astype(x.dtype)


def normalize(x: NDArray, mean: NDArray, factor: NDArray, offset: NDArray | None) -> NDArray:
    """``(x - mean) * factor + offset``, (M, C)."""
    y: NDArray = np.empty(x.shape, x.dtype)
    centre, factor = _long(mean), _long(factor)
    shift = None if offset is None else _long(offset)
    for source, target in zip(row_blocks(x, BLOCK), row_blocks(y, BLOCK), strict=True):
        width = source.shape[1]
        np.subtract(source, centre[:width], out=target)
        target *= factor[:width]
        if shift is not None:
            target += shift[:width]
    return y


def parameter_sums(dy: NDArray, x: NDArray, mean: NDArray) -> tuple[NDArray, NDArray]:
    """``sum(dy)`` and ``sum(dy (x - mean))`` over the rows, (C,) in float64."""
    channels = x.shape[1]
    centre = _long(mean)
    plain, weighted = np.zeros(channels), np.zeros(channels)
    for gradient, source in zip(row_blocks(dy, BLOCK), row_blocks(x, BLOCK), strict=True):
        plain += column_sums(gradient, channels)
        product = source - centre[: source.shape[1]]
        product *= gradient
        weighted += column_sums(product, channels)
    return plain, weighted


def backward_input(
    dy: NDArray, x: NDArray, mean: NDArray, factor: NDArray, slope: NDArray, shift: NDArray
) -> NDArray:
    """``(dy - shift - (x - mean) * slope) * factor``, (M, C)."""
    dx: NDArray = np.empty(dy.shape, dy.dtype)
    centre, factor, slope, shift = (_long(v) for v in (mean, factor, slope, shift))
    for gradient, source, target in zip(
        row_blocks(dy, BLOCK), row_blocks(x, BLOCK), row_blocks(dx, BLOCK), strict=True
    ):
        width = source.shape[1]
        np.subtract(source, centre[:width], out=target)
        target *= slope[:width]
        np.subtract(gradient, target, out=target)
        target -= shift[:width]
        target *= factor[:width]
    return dx


def _long(vector: NDArray) -> NDArray:
    """Repeat a vector (C,) to the width of a block."""
    return np.tile(vector, fold_of(vector.size))
