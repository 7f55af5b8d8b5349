"""Windows that slide along one dimension: which outputs meet which inputs, at each position.

Padding is never stored. A window that hangs over the input meets fewer elements: the outputs that
meet a real element at one position of the window are one run, so they become a pair of slices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from gpuconv_kernels.array.boxes import NDArray

SHORT_ROW: Final = 128
"""Bytes of a position's channels below which arithmetic is faster on copies that lie together:
to begin an inner loop takes as long as a dozen numbers in it."""


class Tap(NamedTuple):
    """One position of the window, and the outputs for which it lies in the input.

    Attributes:
        offset: distance from the window's start.
        outputs: counted from the first output of the span.
        inputs: counted from the first input of the span.
        fresh: whether no earlier tap meets any of these inputs.
    """

    offset: int
    outputs: slice
    inputs: slice
    fresh: bool


class Span(NamedTuple):
    """What a range of outputs reads along one dimension.

    Attributes:
        outputs: their number.
        inputs: the elements read, from the first to the last.
        taps: those that meet the input at all, in order.
        gaps: whether the fresh taps leave out some of the inputs.
        missing: outputs whose windows lie outside of the input altogether.
    """

    outputs: int
    inputs: slice
    taps: tuple[Tap, ...]
    gaps: bool
    missing: tuple[int, ...]

    @property
    def reads(self) -> int:
        """Number of elements from the first that is read to the last."""
        return int(self.inputs.stop - self.inputs.start)

    @property
    def is_thin(self) -> bool:
        """Whether every output is simply one of the inputs."""
        return len(self.taps) == 1 and not self.missing


@lru_cache(maxsize=4096)
def span(
    start: int, stop: int, extent: int, window: int, stride: int, dilation: int, lo: int
) -> Span:
    """Describe the outputs from ``start`` to ``stop``, the input having ``extent`` elements."""
    outputs = stop - start
    origin = start * stride - lo
    end = origin + (outputs - 1) * stride + dilation * (window - 1) + 1
    first = min(max(origin, 0), extent)
    inputs = slice(first, max(min(end, extent), first))
    taps = []
    seen, met = np.zeros(inputs.stop - first, bool), np.zeros(outputs, bool)
    gaps = len(seen)
    for position in range(window):
        at = origin + position * dilation  # what the first output meets here
        p = max(-(at // stride), 0)
        q = min((extent - 1 - at) // stride + 1, outputs)
        if p < q:
            source = slice(at + p * stride - first, at + (q - 1) * stride + 1 - first, stride)
            fresh = not seen[source].any()
            gaps -= fresh * (q - p)
            taps.append(Tap(position * dilation, slice(p, q), source, fresh))
            seen[source] = met[p:q] = True
    return Span(outputs, inputs, tuple(taps), gaps > 0, tuple(np.flatnonzero(~met).tolist()))


def at(axis: int, index: Any) -> tuple[Any, ...]:
    """Index that selects along one axis."""
    return (*(slice(None),) * axis, index)


def resized(values: NDArray, axis: int, extent: int) -> NDArray:
    """Allocate an array like ``values`` with another extent along one axis."""
    return np.empty((*values.shape[:axis], extent, *values.shape[axis + 1 :]), values.dtype)


def copy(source: NDArray, target: NDArray) -> None:
    """Copy (..., C), the channels of a position as one item where that is faster."""
    row = source.shape[-1] * source.itemsize
    skips = source.strides[-2] != row or target.strides[-2] != row
    if skips and source.strides[-1] == target.strides[-1] == source.itemsize < row:
        item = f"V{row}"
        source, target = source.view(item), target.view(item)
    np.copyto(target, source)


def together(values: NDArray) -> NDArray:
    """Copy a view (..., C) that skips positions, if so few channels make arithmetic slow."""
    row = values.shape[-1] * values.itemsize
    if row >= SHORT_ROW or values.strides[-2] == row or values.shape[-2] == 1:
        return values
    copied: NDArray = np.empty(values.shape, values.dtype)
    copy(values, copied)
    return copied


def combine_along(
    combine: np.ufunc, identity: float, values: NDArray, axis: int, along: Span, out: NDArray
) -> None:
    """Write what ``combine`` makes of each window along one axis, its taps taken in order.

    ``identity`` stands where a window has no first tap, so that no result depends on how the
    outputs are cut into spans.
    """
    whole = slice(0, along.outputs)
    rest = along.taps
    if len(rest) > 1 and rest[0].outputs == rest[1].outputs == whole:
        one, two = (together(values[at(axis, tap.inputs)]) for tap in rest[:2])
        combine(one, two, out=out)
        rest = rest[2:]
    else:
        if not rest or rest[0].outputs != whole:
            out.fill(identity)
        if rest:
            copy(values[at(axis, rest[0].inputs)], out[at(axis, rest[0].outputs)])
            rest = rest[1:]
    for tap in rest:
        target = out[at(axis, tap.outputs)]
        combine(target, together(values[at(axis, tap.inputs)]), out=target)


def spread_along(values: NDArray, axis: int, along: Span, out: NDArray) -> None:
    """Transpose of a sum by :func:`combine_along`: add each value to all that its window met."""
    if along.gaps:
        out.fill(0)
    for tap in along.taps:
        source, target = values[at(axis, tap.outputs)], out[at(axis, tap.inputs)]
        if tap.fresh:
            copy(source, target)
        else:
            target += source
