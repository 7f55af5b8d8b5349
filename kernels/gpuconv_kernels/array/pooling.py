"""Max and average pooling, box by box and one dimension after the other.

A window of k x k positions needs 2k passes instead of k*k, because the maximum of a window is
the maximum of its rows' maxima, and sums alike. Rows go first: they lie together in memory, and
then fewer columns are left. Boxes of outputs keep what lies between the two stages in cache.

Where a maximum stands is found afterwards, by comparing it with the elements of its window. The
maxima are therefore the same bits whether their places are asked for or not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np

from gpuconv_kernels.array.boxes import NDArray, block_extents
from gpuconv_kernels.array.pooling_parts import (
    Part,
    Pooling,
    Windows,
    box_shape_of,
    combine_windows,
    parts_of,
    read,
    windows_of,
)
from gpuconv_kernels.array.reductions import sum_rows
from gpuconv_kernels.array.windows import SHORT_ROW, at, copy, resized, spread_along, together

BOX_BYTES: Final = 512 * 1024
"""Input bytes of a box: what lies between the stages still fits a 1 MiB L2, while much smaller
boxes would spend more time between NumPy's calls than in them."""

SHORT_SUM: Final = 256
"""Up to so many numbers may be added one after the other in their own dtype."""

INDEX_BYTES: Final = np.dtype(np.int64).itemsize


# --- maximum ---------------------------------------------------------------------------


def max_pool(x: NDArray, g: Pooling, with_indices: bool) -> tuple[NDArray, NDArray | None]:
    """``x`` (N, *in, C) -> ``y`` and, if wanted, ``indices`` (int64), both (N, *out, C).

    An index counts row-major in the un-padded spatial plane. The first maximum in row-major order
    of the window wins; the first NaN beats every number. A window that lies outside of the
    input altogether (dilation makes that possible) gives -inf and the index -1.
    """
    y: NDArray = np.empty((g.batch, *g.output, g.channels), x.dtype)
    indices: NDArray | None = np.empty(y.shape, np.int64) if with_indices else None
    if g.is_global:
        np.maximum.reduce(x, axis=tuple(range(1, x.ndim - 1)), out=y, keepdims=True)
        if indices is not None:
            for sample, place in zip(x, indices, strict=True):
                place[...] = sample.reshape(-1, g.channels).argmax(axis=0)
        return y, indices
    for part in parts_of(g, x.itemsize, BOX_BYTES):
        _max_of_part(x, part, y[part.outputs], None if indices is None else indices[part.outputs])
    return y, indices


def _max_of_part(x: NDArray, part: Part, y: NDArray, indices: NDArray | None) -> None:
    values = read(x, part)
    combine_windows(np.maximum, -np.inf, values, part.windows, y)
    if indices is not None:
        _locate(values, y, part.windows, indices)


def _locate(values: NDArray, best: NDArray, windows: Windows, out: NDArray) -> None:
    """Write the index of the first element of each window that equals its maximum.

    From the last tap backwards, ``more`` is the distance in the plane from a tap to the winner if
    no tap before it has won: 0 if it wins itself, else the step to the next tap and the distance
    from there. These are small integers, several of which are done in the time of one index.
    """
    some_nan = bool(np.isnan(best.max()))
    more: NDArray = np.zeros(best.shape, windows.distance_type)
    for tap, step in windows.comparisons:
        candidate, undecided = together(values[tap.inputs]), more[tap.outputs]
        loses = np.not_equal(candidate, best[tap.outputs])
        if some_nan:  # which equals nothing, not even itself
            loses &= np.equal(candidate, candidate)
        more += step
        undecided *= loses.view(np.uint8)
    np.copyto(out, more)
    out += windows.origins
    for axis, along in enumerate(windows.spans):
        for p in along.missing:
            out[at(axis + 1, p)] = -1


def max_pool_backward(dy: NDArray, indices: NDArray, g: Pooling) -> NDArray:
    """``dy`` and ``indices`` (N, *out, C) -> ``dx`` (N, *in, C); windows that overlap add up.

    The additions run in the order of the outputs, so the result is the same on every call.
    """
    dx: NDArray = np.zeros((g.batch, *g.input, g.channels), dy.dtype)
    for part in parts_of(g, dy.itemsize, BOX_BYTES):
        _scatter(dy[part.outputs], indices[part.outputs], part.windows, dx[part.outputs[0]])
    return dx


def _scatter(dy: NDArray, indices: NDArray, windows: Windows, dx: NDArray) -> None:
    """Add the gradients of a box to the samples ``dx`` (n, *in, C)."""
    channels = dx.shape[-1]
    samples = np.arange(0, dx.size, dx.size // len(dx))
    positions = np.multiply(indices, channels, order="C")
    positions += samples.reshape(-1, *(1,) * (dx.ndim - 1)) + np.arange(channels)
    if windows.some_missing:
        met = indices >= 0
        dy, positions = dy[met], positions[met]
    np.add.at(dx.reshape(-1), positions.reshape(-1), dy.reshape(-1))


# --- average ---------------------------------------------------------------------------


def avg_pool(x: NDArray, g: Pooling) -> NDArray:
    """``x`` (N, *in, C) -> ``y`` (N, *out, C): the sum of each window over its divisor.

    The divisor is the product of ``g.divisors`` over the dimensions, or ``g.divisor_override``.
    A window that lies outside of the input altogether gives 0, as in PyTorch.
    """
    y: NDArray = np.empty((g.batch, *g.output, g.channels), x.dtype)
    divisor = _divisor(g, x.dtype)
    if g.is_global:
        _sum_planes(x, y)
        y /= divisor
        return y
    for part in parts_of(g, x.itemsize, BOX_BYTES):
        total = y[part.outputs]
        combine_windows(np.add, 0.0, read(x, part), part.windows, total)
        total /= divisor[part.windows.plane]
    return y


def avg_pool_backward(dy: NDArray, g: Pooling) -> NDArray:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    shape = (g.batch, *g.input, g.channels)
    divisor = _divisor(g, dy.dtype)
    if g.is_global:
        return np.array(np.broadcast_to(dy / divisor, shape), order="C")
    whole = windows_of(tuple((0, o) for o in g.output), g)
    reads_all = all(a.reads == i for a, i in zip(whole.spans, g.input, strict=True))
    once = reads_all and not whole.gaps and not whole.overlap
    dx: NDArray = (np.empty if once else np.zeros)(shape, dy.dtype)
    for part in parts_of(g, dy.itemsize, BOX_BYTES):
        share = np.divide(dy[part.outputs], divisor[part.windows.plane], order="C")
        _spread(share, part.windows, dx[part.inputs], whole.overlap)
        del share  # before the next is made
    return dx


def _spread(share: NDArray, windows: Windows, dx: NDArray, add: bool) -> None:
    """Give each value to all elements of its window; add to those of ``dx`` or overwrite them."""
    rows, *others = windows.spans
    for axis, along in reversed(list(enumerate(others, start=2))):
        spread = resized(share, axis, along.reads)
        spread_along(share, axis, along, spread)
        share = spread
    for tap in rows.taps:
        source, target = share[:, tap.outputs], dx[:, tap.inputs]
        if add:
            target += source
        else:
            copy(source, target)


def _sum_planes(x: NDArray, y: NDArray) -> None:
    if math.prod(x.shape[1:-1]) <= SHORT_SUM:
        np.add.reduce(x, axis=tuple(range(1, x.ndim - 1)), out=y, keepdims=True)
    else:
        for sample, result in zip(x, y, strict=True):
            result[...] = sum_rows(sample.reshape(-1, x.shape[-1]))


@lru_cache(maxsize=16)
def _divisor(g: Pooling, dtype: Any) -> NDArray:
    """Divisor of each window, (1, *out, 1); 1 where there is nothing to divide."""
    whole = (1, *g.output, 1)
    if g.divisor_override is not None:
        return np.broadcast_to(np.asarray(g.divisor_override, dtype), whole)
    total: NDArray = np.ones((1,) * len(whole), dtype)
    for axis, counts in enumerate(g.divisors):
        # Equal numbers as one that is repeated: NumPy then divides by a constant, which is faster.
        along = np.array(counts[:1] if len(set(counts)) == 1 else counts, dtype)
        total = total * along.reshape(-1, *(1,) * (len(g.output) - axis))
    return np.broadcast_to(np.maximum(total, 1), whole)


# --- memory ----------------------------------------------------------------------------


def box_shape(g: Pooling, itemsize: int) -> tuple[int, ...]:
    """Shape (n, *out) of the boxes of outputs in which all four operations work."""
    return box_shape_of(g, itemsize, BOX_BYTES)


def workspace_bytes(op: str, g: Pooling, itemsize: int) -> int:
    """How much ``op``, one of the four above, allocates at most beyond inputs and outputs.

    That is what its largest box needs, with indices, and with the copies that are made only of
    inputs whose channels do not lie together.
    """
    n, *out = box_shape(g, itemsize)
    outputs = n * math.prod(out) * g.channels
    buffers = 3 * np.getbufsize() * itemsize  # NumPy's own, for the operands of one call
    if op == "max_pool_backward":
        some_missing = windows_of(tuple((0, o) for o in g.output), g).some_missing
        return (2 if some_missing else 1) * outputs * (INDEX_BYTES + itemsize) + buffers
    if g.is_global:
        if op == "avg_pool_backward":
            return g.batch * g.channels * itemsize + buffers
        # A copy of a sample: for its sum if it is strided, for its indices in any case.
        return math.prod(g.input) * g.channels * itemsize + buffers
    extents = block_extents(out, g.window, g)
    reads = [min(e, i) for e, i in zip(extents, g.input, strict=True)]
    if op == "avg_pool_backward":
        left, stages = out, [outputs]
        for axis in reversed(range(1, len(out))):
            left = [*left[:axis], reads[axis], *left[axis + 1 :]]
            stages.append(n * math.prod(left) * g.channels)
        return sum(stages) * itemsize + buffers
    block = n * math.prod(reads) * g.channels
    left = [o if k == 1 else r for o, r, k in zip(out, reads, g.window, strict=True)]
    stages = []
    for axis in (axis for axis, k in enumerate(g.window) if k > 1):
        left = [*left[:axis], out[axis], *left[axis + 1 :]]
        stages.append(n * math.prod(left) * g.channels)
    short = g.channels * itemsize < SHORT_ROW  # then what is combined is copied first
    combining = (sum(stages[:-1]) + 2 * short * max(stages, default=0)) * itemsize
    locating = 0
    if op == "max_pool":
        distances = windows_of(tuple((0, q) for q in out), g).distance_type.itemsize
        locating = outputs * (distances + 2 + short * itemsize)
    return block * itemsize + max(combining, locating) + buffers
