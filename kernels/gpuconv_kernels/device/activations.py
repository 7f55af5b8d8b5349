"""Element-wise functions over arrays, their gradients, and bias + function in place.

Without a bias an array is a flat run of numbers, read and written 16 bytes at a time. The grid
strides over it, so a few thousand blocks serve any size::

    x  | 0 1 2 3 | 4 5 6 7 | 8 9 . . |   ...   | . . . . | . .
         thread 0  thread 1  thread 2             again    the rest, one number a thread:
                                                thread 0   also where an array is not aligned

With a bias a thread stays in its channels (``lanes`` of them if their number and the
alignment allow) and goes down the rows, so that it reads its part of the bias once::

             channels ->
      row 0  [t0][t1]...[tx]     block: tx x ty threads; thread (i, j) reads rows
      row 1  [..][..]            j, j + ty * blocks, ... of y (rows, channels)

No shared memory. Nothing is reduced, so the order of the threads does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.array.functions import FORWARD
from gpuconv_kernels.device.functions import backward_function, forward_function
from gpuconv_kernels.device.launch import ceil_div, elementwise_grid, is_aligned, launch
from gpuconv_kernels.device.reductions import MIN_BLOCKS
from gpuconv_kernels.device.target import (
    SIMULATED,
    KernelSpec,
    compiled,
    copy16,
    cuda,
    flat,
    lanes,
    real,
    types,
)

Array = Any

_THREADS = 32 if SIMULATED else 256
_BLOCKS = 4 if SIMULATED else 4096


def activation(x: Array, y: Array, kind: str, alpha: float = 0.0) -> None:
    """Write the function called ``kind`` of every element of ``x`` into ``y``, which may be ``x``.

    ``alpha`` is the slope of ``leaky_relu`` (positive) or the scale of ``elu``.
    """
    if x.size == 0:
        return
    number, whole = x.dtype.type, _vectors(x, y)
    grid, block = elementwise_grid(ceil_div(x.size, lanes(x.dtype.name)))
    kernel = _forward_kernel(x.dtype.name, kind)
    launch(kernel, grid, block, x, y, number(alpha), np.int64(whole), np.int64(x.size))


def activation_backward(dy: Array, z: Array, dx: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``dy`` times the derivative into ``dx``, which may be ``dy``.

    ``z`` is the output of the function or, where the derivative needs it, the input.
    """
    if dy.size == 0:
        return
    number, whole = dy.dtype.type, _vectors(dy, z, dx)
    grid, block = elementwise_grid(ceil_div(dy.size, lanes(dy.dtype.name)))
    kernel = _backward_kernel(dy.dtype.name, kind)
    launch(kernel, grid, block, dy, z, dx, number(alpha), np.int64(whole), np.int64(dy.size))


def add_bias_activate(y: Array, bias: Array | None, kind: str | None, alpha: float = 0.0) -> None:
    """Add ``bias`` (F,) to ``y`` (..., F) and apply the function, both IN PLACE."""
    if y.size == 0 or (bias is None and kind is None):
        return
    if bias is None:
        assert kind is not None
        activation(y, y, kind, alpha)
        return
    name, channels = y.dtype.name, y.shape[-1]
    width = lanes(name) if channels % lanes(name) == 0 and is_aligned(y, bias) else 1
    columns, rows = channels // width, y.size // channels
    across = min(_THREADS, 1 << (columns - 1).bit_length())
    down = _THREADS // across
    column_blocks = ceil_div(columns, across)
    row_blocks = min(ceil_div(rows, down), max(1, _BLOCKS // column_blocks))
    launch(
        _bias_kernel(name, kind, width),
        (row_blocks, column_blocks),
        (across, down),
        y,
        bias,
        y.dtype.type(alpha),
        np.int64(rows),
        columns,
    )


def _vectors(*arrays: Array) -> int:
    """How many groups of 16 bytes can be read whole; 0 where an array is not aligned."""
    return arrays[0].size // lanes(arrays[0].dtype.name) if is_aligned(*arrays) else 0


def _forward(dtype: str, kind: str) -> Callable[..., None]:
    number, width, function = np.dtype(dtype).type, lanes(dtype), forward_function(kind, dtype)

    def activation_forward(x, y, alpha, vectors, count):  # type: ignore[no-untyped-def]
        first, step = cuda.grid(1), cuda.gridsize(1)
        held = cuda.local.array(width, number)
        for v in range(first, vectors, step):
            copy16(held, 0, x, v * width)
            for q in range(width):
                held[q] = function(held[q], alpha)
            copy16(y, v * width, held, 0)
        for i in range(vectors * width + first, count, step):
            y[i] = function(x[i], alpha)

    return activation_forward


def _backward(dtype: str, kind: str) -> Callable[..., None]:
    number, width, function = np.dtype(dtype).type, lanes(dtype), backward_function(kind, dtype)

    def activation_backward(dy, z, dx, alpha, vectors, count):  # type: ignore[no-untyped-def]
        first, step = cuda.grid(1), cuda.gridsize(1)
        held = cuda.local.array(width, number)
        held_z = cuda.local.array(width, number)
        for v in range(first, vectors, step):
            copy16(held, 0, dy, v * width)
            copy16(held_z, 0, z, v * width)
            for q in range(width):
                held[q] = function(held[q], held_z[q], alpha)
            copy16(dx, v * width, held, 0)
        for i in range(vectors * width + first, count, step):
            dx[i] = function(dy[i], z[i], alpha)

    return activation_backward


def _bias(dtype: str, kind: str | None, width: int) -> Callable[..., None]:
    number, function = np.dtype(dtype).type, forward_function(kind, dtype)

    def add_bias_in_lanes(y, bias, alpha, rows, columns):  # type: ignore[no-untyped-def]
        column = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        first = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        added = cuda.local.array(width, number)
        held = cuda.local.array(width, number)
        if column < columns:
            copy16(added, 0, bias, column * width)
            for row in range(first, rows, cuda.gridDim.x * cuda.blockDim.y):
                at = (row * columns + column) * width
                copy16(held, 0, y, at)
                for q in range(width):
                    held[q] = function(held[q] + added[q], alpha)
                copy16(y, at, held, 0)

    def add_bias(y, bias, alpha, rows, columns):  # type: ignore[no-untyped-def]
        column = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        first = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if column < columns:
            added = bias[column]
            for row in range(first, rows, cuda.gridDim.x * cuda.blockDim.y):
                at = row * columns + column
                y[at] = function(y[at] + added, alpha)

    return add_bias if width == 1 else add_bias_in_lanes


@functools.cache
def _forward_kernel(dtype: str, kind: str) -> Any:
    return compiled(_forward(dtype, kind), _THREADS, MIN_BLOCKS)


@functools.cache
def _backward_kernel(dtype: str, kind: str) -> Any:
    return compiled(_backward(dtype, kind), _THREADS, MIN_BLOCKS)


@functools.cache
def _bias_kernel(dtype: str, kind: str | None, width: int) -> Any:
    return compiled(_bias(dtype, kind, width), _THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    for dtype in ("float32", "float64"):
        array, number, long = flat(dtype), real(dtype), types.int64
        for kind in FORWARD:
            yield KernelSpec(
                f"activation[{dtype},{kind}]",
                _forward(dtype, kind),
                (array, array, number, long, long),
                _THREADS,
                min_blocks=MIN_BLOCKS,
            )
            yield KernelSpec(
                f"activation_backward[{dtype},{kind}]",
                _backward(dtype, kind),
                (array, array, array, number, long, long),
                _THREADS,
                min_blocks=MIN_BLOCKS,
            )
        for kind_or_none in (None, *FORWARD):
            for width in (1, lanes(dtype)):
                yield KernelSpec(
                    f"add_bias_activate[{dtype},{kind_or_none},{width}]",
                    _bias(dtype, kind_or_none, width),
                    (array, array, number, long, types.int32),
                    _THREADS,
                    min_blocks=MIN_BLOCKS,
                )
