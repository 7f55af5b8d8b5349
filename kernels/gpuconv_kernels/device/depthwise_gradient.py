"""Weight gradient of convolutions with few input channels a group, such as depthwise ones.

Each weight is a sum over all pixels, and there are few weights: as a matrix product this would be
long and very thin. Here a thread holds the sums of some taps of one filter in registers and walks
over pixels. The input, which every tap reads, lies in shared memory with its halo (halo.py);
``dy`` is read from global memory, once for all the taps of a block::

    one thread: filter f, P outputs of a row at a time            acc[row, t]
                                                                    += x[p*s + t*d, row] * dy[p]
    one block: neighbouring filters side by side, slots at other positions of a tile, then the
               next tile of its share; at the end the slots' sums are added in a fixed order

    1st kernel   shares 0 .. S-1 of the tiles    ->  partial (S, taps, C/g, F)
    2nd kernel   adds the S parts in order       ->  dw (taps, C/g, F)

There are no atomics, so the same inputs give the same bits. Kernel rows (and channels of a group)
that do not fit into a thread's registers are other blocks. The kernel's width and stride are
constants of the compiled code where they are usual; else each tap counts as a row.

Limits: at most ``direct_plans.MAX_CHANNELS`` input channels a group; the smallest tile must fit
into 48 KiB; ``supports`` says why not. An input of infinity or NaN may reach taps that meet it only
in outputs past the last of a row.

Source: the two-stage sum is that of Harris 2007, "Optimizing Parallel Reduction in CUDA".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.device import halo
from gpuconv_kernels.device.direct_plans import MAX_CHANNELS
from gpuconv_kernels.device.halo import TRIPLE, Extents, int32, int64, integers, uint32, uint64
from gpuconv_kernels.device.launch import Array, ceil_div, elementwise_grid, launch
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, real, types
from gpuconv_kernels.device.tiles import multiprocessors

_THREADS = 16 if SIMULATED else 256
_MIN_BLOCKS = 2  # without a number the assembler saves registers and spills
_MAX_LANE_BITS = 2 if SIMULATED else 5
_BLOCKS_FOR_EACH_MULTIPROCESSOR = 1 if SIMULATED else 8
_ROWS = {3: 3, 5: 5, 7: 4}
"""Kernel rows of a thread by the kernel's width: about 20 sums in registers."""
_TAPS_IN_A_LOOP = 4


@dataclass(frozen=True)
class Variant:
    """What is a constant of the compiled kernel.

    Attributes:
        run: outputs along the width that a thread takes at a time.
        rows: kernel rows (or, if ``taps`` is 1, taps) whose sums a thread holds.
        taps: of a row.
        stride: along the width; 0 if it is no constant.
    """

    run: int
    rows: int
    taps: int
    stride: int

    def __str__(self) -> str:
        return f"{self.run}, taps {self.rows}x{self.taps}/{self.stride or 'any'}"


@dataclass(frozen=True)
class Plan:
    """How one weight gradient is cut into blocks; see ``direct.Plan``."""

    variant: Variant
    lane_bits: int
    tile: Extents
    halo: Extents
    channels: int
    groups_of_rows: int

    def shared_numbers(self) -> int:
        """Elements of shared memory: the tile, or at the end a row of each thread's sums."""
        tile = self.channels * halo.odd(math.prod(self.halo))
        return max(tile, self.variant.taps * _THREADS)


# --- kernels ---------------------------------------------------------------------------


def _kernel_function(dtype: str, variant: Variant, threads: int) -> Any:
    number = real(dtype)
    RUN, ROWS, TAPS, STRIDE = variant.run, variant.rows, variant.taps, variant.stride
    SUMS = ROWS * TAPS
    TEAMS = threads >> halo.TEAM_BITS
    load_tile, locate, place_in_tile = halo.load_tile, halo.locate, halo.place_in_tile
    divide = halo.divide

    def weight_gradient(  # type: ignore[no-untyped-def]
        dy, x, partial, shares, count,
        sizes, source, window, strides, dilations, pads, tile, around, tiles, cut, extents,
    ):  # fmt: skip
        # sizes (C, F, C/g, F/g); count: tiles of all samples; cut (lane bits, channels of a tile,
        # their bits in loads, plane, groups of rows, parts of the filters, runs of a tile, rows)
        shared = cuda.shared.array(0, number)
        acc = cuda.local.array(SUMS, number)
        offset = cuda.local.array(ROWS, int32)
        gradient = cuda.local.array(RUN, number)
        thread = int32(cuda.threadIdx.x)
        lane_bits, runs = cut[0], cut[6]
        filters, group_channels, group_filters = sizes[1], sizes[2], sizes[3]
        block = int32(cuda.blockIdx.x)
        rest = divide(block, cut[5])
        part = int32(block - rest * cut[5])
        share = divide(rest, cut[4])
        first_row = int32(int32(rest - share * cut[4]) * int32(ROWS))
        lane = thread & int32(int32(int32(1) << lane_bits) - int32(1))
        f0 = int32(part << lane_bits)
        f = int32(f0 + lane)
        c0 = int32(divide(f0, group_filters) * group_channels)
        mine = min(f, int32(filters - int32(1)))
        c = int32(int32(divide(mine, group_filters) * group_channels) - c0)
        slot = int32(thread >> lane_bits)
        busy = slot < int32(int32(tile[0] * tile[1]) * runs) and f < filters
        if not busy:
            slot = int32(0)
        d, h, run = place_in_tile(slot, tile[1], runs)
        line = int32(int32(int32(d * strides[0]) * around[1]) + int32(h * strides[1]))
        corner = int32(line * around[2])
        corner = int32(corner + int32(int32(run * int32(RUN)) * strides[2]))

        # Where each row's inputs lie from there. A row is (kd, kh, ci), or (kd, kh, kw, ci).
        for r in range(ROWS):
            row = min(int32(first_row + int32(r)), int32(cut[7] - int32(1)))
            rest = divide(row, group_channels)
            ci = int32(row - int32(rest * group_channels))
            row, kw = rest, int32(0)
            if TAPS == 1:
                rest = divide(row, window[2])
                kw = int32(row - int32(rest * window[2]))
                row = rest
            kd = divide(row, window[1])
            kh = int32(row - int32(kd * window[1]))
            line = int32(int32(int32(kd * dilations[0]) * around[1]) + int32(kh * dilations[1]))
            offset[r] = int32(
                int32(corner + int32(line * around[2]))
                + int32(int32(kw * dilations[2]) + int32(int32(c + ci) * cut[3]))
            )
        for i in range(SUMS):
            acc[i] = number(0)

        at_tile = share
        while at_tile < count:
            sample, d0, h0, w0, _ = locate(at_tile, int32(1), tiles)
            d0, h0, w0 = int32(d0 * tile[0]), int32(h0 * tile[1]), int32(w0 * tile[2])
            cuda.syncthreads()  # until nobody reads the last tile any more
            load_tile(
                shared, int32(0), cut[3], around, x, sample,
                (
                    int32(int32(d0 * strides[0]) - pads[0]),
                    int32(int32(h0 * strides[1]) - pads[1]),
                    int32(int32(w0 * strides[2]) - pads[2]),
                ),
                source, sizes[0], (c0, cut[1]), cut[2], int32(TEAMS),
            )  # fmt: skip
            at_d, at_h, at_w = int32(d0 + d), int32(h0 + h), int32(w0 + int32(run * int32(RUN)))
            inside = busy and at_d < extents[0] and at_h < extents[1]
            pixel = (int64(sample) * extents[0] + at_d) * extents[1] + at_h
            target = (pixel * extents[2] + at_w) * filters + f
            for p in range(RUN):
                gradient[p] = number(0)
                if inside and int32(at_w + int32(p)) < extents[2]:
                    gradient[p] = dy[uint64(target + p * filters)]
            cuda.syncthreads()
            if inside:
                for r in range(ROWS):
                    at = uint64(offset[r])
                    for t in range(TAPS):
                        for p in range(RUN):
                            if STRIDE:
                                value = shared[at + uint64(p * STRIDE + t)]
                            else:
                                value = shared[at + uint64(p * strides[2])]
                            acc[r * TAPS + t] += value * gradient[p]
            at_tile = int32(at_tile + shares)

        # Add up the slots, in their order, and write the part; a row of sums at a time.
        slots = int32(int32(threads) >> lane_bits)
        for r in range(ROWS):
            cuda.syncthreads()
            for t in range(TAPS):
                shared[uint32(thread + t * threads)] = acc[r * TAPS + t]
            cuda.syncthreads()
            row = int32(first_row + int32(r))
            t = int32(thread >> lane_bits)
            while t < TAPS and f < filters and row < cut[7]:
                total = number(0)
                for other in range(slots):
                    at = int32(int32(t * int32(threads)) + lane)
                    total += shared[uint32(int32(at + (int32(other) << lane_bits)))]
                rest = divide(row, group_channels)
                ci = int32(row - int32(rest * group_channels))
                tap = int32(int32(rest * int32(TAPS)) + t)
                into = int64(share) * cut[7] * TAPS
                into = (into + int32(int32(tap * group_channels) + ci)) * filters + f
                partial[uint64(into)] = total
                t = int32(t + slots)

    return weight_gradient


def _add_parts(partial, dw, parts):  # type: ignore[no-untyped-def]
    """``dw[i]`` = the sum of ``partial[part, i]`` over the parts, in their order."""
    i = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    while i < dw.size:
        total = partial[uint64(i)]
        for part in range(1, parts):
            total += partial[uint64(i + int64(part) * dw.size)]
        dw[uint64(i)] = total
        i += int64(cuda.gridDim.x) * cuda.blockDim.x


@functools.cache
def _kernel(dtype: str, variant: Variant) -> Any:
    return compiled(_kernel_function(dtype, variant, _THREADS), _THREADS, _MIN_BLOCKS)


@functools.cache
def _add_parts_kernel() -> Any:
    return compiled(_add_parts, 256)


# --- plans -----------------------------------------------------------------------------


def supports(geometry: Any, dtype: str) -> str | None:
    """Return why :func:`conv_backward_weight` cannot compute this, or None if it can."""
    plan = _plan(geometry, dtype)
    return plan if isinstance(plan, str) else None


def tile_extents(geometry: Any, dtype: str) -> tuple[int, ...]:
    """Return the extents of a block's ``dy``, one for each spatial dimension.

    Raises:
        ValueError: :func:`supports` gives a reason why not.
    """
    return _checked_plan(geometry, dtype).tile[3 - len(geometry.kernel) :]


def choose_splits(geometry: Any, dtype: str, device_multiprocessors: int | None = None) -> int:
    """Return into how many shares to cut the pixels so that a device is busy.

    ``device_multiprocessors`` is the number that it has; None for the current device's.

    Raises:
        ValueError: :func:`supports` gives a reason why not.
    """
    plan = _checked_plan(geometry, dtype)
    blocks = plan.groups_of_rows * ceil_div(geometry.out_channels, 1 << plan.lane_bits)
    count = device_multiprocessors or multiprocessors()
    wanted = ceil_div(_BLOCKS_FOR_EACH_MULTIPROCESSOR * count, blocks)
    return max(1, min(wanted, _tile_count(geometry, plan)))


def partial_elements(geometry: Any, dtype: str, splits: int | None = None) -> int:
    """Return how many numbers the workspace ``partial`` must hold; ``splits`` as in the call."""
    splits = choose_splits(geometry, dtype) if splits is None else splits
    return splits * math.prod(geometry.w_shape)


def _checked_plan(geometry: Any, dtype: str) -> Plan:
    plan = _plan(geometry, dtype)
    if isinstance(plan, str):
        raise ValueError(f"{plan}. Received: {geometry}")
    return plan


def _tile_count(g: Any, plan: Plan) -> int:
    return int(g.batch) * math.prod(halo.tiles_of(halo.volume(g.output, 1), plan.tile))


@functools.lru_cache(maxsize=4096)
def _plan(geometry: Any, dtype: str) -> Plan | str:
    g = geometry
    group_channels = g.in_channels // g.groups
    if group_channels > MAX_CHANNELS:
        return (
            f"this weight gradient takes up to {MAX_CHANNELS} channels a group, here there are "
            f"{group_channels}"
        )
    lane_bits = halo.bits_for(g.out_channels, _MAX_LANE_BITS)
    least_bits = min(lane_bits, 3)  # 8 lanes and more read whole sectors of 32 bytes
    while lane_bits >= least_bits:
        plan = _plan_with(g, dtype, lane_bits, group_channels)
        if plan is not None:
            return plan
        lane_bits -= 1
    return (
        f"the smallest tile of input that this weight gradient could use needs more than the "
        f"{halo.SHARED_BYTES // 1024} KiB of shared memory of a block"
    )


def _plan_with(g: Any, dtype: str, lane_bits: int, group_channels: int) -> Plan | None:
    kernel, stride = halo.volume(g.kernel, 1), halo.volume(g.stride, 1)
    dilation = halo.volume(g.dilation, 1)
    run = 4 if SIMULATED else {"float32": 8, "float64": 4}[dtype]
    if kernel[2] in _ROWS and stride[2] <= 2 and dilation[2] == 1:
        variant = Variant(run, _ROWS[kernel[2]], kernel[2], stride[2])
    else:
        variant = Variant(run, _TAPS_IN_A_LOOP, 1, 0)
    width = 1 << lane_bits
    group_filters = g.out_channels // g.groups
    channels = halo.tile_channels(g.out_channels, width, group_channels, group_filters)

    def halo_of(tile: Extents) -> Extents:
        return halo.convolution_halo(tile, kernel, stride, dilation)

    tile = halo.choose_tile(
        halo.volume(g.output, 1),
        _THREADS >> lane_bits,
        run,
        halo_of,
        halo.SHARED_BYTES // (channels * np.dtype(dtype).itemsize),
        load_cost=16 * channels,
        slot_cost=(run * (variant.rows * variant.taps + 8) + 100) << lane_bits,
    )
    if tile is None:
        return None
    rows = math.prod(kernel) * group_channels // variant.taps
    return Plan(variant, lane_bits, tile, halo_of(tile), channels, ceil_div(rows, variant.rows))


# --- launchers -------------------------------------------------------------------------


def conv_backward_weight(
    dy: Array, x: Array, dw: Array, geometry: Any, partial: Array, splits: int | None = None
) -> None:
    """Write ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    Args:
        dy, x, dw: arrays of one dtype; an empty batch gives zeros.
        geometry: of the convolution.
        partial: workspace of that dtype with at least :func:`partial_elements` numbers.
        splits: shares of the pixels; None for :func:`choose_splits`.

    Raises:
        ValueError: :func:`supports` gives a reason why not, or ``partial`` is too small.
    """
    g, dtype = geometry, str(x.dtype)
    plan = _checked_plan(g, dtype)
    splits = choose_splits(g, dtype) if splits is None else splits
    if partial.size < splits * dw.size:
        raise ValueError(
            f"the workspace must hold {splits * dw.size} numbers. Received: {partial.size}"
        )
    output, kernel = halo.volume(g.output, 1), halo.volume(g.kernel, 1)
    group_channels = g.in_channels // g.groups
    parts = ceil_div(g.out_channels, 1 << plan.lane_bits)
    launch(
        _kernel(dtype, plan.variant),
        splits * plan.groups_of_rows * parts,
        _THREADS,
        dy,
        x,
        dw if splits == 1 else partial,
        splits,
        _tile_count(g, plan),
        integers(g.in_channels, g.out_channels, group_channels, g.out_channels // g.groups),
        integers(*halo.volume(g.input, 1)),
        integers(*kernel),
        integers(*halo.volume(g.stride, 1)),
        integers(*halo.volume(g.dilation, 1)),
        integers(*halo.volume([lo for lo, _ in g.pads], 0)),
        integers(*plan.tile),
        integers(*plan.halo),
        integers(*halo.tiles_of(output, plan.tile)),
        integers(
            plan.lane_bits,
            plan.channels,
            halo.bits_for(plan.channels, halo.TEAM_BITS),
            halo.odd(math.prod(plan.halo)),
            plan.groups_of_rows,
            parts,
            plan.tile[2] // plan.variant.run,
            math.prod(kernel) * group_channels // plan.variant.taps,
        ),
        integers(*output),
        shared_bytes=plan.shared_numbers() * np.dtype(dtype).itemsize,
    )
    if splits > 1:
        launch(_add_parts_kernel(), *elementwise_grid(dw.size), partial, dw, splits)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    threads = 256
    for dtype, run in (("float32", 8), ("float64", 4)):
        variants = [Variant(run, _TAPS_IN_A_LOOP, 1, 0)]
        variants += [Variant(run, rows, taps, s) for taps, rows in _ROWS.items() for s in (1, 2)]
        for variant in variants:
            yield KernelSpec(
                f"weight_gradient[{dtype}, {variant}]",
                _kernel_function(dtype, variant, threads),
                (
                    *(flat(dtype),) * 3,
                    *(types.int32,) * 2,
                    types.UniTuple(types.int32, 4),
                    *(TRIPLE,) * 8,
                    types.UniTuple(types.int32, 8),
                    TRIPLE,
                ),
                threads,
                dynamic_shared_bytes=halo.SHARED_BYTES,
                min_blocks=_MIN_BLOCKS,
                arithmetic=True,
            )
        yield KernelSpec(
            f"add_parts[{dtype}]", _add_parts, (flat(dtype), flat(dtype), types.int32), 256
        )
