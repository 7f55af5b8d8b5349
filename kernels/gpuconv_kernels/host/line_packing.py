"""Packing a line of pixels for the micro-kernel whose steps are pixels, as a part of kernels.

Channels of a pixel are cut into tiles of as many as the micro-kernel takes at a time, and the
pixels of a tile follow each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from gpuconv_kernels.host.memory import copy
from gpuconv_kernels.host.parts import part
from gpuconv_kernels.host.target import ITEMSIZE, Host

_TOGETHER = 16
"""Pixels that are packed together."""


@functools.cache
def line_packing(dtype: str, of: Host) -> int:
    """Return the address of the part that packs a line of x or dy.

    ``call(address, to, source, step, pixels, first, end, rows, channels, tile_step, pixel_step,``
    ``0, 0)``

    Tiles ``first`` to ``end`` of ``rows`` channels go to places ``tile_step`` bytes apart, their
    pixels ``pixel_step`` apart. The last tile of all ``channels`` begins early.
    """
    return part(define_packing(dtype, of), dtype, of)


def define_packing(dtype: str, host: Host) -> Callable[..., None]:
    """Return the part as a plain function."""
    itemsize, lanes, vector_bytes = ITEMSIZE[dtype], host.lanes(dtype), host.vector_bytes

    def pack(  # type: ignore[no-untyped-def]
        to,
        source,
        step,
        pixels,
        first_tile,
        end_tile,
        rows,
        channels,
        tile_step,
        pixel_step,
        n10,
        n11,
    ):
        for first in range(0, pixels, _TOGETHER):
            count = min(_TOGETHER, pixels - first)
            for r in range(first_tile, end_tile):
                at = source + first * step + min(r * rows, channels - rows) * itemsize
                into = to + (r - first_tile) * tile_step + first * pixel_step
                for _ in range(count):
                    if rows == 6:  # the common ones, as instructions instead of calls
                        copy(into, at, 6 * itemsize)
                    elif rows == 14:
                        copy(into, at, 14 * itemsize)
                    elif rows >= lanes:  # by vectors, of which the last may overlap
                        for j in range(0, rows - lanes, lanes):
                            copy(into + j * itemsize, at + j * itemsize, vector_bytes)
                        j = rows - lanes
                        copy(into + j * itemsize, at + j * itemsize, vector_bytes)
                    elif rows >= 4:
                        for j in range(0, rows - 4, 4):
                            copy(into + j * itemsize, at + j * itemsize, 4 * itemsize)
                        j = rows - 4
                        copy(into + j * itemsize, at + j * itemsize, 4 * itemsize)
                    else:
                        for j in range(rows):
                            copy(into + j * itemsize, at + j * itemsize, itemsize)
                    at += step
                    into += pixel_step

    return pack
