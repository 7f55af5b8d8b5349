"""The gradient of ``activation(z + bias)``: that of ``z``, and its sums, in one pass.

``dz = dy f'(y)`` is written, and added up over the rows while it is still in registers: read again
from memory it would cost as much as writing it. The sums have the same bits as those of
:mod:`channel_sums`, whose slabs and tasks are used here::

    dy  | c0 c1 c2 ... |                         sums, after 32 long rows continued in float64
    y   | c0 c1 c2 ... |  --> dz | c0 c1 c2 ... |  -->  | c0 c1 c2 ... |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv_kernels.host.channel_sums import LONG_ROWS, SLAB, flush, join_plain
from gpuconv_kernels.host.functions import derivatives
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of
from gpuconv_kernels.host.target import ITEMSIZE, inlined

Array = Any


def backward(dy: Array, y: Array, dz: Array, sums: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``dz`` and ``sums`` (C,) of ``dy`` and the output ``y``, all (..., C).

    ``kind`` is one of ``activations.BACKWARD_FROM_OUTPUT``. ``dy`` and ``y`` have any strides,
    ``dz`` and ``sums`` are C-contiguous.
    """
    if dz.size == 0:
        sums.fill(0)
        return
    channels = dz.shape[-1]
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    fold = fold_of(channels, dz.dtype)
    tasks = -(-dz.size // (LONG_ROWS * fold * channels))
    partial = np.zeros((tasks, channels))
    run(
        kernel(name_of(dz.dtype), kind),
        tasks,
        address(dy),
        address(y),
        address(dz),
        address(partial),
        float(alpha),
        dz.size,
        channels,
        fold * channels,
    )
    join_plain(partial, sums)


@functools.cache
def kernel(dtype: str, kind: str) -> Any:
    """Return the compiled kernel."""
    return Kernel(define(dtype, kind), dtype, kind)


def define(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`kernel`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    apply = inlined(derivatives(dtype)[kind])

    def backward_and_sums(  # type: ignore[no-untyped-def]
        counter, tasks, dy, y, dz, partial, alpha, size, channels, width
    ):
        slope = number(alpha)
        sums = np.zeros(width, number)
        task = take(counter)
        while task < tasks:
            end = min((task + 1) * LONG_ROWS * width, size)
            for slab in range(task * LONG_ROWS * width, end, SLAB * width):
                for row in range(slab, min(slab + SLAB * width, end), width):
                    here = min(width, end - row)
                    gradient = array(dy + row * itemsize, here)
                    output = array(y + row * itemsize, here)
                    result = array(dz + row * itemsize, here)
                    for i in range(here):
                        value = apply(gradient[i], output[i], slope)
                        result[i] = value
                        sums[i] += value
                flush(sums, partial + task * channels * 8, channels)
            task = take(counter)

    return backward_and_sums
