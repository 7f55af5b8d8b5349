"""How ``cpu:jit`` computes a convolution: which kernel, its workspace, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpuconv.backends.base import Plan
from gpuconv.geometry import ConvGeometry
from gpuconv.settings import config
from gpuconv_kernels.host import (
    depthwise,
    depthwise_weights,
    direct,
    few_channels_forward,
    few_channels_weights,
    grouped,
    weight_gradient,
    winograd,
)
from gpuconv_kernels.host.extents import numbers_of
from gpuconv_kernels.host.few_channels import patched
from gpuconv_kernels.host.target import host
from gpuconv_kernels.host.winograd_tiles import up

_TRANSFORM = 14
"""Multiply-adds in whose time one number of a patch or of a tile of products is transformed."""
_FILTER_TRANSFORM = 20
"""The same for one number of the transformed filters."""
_PRODUCT = 1.15
"""Multiply-adds of small products take so much longer than those of direct convolution."""
_LEAST_CHANNELS = 16
"""Channels, and filters, below which the transforms are all that counts."""
_SHARE = 0.246
"""Winograd's workspace should be no larger than this part of the arrays: with what else a call
allocates, a quarter."""
_DIRECT = 1.3
"""A multiply-add of direct convolution takes as long as so many where Winograd's are estimated."""
_DIRECT_GRADIENT = 1.2
"""The gradient of the weights takes so many times as long as is estimated, beside Winograd's."""
_SMALL = 1.08
"""Tiles of 2 have to be so many times as fast as others: each tile has code to be compiled."""
_PACKED = 20
"""And a weight that is packed as long as so many."""
_TILES = (2, 4, 6)
_AUTOMATIC = 4


@dataclass(frozen=True)
class Way:
    """How one convolution is computed.

    Attributes:
        tile: outputs of a tile in each dimension with Winograd's method; 0: not that method.
        limit: bytes that it is asked to stay within.
        plan: the same in words, with the workspace.
    """

    tile: int
    limit: int
    plan: Plan


def choose_way(op: str, g: ConvGeometry, dtype: str, workspace_limit: int) -> Way:
    """Choose the kernel for ``op``, a method of the engine contract, under the settings."""
    _, setting, threads = config.planning
    return _choose(op, g, dtype, workspace_limit, setting, threads)


@lru_cache(maxsize=4096)
def _choose(
    op: str, g: ConvGeometry, dtype: str, workspace_limit: int, setting: str | int, threads: int
) -> Way:
    if depthwise.covers(g):
        needed = 0
        if op == "conv_backward_weight":
            needed = depthwise_weights.workspace_bytes(g, dtype)
        if g.is_depthwise:
            reason = "one input channel a group: vectors of channels, no product to reduce over"
            return Way(0, 0, Plan("depthwise", needed, reason))
        few = f"{g.in_channels // g.groups} channels and {g.out_channels // g.groups} filters"
        reason = f"{few} a group: vectors across groups, a product for each would leave them empty"
        return Way(0, 0, Plan("small-groups", needed, reason))
    most = {"auto": _AUTOMATIC, "off": 0}.get(str(setting), setting)
    arrays = numbers_of(g) * np.dtype(dtype).itemsize
    limit = min(workspace_limit, int(_SHARE * arrays))
    tile = _fastest_tile(op, g, int(most), dtype, limit)
    if tile:
        needed = winograd.workspace_bytes(op, g, dtype, tile, limit=limit)
        if needed <= workspace_limit:
            count = _products(op, g, tile) / _direct_products(g)
            reason = (
                f"Winograd's F({tile}x{tile}, 3x3): {count:.0%} of the multiply-adds, transforms "
                f"included, for some more rounding (gpuconv.config.winograd)"
            )
            return Way(tile, limit, Plan(f"winograd-{tile}x{tile}", needed, reason))
    return Way(0, 0, _direct_plan(op, g, dtype))


def _direct_plan(op: str, g: ConvGeometry, dtype: str) -> Plan:
    by_lines = few_channels_forward.pays(patched(g), dtype) and op == "conv_forward"
    if op == "conv_backward_weight":
        by_lines = few_channels_weights.pays(patched(g))
        needed, what = weight_gradient.workspace_bytes(g, dtype), "channels"
    elif op == "conv_backward_input":
        needed, what = direct.backward_input_workspace_bytes(g, dtype), "pixels"
    else:
        needed, what = direct.workspace_bytes(g, dtype), "pixels"
    lie = "read where they lie"
    if op != "conv_backward_weight" and grouped.pays(g, dtype, host()):
        lie = "copied group by group, a few lines at a time"
    reason = f"tiles of {what} x filters in registers, {lie}: no columns"
    if by_lines:
        reason += "; taps of a line count as channels, since there are few of these"
    return Plan("direct", needed, reason)


def _fastest_tile(op: str, g: ConvGeometry, most: int, dtype: str, limit: int) -> int:
    """The tile that is expected to be faster than direct convolution, or 0."""
    few = min(g.in_channels, g.out_channels) < _LEAST_CHANNELS
    if few or not g.batch or winograd.supports(op, g) is not None:
        return 0
    counts = {m: _products(op, g, m) for m in _TILES if m <= most}
    # How one tile is cut is found by trying: not for those that need far more products.
    tiles = [m for m, count in counts.items() if count < 2 * min(counts.values())]
    times = {
        m: winograd.estimate(op, g, dtype, m, limit) * (_SMALL if m == 2 else 1) for m in tiles
    }
    if op == "conv_backward_weight":
        direct_time = _DIRECT_GRADIENT * weight_gradient.estimate(g, dtype)
    else:
        results = g.in_channels if op == "conv_backward_input" else g.out_channels
        computed = up(results, host().lanes(dtype)) / results  # empty lanes included
        direct_time = _DIRECT * _direct_products(g) * computed + _PACKED * math.prod(g.w_shape)
    best = min(times, key=lambda m: times[m], default=0)
    return best if best and times[best] < direct_time else 0


def _products(op: str, g: ConvGeometry, m: int) -> float:
    """What Winograd's method costs, in multiply-adds."""
    tiled = g.input if op == "conv_backward_input" else g.output
    elements = (m + 2) ** 2
    tiles = g.batch * math.prod(-(-extent // m) for extent in tiled)
    pairs = g.in_channels * g.out_channels
    transforms = _TRANSFORM * tiles * (g.in_channels + g.out_channels)
    return elements * (_PRODUCT * tiles * pairs + transforms + _FILTER_TRANSFORM * pairs)


def _direct_products(g: ConvGeometry) -> int:
    return 9 * g.batch * math.prod(g.output) * g.in_channels * g.out_channels
