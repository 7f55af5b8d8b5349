"""How pooling is cut into boxes of outputs, and what the windows of a box read.

All of it follows from the geometry, so it is worked out once and cached.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from gpuconv_kernels.array.boxes import NDArray, Windowed, box_shape, boxes, slices
from gpuconv_kernels.array.windows import Span, at, combine_along, resized, span

LEAST_READ: Final = 4
"""Input numbers that an output counts for at least, for its index takes memory too."""


class Pooling(Windowed, Protocol):
    """The part of ``gpuconv.geometry.PoolGeometry`` that these kernels read."""

    def __hash__(self) -> int: ...
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


class PlaneTap(NamedTuple):
    """One position of the window in all dimensions; see :class:`~.windows.Tap`.

    Attributes:
        distance: in the plane, from the window's start.
        outputs, inputs: indices of arrays (N, *outputs, C) and (N, *inputs, C).
    """

    distance: int
    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]


@dataclass(frozen=True)
class Windows:
    """The windows of a range of outputs, one span a dimension.

    Attributes:
        spans: what they read.
        plane: index of these outputs in what is the same for all samples, (1, *out, 1).
        firsts: what each dimension adds to the index, in the plane, of a window's first tap; to be
            broadcast to (1, *outputs, 1).
        steps: between neighbours of each dimension in the plane.
    """

    spans: tuple[Span, ...]
    plane: tuple[slice, ...]
    firsts: tuple[NDArray, ...]
    steps: tuple[int, ...]

    @cached_property
    def overlap(self) -> bool:
        """Whether some input lies in several windows."""
        return not all(tap.fresh for along in self.spans for tap in along.taps)

    @cached_property
    def gaps(self) -> bool:
        """Whether some input between the first and the last that is read lies in no window.

        Also True where windows overlap and one sees what no fresh tap meets.
        """
        return any(along.gaps for along in self.spans)

    @cached_property
    def some_missing(self) -> bool:
        """Whether some window lies outside of the input altogether."""
        return any(along.missing for along in self.spans)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Dimensions in which to combine: first those that merely drop what the stride skips."""
        return tuple(sorted(range(len(self.spans)), key=lambda axis: not self.spans[axis].is_thin))

    @cached_property
    def taps(self) -> tuple[PlaneTap, ...]:
        """All that meet the input, in row-major order."""
        every = slice(None)
        return tuple(
            PlaneTap(
                sum(t.offset * step for t, step in zip(tap, self.steps, strict=True)),
                (every, *(t.outputs for t in tap)),
                (every, *(t.inputs for t in tap)),
            )
            for tap in itertools.product(*(along.taps for along in self.spans))
        )

    @cached_property
    def distance_type(self) -> np.dtype[Any]:
        """The smallest type for a distance between two taps."""
        return np.min_scalar_type(self.taps[-1].distance if self.taps else 0)

    @cached_property
    def comparisons(self) -> tuple[tuple[PlaneTap, NDArray], ...]:
        """Each tap but the last, and its distance to the next, from the last to the first.

        A distance is negative where the next tap is one of another row, far to the left; in an
        unsigned type it wraps, and sums of them come out right.
        """
        distances = np.array([tap.distance for tap in self.taps], np.int64)
        steps = np.diff(distances).astype(self.distance_type)
        return tuple(zip(self.taps[:-1], steps, strict=True))[::-1]

    @property
    def origins(self) -> NDArray:
        """Index in the plane of each window's first tap, (1, *outputs, 1).

        Negative for a window that hangs over at the start. Not kept: it can be large.
        """
        return reduce(np.add, self.firsts)


class Part(NamedTuple):
    """One box: index of its outputs, index of what it reads, its windows."""

    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]
    windows: Windows


@lru_cache(maxsize=256)
def windows_of(ranges: tuple[tuple[int, int], ...], g: Pooling) -> Windows:
    """Describe the windows of a range of outputs in each dimension."""
    rank = len(ranges)
    steps = tuple(math.prod(g.input[axis + 1 :]) for axis in range(rank))
    spans, firsts = [], []
    for axis, ((start, stop), (lo, _)) in enumerate(zip(ranges, g.pads, strict=True)):
        stride, dilation = g.stride[axis], g.dilation[axis]
        along = span(start, stop, g.input[axis], g.window[axis], stride, dilation, lo)
        offset = along.taps[0].offset - lo if along.taps else -lo
        first = (np.arange(start, stop, dtype=np.int64) * stride + offset) * steps[axis]
        spans.append(along)
        firsts.append(first.reshape(1, -1, *(1,) * (rank - axis)))
    return Windows(tuple(spans), slices(((0, 1), *ranges)), tuple(firsts), steps)


@lru_cache(maxsize=32)
def parts_of(g: Pooling, itemsize: int, box_bytes: int) -> tuple[Part, ...]:
    """Cut a pooling into boxes of outputs, in memory order."""
    parts = []
    for box in boxes((g.batch, *g.output), box_shape_of(g, itemsize, box_bytes)):
        windows = windows_of(box[1:], g)
        inputs = (slice(*box[0]), *(along.inputs for along in windows.spans))
        parts.append(Part(slices(box), inputs, windows))
    return tuple(parts)


def box_shape_of(g: Pooling, itemsize: int, box_bytes: int) -> tuple[int, ...]:
    """Shape of the boxes of outputs that read about ``box_bytes``."""
    read = max(-(-math.prod(g.input) // math.prod(g.output)), LEAST_READ)
    return box_shape((g.batch, *g.output), box_bytes // (g.channels * itemsize * read))


def read(x: NDArray, part: Part) -> NDArray:
    """The input that a box reads; a copy only if the channels do not lie together."""
    values = x[part.inputs]
    if values.strides[-1] != values.itemsize:
        values = np.ascontiguousarray(values)
    return values


def combine_windows(
    combine: np.ufunc, identity: float, values: NDArray, windows: Windows, out: NDArray
) -> None:
    """Write what ``combine`` makes of each window, one dimension after the other."""
    *others, last = windows.order
    for axis in others:
        along = windows.spans[axis]
        if along.is_thin:
            values = values[at(axis + 1, along.taps[0].inputs)]
        else:
            stage = resized(values, axis + 1, along.outputs)
            combine_along(combine, identity, values, axis + 1, along, stage)
            values = stage
    combine_along(combine, identity, values, last + 1, windows.spans[last], out)
