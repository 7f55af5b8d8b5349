"""Padding of the spatial axes, region by region, and its gradient.

Along one axis a padded array has up to three parts: before, centre and after. Each shows a slice
of the input (reversed for reflect, a single position for replicate), or nothing where zeros
stand. The parts of all axes together cut the array into boxes that are copied one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

NDArray = np.ndarray[Any, Any]
Index = tuple[slice, ...]

EVERY = slice(None)


class Part(NamedTuple):
    """A slice of the padded axis and the slice of the input it shows, or None for zeros."""

    padded: slice
    source: slice | None


def pad(x: NDArray, pads: Sequence[tuple[int, int]], mode: str) -> NDArray:
    """Pad the spatial axes of ``x`` (N, *in, C).

    Args:
        x: array of any strides.
        pads: ``(lo, hi)`` a spatial dimension.
        mode: ``"zeros"``; ``"reflect"`` (without repeating the edge; pads below the extent);
            ``"replicate"``; ``"circular"`` (pads up to the extent).
    """
    extents = x.shape[1:-1]
    padded = (n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True))
    y: NDArray = np.empty((x.shape[0], *padded, x.shape[-1]), x.dtype)
    for target, source in _regions(extents, pads, mode):
        # A replicated edge has extent 1 and is broadcast.
        y[target] = 0 if source is None else x[source]
    return y


def pad_backward(dy: NDArray, pads: Sequence[tuple[int, int]], mode: str) -> NDArray:
    """Gradient of :func:`pad`: ``dy`` of the padded shape gives ``dx`` of the input's.

    What was copied several times is summed.
    """
    extents = [n - lo - hi for n, (lo, hi) in zip(dy.shape[1:-1], pads, strict=True)]
    centre = (
        EVERY,
        *(slice(lo, lo + n) for n, (lo, _) in zip(extents, pads, strict=True)),
        EVERY,
    )
    dx: NDArray = np.array(dy[centre], order="C")
    for target, source in _regions(extents, pads, mode):
        if source is None or target == centre:
            continue
        part = dx[source]
        copied = tuple(
            axis for axis, n in enumerate(part.shape) if n == 1 and dy[target].shape[axis] > 1
        )
        part += dy[target].sum(axis=copied, keepdims=True) if copied else dy[target]
    return dx


def _regions(
    extents: Sequence[int], pads: Sequence[tuple[int, int]], mode: str
) -> Iterator[tuple[Index, Index | None]]:
    """Yield the boxes of the padded array and what each shows of the input."""
    axes = [_parts(n, lo, hi, mode) for n, (lo, hi) in zip(extents, pads, strict=True)]
    for parts in itertools.product(*axes):
        target = (EVERY, *(part.padded for part in parts), EVERY)
        sources = [part.source for part in parts if part.source is not None]
        yield target, (EVERY, *sources, EVERY) if len(sources) == len(parts) else None


def _parts(extent: int, lo: int, hi: int, mode: str) -> list[Part]:
    """The parts of one axis that are not empty."""
    if mode == "zeros":
        before = after = None
    elif mode == "replicate":
        before, after = slice(0, 1), slice(extent - 1, extent)
    elif mode == "circular":
        before, after = slice(extent - lo, extent), slice(0, hi)
    else:
        last = extent - 2 - hi
        before, after = slice(lo, 0, -1), slice(extent - 2, last if last >= 0 else None, -1)
    parts = [
        Part(slice(0, lo), before),
        Part(slice(lo, lo + extent), slice(0, extent)),
        Part(slice(lo + extent, lo + extent + hi), after),
    ]
    return [part for part in parts if part.padded.start < part.padded.stop]
