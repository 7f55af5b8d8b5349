"""The micro-kernel: a small matrix of sums in vector registers, which all products are made of.

``rows`` x ``vectors`` registers hold sums; each step of the reduction reads ``vectors`` vectors of
``b`` and, for every row, one number of ``a`` that is broadcast and multiplied with all of them::

                               b, step p     [ v0 | v1 | v2 | v3 ]    4 vectors of 16 floats
                                               |    |    |    |
    a, row 0, step p   [x] -- broadcast --> [ s00  s01  s02  s03 ]    6 x 4 sums = 24 registers,
    a, row 1, step p   [x] -- broadcast --> [ s10  s11  s12  s13 ]    + 4 for b, + 1 for a number:
      ...                                      ...                    29 of AVX-512's 32
    a, row 5, step p   [x] -- broadcast --> [ s50  s51  s52  s53 ]

There are two. With pixels for rows, the sums run over taps and channels: in two loops, one over
``segments``, for each of which the rows of ``a`` begin somewhere else (the taps of a convolution,
whose pixels lie apart in memory), and one over the numbers within. That is the batch-reduce product
of Georganas et al. 2019, "High-Performance Deep Learning via a Single Building Block", with the
addresses of Dukhan 2019, "The Indirect Convolution Algorithm": a tap that falls into the padding
points to zeros, and neither strides nor dilation nor borders need code of their own. With channels
for rows, as gradients of weights need it, the sums run over pixels.

Memory is slower than arithmetic, so a kernel asks early for what comes later: when it begins, for
the lines that it will store to; while it runs, for what the next call will read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.microkernel_code import DISTANCE as DISTANCE
from gpuconv_kernels.host.microkernel_code import LEFT_OUT as LEFT_OUT
from gpuconv_kernels.host.microkernel_code import RELU as RELU
from gpuconv_kernels.host.microkernel_code import SIX as SIX
from gpuconv_kernels.host.microkernel_code import UNROLLED, ChannelKernel, PixelKernel
from gpuconv_kernels.host.parts import call, part
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host

_MOST_PIXELS, _MOST_CHANNELS = 12, 14
"""Of the rows. Each pixel has an address of its own, and a CPU some 14 registers for addresses;
channels share one, and are limited only where there is one vector and 32 registers."""
_LATENCY = 4
"""Cycles until a sum can take its next product."""
_BUSY = 16
"""Sums that are enough for none to wait."""
_STEP = 0.5
"""Cycles of a step beside its products."""
_LOADS = 1.7
"""Of a cycle, where there is about one for each product."""


def most_vectors(host: Host) -> int:
    """Vectors across the widest micro-kernel of a CPU."""
    return 4 if host.registers >= 32 else 2


def rows_for(vectors: int, host: Host) -> int:
    """Rows of a :func:`pixel_kernel` of so many vectors: sums in three quarters of the registers.

    With more, numbers that the loop needs come to lie in memory.
    """
    return min(_MOST_PIXELS, host.registers * 3 // 4 // vectors)


def channel_rows_for(vectors: int, host: Host) -> int:
    """Rows of a :func:`channel_kernel` of so many vectors: as many as the registers hold."""
    return min(_MOST_CHANNELS, (host.registers - 1 - vectors) // vectors)


def vectors_for(columns: int, dtype: str, host: Host) -> int:
    """Vectors across the micro-kernel for so many columns: as few empty lanes as can be, then as
    many vectors."""
    lanes = host.lanes(dtype)
    candidates = range(1, most_vectors(host) + 1)
    return min(candidates, key=lambda v: (-(-columns // (v * lanes)) * v, -v))


def vectors_across(columns: int, dtype: str, host: Host) -> tuple[int, int]:
    """Vectors across the micro-kernel for so many columns, and across the last one.

    Where the last may be another, no vectors but the last lane's are computed for nothing. Few
    micro-kernels then, all as wide as each other: narrow ones broadcast numbers for less use.
    """
    vectors = max(1, -(-columns // host.lanes(dtype)))
    several = -(-vectors // most_vectors(host))
    across = -(-vectors // several)
    return across, vectors - (several - 1) * across


def sets_for(rows: int, vectors: int, host: Host) -> int:
    """Sums of each cell of a ``channel_kernel``: more than one where there are few cells."""
    cells = rows * vectors
    return next((n for n in (4, 2) if n * cells <= min(_BUSY, host.registers - 1 - vectors)), 1)


def step_cycles(rows: int, vectors: int, host: Host) -> float:
    """What a step of a ``channel_kernel`` takes on a CPU that multiplies and loads two vectors a
    cycle: the products, the loads, or waiting for the last step's sums."""
    waiting = _LATENCY / sets_for(rows, vectors, host)
    return max(rows * vectors / 2, (rows + vectors) / _LOADS, waiting) + _STEP


def channel_tile(
    channels: int, filters: int, dtype: str, host: Host, whole: bool = False
) -> tuple[int, int]:
    """Rows and vectors of the ``channel_kernel`` that is expected to be the fastest.

    Of equal ones that which is no wider than all ``filters``; if ``whole``, one of these if there
    are any.
    """

    def time(tile: tuple[int, int]) -> tuple[float, bool, int]:
        rows, vectors = tile
        width = vectors * host.lanes(dtype)
        cycles = -(-filters // width) * -(-channels // rows) * step_cycles(rows, vectors, host)
        return cycles, width > filters, -vectors

    tiles = []
    for vectors in range(1, most_vectors(host) + 1):
        # As many as the registers hold, without the limit of channel_rows_for: time decides.
        most = (host.registers - 1 - vectors) // vectors
        if vectors == 1 or not whole or vectors * host.lanes(dtype) <= filters:
            tiles.append((-(-channels // -(-channels // most)), vectors))
    return min(tiles, key=time)


def rows_fetched(dtype: str) -> int:
    """Rows of ``a`` that one call of a ``pixel_kernel`` fetches, if they follow each other."""
    return LINE // UNROLLED // ITEMSIZE[dtype]


@functools.cache
def pixel_kernel(dtype: str, host: Host, rows: int, vectors: int) -> int:
    """Return the address of the micro-kernel whose rows are pixels, for :func:`multiply`.

    ``multiply(address, a, order, segments, a_shift, ahead, b, steps, c, c_shift, bias,``
    ``accumulate, finish)``

    With integers only; addresses and distances are in bytes:

    - ``a``: address of a table of addresses, (segments, ``rows``): where the numbers of each row
      begin in each segment, one behind the other; ``a_shift`` is added to all of them.
    - ``order``: address of a list of the ``segments`` that are to be summed, as places in ``a``.
    - ``ahead``: address in a table like ``a``: what it points to, and the lines that follow, is
      fetched into the cache meanwhile, a line for each 4 steps; see :func:`rows_fetched`.
    - ``b``: address of the vectors of all segments, each of ``steps`` rows, without gaps.
    - ``c``: address of a table of the addresses of the rows of results; ``c_shift`` is added.
    - ``bias``: address of what the sums begin with, a whole row of it; if ``accumulate``, they
      begin with what the results hold. Plus ``LEFT_OUT`` times the lanes of the last vector that
      are no results: these are neither read nor written.
    - ``finish``: ``RELU``, ``SIX``, both or neither, plus the distance from the results to numbers
      that are added to the sums before; 0: none.

    Whole vectors of ``b`` and ``bias`` are read. Where there are fewer results than rows, several
    rows may be the same one: sums are stored when all results have been read.

    Compiled by itself, with distances that are constants: that spares the loop a pointer for each
    row and step, and its callers are compiled once.
    """
    emit = _intrinsic(functools.partial(PixelKernel, dtype, host, rows, vectors))

    def pixels(  # type: ignore[no-untyped-def]
        a, order, segments, a_shift, ahead, b, steps, c, c_shift, bias, accumulate, finish
    ):
        emit(a, order, segments, a_shift, ahead, b, steps, c, c_shift, bias, accumulate, finish)

    return part(pixels, dtype, host, rows, vectors)


@functools.cache
def channel_kernel(dtype: str, host: Host, rows: int, vectors: int) -> int:
    """Return the address of the micro-kernel whose steps are pixels, for :func:`multiply`.

    ``multiply(address, table, segments, a_shift, b_shift, a_next, b_next, steps, sums, to,``
    ``to_next, ahead, ahead_next)``

    As in :func:`pixel_kernel`, but:

    - ``table``: address of two words for each segment, of ``steps`` pixels: where the first row's
      numbers and where the vectors begin, to which ``a_shift`` and ``b_shift`` are added. Row
      ``m`` begins ``m`` numbers further. ``a_next`` and ``b_next`` bytes lead to the next pixel's.
    - ``sums``: address of earlier sums, row behind row, that are added; 0: there are none.
    - ``to``: where the sums are stored; ``to_next`` bytes lead to the next row's.
    - ``ahead``: what is fetched into the L2 cache meanwhile, a line for each step, each
      ``ahead_next`` bytes further.

    Where there are so few sums that each would wait for its last product, neighbouring steps have
    sums of their own.
    """
    sets = sets_for(rows, vectors, host)
    kind = type(f"ChannelKernel{sets}", (ChannelKernel,), {"sets": sets})
    emit = _intrinsic(functools.partial(kind, dtype, host, rows, vectors))

    def channels(  # type: ignore[no-untyped-def]
        table, segments, a_shift, b_shift, a_next, b_next, steps, sums, to, to_next,
        ahead, ahead_next,
    ):  # fmt: skip
        emit(
            table, segments, a_shift, b_shift, a_next, b_next, steps, sums, to, to_next,
            ahead, ahead_next,
        )  # fmt: skip

    return part(channels, dtype, host, rows, vectors)


multiply: Any = call
"""Call a micro-kernel by its address, inside a kernel."""


def _intrinsic(emit: Callable[..., Any]) -> Any:
    @intrinsic
    def inside(typing_context, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit(builder, arguments)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 12), generate

    return inside
