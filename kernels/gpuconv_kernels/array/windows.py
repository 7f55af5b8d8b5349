"""Windows that slide along one dimension: which outputs meet which inputs, at each position.

Padding is never stored. A window that hangs over the input meets fewer elements, and every run of
outputs that meets real elements at one position of the window becomes one pair of slices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpuconv_kernels.array.boxes import NDArray


class Meeting(NamedTuple):
    """One position of the window and a run of outputs for which it lies in the input.

    Attributes:
        offset: distance from the window's start.
        outputs: counted from the first output of the span.
        inputs: counted from the first input of the span.
        first: whether these windows meet the input here for the first time.
    """

    offset: int
    outputs: slice
    inputs: slice
    first: bool


class Span(NamedTuple):
    """What a range of outputs reads along one dimension.

    Attributes:
        outputs: their number.
        inputs: the elements read, from the first to the last.
        meetings: in the order of the window's positions.
        missing: outputs whose windows lie outside of the input altogether.
    """

    outputs: int
    inputs: slice
    meetings: tuple[Meeting, ...]
    missing: tuple[int, ...]


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
    meetings = []
    begun = outputs  # from this output on, windows have met the input already
    for tap in range(window):
        at = origin + tap * dilation  # what the first output meets here
        lower = max(-(at // stride), 0)
        upper = min((extent - 1 - at) // stride + 1, outputs)
        # The run of a later position begins and ends further to the left, so its windows have
        # met the input before exactly from ``begun`` on.
        for p, q, fresh in ((lower, min(begun, upper), True), (max(lower, begun), upper, False)):
            if p < q:
                source = slice(at + p * stride - first, at + (q - 1) * stride + 1 - first, stride)
                meetings.append(Meeting(tap * dilation, slice(p, q), source, fresh))
        if lower < upper:
            begun = min(begun, lower)
    missing: list[int] = []
    edge = 0
    for run in reversed([m.outputs for m in meetings if m.first]):
        missing.extend(range(edge, run.start))
        edge = run.stop
    missing.extend(range(edge, outputs))
    return Span(outputs, inputs, tuple(meetings), tuple(missing))


def at(axis: int, index: Any) -> tuple[Any, ...]:
    """Index that selects along one axis."""
    return (*(slice(None),) * axis, index)


def resized(values: NDArray, axis: int, extent: int, dtype: Any) -> NDArray:
    """Allocate an array like ``values`` with another extent along one axis."""
    return np.empty((*values.shape[:axis], extent, *values.shape[axis + 1 :]), dtype)


def copy(source: NDArray, target: NDArray) -> None:
    """Copy (..., C), the channels of a position as one item where that is faster."""
    row = source.shape[-1] * source.itemsize
    skips = source.strides[-2] != row or target.strides[-2] != row
    if skips and source.strides[-1] == target.strides[-1] == source.itemsize < row:
        item = f"V{row}"
        source, target = source.view(item), target.view(item)
    np.copyto(target, source)


def together(values: NDArray) -> NDArray:
    """Copy a view that skips positions: arithmetic on it then runs in long inner loops."""
    if values.strides[-2] == values.shape[-1] * values.itemsize or values.shape[-2] == 1:
        return values
    copied: NDArray = np.empty(values.shape, values.dtype)
    copy(values, copied)
    return copied
