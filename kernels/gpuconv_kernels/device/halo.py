"""Tiles of a channels-last array with their halo in shared memory: what windows read several times.

A block of threads computes a tile of outputs, at some positions in some channels. Windows that
overlap read the same inputs, so the block first copies all that its windows meet: the tile's
own positions and, around them, the halo::

    outputs of a tile      what 3 x 3 windows of stride 1 read
                           h h h h h h
        o o o o            h i i i i h        channels lie side by side in global memory, where a
        o o o o            h i i i i h        team of threads reads them together; in shared
                           h h h h h h        memory each channel is a plane of its own

A plane's size is odd, so the threads of a team, each in its own channel at the same position,
use different banks. Where the halo lies outside of the array there are zeros.

Spatial extents are always three here, (depth, height, width), those that are missing 1. Source:
NVIDIA, "CUDA C++ Programming Guide", sections on shared memory and its banks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div
from gpuconv_kernels.device.target import SIMULATED, cuda, inlined, types

int32, int64, uint32, uint64 = types.int32, types.int64, types.uint32, types.uint64

SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that a block may have on every device without asking for more."""

TEAM_BITS = 3 if SIMULATED else 5
"""Binary logarithm of how many threads read together: a warp."""

TRIPLE = types.UniTuple(types.int32, 3)
"""Numba's type of extents."""

Extents = tuple[int, int, int]

_BATCH = 4  # loads of a thread that are on their way before the first is stored


# --- on the host -----------------------------------------------------------------------


def volume(values: Sequence[int], fill: int) -> Extents:
    """Return one to three numbers as three, ``fill`` in front."""
    d, h, w = (*(fill,) * (3 - len(values)), *values)
    return d, h, w


def integers(*values: int) -> Any:
    """Return a tuple as kernels take it: int32 on a device, Python's integers in the simulator.

    Raises:
        ValueError: a number that does not fit into int32.
    """
    if SIMULATED:
        return values
    if any(not -(2**31) < value < 2**31 for value in values):
        raise ValueError(f"a kernel's integers are 32 bits wide. Received: {values}")
    return tuple(map(np.int32, values))


def bits_for(count: int, most: int) -> int:
    """Return the binary logarithm of the least power of two from ``count`` on, at most ``most``."""
    return min((count - 1).bit_length(), most)


def odd(count: int) -> int:
    """Return ``count`` or the number after it."""
    return count | 1


def tiles_of(extents: Extents, tile: Extents) -> Extents:
    """Return how many tiles there are along each dimension."""
    d, h, w = (ceil_div(n, t) for n, t in zip(extents, tile, strict=True))
    return d, h, w


def convolution_halo(tile: Extents, kernel: Extents, stride: Extents, dilation: Extents) -> Extents:
    """Return the extents of the input that a tile of outputs reads."""
    d, h, w = (
        (t - 1) * s + (k - 1) * e + 1
        for t, s, k, e in zip(tile, stride, kernel, dilation, strict=True)
    )
    return d, h, w


def tile_channels(filters: int, width: int, group_channels: int, group_filters: int) -> int:
    """Return how many input channels ``width`` filters read, from a multiple of it on, at most."""
    if width % group_filters == 0 or group_filters % width == 0:
        groups = max(1, width // group_filters)
    else:
        groups = (width - 2) // group_filters + 2
    return min(groups, ceil_div(filters, group_filters)) * group_channels


def choose_tile(
    extents: Extents,
    slots: int,
    run: int,
    halo_of: Callable[[Extents], Extents],
    capacity: int,
    load_cost: int,
    slot_cost: int,
) -> Extents | None:
    """Return the tile with which a whole array costs least, or None if the least does not fit.

    Args:
        extents: of what is computed.
        slots: threads at different positions; each takes ``run`` positions along the width.
        run: see ``slots``; the width of a tile is a multiple of it.
        halo_of: what a tile reads.
        capacity: positions that fit into shared memory.
        load_cost, slot_cost: instructions for a position that is read, and for a slot, busy or
            not.
    """
    best, least = None, 0
    for tile in _candidates(extents, slots, run):
        halo = math.prod(halo_of(tile))
        if odd(halo) > capacity:
            continue
        cost = math.prod(tiles_of(extents, tile)) * (halo * load_cost + slots * slot_cost)
        if best is None or cost < least:
            best, least = tile, cost
    return best


def _candidates(extents: Extents, slots: int, run: int) -> Iterator[Extents]:
    for d in _halves(min(extents[0], slots)):
        for h in range(1, min(extents[1], slots // d) + 1):
            runs = min(ceil_div(extents[2], run), slots // (d * h))
            for w in _halves(runs):
                yield d, h, w * run


def _halves(most: int) -> Iterator[int]:
    while most:
        yield most
        most //= 2


# --- on the device ---------------------------------------------------------------------


@inlined
def divide(a, b):  # type: ignore[no-untyped-def]
    """Quotient of two int32 that are not negative, without 64-bit arithmetic."""
    return int32(uint32(a) // uint32(b))


@inlined
def divide_up(a, b):  # type: ignore[no-untyped-def]
    """The same, rounded up; 0 where ``a`` is negative."""
    return int32(uint32(max(int32(a), int32(0)) + b - int32(1)) // uint32(b))


@inlined
def locate(block, parts, tiles):  # type: ignore[no-untyped-def]
    """Return ``(sample, d, h, w, part)`` of a block: its tile and its part of the channels.

    Blocks that read the same positions follow one another, so the second finds them in cache.
    """
    rest = divide(block, parts)
    part = int32(block - rest * parts)
    block = rest
    rest = divide(block, tiles[2])
    w = int32(block - rest * tiles[2])
    block = rest
    rest = divide(block, tiles[1])
    h = int32(block - rest * tiles[1])
    sample = divide(rest, tiles[0])
    return sample, int32(rest - sample * tiles[0]), h, w, part


@inlined
def place_in_tile(slot, rows, runs):  # type: ignore[no-untyped-def]
    """Return ``(d, h, w)`` of a slot in a tile of ``rows`` (its height) times ``runs``."""
    line = divide(slot, runs)
    d = divide(line, rows)
    return d, int32(line - d * rows), int32(slot - line * runs)


@inlined
def load_tile(shared, first, plane, halo, x, sample, corner, extents, channels, start, bits, teams):  # type: ignore[no-untyped-def]
    """Copy a tile of ``x`` (N, *extents, channels) with its halo; zeros where nothing is.

    All threads of the block call it, and wait for one another afterwards.

    Args:
        shared, first, plane: where: ``shared[first + c*plane + (d*halo[1] + h)*halo[2] + w]``.
        halo: extents of what is copied.
        corner: position of its first element in ``x``; parts of it may be negative.
        start: (first channel, number of channels in the tile); those past the last are left out.
        bits: binary logarithm of how many threads of a team stand side by side in channels.
        teams: how many there are in the block.
    """
    thread = int32(cuda.threadIdx.x)
    member = thread & int32((1 << TEAM_BITS) - 1)
    lanes = int32(int32(1) << bits)
    step = int32(int32(1 << TEAM_BITS) >> bits)
    count = min(start[1], int32(channels - start[0]))
    value = cuda.local.array(_BATCH, x.dtype)
    # `while`, because a range with a step that is not a constant begins with a division.
    for d in range(halo[0]):
        in_d = int32(corner[0] + d)
        h = int32(thread >> int32(TEAM_BITS))
        while h < halo[1]:
            in_h = int32(corner[1] + h)
            inside = in_d >= 0 and in_d < extents[0] and in_h >= 0 and in_h < extents[1]
            pixel = (int64(sample) * extents[0] + in_d) * extents[1] + in_h
            row = (pixel * extents[2] + corner[2]) * channels + start[0]
            line = int32(first + int32(int32(int32(d * halo[1]) + h) * halo[2]))
            c = int32(member & (lanes - int32(1)))
            while c < count:
                into = int32(line + int32(c * plane))
                w = int32(member >> bits)
                while w < halo[2]:
                    for i in range(_BATCH):
                        at = int32(w + int32(i * step))
                        in_w = int32(corner[2] + at)
                        value[i] = 0
                        if inside and at < halo[2] and in_w >= 0 and in_w < extents[2]:
                            value[i] = x[uint64(row + int64(at) * channels + c)]
                    for i in range(_BATCH):
                        at = int32(w + int32(i * step))
                        if at < halo[2]:
                            shared[uint32(into + at)] = value[i]
                    w = int32(w + int32(_BATCH * step))
                c = int32(c + lanes)
            h = int32(h + teams)
