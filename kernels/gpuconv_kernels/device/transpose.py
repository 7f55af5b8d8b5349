"""Transposing matrices through shared memory, and with it the weights for backward_input.

A block moves one square tile. Warps read rows of it from the source and write rows of it to the
destination, so that both sides are accessed contiguously; the exchange happens in shared memory,
whose rows are one number longer than the tile so that a column touches each bank once::

    source rows         shared memory          destination rows
    0 1 2 3   ------->  0 1 2 3 .   ------->   0 4 8 c
    4 5 6 7   rows in   4 5 6 7 .   columns    1 5 9 d
    8 9 a b             8 9 a b .   out        2 6 a e
    c d e f             c d e f .              3 7 b f

(Ruetsch and Micikevicius 2009, "Optimizing Matrix Transpose in CUDA", NVIDIA.) The bank
conflicts are gone for 4-byte numbers; 8-byte ones take two passes in any case.

backward_input is a convolution of ``dy`` with the weights' channels and filters exchanged, taps
in opposite order, and with a stride only every few taps for each of its phases. The packed
weights of a phase are ``(*taps, F/g, C)``, one transposed matrix for each tap and group.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div, launch
from gpuconv_kernels.device.spatial import Spatial, Three, int32s, product, spatial, three
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, types
from gpuconv_kernels.device.tiles import divide

Array = Any

_EDGE, _LINES = (8, 2) if SIMULATED else (32, 8)
"""Tiles of 32 x 32, by threads that stand 32 x 8: each moves four numbers."""


@functools.cache
def define(dtype: str, wide: bool, edge: int = _EDGE, lines: int = _LINES) -> Any:
    """Return the kernel, as a plain function."""
    number, int32 = np.dtype(dtype).type, np.int32
    index = np.int64 if wide else np.int32
    position = np.uint64 if wide else np.uint32
    pitch, size = edge + 1, edge * (edge + 1)

    def transpose_blocks(  # type: ignore[no-untyped-def]
        source,  # (taps of the kernel, rows, groups * columns)
        out,  # from out_first on: (taps, columns, groups * rows)
        out_first,
        rows,
        columns,
        groups,
        tiles_down,
        tiles_across,
        taps,  # three
        tap_first,  # number of the first tap in the source
        tap_step,  # from one tap to the next in each of the three dimensions
    ):
        tile = cuda.shared.array(size, number)
        i, j = int32(cuda.threadIdx.y), int32(cuda.threadIdx.x)
        block = int32(cuda.blockIdx.x)
        rest = divide(block, tiles_across)
        across = int32((block - rest * tiles_across) * edge)
        block = rest
        rest = divide(block, tiles_down)
        down = int32((block - rest * tiles_down) * edge)
        tap = divide(rest, groups)
        group = int32(rest - tap * groups)
        line = divide(tap, taps[2])
        plane = divide(line, taps[1])
        source_tap = int32(
            tap_first
            + plane * tap_step[0]
            + (line - plane * taps[1]) * tap_step[1]
            + (tap - line * taps[2]) * tap_step[2]
        )
        for k in range(0, edge, lines):
            row, column = int32(down + i + k), int32(across + j)
            if row < rows and column < columns:
                line_at = index(index(source_tap * rows + row) * (groups * columns))
                tile[np.uint32((i + k) * pitch + j)] = source[
                    position(line_at + (group * columns + column))
                ]
        cuda.syncthreads()
        for k in range(0, edge, lines):
            row, column = int32(down + j), int32(across + i + k)
            if row < rows and column < columns:
                line_at = index(index(tap * columns + column) * (groups * rows) + out_first)
                out[position(line_at + (group * rows + row))] = tile[np.uint32(j * pitch + (i + k))]

    return transpose_blocks


@functools.cache
def _kernel(dtype: str, wide: bool) -> Any:
    return compiled(define(dtype, wide), _EDGE * _LINES)


def transpose(a: Array, out: Array) -> None:
    """Write ``a`` (M, K) transposed to ``out`` (K, M)."""
    rows, columns = a.shape
    if out.shape != (columns, rows):
        raise ValueError(f"out must have the shape {(columns, rows)}. Received: {out.shape}")
    _transpose_blocks(a, out, 0, rows, columns, 1, (1, 1, 1), 0, (0, 0, 0))


def packed_elements(geometry: Any) -> int:
    """Elements that :func:`pack_backward_weights` writes, at most those of ``w``."""
    return sum(_phase_elements(geometry, phase) for phase in geometry.backward_input_phases)


def packed_offsets(geometry: Any) -> tuple[int, ...]:
    """Return where the weights of each phase begin in the workspace."""
    offsets = [0]
    for phase in geometry.backward_input_phases:
        offsets.append(offsets[-1] + _phase_elements(geometry, phase))
    return tuple(offsets[:-1])


@functools.lru_cache(maxsize=256)
def packed_phases(geometry: Any) -> tuple[tuple[Spatial, int | None], ...]:
    """Return the phases of backward_input, and where the packed weights of each begin.

    The latter is None where no tap reaches a phase; its convolution then has only a target.
    """
    extents, strides = three(geometry.input, 1), three(geometry.stride, 1)
    phases: list[tuple[Spatial, int | None]] = []
    for phase, offset in zip(geometry.backward_input_phases, packed_offsets(geometry), strict=True):
        first = three(phase.offset, 0)
        if phase.geometry is None:
            problem = product(geometry.batch, 1, geometry.in_channels)
            a, b, c = (
                ceil_div(extent - r, s)
                for extent, r, s in zip(extents, first, strides, strict=True)
            )
            problem = dataclasses.replace(problem, output=(a, b, c))
        else:
            problem = spatial(phase.geometry)
        problem = dataclasses.replace(
            problem, target=extents, target_first=first, target_step=strides
        )
        phases.append((problem, None if phase.geometry is None else offset))
    return tuple(phases)


def pack_backward_weights(w: Array, packed: Array, geometry: Any) -> None:
    """Write for each phase ``w`` (*k, C/g, F) as (*taps, F/g, C), one phase behind the other.

    Args:
        w: weights.
        packed: workspace of at least ``packed_elements(geometry)`` elements of ``w``'s dtype.
        geometry: the forward convolution.
    """
    if packed.size < packed_elements(geometry):
        raise ValueError(
            f"packed must hold {packed_elements(geometry)} elements. Received: {packed.size}"
        )
    channels, filters = (
        n // geometry.groups for n in (geometry.in_channels, geometry.out_channels)
    )
    _, k1, k2 = three(geometry.kernel, 1)
    strides = (k1 * k2, k2, 1)  # of the taps in w
    for phase, offset in zip(geometry.backward_input_phases, packed_offsets(geometry), strict=True):
        if phase.geometry is None:
            continue
        taps = [(0,)] * (3 - len(phase.taps)) + list(phase.taps)
        first = sum(t[0] * s for t, s in zip(taps, strides, strict=True))
        a, b, c = (
            (t[1] - t[0]) * s if len(t) > 1 else 0 for t, s in zip(taps, strides, strict=True)
        )
        extents = three([len(t) for t in phase.taps], 1)
        _transpose_blocks(
            w, packed, offset, channels, filters, geometry.groups, extents, first, (a, b, c)
        )


def _phase_elements(geometry: Any, phase: Any) -> int:
    taps = math.prod(len(t) for t in phase.taps)
    return int(taps * geometry.in_channels * geometry.out_channels // geometry.groups)


def _transpose_blocks(
    source: Array,
    out: Array,
    out_first: int,
    rows: int,
    columns: int,
    groups: int,
    taps: Three,
    tap_first: int,
    tap_step: Three,
) -> None:
    if source.size == 0 or out.size == 0:
        return
    wide = max(source.size, out.size) >= 2**31 - 2**24
    down, across = ceil_div(rows, _EDGE), ceil_div(columns, _EDGE)
    launch(
        _kernel(source.dtype.name, wide),
        down * across * groups * math.prod(taps),
        (_EDGE, _LINES),
        source,
        out,
        np.int64(out_first) if wide else out_first,
        rows,
        columns,
        groups,
        down,
        across,
        int32s(taps),
        tap_first,
        int32s(tap_step),
    )


def catalogue() -> Iterator[KernelSpec]:
    """Yield the kernels of this file."""
    int32, three_ints = types.int32, types.UniTuple(types.int32, 3)
    for dtype in ("float32", "float64"):
        for wide in (False, True):
            first = types.int64 if wide else int32
            yield KernelSpec(
                f"transpose[{dtype}{',wide' if wide else ''}]",
                define(dtype, wide, 32, 8),
                (flat(dtype), flat(dtype), first, *(int32,) * 5, three_ints, int32, three_ints),
                256,
            )
