"""Winograd's transform of a layer's filters, and the layout that the products read.

A block of filters, as wide as the micro-kernel, has one matrix for each of its ``t * t`` elements::

    w[3, 3, C, F]                                U[block, element, channel, filter]
                     16 x 9 taps, packed
    [ C x F ] ...   ---------------------->      [ 9 taps ]  -- G w G^T -->   C x 64, t * t times
                     only where filters are
                     transposed or too few

The filters of backward_input are the channels: blocks of numbers are transposed in registers while
they are packed, and the taps are read in reverse order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, aligned, number_at, put_at
from gpuconv_kernels.host.microkernel import vectors_for
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, Host, host, inlined
from gpuconv_kernels.host.winograd_tiles import apart, up
from gpuconv_kernels.host.winograd_transforms import transform_filter, transpose_block
from gpuconv_kernels.threads import threads

Array = Any

_CHUNK = 64
"""Channels of a task."""


def transformed_bytes(
    channels: int,
    filters: int,
    m: int,
    dtype: str,
    of: Host,
    vectors: int | None = None,
    passes: int = 1,
) -> int:
    """Size of transformed filters, in blocks of the usual ``vectors`` for so many or of others.

    ``passes``: of one of so many parts of the elements.
    """
    width = (vectors or vectors_for(filters, dtype, of)) * of.lanes(dtype)
    elements = (m + 2) ** 2 // passes
    return -(-filters // width) * elements * apart(channels * width * ITEMSIZE[dtype])


def packed_bytes(vectors: int, dtype: str, of: Host) -> int:
    """Scratch memory of one worker."""
    return 9 * of.lanes(dtype) ** 2 * vectors * ITEMSIZE[dtype]


def steps_of(channels: int, filters: int, itemsize: int, backward: bool) -> tuple[int, ...]:
    """In bytes: the first tap of ``w``; from tap to tap, channel to channel, filter to filter."""
    tap = channels * filters * itemsize
    if backward:  # w[-t, filter, channel]
        return 8 * tap, -tap, itemsize, channels * itemsize
    return 0, tap, filters * itemsize, itemsize


def transform_weights(w: Array, m: int, backward: bool = False) -> Array:
    """Return the filters of a layer, transformed, for ``kept`` of the convolutions.

    They serve as long as the weights do not change, for any size of images.

    Args:
        w: (3, 3, C, F), of any strides.
        m: extent of a tile: 2, 4 or 6.
        backward: for ``conv_backward_input``, not for ``conv_forward``.
    """
    w = np.ascontiguousarray(w)
    dtype, of = name_of(w.dtype), host()
    channels, filters = (w.shape[3], w.shape[2]) if backward else (w.shape[2], w.shape[3])
    vectors, lanes = vectors_for(filters, dtype, of), of.lanes(dtype)
    width = vectors * lanes
    u = aligned(transformed_bytes(channels, filters, m, dtype, of) // w.itemsize, dtype)
    chunk = min(up(channels, lanes), _CHUNK)
    chunks = -(-channels // chunk)
    tasks = -(-filters // width) * chunks
    slots, packed = min(threads(), tasks), packed_bytes(vectors, dtype, of)
    scratch, workers = aligned(slots * packed), np.zeros(1, np.int64)
    run(
        weight_transform(dtype, of, m),
        tasks,
        address(w),
        address(u),
        (channels, filters, vectors, chunk, chunks, apart(channels * width * w.itemsize)),
        steps_of(channels, filters, w.itemsize, backward),
        (address(workers), slots, address(scratch), packed),
    )
    return u


@functools.cache
def weight_transform(dtype: str, host: Host, m: int) -> Any:
    """Return the compiled kernel that transforms the filters of a layer."""
    return Kernel(define(dtype, host, m), dtype, host, m)


def define(dtype: str, host: Host, m: int) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`weight_transform`."""
    elements, vector_bytes = (m + 2) ** 2, host.vector_bytes
    lanes, filters_in = host.lanes(dtype), transform_block(dtype, host, m)

    def transform(counter, tasks, w, u, sizes, w_steps, memory):  # type: ignore[no-untyped-def]
        # sizes: (channels, filters, vectors of a block, channels of a chunk, chunks, bytes from
        # element to element)
        channels, filters, vectors, chunk, chunks, step = sizes
        width = vectors * lanes
        slot = take(memory[0])
        if slot >= memory[1]:
            return
        packed = memory[2] + slot * memory[3]
        task = take(counter)
        while task < tasks:
            f, c = task // chunks * width, task % chunks * chunk
            filters_in(
                w + w_steps[0] + c * w_steps[2] + f * w_steps[3],
                w_steps[1], w_steps[2], w_steps[3],
                min(chunk, channels - c), min(width, filters - f), vectors, packed,
                u + f // width * elements * step + c * vectors * vector_bytes,
                vectors * vector_bytes, step, 0,
            )  # fmt: skip
            task = take(counter)

    return transform


@functools.cache
def transform_block(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(w, tap, c_step, f_step, count, used, vectors, packed, u, row, step, part)``.

    It transforms ``count`` channels of ``used`` filters, and zeros for the rest of so many
    ``vectors``, to ``u``: channels are ``row`` bytes apart, elements ``step``; ``part``: as of
    :func:`winograd_transforms.transform_input`.
    """
    lanes, itemsize = host.lanes(dtype), ITEMSIZE[dtype]
    vector_bytes = host.vector_bytes
    transpose = transpose_block(dtype, host)
    filter_in = transform_filter(dtype, host, m, passes)
    number, put, zero = number_at(dtype), put_at(dtype), np.dtype(dtype).type(0)

    def transform(w, tap, c_step, f_step, count, used, vectors, packed, u, row, step, part):  # type: ignore[no-untyped-def]
        width, width_bytes = vectors * lanes, vectors * vector_bytes
        in_place = f_step == itemsize and used == width
        for c in range(0, count, lanes):
            some = min(lanes, count - c)
            source, s_tap, s_step = w + c * c_step, tap, c_step
            if not in_place:  # packed: tap, channel, filter
                for t in range(9):
                    for k in range(0, width, lanes):
                        start = source + t * tap + k * f_step
                        to = packed + t * lanes * width_bytes + k * itemsize
                        if c_step == itemsize and some == lanes and k + lanes <= used:
                            transpose(start, f_step, to, width_bytes)
                            continue
                        for i in range(some):
                            for j in range(lanes):
                                value = zero
                                if k + j < used:
                                    value = number(start + i * c_step + j * f_step, 0)
                                put(to + i * width_bytes + j * itemsize, 0, value)
                source, s_tap, s_step = packed, lanes * width_bytes, width_bytes
            for i in range(some):
                for k in range(vectors):
                    filter_in(
                        source + i * s_step + k * vector_bytes, s_tap,
                        u + (c + i) * row + k * vector_bytes, step, part,
                    )  # fmt: skip

    return inlined(transform)
