"""Convolution, its input gradient and its weight gradient, one tap at a time.

``x`` (N, *in, C), ``w`` (*k, C/g, F), ``y`` (N, *out, F). All three walk over the same list
of contributions ``(output position, kernel tap, input position)`` and differ in the one line
that says what a contribution adds to what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.testing.reference.extents import F64, Ints, as_f64, conv_extent, per_axis, resolve_pads
from gpuconv.testing.reference.indexing import Position, group_slices, pixel, tap
from gpuconv.testing.reference.padding import source_index


class _Walk:
    """The sizes of one convolution and its list of contributions."""

    def __init__(
        self,
        extents: Sequence[int],
        kernel: Sequence[int],
        stride: Ints,
        padding: Any,
        dilation: Ints,
        mode: str,
    ) -> None:
        rank = len(extents)
        self.extents, self.kernel, self.mode = extents, kernel, mode
        self.stride, self.dilation = per_axis(stride, rank), per_axis(dilation, rank)
        self.pads = resolve_pads(padding, extents, kernel, self.stride, self.dilation)
        self.output = tuple(
            conv_extent(n, k, s, d, lo, hi)
            for n, k, s, d, (lo, hi) in zip(
                extents, kernel, self.stride, self.dilation, self.pads, strict=True
            )
        )

    def contributions(self) -> Iterator[tuple[Position, Position, Position]]:
        for o in np.ndindex(*self.output):
            for t in np.ndindex(*self.kernel):
                i: list[int] = []
                for axis in range(len(o)):
                    position = (
                        o[axis] * self.stride[axis]
                        + t[axis] * self.dilation[axis]
                        - self.pads[axis][0]
                    )
                    source = source_index(position, self.extents[axis], self.mode)
                    if source is None:
                        break
                    i.append(source)
                else:
                    yield o, t, tuple(i)


def conv(
    x: F64,
    w: F64,
    bias: F64 | None = None,
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> F64:
    """Cross-correlation of ``x`` (N, *in, C) with ``w`` (*k, C/g, F) -> (N, *out, F)."""
    x, w = as_f64(x), as_f64(w)
    walk = _Walk(x.shape[1:-1], w.shape[:-2], stride, padding, dilation, padding_mode)
    y: F64 = np.zeros((x.shape[0], *walk.output, w.shape[-1]))
    inputs, filters = group_slices(groups, x.shape[-1]), group_slices(groups, w.shape[-1])
    for o, t, i in walk.contributions():
        for c, f in zip(inputs, filters, strict=True):
            y[pixel(o, f)] += x[pixel(i, c)] @ w[tap(t, last=f)]
    return y if bias is None else y + bias


def conv_backward_input(
    dy: F64,
    w: F64,
    input_shape: Sequence[int],
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> F64:
    """Gradient with respect to ``x`` of shape ``input_shape``."""
    dy, w = as_f64(dy), as_f64(w)
    dx: F64 = np.zeros(tuple(input_shape))
    walk = _Walk(dx.shape[1:-1], w.shape[:-2], stride, padding, dilation, padding_mode)
    inputs, filters = group_slices(groups, dx.shape[-1]), group_slices(groups, w.shape[-1])
    for o, t, i in walk.contributions():
        for c, f in zip(inputs, filters, strict=True):
            dx[pixel(i, c)] += dy[pixel(o, f)] @ w[tap(t, last=f)].T
    return dx


def conv_backward_weight(
    dy: F64,
    x: F64,
    weight_shape: Sequence[int],
    stride: Ints = 1,
    padding: Any = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> F64:
    """Gradient with respect to ``w`` of shape ``weight_shape``."""
    dy, x = as_f64(dy), as_f64(x)
    dw: F64 = np.zeros(tuple(weight_shape))
    walk = _Walk(x.shape[1:-1], dw.shape[:-2], stride, padding, dilation, padding_mode)
    inputs, filters = group_slices(groups, x.shape[-1]), group_slices(groups, dw.shape[-1])
    for o, t, i in walk.contributions():
        for c, f in zip(inputs, filters, strict=True):
            dw[tap(t, last=f)] += x[pixel(i, c)].T @ dy[pixel(o, f)]
    return dw


def sum_channels(dy: F64) -> F64:
    """The bias gradient: ``dy`` (..., F) -> (F,)."""
    dy = as_f64(dy)
    db = np.zeros(dy.shape[-1])
    for position in np.ndindex(*dy.shape[:-1]):
        db += dy[position]
    return db
