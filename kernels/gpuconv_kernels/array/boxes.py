"""Cutting a large output into boxes, and gathering the padded input that a box reads.

A box is a run of output positions that lie next to each other in memory: single positions in
the leading axes, a range in one axis, everything in the axes behind it. Working box by box
keeps the workspace in cache and under any limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

NDArray = np.ndarray[Any, Any]
Box = tuple[tuple[int, int], ...]


class Windowed(Protocol):
    """What a convolution and a pooling have in common: see ``gpuconv.geometry``."""

    @property
    def input(self) -> tuple[int, ...]: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def dilation(self) -> tuple[int, ...]: ...
    @property
    def pads(self) -> tuple[tuple[int, int], ...]: ...


class Block(NamedTuple):
    """The input that a box reads, and the C-contiguous array whose memory it lies in."""

    array: NDArray
    owner: NDArray


def box_shape(extents: Sequence[int], positions: int) -> tuple[int, ...]:
    """Return the largest box of at most ``positions`` (and at least one) positions."""
    shape = [1] * len(extents)
    room = max(positions, 1)
    for axis in reversed(range(len(extents))):
        shape[axis] = min(max(extents[axis], 1), room)
        if shape[axis] < extents[axis]:
            # Equal parts: a short last box would waste the matrix product's set-up.
            parts = -(-extents[axis] // shape[axis])
            shape[axis] = -(-extents[axis] // parts)
            break
        room //= shape[axis]
    return tuple(shape)


def boxes(extents: Sequence[int], shape: Sequence[int]) -> Iterator[Box]:
    """Yield boxes of at most ``shape`` that together cover ``extents``, in memory order."""
    if not extents:
        yield ()
        return
    for start in range(0, extents[0], shape[0]):
        for rest in boxes(extents[1:], shape[1:]):
            yield ((start, min(start + shape[0], extents[0])), *rest)


def slices(box: Box) -> tuple[slice, ...]:
    """Index that selects a box."""
    return tuple(slice(start, stop) for start, stop in box)


def block_extents(shape: Sequence[int], kernel: Sequence[int], g: Windowed) -> tuple[int, ...]:
    """Spatial extents of the input that ``shape`` output positions read."""
    return tuple(
        (q - 1) * s + d * (k - 1) + 1
        for q, k, s, d in zip(shape, kernel, g.stride, g.dilation, strict=True)
    )


def gather_block(
    x: NDArray, box: Box, kernel: Sequence[int], g: Windowed, scratch: NDArray, fill: float = 0.0
) -> Block:
    """Return the padded input that the output positions of ``box`` read, (n, *extents, C).

    A view of ``x`` where nothing is padded and ``x`` is contiguous, else a copy in ``scratch``
    (1-D, long enough). Pads may be negative: then ``x`` is cropped.
    """
    samples = slice(*box[0])
    extents = block_extents([stop - start for start, stop in box[1:]], kernel, g)
    starts = [
        start * s - lo for (start, _), s, (lo, _) in zip(box[1:], g.stride, g.pads, strict=True)
    ]
    inside = all(
        start >= 0 and start + extent <= i
        for start, extent, i in zip(starts, extents, g.input, strict=True)
    )
    if inside and x.flags.c_contiguous:
        cut = (samples, *(slice(p, p + e) for p, e in zip(starts, extents, strict=True)))
        return Block(x[cut], x)
    shape = (box[0][1] - box[0][0], *extents, x.shape[-1])
    block = scratch[: math.prod(shape)].reshape(shape)
    source, target = [samples], [slice(None)]
    for start, extent, i in zip(starts, extents, g.input, strict=True):
        first, last = max(start, 0), min(start + extent, i)
        if first >= last:  # the box sees nothing but padding
            block.fill(fill)
            return Block(block, scratch)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    if not inside:
        block.fill(fill)
    block[tuple(target)] = x[tuple(source)]
    return Block(block, scratch)


def tap_view(block: NDArray, tap: Sequence[int], shape: Sequence[int], g: Windowed) -> NDArray:
    """Return the input elements that one kernel tap meets: (n, *shape, C), a view of ``block``."""
    spatial = (
        slice(t * d, t * d + (q - 1) * s + 1, s)
        for t, q, s, d in zip(tap, shape, g.stride, g.dilation, strict=True)
    )
    index = (slice(None), *spatial)
    return block[index]
