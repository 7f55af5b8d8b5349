"""What the Winograd kernels share: where tiles lie in images, and the layout of scratch memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import number_at, put_at
from gpuconv_kernels.host.spinning import give_way, look, pause
from gpuconv_kernels.host.target import INT, LINE, Host, inlined
from gpuconv_kernels.host.winograd_transforms import load_some

Array = Any


# --- tasks --------------------------------------------------------------------------------


@intrinsic
def _exchange(typing_context, address, expected, value):  # type: ignore[no-untyped-def]
    """Write a word if it is what is expected, as one step; return whether it was."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        result = builder.cmpxchg(place, arguments[1], arguments[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(result, 1), INT)

    return types.intp(types.intp, types.intp, types.intp), generate


exchange: Any = _exchange


@inlined
def claim(ticket, phase):  # type: ignore[no-untyped-def]
    """Whether a task of this phase, 1 or more, is the caller's, who is the first to ask."""
    found = look(ticket)
    return found < phase and exchange(ticket, found, phase) != 0


@inlined
def wait_for(done, count, times, yielding):  # type: ignore[no-untyped-def]
    """Wait until ``count`` tasks are done. Others work on them; ``times``: see ``patience``."""
    left = times
    while look(done) < count:
        if left > 0:
            left -= 1
            pause()
        elif yielding:
            give_way(yielding)


# --- memory -------------------------------------------------------------------------------


def up(count: int, unit: int) -> int:
    """``count``, rounded up to a multiple of ``unit``."""
    return -(-count // unit) * unit


def apart(size: int) -> int:
    """Bytes from one of many things of ``size`` bytes to the next, an odd number of lines.

    The elements of a tile are written together: at a power of two from each other they would
    compete for the same few places of a cache.
    """
    return up(size, 2 * LINE) + LINE


def offsets_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where parts of scratch memory begin, each on a line; at last the size of all."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + up(size, LINE))
    return tuple(offsets)


def with_channels_together(x: Array) -> Array:
    """``x`` if its channels lie next to each other, else a copy."""
    together = x.strides[-1] == x.itemsize or x.shape[-1] == 1
    return x if together else np.ascontiguousarray(x)


# --- tiles --------------------------------------------------------------------------------


_write_word = put_at("int64")


@inlined
def fill_table(table, count, first, step):  # type: ignore[no-untyped-def]
    """Write ``count`` addresses, ``step`` bytes apart."""
    for i in range(count):
        _write_word(table, i, first + i * step)


@inlined
def locate(  # type: ignore[no-untyped-def]
    table, first, count, entries, size, m, grid, before_h, before_w, height, width,
    base, steps, outside,
):  # fmt: skip
    """Write the addresses of the pixels of tiles, ``size`` x ``size`` each, from ``first`` on.

    Pixels outside of the image, and all pixels of tiles from ``count`` on, are ``outside``.
    ``grid``: rows of tiles, tiles in a row; ``steps``: bytes from image to image, row to row,
    pixel to pixel.
    """
    column = first % grid[1]
    row = first // grid[1] % grid[0]
    image = first // (grid[1] * grid[0])
    to = table
    for i in range(entries):
        h, w = row * m - before_h, column * m - before_w
        corner = base + image * steps[0] + h * steps[1] + w * steps[2]
        whole = 0 <= h <= height - size and 0 <= w <= width - size
        for r in range(size):
            line_inside = i < count and 0 <= h + r < height
            for s in range(size):
                inside = line_inside and (whole or 0 <= w + s < width)
                _write_word(to, s, corner + s * steps[2] if inside else outside)
            corner += steps[1]
            to += 8 * size
        column += 1
        if column == grid[1]:
            column = 0
            row += 1
            if row == grid[0]:
                row = 0
                image += 1


def tail_padded(dtype: str, host: Host, transform: Any, pixels: int) -> Any:
    """Return ``f(table, shift, inside, patch_table, target, step, part)``: one of ``pixels``.

    Where fewer than a vector's channels, ``inside``, are left, they are copied to a patch of
    vectors, with zeros behind them, so that nothing behind the last pixel is read.
    """
    lanes, word, some = host.lanes(dtype), number_at("int64"), load_some(dtype, host)

    def padded(table, shift, inside, patch_table, target, step, part):  # type: ignore[no-untyped-def]
        if inside < lanes:
            for p in range(pixels):
                some(word(table, p) + shift, inside, word(patch_table, p))
            table, shift = patch_table, 0
        transform(table, shift, target, step, part)

    return inlined(padded)
