"""How the engine ``cuda:numba`` carries out an operation: the kernel, its workspace, and why.

One decision serves both the plan that the dispatcher compares and the call that follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpuconv.backends import cost
from gpuconv.backends.base import Plan, Refusal
from gpuconv.backends.device_profile import DeviceProfile
from gpuconv.backends.units import in_bytes
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv_kernels.device import depthwise_gradient, implicit_gemm, weight_gradient
from gpuconv_kernels.device.direct_plans import supports, supports_backward_input, tile_extents
from gpuconv_kernels.device.tiles import Choice
from gpuconv_kernels.device.transpose import packed_elements


@dataclass(frozen=True, slots=True)
class Way:
    """One way to carry out a convolution, and what it is expected to cost.

    Attributes:
        algorithm: ``"direct"`` or ``"implicit_gemm"``.
        estimate: predicted seconds, and the reasons in words.
        packed: elements of scratch memory for weights that are turned for the way back.
        partial: elements of scratch memory for sums that several blocks share.
        choice: tile and parts of a single implicit GEMM; None where each phase has its own.
        parts: in how many parts the sums of a direct weight gradient are cut.
    """

    algorithm: str
    estimate: cost.Estimate
    packed: int = 0
    partial: int = 0
    choice: Choice | None = None
    parts: int = 1

    def workspace_bytes(self, dtype: str) -> int:
        """Scratch memory in bytes."""
        return (self.packed + self.partial) * np.dtype(dtype).itemsize


def plan_convolution(
    op: str, g: ConvGeometry, dtype: str, workspace_limit: int, profile: DeviceProfile
) -> Plan | Refusal:
    """Return the plan of a convolution or one of its gradients."""
    way = choose_way(op, g, dtype, workspace_limit, profile)
    if isinstance(way, Refusal):
        return way
    seconds, words = way.estimate
    return Plan(way.algorithm, way.workspace_bytes(dtype), words, seconds)


def plan_pooling(op: str, g: PoolGeometry, dtype: str, profile: DeviceProfile) -> Plan:
    """Return the plan of a pooling or its gradient."""
    seconds, words = cost.pooling(profile, op, g, dtype, tile=g.output)
    return Plan("reduction" if g.is_global else "tiled", 0, words, seconds)


@lru_cache(maxsize=4096)
def choose_way(
    op: str, g: ConvGeometry, dtype: str, workspace_limit: int, profile: DeviceProfile
) -> Way | Refusal:
    """Return the way that is expected to be fastest among those within the workspace limit."""
    room = workspace_limit // np.dtype(dtype).itemsize
    find = _weight_ways if op == "conv_backward_weight" else _input_ways
    ways = list(find(op, g, dtype, room, profile))
    possible = [way for way in ways if way.packed + way.partial <= room]
    if possible:
        return min(possible, key=lambda way: way.estimate.seconds)
    least = min(way.workspace_bytes(dtype) for way in ways)
    return Refusal(
        f"needs {in_bytes(least)} of workspace to turn the weights or to share sums; "
        f"{in_bytes(workspace_limit)} are allowed"
    )


def _input_ways(
    op: str, g: ConvGeometry, dtype: str, room: int, profile: DeviceProfile
) -> Iterator[Way]:
    """Forward, and backward_input, which is a forward of ``dy`` for each phase of the stride."""
    backward = op == "conv_backward_input"
    phases = [p.geometry for p in g.backward_input_phases if p.geometry] if backward else [g]
    refused = (supports_backward_input if backward else supports)(g, dtype)
    if refused is None:
        yield Way("direct", _direct(profile, op, g, dtype, max(len(phases), 1)))
    packed = packed_elements(g) if backward else 0
    count = profile.multiprocessors
    choices = [implicit_gemm.choose_tile(p, dtype, count) for p in phases]
    needed = (
        implicit_gemm.backward_partial_elements(g, dtype, count)
        if backward
        else implicit_gemm.partial_elements(g, dtype, count)
    )
    if packed + needed > room:
        choices = [implicit_gemm.choose_tile(p, dtype, count, may_split=False) for p in phases]
        needed = 0
    estimate = _implicit_gemm(profile, op, g, dtype, choices, backward)
    yield Way("implicit_gemm", estimate, packed, needed, None if backward else choices[0])


def _weight_ways(
    op: str, g: ConvGeometry, dtype: str, room: int, profile: DeviceProfile
) -> Iterator[Way]:
    """backward_weight, whose sums over all pixels are shared by several blocks."""
    if depthwise_gradient.supports(g, dtype) is None:
        one = depthwise_gradient.partial_elements(g, dtype, 1)
        parts = depthwise_gradient.choose_splits(g, dtype, profile.multiprocessors)
        parts = max(1, min(parts, room // one))
        yield Way("direct", _direct(profile, op, g, dtype, 2), partial=parts * one, parts=parts)
    choice = weight_gradient.choose_splits(g, dtype, profile.multiprocessors)
    needed = weight_gradient.partial_elements(g, choice.parts)
    if needed > room:
        choice = weight_gradient.choose_splits(g, dtype, profile.multiprocessors, may_split=False)
        needed = 0
    estimate = _implicit_gemm(profile, op, g, dtype, [choice], backward=True)
    yield Way("implicit_gemm", estimate, partial=needed, choice=choice)


def _direct(
    profile: DeviceProfile, op: str, g: ConvGeometry, dtype: str, launches: int
) -> cost.Estimate:
    if op == "conv_backward_weight":
        tile = depthwise_gradient.tile_extents(g, dtype)
    elif op == "conv_backward_input":
        phases = [p.geometry for p in g.backward_input_phases if p.geometry]
        tile = tile_extents(phases[0], dtype) if phases else g.input
    else:
        tile = tile_extents(g, dtype)
    return cost.direct(profile, op, g, dtype, tile, launches)


def _implicit_gemm(
    profile: DeviceProfile,
    op: str,
    g: ConvGeometry,
    dtype: str,
    choices: Sequence[Choice],
    backward: bool,
) -> cost.Estimate:
    if not choices:  # no tap reaches the input: zeros are written
        return cost.Estimate(profile.launch_seconds, "no tap reaches the input")
    largest = max(choices, key=lambda choice: choice.blocks)
    tile = (largest.tile.rows, largest.tile.columns, largest.tile.depth)
    return cost.implicit_gemm(
        profile,
        op,
        g,
        dtype,
        tile,
        splits=largest.parts,
        launches=len(choices) + 1 if backward else 1,
        efficiency=largest.tile.efficiency,
    )
