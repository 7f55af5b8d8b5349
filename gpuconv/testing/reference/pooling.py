"""Max, average and adaptive pooling, one window at a time, over ``x`` (N, *in, C)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.testing.reference.extents import (
    F64,
    I64,
    Ints,
    as_f64,
    per_axis,
    pool_extent,
    resolve_pads,
)
from gpuconv.testing.reference.indexing import Position, flat_index, pixel


class _Windows:
    """The windows of one pooling; ``stride`` None means the window's own size."""

    def __init__(
        self,
        extents: Sequence[int],
        kernel_size: Ints,
        stride: Ints | None,
        padding: Any,
        dilation: Ints,
        ceil_mode: bool,
    ) -> None:
        rank = len(extents)
        self.extents = extents
        self.size = per_axis(kernel_size, rank)
        self.stride = self.size if stride is None else per_axis(stride, rank)
        self.dilation = per_axis(dilation, rank)
        self.pads = resolve_pads(padding, extents, self.size, self.stride, self.dilation)
        self.output = tuple(
            pool_extent(n, k, s, d, lo, hi, ceil_mode)
            for n, k, s, d, (lo, hi) in zip(
                extents, self.size, self.stride, self.dilation, self.pads, strict=True
            )
        )

    def positions(self, o: Position) -> list[Position]:
        """All positions of window ``o``, row-major, counted in the input; some lie outside."""
        return [
            tuple(
                o[a] * self.stride[a] + t[a] * self.dilation[a] - self.pads[a][0]
                for a in range(len(o))
            )
            for t in np.ndindex(*self.size)
        ]

    def is_real(self, position: Position) -> bool:
        """Whether the position is an input element."""
        return all(0 <= p < n for p, n in zip(position, self.extents, strict=True))

    def is_padded_area(self, position: Position) -> bool:
        """Whether the position is an input element or explicit padding."""
        return all(
            -lo <= p < n + hi
            for p, n, (lo, hi) in zip(position, self.extents, self.pads, strict=True)
        )


def max_pool(
    x: F64,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Any = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> tuple[F64, I64]:
    """Return ``y`` and ``indices``, both (N, *out, C).

    An index is the row-major number in the un-padded plane of the first maximum in row-major
    order of the window. The first NaN beats every number. Padding never wins; a window
    without any real element (a dilated one can miss them all) gives -inf and index -1.
    """
    x = as_f64(x)
    windows = _Windows(x.shape[1:-1], kernel_size, stride, padding, dilation, ceil_mode)
    shape = (x.shape[0], *windows.output, x.shape[-1])
    y, indices = np.full(shape, -np.inf), np.full(shape, -1, dtype=np.int64)
    for o in np.ndindex(*windows.output):
        real = [i for i in windows.positions(o) if windows.is_real(i)]
        _scan(x, real, y[pixel(o)], indices[pixel(o)])
    return y, indices


def _scan(x: F64, positions: list[Position], best: F64, index: I64) -> None:
    """Look at the positions in their order; write the maxima and where they are, (N, C)."""
    for i in positions:
        value = x[pixel(i)]
        better = (index < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best))
        best[better] = value[better]
        index[better] = flat_index(i, x.shape[1:-1])


def max_pool_backward(dy: F64, indices: I64, input_shape: Sequence[int]) -> F64:
    """Every gradient goes to the one position that won; overlapping windows add up."""
    batch, *extents, channels = input_shape
    dx: F64 = np.zeros((batch, math.prod(extents), channels))
    for position in np.ndindex(*dy.shape):
        if indices[position] >= 0:
            dx[position[0], indices[position], position[-1]] += dy[position]
    return dx.reshape(tuple(input_shape))


def _divisor(
    windows: _Windows, o: Position, count_include_pad: bool, divisor_override: int | None
) -> int:
    if divisor_override is not None:
        return divisor_override
    counted = windows.is_padded_area if count_include_pad else windows.is_real
    return sum(map(counted, windows.positions(o)))


def avg_pool(
    x: F64,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> F64:
    """Average of each window (N, *out, C).

    The divisor counts the window's elements inside the padded area (PyTorch); without
    ``count_include_pad`` only its real elements (Keras's "same").
    """
    x = as_f64(x)
    windows = _Windows(x.shape[1:-1], kernel_size, stride, padding, 1, ceil_mode)
    y: F64 = np.zeros((x.shape[0], *windows.output, x.shape[-1]))
    for o in np.ndindex(*windows.output):
        for i in filter(windows.is_real, windows.positions(o)):
            y[pixel(o)] += x[pixel(i)]
        y[pixel(o)] /= _divisor(windows, o, count_include_pad, divisor_override)
    return y


def avg_pool_backward(
    dy: F64,
    input_shape: Sequence[int],
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> F64:
    """Gradient of :func:`avg_pool` with respect to ``x`` of shape ``input_shape``."""
    dy = as_f64(dy)
    dx: F64 = np.zeros(tuple(input_shape))
    windows = _Windows(dx.shape[1:-1], kernel_size, stride, padding, 1, ceil_mode)
    for o in np.ndindex(*windows.output):
        share = dy[pixel(o)] / _divisor(windows, o, count_include_pad, divisor_override)
        for i in filter(windows.is_real, windows.positions(o)):
            dx[pixel(i)] += share
    return dx


def adaptive_windows(
    extents: Sequence[int], output_size: Sequence[int]
) -> dict[Position, list[Position]]:
    """The input positions of each output position: ``floor(o*n/m)`` up to ``ceil((o+1)*n/m)``."""
    windows = {}
    for o in np.ndindex(*output_size):
        ranges = [
            range(p * n // m, -(-(p + 1) * n // m))
            for p, n, m in zip(o, extents, output_size, strict=True)
        ]
        windows[o] = list(itertools.product(*ranges))
    return windows


def adaptive_avg_pool(x: F64, output_size: Ints) -> F64:
    """Average pooling to a given size (PyTorch's windows)."""
    x = as_f64(x)
    extents = x.shape[1:-1]
    size = per_axis(output_size, len(extents))
    y: F64 = np.zeros((x.shape[0], *size, x.shape[-1]))
    for o, window in adaptive_windows(extents, size).items():
        for i in window:
            y[pixel(o)] += x[pixel(i)] / len(window)
    return y


def adaptive_max_pool(x: F64, output_size: Ints) -> tuple[F64, I64]:
    """Max pooling to a given size (PyTorch's windows), with indices as :func:`max_pool`'s."""
    x = as_f64(x)
    extents = x.shape[1:-1]
    size = per_axis(output_size, len(extents))
    shape = (x.shape[0], *size, x.shape[-1])
    y, indices = np.full(shape, -np.inf), np.full(shape, -1, dtype=np.int64)
    for o, window in adaptive_windows(extents, size).items():
        _scan(x, window, y[pixel(o)], indices[pixel(o)])
    return y, indices
