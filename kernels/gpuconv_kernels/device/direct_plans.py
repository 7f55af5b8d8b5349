"""How a direct convolution is cut into blocks, and when it cannot be.

device/direct.py has the kernel and its picture. A plan follows from the geometry and the dtype
alone: how many outputs and filters a thread has, how many threads stand side by side in filters,
which box of outputs a block computes so that the inputs around it fit into shared memory, and how
many of the kernel's rows have their weights beside them at a time.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device import halo
from gpuconv_kernels.device.halo import Extents
from gpuconv_kernels.device.launch import ceil_div
from gpuconv_kernels.device.target import SIMULATED, lanes

MAX_CHANNELS = 8
"""Input channels of a group; with more, implicit GEMM reuses its inputs better."""

THREADS = 16 if SIMULATED else 256
_MAX_LANE_BITS = 1 if SIMULATED else 3  # of threads that hold neighbouring filters, 16 bytes each
UNROLLED = (3, 5, 7)  # kernel widths; with stride 1 or 2 and no dilation


@dataclass(frozen=True)
class Variant:
    """What is a constant of the compiled kernel.

    Attributes:
        run: outputs of a thread along the width, ``P``.
        vectors, vector: a thread has ``vectors`` runs of ``vector`` neighbouring filters.
        taps, stride, dilation: along the width, if the loop over taps is unrolled, else 0.
    """

    run: int
    vectors: int
    vector: int
    taps: int
    stride: int
    dilation: int

    def __str__(self) -> str:
        taps = f"taps {self.taps}/{self.stride}" if self.taps else "any taps"
        return f"{self.run}x{self.vectors * self.vector}, {taps}"


@dataclass(frozen=True)
class Plan:
    """How one convolution is cut into blocks.

    Attributes:
        variant: of the kernel.
        lane_bits: binary logarithm of how many threads stand side by side in filters.
        tile, halo: outputs of a block and inputs that it reads.
        channels: input channels of a tile.
        rows: kernel rows whose weights are staged at a time.
    """

    variant: Variant
    lane_bits: int
    tile: Extents
    halo: Extents
    channels: int
    rows: int

    @property
    def width(self) -> int:
        """Filters of a block."""
        return self.variant.vectors * self.variant.vector << self.lane_bits


def supports(geometry: Any, dtype: str) -> str | None:
    """Return why ``direct.conv_forward`` cannot compute this convolution, or None if it can."""
    plan = plan_of(geometry, dtype)
    return plan if isinstance(plan, str) else None


def supports_backward_input(geometry: Any, dtype: str) -> str | None:
    """Return why ``direct.conv_backward_input`` cannot compute this, or None if it can."""
    for phase in geometry.backward_input_phases:
        if phase.geometry is not None:
            reason = supports(phase.geometry, dtype)
            if reason is not None:
                return reason
    return None


def tile_extents(geometry: Any, dtype: str) -> tuple[int, ...]:
    """Return the extents of a block's outputs, one for each spatial dimension.

    Raises:
        ValueError: :func:`supports` gives a reason why not.
    """
    plan = plan_of(geometry, dtype)
    if isinstance(plan, str):
        raise ValueError(f"{plan}. Received: {geometry}")
    return plan.tile[3 - len(geometry.kernel) :]


@functools.lru_cache(maxsize=4096)
def plan_of(geometry: Any, dtype: str) -> Plan | str:
    """Return how a convolution is cut into blocks, or why it cannot be."""
    g = geometry
    group_channels, group_filters = g.in_channels // g.groups, g.out_channels // g.groups
    if group_channels > MAX_CHANNELS:
        return (
            f"direct convolution takes up to {MAX_CHANNELS} channels a group, here there are "
            f"{group_channels}"
        )
    variant = _variant(g, dtype)
    each = variant.vectors * variant.vector
    # Lanes side by side: enough for the filters, at most a warp of single ones.
    most = _MAX_LANE_BITS if variant.vector > 1 else halo.TEAM_BITS
    lane_bits = halo.bits_for(ceil_div(g.out_channels, each), most)
    least_bits = min(lane_bits, 3)  # 8 lanes and more read whole sectors of 32 bytes
    while lane_bits >= least_bits:
        plan = _plan_with(g, dtype, variant, lane_bits, group_channels, group_filters)
        if plan is not None:
            return plan
        lane_bits -= 1
    return (
        f"the smallest tile of input that direct convolution could use needs more than the "
        f"{halo.SHARED_BYTES // 1024} KiB of shared memory of a block"
    )


def _plan_with(
    g: Any, dtype: str, variant: Variant, lane_bits: int, group_channels: int, group_filters: int
) -> Plan | None:
    itemsize = np.dtype(dtype).itemsize
    each = variant.vectors * variant.vector
    width = each << lane_bits
    kernel, stride = halo.volume(g.kernel, 1), halo.volume(g.stride, 1)
    dilation = halo.volume(g.dilation, 1)
    rows = kernel[0] * kernel[1]
    row_bytes = group_channels * kernel[2] * width * itemsize
    channels = halo.tile_channels(g.out_channels, width, group_channels, group_filters)
    room = halo.SHARED_BYTES - row_bytes
    if room <= 0:
        return None

    def halo_of(tile: Extents) -> Extents:
        return halo.convolution_halo(tile, kernel, stride, dilation)

    slots = THREADS >> lane_bits
    products = variant.run * each * math.prod(kernel) * group_channels
    tile = halo.choose_tile(
        halo.volume(g.output, 1),
        slots,
        variant.run,
        halo_of,
        room // (channels * itemsize),
        load_cost=16 * channels,
        slot_cost=(products + 8 * variant.run * each + 100) << lane_bits,
    )
    if tile is None:
        return None
    around = halo_of(tile)
    room = halo.SHARED_BYTES - channels * halo.odd(math.prod(around)) * itemsize
    stage = max(1, min(rows, room // row_bytes))
    return Plan(variant, lane_bits, tile, around, channels, stage)


def _variant(g: Any, dtype: str) -> Variant:
    wide = lanes(dtype)
    run = 2 if SIMULATED else {"float32": 8, "float64": 4}[dtype]
    group_filters = g.out_channels // g.groups
    vectors, vector = 1, 1
    if g.groups == 1:
        # 8 filters a thread, or, where there are few, 16 bytes of them.
        vectors, vector = (8 // wide if g.out_channels > 16 and not SIMULATED else 1), wide
    elif group_filters % wide == 0:
        vector = wide
    taps, stride, dilation = g.kernel[-1], g.stride[-1], g.dilation[-1]
    if taps not in UNROLLED or stride > 2 or dilation > 1:
        taps, stride, dilation = 0, 0, 0  # in a loop, whatever they are
    return Variant(run, vectors, vector, taps, stride, dilation)
