"""Padding of the spatial axes and its gradient, each in one pass that gathers.

Forward: every element of the padded array shows at most one of the input::

    reflect (2, 2)        c b | a b c d | c b        replicate      a a | a b c d | d d
    circular (2, 2)       c d | a b c d | a b        zeros          0 0 | a b c d | 0 0

Backward: every element of ``dx`` adds up where it was shown; along one axis that is once in the
centre, and for reflect and circular at most once on either side, for replicate at the ends as
often as the padding is wide. No element of ``dx`` is written twice, so there are no atomics.

A block works on one row of the result at a time: positions in depth and height are found once a
row, and inside of it the channels of neighbouring positions lie together. No shared memory: the
cache holds what is read twice. Limits: one to three spatial dimensions; a row below 2^31 elements.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from gpuconv_kernels.device import halo
from gpuconv_kernels.device.halo import TRIPLE, int32, int64, integers, uint64
from gpuconv_kernels.device.launch import Array, launch
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, inlined, real

MODES = ("zeros", "reflect", "replicate", "circular")

_THREADS = 16 if SIMULATED else 256
_MIN_BLOCKS = 2  # without a number the assembler saves registers and spills
_MAX_BLOCKS = 4 if SIMULATED else 65536


# --- along one axis --------------------------------------------------------------------


@functools.cache
def _source_function(mode: str) -> Any:
    """Return ``source(position, extent)``: what a padded position shows, or -1 for a zero.

    ``position`` is counted in the input, so it is negative in the padding before it.
    """

    def zeros(position, extent):  # type: ignore[no-untyped-def]
        return position if position < extent else int32(-1)

    def reflect(position, extent):  # type: ignore[no-untyped-def]
        last = int32(extent - int32(1))
        inside = int32(-position) if position < 0 else position
        return inside if inside <= last else int32(int32(last + last) - inside)

    def replicate(position, extent):  # type: ignore[no-untyped-def]
        return min(max(position, int32(0)), int32(extent - int32(1)))

    def circular(position, extent):  # type: ignore[no-untyped-def]
        inside = int32(position + extent) if position < 0 else position
        return inside if inside < extent else int32(inside - extent)

    named = {"zeros": zeros, "reflect": reflect, "replicate": replicate, "circular": circular}
    return inlined(named[mode])


@functools.cache
def _copies_functions(mode: str) -> tuple[Any, Any]:
    """Return ``copies(i, extent, lo, hi)`` -> ``(first, last)`` and ``place(j, i, extent, lo)``.

    Input position ``i`` is shown at the padded positions ``place(j, ...)``, ``j`` from ``first``
    to ``last``; 0 is the centre.
    """

    def copies_zeros(i, extent, lo, hi):  # type: ignore[no-untyped-def]
        return int32(0), int32(0)

    def copies_reflect(i, extent, lo, hi):  # type: ignore[no-untyped-def]
        from_end = int32(int32(extent - int32(1)) - i)
        before = i >= 1 and i <= lo
        after = from_end >= 1 and from_end <= hi
        return int32(-1) if before else int32(0), int32(1) if after else int32(0)

    def copies_replicate(i, extent, lo, hi):  # type: ignore[no-untyped-def]
        at_end = int32(i + int32(1)) == extent
        return int32(-lo) if i == 0 else int32(0), hi if at_end else int32(0)

    def copies_circular(i, extent, lo, hi):  # type: ignore[no-untyped-def]
        before = int32(extent - i) <= lo
        return int32(-1) if before else int32(0), int32(1) if i < hi else int32(0)

    def shifted(j, i, extent, lo):  # type: ignore[no-untyped-def]
        return int32(int32(lo + i) + j)

    def mirrored(j, i, extent, lo):  # type: ignore[no-untyped-def]
        if j == 0:
            return int32(lo + i)
        return int32(lo - i) if j < 0 else int32(int32(lo - i) + int32(2 * int32(extent - 1)))

    def wrapped(j, i, extent, lo):  # type: ignore[no-untyped-def]
        return int32(int32(lo + i) + int32(j * extent))

    copies, place = {
        "zeros": (copies_zeros, shifted),
        "reflect": (copies_reflect, mirrored),
        "replicate": (copies_replicate, shifted),
        "circular": (copies_circular, wrapped),
    }[mode]
    return inlined(copies), inlined(place)


# --- kernels ---------------------------------------------------------------------------


def _pad_function(mode: str) -> Any:
    source = _source_function(mode)
    divide = halo.divide

    def pad(x, y, extents, padded, before, channels, rows):  # type: ignore[no-untyped-def]
        # extents: of x; padded: of y; before: pads before them; rows: of all samples
        width = int32(padded[2] * channels)
        centre = int32(before[2] * channels)
        row = int64(cuda.blockIdx.x)
        while row < rows:
            plane = row // padded[1]
            sample = plane // padded[0]
            h = source(int32(int32(row - plane * padded[1]) - before[1]), extents[1])
            d = source(int32(int32(plane - sample * padded[0]) - before[0]), extents[0])
            seen = h >= 0 and d >= 0
            start = ((sample * extents[0] + d) * extents[1] + h) * extents[2] * channels
            target = row * width
            i = int32(cuda.threadIdx.x)
            while i < width:
                inside = int32(i - centre)  # within the centre a row is copied as it lies
                shown = seen
                if inside < 0 or inside >= int32(extents[2] * channels):
                    at = divide(i, channels)
                    w = source(int32(at - before[2]), extents[2])
                    shown = seen and w >= 0
                    inside = int32(int32(w * channels) + int32(i - int32(at * channels)))
                value = x.dtype.type(0)
                if shown:
                    value = x[uint64(start + inside)]
                y[uint64(target + i)] = value
                i = int32(i + cuda.blockDim.x)
            row += cuda.gridDim.x

    return pad


def _pad_backward_function(dtype: str, mode: str) -> Any:
    number = real(dtype)
    copies, place = _copies_functions(mode)
    divide = halo.divide

    def pad_backward(dy, dx, extents, padded, before, after, channels, rows):  # type: ignore[no-untyped-def]
        # as above; rows are those of dx
        width = int32(extents[2] * channels)
        row = int64(cuda.blockIdx.x)
        while row < rows:
            plane = row // extents[1]
            sample = plane // extents[0]
            h = int32(row - plane * extents[1])
            d = int32(plane - sample * extents[0])
            first_d, last_d = copies(d, extents[0], before[0], after[0])
            first_h, last_h = copies(h, extents[1], before[1], after[1])
            i = int32(cuda.threadIdx.x)
            while i < width:
                w = divide(i, channels)
                c = int32(i - int32(w * channels))
                first_w, last_w = copies(w, extents[2], before[2], after[2])
                total = number(0)
                for jd in range(first_d, last_d + 1):
                    at_d = sample * padded[0] + place(int32(jd), d, extents[0], before[0])
                    for jh in range(first_h, last_h + 1):
                        at_h = at_d * padded[1] + place(int32(jh), h, extents[1], before[1])
                        for jw in range(first_w, last_w + 1):
                            at = at_h * padded[2] + place(int32(jw), w, extents[2], before[2])
                            total += dy[uint64(at * channels + c)]
                dx[uint64(row * width + i)] = total
                i = int32(i + cuda.blockDim.x)
            row += cuda.gridDim.x

    return pad_backward


@functools.cache
def _pad_kernel(mode: str) -> Any:
    return compiled(_pad_function(mode), _THREADS)


@functools.cache
def _pad_backward_kernel(dtype: str, mode: str) -> Any:
    return compiled(_pad_backward_function(dtype, mode), _THREADS, _MIN_BLOCKS)


# --- launchers -------------------------------------------------------------------------


def pad(x: Array, y: Array, pads: Sequence[tuple[int, int]], mode: str) -> None:
    """Write ``y`` (N, *padded, C) from ``x`` (N, *in, C).

    Args:
        x, y: arrays of one dtype.
        pads: ``(lo, hi)`` a spatial dimension; reflect needs them below the extent, circular at
            most the extent.
        mode: one of ``MODES``.
    """
    if y.size:
        _launch(_pad_kernel(mode), x, y, x, y, pads, with_after=False)


def pad_backward(dy: Array, dx: Array, pads: Sequence[tuple[int, int]], mode: str) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *padded, C); arguments as for :func:`pad`.

    What was shown several times is summed, always in the same order.
    """
    if dx.size:
        _launch(_pad_backward_kernel(str(dx.dtype), mode), dy, dx, dx, dy, pads, with_after=True)


def _launch(
    kernel: Any,
    source: Array,
    result: Array,
    inner: Array,
    outer: Array,
    pads: Sequence[tuple[int, int]],
    with_after: bool,
) -> None:
    rows = math.prod(result.shape[:-2])
    after = [integers(*halo.volume([hi for _, hi in pads], 0))] if with_after else []
    launch(
        kernel,
        min(rows, _MAX_BLOCKS),
        _THREADS,
        source,
        result,
        integers(*halo.volume(inner.shape[1:-1], 1)),
        integers(*halo.volume(outer.shape[1:-1], 1)),
        integers(*halo.volume([lo for lo, _ in pads], 0)),
        *after,
        inner.shape[-1],
        rows,
    )


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    threads = 256
    for dtype in ("float32", "float64"):
        array = flat(dtype)
        for mode in MODES:
            yield KernelSpec(
                f"pad[{dtype}, {mode}]",
                _pad_function(mode),
                (array, array, *(TRIPLE,) * 3, int32, int32),
                threads,
            )
            yield KernelSpec(
                f"pad_backward[{dtype}, {mode}]",
                _pad_backward_function(dtype, mode),
                (array, array, *(TRIPLE,) * 4, int32, int32),
                threads,
                min_blocks=_MIN_BLOCKS,
            )
