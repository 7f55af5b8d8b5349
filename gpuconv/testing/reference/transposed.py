"""Transposed convolution by its scatter definition: every input element stamps the kernel.

``x`` (N, *in, C), ``w`` (*k, F/g, C) (Keras's order, out before in), ``y`` (N, *out, F) with
``out = (in - 1)*s + d*(k - 1) + 1 - lo - hi + output_padding``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.testing.reference.extents import (
    F64,
    Ints,
    as_f64,
    conv_transpose_extent,
    per_axis,
    resolve_pads,
)
from gpuconv.testing.reference.indexing import Position, group_slices, pixel, tap


class _Stamps:
    """The sizes of one transposed convolution and where each stamp lands."""

    def __init__(
        self,
        extents: Sequence[int],
        kernel: Sequence[int],
        stride: Ints,
        padding: Any,
        output_padding: Ints,
        dilation: Ints,
    ) -> None:
        rank = len(extents)
        self.extents, self.kernel = extents, kernel
        self.stride, self.dilation = per_axis(stride, rank), per_axis(dilation, rank)
        self.pads = resolve_pads(padding, extents, kernel, self.stride, self.dilation)
        self.output = tuple(
            conv_transpose_extent(n, k, s, d, lo, hi, extra)
            for n, k, s, d, (lo, hi), extra in zip(
                extents,
                kernel,
                self.stride,
                self.dilation,
                self.pads,
                per_axis(output_padding, rank),
                strict=True,
            )
        )

    def landings(self) -> Iterator[tuple[Position, Position, Position]]:
        """All ``(input position, kernel tap, output position)`` inside the output."""
        for i in np.ndindex(*self.extents):
            for t in np.ndindex(*self.kernel):
                o = tuple(
                    i[a] * self.stride[a] + t[a] * self.dilation[a] - self.pads[a][0]
                    for a in range(len(i))
                )
                if all(0 <= p < n for p, n in zip(o, self.output, strict=True)):
                    yield i, t, o


def conv_transpose(
    x: F64,
    w: F64,
    bias: F64 | None = None,
    stride: Ints = 1,
    padding: Any = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> F64:
    """``x`` (N, *in, C), ``w`` (*k, F/g, C), ``bias`` (F,) -> (N, *out, F).

    ``padding`` is explicit (an int, ints or pairs): it is cut off the result.
    """
    x, w = as_f64(x), as_f64(w)
    stamps = _Stamps(x.shape[1:-1], w.shape[:-2], stride, padding, output_padding, dilation)
    y: F64 = np.zeros((x.shape[0], *stamps.output, w.shape[-2] * groups))
    inputs, filters = group_slices(groups, x.shape[-1]), group_slices(groups, y.shape[-1])
    for i, t, o in stamps.landings():
        for c, f in zip(inputs, filters, strict=True):
            y[pixel(o, f)] += x[pixel(i, c)] @ w[tap(t, last=c)].T
    return y if bias is None else y + bias


def conv_transpose_backward_input(
    dy: F64,
    w: F64,
    input_shape: Sequence[int],
    stride: Ints = 1,
    padding: Any = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> F64:
    """Gradient with respect to ``x`` of shape ``input_shape``."""
    dy, w = as_f64(dy), as_f64(w)
    dx: F64 = np.zeros(tuple(input_shape))
    stamps = _Stamps(dx.shape[1:-1], w.shape[:-2], stride, padding, output_padding, dilation)
    inputs, filters = group_slices(groups, dx.shape[-1]), group_slices(groups, dy.shape[-1])
    for i, t, o in stamps.landings():
        for c, f in zip(inputs, filters, strict=True):
            dx[pixel(i, c)] += dy[pixel(o, f)] @ w[tap(t, last=c)]
    return dx


def conv_transpose_backward_weight(
    dy: F64,
    x: F64,
    weight_shape: Sequence[int],
    stride: Ints = 1,
    padding: Any = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> F64:
    """Gradient with respect to ``w`` of shape ``weight_shape``."""
    dy, x = as_f64(dy), as_f64(x)
    dw: F64 = np.zeros(tuple(weight_shape))
    stamps = _Stamps(x.shape[1:-1], dw.shape[:-2], stride, padding, output_padding, dilation)
    inputs, filters = group_slices(groups, x.shape[-1]), group_slices(groups, dy.shape[-1])
    for i, t, o in stamps.landings():
        for c, f in zip(inputs, filters, strict=True):
            dw[tap(t, last=c)] += dy[pixel(o, f)].T @ x[pixel(i, c)]
    return dw
