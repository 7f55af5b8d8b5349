"""How pooling is cut into blocks, and which taps and windows meet the array.

A block computes a tile of positions in up to 32 channels; a thread one channel and a run of
positions along the width. ``cut``, one argument of every pooling kernel, holds

    0  binary logarithm of the channels of a block      3  parts of the channels
    1  plane: elements of a channel in shared memory    4  the same as 0 for loads, see load_tile
    2  run: positions of a thread                       5  runs of a tile
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuconv_kernels.device import halo
from gpuconv_kernels.device.halo import Extents, divide, divide_up, int32, integers
from gpuconv_kernels.device.launch import ceil_div
from gpuconv_kernels.device.target import SIMULATED, inlined

THREADS = 16 if SIMULATED else 256
MIN_BLOCKS = 3  # without a number the assembler saves registers and spills
CUT = 6

_RUN = 2 if SIMULATED else 8
_MAX_LANE_BITS = 2 if SIMULATED else 5


def TEAMS(threads: int) -> int:
    """Return how many teams of threads that load together a block has."""
    return threads >> halo.TEAM_BITS


@dataclass(frozen=True)
class Plan:
    """How one pooling is cut into blocks.

    Attributes:
        tiled: whether inputs go through shared memory.
        lane_bits: binary logarithm of the channels of a block.
        run: positions of a thread.
        tile, halo: positions that a block computes and those it reads.
        tiles: how many there are along each dimension.
        parts: of the channels.
        blocks: in the grid.
    """

    tiled: bool
    lane_bits: int
    run: int
    tile: Extents
    halo: Extents
    tiles: Extents
    parts: int
    blocks: int

    @property
    def plane(self) -> int:
        """Elements of one channel in shared memory."""
        return halo.odd(math.prod(self.halo))

    @property
    def numbers(self) -> int:
        """Elements of shared memory."""
        return self.plane << self.lane_bits if self.tiled else 0


def overlaps(g: Any) -> bool:
    """Whether some input may lie in more than one window."""
    return any(
        o > 1 and s < d * (k - 1) + 1
        for o, s, d, k in zip(g.output, g.stride, g.dilation, g.window, strict=True)
    )


@functools.lru_cache(maxsize=4096)
def forward_plan(g: Any, itemsize: int) -> Plan:
    """Return the plan of a forward pass, of which ``itemsize`` bytes an input are staged."""
    window, stride = halo.volume(g.window, 1), halo.volume(g.stride, 1)
    dilation = halo.volume(g.dilation, 1)

    def halo_of(tile: Extents) -> Extents:
        return halo.convolution_halo(tile, window, stride, dilation)

    return _plan(g, g.output, halo_of, itemsize)


@functools.lru_cache(maxsize=4096)
def backward_plan(g: Any, itemsize: int) -> Plan:
    """Return the plan of a backward pass, of which ``itemsize`` bytes an output are staged."""
    window, stride = halo.volume(g.window, 1), halo.volume(g.stride, 1)
    dilation = halo.volume(g.dilation, 1)

    def halo_of(tile: Extents) -> Extents:
        d, h, w = (
            (t - 1 + (k - 1) * e) // s + 1
            for t, s, k, e in zip(tile, stride, window, dilation, strict=True)
        )
        return d, h, w

    return _plan(g, g.input, halo_of, itemsize)


def _plan(
    g: Any, extents: Sequence[int], halo_of: Callable[[Extents], Extents], itemsize: int
) -> Plan:
    computed = halo.volume(extents, 1)
    bits = halo.bits_for(g.channels, _MAX_LANE_BITS)
    slots = THREADS >> bits
    run = min(_RUN, computed[2])
    tile = None
    if overlaps(g):
        capacity = halo.SHARED_BYTES // (itemsize << bits)
        slot_cost = run * (20 + 8 * g.taps)
        tile = halo.choose_tile(computed, slots, run, halo_of, capacity, 20, slot_cost)
    tiled = tile is not None
    if tile is None:
        tile = halo.choose_tile(computed, slots, run, lambda _: (1, 1, 1), 1, 0, 1)
        assert tile is not None  # every tile fits
    tiles, parts = halo.tiles_of(computed, tile), ceil_div(g.channels, 1 << bits)
    blocks = g.batch * math.prod(tiles) * parts
    return Plan(tiled, bits, run, tile, halo_of(tile), tiles, parts, blocks)


def arguments(g: Any, plan: Plan, source: Sequence[int], extents: Sequence[int]) -> tuple[Any, ...]:
    """Return what every pooling kernel takes after its arrays."""
    return (
        g.channels,
        integers(*halo.volume(source, 1)),
        integers(*halo.volume(g.window, 1)),
        integers(*halo.volume(g.stride, 1)),
        integers(*halo.volume(g.dilation, 1)),
        integers(*halo.volume([lo for lo, _ in g.pads], 0)),
        integers(*plan.tile),
        integers(*plan.halo),
        integers(*plan.tiles),
        integers(
            plan.lane_bits,
            plan.plane,
            plan.run,
            plan.parts,
            min(plan.lane_bits, halo.TEAM_BITS),
            plan.tile[2] // plan.run,
        ),
        integers(*halo.volume(extents, 1)),
    )


# --- on the device ---------------------------------------------------------------------


@inlined
def taps_inside(start, extent, window, dilation):  # type: ignore[no-untyped-def]
    """Return the first tap and the one after the last that lie in the array, in one dimension.

    ``start`` is where the window begins; taps stand at ``start + t*dilation``.
    """
    first, last = int32(0), window
    # The divisions are for the border alone.
    if start < 0:
        first = min(divide_up(int32(-start), dilation), window)
    if int32(start + int32(int32(window - int32(1)) * dilation)) >= extent:
        last = min(divide_up(int32(extent - start), dilation), window)
    return first, max(first, last)


@inlined
def first_of(position, pad, window, stride, dilation):  # type: ignore[no-untyped-def]
    """Return the first window that may contain a position of the input, in one dimension."""
    reach = int32(int32(window - int32(1)) * dilation)
    return divide_up(int32(int32(position + pad) - reach), stride)


@inlined
def last_of(position, pad, stride):  # type: ignore[no-untyped-def]
    """Return the window after the last that may contain a position of the input."""
    return int32(divide(int32(position + pad), stride) + int32(1))
