"""Max and average pooling, box by box and one dimension after the other.

A window of k x k positions needs 2k passes instead of k*k, because the maximum of a window is
the maximum of its rows' maxima, and sums alike. Boxes of outputs keep what lies between the two
stages in cache.

Which of several equal maxima wins: the last dimension goes first and each stage scans in order,
so it is the first element of the first row, that is the first in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np

from gpuconv_kernels.array.boxes import Box, NDArray, Windowed, box_shape, boxes, slices
from gpuconv_kernels.array.reductions import sum_rows
from gpuconv_kernels.array.windows import Span, at, copy, resized, span, together

BOX_BYTES: Final = 512 * 1024
"""Input bytes of a box: what lies between the stages still fits a 1 MiB L2, while much smaller
boxes would spend more time between NumPy's calls than in them."""

SCATTER_ELEMENTS: Final = 32 * 1024
"""Outputs of a box of max_pool_backward."""

SHORT_SUM: Final = 256
"""Up to so many numbers may be added one after the other in their own dtype."""


class Pooling(Windowed, Protocol):
    """The part of ``gpuconv.geometry.PoolGeometry`` that these kernels read."""

    @property
    def batch(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def window(self) -> tuple[int, ...]: ...
    @property
    def divisors(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def divisor_override(self) -> int | None: ...
    @property
    def is_global(self) -> bool: ...


# --- maximum ---------------------------------------------------------------------------


def max_pool(x: NDArray, g: Pooling) -> tuple[NDArray, NDArray]:
    """``x`` (N, *in, C) -> ``y`` and ``indices`` (int64), both (N, *out, C).

    An index counts row-major in the un-padded spatial plane. The first maximum in row-major order
    of the window wins; the first NaN beats every number. A window that lies outside of the
    input altogether (dilation makes that possible) gives -inf and the index -1.
    """
    y: NDArray = np.empty((g.batch, *g.output, g.channels), x.dtype)
    indices: NDArray = np.empty(y.shape, np.int64)
    starts = _window_starts(g)
    for box in _input_sized_boxes(g, x.itemsize):
        target = y[slices(box)]
        codes = _max_box(x, target, box, g, np.greater)
        if target.size and np.isnan(target.max()):
            codes = _max_box(x, target, box, g, _greater_or_first_nan)
        # In 32 bits as long as possible: the sum in 64 bits takes twice as long.
        positions = codes.astype(starts.dtype)
        positions += starts[slices(((0, 1), *box[1:]))]
        indices[slices(box)] = positions
    for axis, whole in enumerate(_whole_spans(g)):
        for p in whole.missing:
            indices[at(axis + 1, p)] = -1
    return y, indices


def max_pool_backward(dy: NDArray, indices: NDArray, g: Pooling) -> NDArray:
    """``dy`` and ``indices`` (N, *out, C) -> ``dx`` (N, *in, C); windows that overlap add up.

    The additions run in the order of the outputs, so the result is the same on every call.
    """
    dx: NDArray = np.zeros((g.batch, *g.input, g.channels), dy.dtype)
    flat = dx.reshape(-1)
    some_outside = any(whole.missing for whole in _whole_spans(g))
    extents = (g.batch, *g.output)
    samples = np.arange(g.batch) * (math.prod(g.input) * g.channels)
    offsets = samples.reshape(-1, *(1,) * len(extents)) + np.arange(g.channels)
    for box in boxes(extents, box_shape(extents, SCATTER_ELEMENTS // g.channels)):
        positions = indices[slices(box)] * g.channels
        positions += offsets[slice(*box[0])]
        gradient = dy[slices(box)]
        if some_outside:
            met = indices[slices(box)] >= 0
            np.add.at(flat, positions[met], gradient[met])
        else:
            np.add.at(flat, positions.reshape(-1), gradient.reshape(-1))
    return dx


Greater = Callable[[NDArray, NDArray], NDArray]


def _greater_or_first_nan(candidate: NDArray, incumbent: NDArray) -> NDArray:
    wins: NDArray = np.greater(candidate, incumbent)
    wins |= np.isnan(candidate) & ~np.isnan(incumbent)
    return wins


def _max_box(x: NDArray, y: NDArray, box: Box, g: Pooling, greater: Greater) -> NDArray:
    """Write the maxima of a box to ``y`` and return where they stand.

    A position is coded as its distance, in the plane, from the window's start: small numbers, of
    which a later one is larger, so that the last winner's code is a maximum too.
    """
    steps = [math.prod(g.input[axis + 1 :]) for axis in range(len(g.input))]
    reach = sum(s * d * (k - 1) for s, d, k in zip(steps, g.dilation, g.window, strict=True))
    code_type = np.min_scalar_type(reach)
    spans = _spans(box, g)
    values = _read(x, box, spans)
    codes: NDArray | None = None
    order = _thin_first(g, reversed(range(len(spans))))
    for axis in order:
        whole, step = spans[axis], steps[axis]
        if g.window[axis] == 1 and not whole.missing:
            kept = at(axis + 1, whole.meetings[0].inputs)
            values, codes = values[kept], None if codes is None else codes[kept]
            continue
        out = y if axis == order[-1] else None
        values, codes = _max_along(values, codes, axis + 1, whole, step, code_type, greater, out)
    if values is not y:  # nothing but windows of 1
        copy(values, y)
    return np.zeros(y.shape, code_type) if codes is None else codes


def _max_along(
    values: NDArray,
    codes: NDArray | None,
    axis: int,
    along: Span,
    step: int,
    code_type: Any,
    greater: Greater,
    out: NDArray | None,
) -> tuple[NDArray, NDArray]:
    """Maxima along one axis and the codes of where they stand (None: 0 everywhere)."""
    best = resized(values, axis, along.outputs, values.dtype) if out is None else out
    code = resized(values, axis, along.outputs, code_type)
    for p in along.missing:
        best[at(axis, p)] = -np.inf
        code[at(axis, p)] = 0
    for meeting in along.meetings:
        source, target = at(axis, meeting.inputs), at(axis, meeting.outputs)
        candidate, incumbent, place = values[source], best[target], code[target]
        distance = code_type.type(meeting.offset * step)
        if meeting.first:
            copy(candidate, incumbent)
            place[...] = distance if codes is None else codes[source] + distance
        else:
            candidate = together(candidate)
            wins = greater(candidate, incumbent).view(np.uint8).astype(code_type, copy=False)
            np.maximum(incumbent, candidate, out=incumbent)
            wins *= distance if codes is None else codes[source] + distance
            np.maximum(place, wins, out=place)
    return best, code


def _window_starts(g: Pooling) -> NDArray:
    """Index in the plane of each window's start, (1, *out, 1); negative in the padding."""
    total: NDArray = np.zeros((1,) * (len(g.output) + 2), np.int64)
    for axis, (o, s, (lo, _)) in enumerate(zip(g.output, g.stride, g.pads, strict=True)):
        starts = (np.arange(o) * s - lo) * math.prod(g.input[axis + 1 :])
        total = total + starts.reshape(-1, *(1,) * (len(g.output) - axis))
    largest = 2 * int(np.abs(total).max()) + math.prod(g.input)
    return total.astype(np.int32) if largest < 2**31 else total


# --- average ---------------------------------------------------------------------------


def avg_pool(x: NDArray, g: Pooling) -> NDArray:
    """``x`` (N, *in, C) -> ``y`` (N, *out, C): the sum of each window over its divisor.

    The divisor is the product of ``g.divisors`` over the dimensions, or ``g.divisor_override``.
    A window that lies outside of the input altogether gives 0, as in PyTorch.
    """
    y: NDArray = np.empty((g.batch, *g.output, g.channels), x.dtype)
    if g.is_global:
        _sum_planes(x, y)
        y /= _divisor(g, [(0, 1)] * len(g.output), x.dtype)
        return y
    for box in _input_sized_boxes(g, x.itemsize):
        target = y[slices(box)]
        spans = _spans(box, g)
        values = _read(x, box, spans)
        # Rows go first: they lie together in memory, and then fewer columns are left to add.
        order = _thin_first(g, range(len(spans)))
        for axis in order:
            out = target if axis == order[-1] else None
            values = _sum_along(values, axis + 1, spans[axis], out)
        target /= _divisor(g, box[1:], x.dtype)
    return y


def avg_pool_backward(dy: NDArray, g: Pooling) -> NDArray:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    shape = (g.batch, *g.input, g.channels)
    if g.is_global:
        share = dy / _divisor(g, [(0, 1)] * len(g.output), dy.dtype)
        return np.array(np.broadcast_to(share, shape), order="C")
    dx: NDArray = np.zeros(shape, dy.dtype)
    overlap = any(d * (k - 1) >= s for d, k, s in zip(g.dilation, g.window, g.stride, strict=True))
    for box in _input_sized_boxes(g, dy.itemsize):
        spans = _spans(box, g)
        share = dy[slices(box)] / _divisor(g, box[1:], dy.dtype)
        for axis in reversed(range(1, len(spans))):
            whole = spans[axis]
            spread = resized(share, axis + 1, whole.inputs.stop - whole.inputs.start, dy.dtype)
            spread.fill(0)
            _spread_along(share, spread, axis + 1, whole, overlap)
            share = spread
        _spread_along(share, dx[_inputs(box, spans)], 1, spans[0], overlap)
    return dx


def _sum_planes(x: NDArray, y: NDArray) -> None:
    if math.prod(x.shape[1:-1]) <= SHORT_SUM:
        np.add.reduce(x, axis=tuple(range(1, x.ndim - 1)), out=y, keepdims=True)
    else:
        for sample, result in zip(x, y, strict=True):
            result[...] = sum_rows(sample.reshape(-1, x.shape[-1]))


def _sum_along(values: NDArray, axis: int, along: Span, out: NDArray | None) -> NDArray:
    """Sums along one axis; 0 for a window that meets nothing."""
    if out is None and len(along.meetings) == 1 and not along.missing:
        return values[at(axis, along.meetings[0].inputs)]
    total = resized(values, axis, along.outputs, values.dtype) if out is None else out
    for p in along.missing:
        total[at(axis, p)] = 0
    for meeting in along.meetings:
        source, target = values[at(axis, meeting.inputs)], total[at(axis, meeting.outputs)]
        if meeting.first:
            copy(source, target)
        else:
            target += together(source)
    return total


def _spread_along(share: NDArray, total: NDArray, axis: int, along: Span, overlap: bool) -> None:
    """Transpose of :func:`_sum_along`: add each window's share to all that it met."""
    for meeting in along.meetings:
        source, target = share[at(axis, meeting.outputs)], total[at(axis, meeting.inputs)]
        if overlap:
            target += source
        else:
            copy(source, target)


def _divisor(g: Pooling, ranges: Sequence[tuple[int, int]], dtype: Any) -> NDArray:
    """Divisors of a box, to be broadcast to (n, *out, C); 1 where there is nothing to divide."""
    if g.divisor_override is not None:
        return np.asarray(g.divisor_override, dtype)
    total: NDArray = np.ones((1,) * (len(ranges) + 2), dtype)
    for axis, (counts, (start, stop)) in enumerate(zip(g.divisors, ranges, strict=True)):
        along = np.array(counts[start:stop], dtype)
        if (along == along[0]).all():
            along = along[:1]  # one number divides faster than an array of equal ones
        total = total * along.reshape(-1, *(1,) * (len(ranges) - axis))
    return np.maximum(total, 1)


# --- boxes -----------------------------------------------------------------------------


def _input_sized_boxes(g: Pooling, itemsize: int) -> Iterator[Box]:
    """Boxes of outputs whose windows read about ``BOX_BYTES``."""
    read = math.prod(min(s, k) for s, k in zip(g.stride, g.window, strict=True))
    extents = (g.batch, *g.output)
    return boxes(extents, box_shape(extents, BOX_BYTES // (g.channels * itemsize * read)))


def _spans(box: Box, g: Pooling) -> list[Span]:
    return [
        span(start, stop, i, k, s, d, lo)
        for (start, stop), i, k, s, d, (lo, _) in zip(
            box[1:], g.input, g.window, g.stride, g.dilation, g.pads, strict=True
        )
    ]


def _whole_spans(g: Pooling) -> list[Span]:
    return _spans(((0, 1), *((0, o) for o in g.output)), g)


def _thin_first(g: Pooling, dimensions: Sequence[int] | Iterator[int]) -> list[int]:
    """Dimensions of window 1 first: they drop what the stride skips and cost nothing."""
    return sorted(dimensions, key=lambda axis: g.window[axis] > 1)


def _inputs(box: Box, spans: Sequence[Span]) -> tuple[slice, ...]:
    return (slice(*box[0]), *(along.inputs for along in spans))


def _read(x: NDArray, box: Box, spans: Sequence[Span]) -> NDArray:
    """The input that a box reads; a copy only if the channels do not lie together."""
    values = x[_inputs(box, spans)]
    if values.strides[-1] != values.itemsize:
        values = np.ascontiguousarray(values)
    return values
