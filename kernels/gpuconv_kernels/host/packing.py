"""Packing a chunk of a convolution's weights for the micro-kernel, as a part of kernels of its own.

Where filters lie next to each other, whole rows of them are copied; where channels do, blocks of
numbers are transposed in registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from gpuconv_kernels.host.memory import clear, copy, copy_vectors, number_at, put_at
from gpuconv_kernels.host.parts import part
from gpuconv_kernels.host.target import ITEMSIZE, Host
from gpuconv_kernels.host.winograd_transforms import transpose_block


@functools.cache
def packing(dtype: str, host: Host) -> int:
    """Return the address of the part that packs a chunk of the weights, for :func:`parts.call`.

    ``call(address, packed, w, from_tap, taps, count, filters, width, offset, c_step, f_step,``
    ``0, 0)``

    Weights (tap, channel, filter) become, for each ``width`` filters, one row after the other.
    ``from_tap`` is the address of a list of where taps begin in ``w``, to which ``offset`` is
    added; ``count`` channels and ``filters`` are ``c_step`` and ``f_step`` apart, all in numbers.
    """
    return part(define(dtype, host), dtype, host)


def define(dtype: str, host: Host) -> Callable[..., None]:
    """Return the part as a plain function."""
    itemsize, lanes = ITEMSIZE[dtype], host.lanes(dtype)
    transpose, copy_row = transpose_block(dtype, host), copy_vectors(host.vector_bytes)
    word, number, put = number_at("int64"), number_at(dtype), put_at(dtype)

    def pack(packed, w, from_tap, taps, count, filters, width, offset, c_step, f_step, n10, n11):  # type: ignore[no-untyped-def]
        row = width * itemsize
        next_filters = taps * count * row
        for t in range(taps):
            source = w + (word(from_tap, t) + offset) * itemsize
            if f_step == 1:
                for c in range(count):
                    at = source + c * c_step * itemsize
                    for f in range(0, filters, width):
                        to = packed + f // width * next_filters + c * row
                        used = min(width, filters - f)
                        if used == width:
                            copy_row(to, at + f * itemsize, width // lanes)
                        else:
                            copy(to, at + f * itemsize, used * itemsize)
            else:  # channels lie next to each other: blocks of lanes x lanes, and what is left
                for f in range(0, filters, width):
                    to = packed + f // width * next_filters
                    at = source + f * f_step * itemsize
                    used = min(width, filters - f)
                    whole, even = used // lanes * lanes, count // lanes * lanes
                    for j in range(0, whole, lanes):
                        for c in range(0, even, lanes):
                            transpose(
                                at + (c + j * f_step) * itemsize,
                                f_step * itemsize,
                                to + c * row + j * itemsize,
                                row,
                            )
                    for j in range(used):
                        for c in range(even if j < whole else 0, count):
                            put(to + c * row, j, number(at + j * f_step * itemsize, c))
            used = (filters - 1) % width + 1
            if used < width:
                to = packed + filters // width * next_filters + used * itemsize
                for c in range(count):
                    clear(to + c * row, (width - used) * itemsize)
            packed += count * row

    return pack
