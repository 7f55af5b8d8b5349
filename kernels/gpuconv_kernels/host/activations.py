"""Element-wise functions and their derivatives: each array is read and written once.

An array is a flat row of numbers, cut into tasks of one size; a task is one loop, and the
function is compiled into it::

    x, y (or dy, y, dx)     |<--- task 0 --->|<--- task 1 --->|<-- task 2 -->|
                             y = f(x), all numbers of the task in one loop

A bias is added in the same way; a filter's number is found by reading long rows, see ``rows``.

What is computed stands in :mod:`functions`. Without an exponential it is bit for bit what
``array.functions`` computes; with one it differs from that by rounding, and is the more accurate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.host.functions import derivatives, functions
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of, repeated
from gpuconv_kernels.host.target import ITEMSIZE, LINE, inlined, wide_loops

Array = Any

TASK: Final = 64 * 1024
"""Numbers of a task, at most; smaller ones read and write memory a tenth slower."""
_TASKS: Final = 16
"""Of a smaller array: threads end together, whenever they began."""
_FEW: Final = 16 * 1024
"""So many are one task: to hand a part to another thread would cost more than is gained."""

FORWARD: Final = frozenset(
    {
        "relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh",
        "exponential", "gelu", "gelu_tanh", "silu", "hard_silu", "mish", "softplus", "softsign",
    }
)  # fmt: skip
"""Functions that :func:`forward` and :func:`add_bias` know."""

BACKWARD_FROM_OUTPUT: Final = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "exponential"}
)
BACKWARD_FROM_INPUT: Final = FORWARD - BACKWARD_FROM_OUTPUT
"""Functions that :func:`backward` knows, by what it computes the derivative from."""


def forward(x: Array, y: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``y = f(x)`` for a kind of ``FORWARD``.

    ``alpha`` is the slope of ``leaky_relu`` or the scale of ``elu``.

    ``x`` has any strides, ``y`` is C-contiguous and of its shape; they may be the same array.
    """
    x = np.ascontiguousarray(x)
    run_flat(unary(name_of(y.dtype), kind), y.size, address(x), address(y), float(alpha))


def backward(dy: Array, z: Array, dx: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``dx = dy f'``, where ``z`` is the output or, for ``BACKWARD_FROM_INPUT``, the input.

    ``dy`` and ``z`` have any strides, ``dx`` is C-contiguous; all have one shape.
    """
    dy, z = np.ascontiguousarray(dy), np.ascontiguousarray(z)
    kernel = binary(name_of(dx.dtype), kind)
    run_flat(kernel, dx.size, address(dy), address(z), address(dx), float(alpha))


def add_bias(y: Array, bias: Array, kind: str | None = None, alpha: float = 0.0) -> None:
    """``y = f(y + bias)`` IN PLACE for C-contiguous ``y`` (..., F) and ``bias`` (F,).

    ``kind`` is one of ``FORWARD``, or None: the sum is not changed.
    """
    if y.size == 0:
        return
    width = fold_of(bias.size, y.dtype) * bias.size
    long = repeated(y.dtype, bias.size, bias)
    task = max(_task_of(y.size) // width, 1) * width
    run(
        biased(name_of(y.dtype), kind),
        -(-y.size // task),
        address(y),
        address(long),
        float(alpha),
        y.size,
        width,
        task,
    )


def run_flat(kernel: Any, size: int, *arguments: Any) -> None:
    """Run a kernel of ``arguments``, the ``size`` of a row and the numbers of a task."""
    if size:
        task = _task_of(size)
        run(kernel, -(-size // task), *arguments, size, task)


def _task_of(size: int) -> int:
    """Numbers of a task, of so many; whole lines of the cache."""
    return size if size <= _FEW else min(-(-size // (_TASKS * LINE)) * LINE, TASK)


# --- the loops ---------------------------------------------------------------------------


@functools.cache
def unary(dtype: str, kind: str) -> Any:
    """Return the compiled kernel that applies a function."""
    return Kernel(define_unary(dtype, kind), dtype, kind)


def define_unary(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`unary`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    widen = wide_loops(dtype)
    apply = inlined(functions(dtype)[kind])

    def activate(counter, tasks, x, y, alpha, size, piece):  # type: ignore[no-untyped-def]
        widen()
        slope = number(alpha)
        task = take(counter)
        while task < tasks:
            count = min(piece, size - task * piece)
            source = array(x + task * piece * itemsize, count)
            target = array(y + task * piece * itemsize, count)
            if x == y:  # of two arrays that overlap the compiler takes one number at a time
                for i in range(count):
                    target[i] = apply(target[i], slope)
            else:
                for i in range(count):
                    target[i] = apply(source[i], slope)
            task = take(counter)

    return activate


@functools.cache
def binary(dtype: str, kind: str) -> Any:
    """Return the compiled kernel that applies a derivative."""
    return Kernel(define_binary(dtype, kind), dtype, kind)


def define_binary(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`binary`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    widen = wide_loops(dtype)
    apply = inlined(derivatives(dtype)[kind])

    def activate_backward(counter, tasks, dy, z, dx, alpha, size, piece):  # type: ignore[no-untyped-def]
        widen()
        slope = number(alpha)
        task = take(counter)
        while task < tasks:
            count = min(piece, size - task * piece)
            gradient = array(dy + task * piece * itemsize, count)
            source = array(z + task * piece * itemsize, count)
            target = array(dx + task * piece * itemsize, count)
            for i in range(count):
                target[i] = apply(gradient[i], source[i], slope)
            task = take(counter)

    return activate_backward


@functools.cache
def biased(dtype: str, kind: str | None) -> Any:
    """Return the compiled kernel that adds a bias and applies a function."""
    return Kernel(define_biased(dtype, kind), dtype, kind)


def define_biased(dtype: str, kind: str | None) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`biased`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    widen = wide_loops(dtype)
    apply = inlined(_identity if kind is None else functions(dtype)[kind])

    def add(counter, tasks, y, bias, alpha, size, width, piece):  # type: ignore[no-untyped-def]
        widen()
        slope = number(alpha)
        addend = array(bias, width)
        task = take(counter)
        while task < tasks:
            for start in range(task * piece, min(task * piece + piece, size), width):
                count = min(width, size - start)
                row = array(y + start * itemsize, count)
                for i in range(count):
                    row[i] = apply(row[i] + addend[i], slope)
            task = take(counter)

    return add


def _identity(x, alpha):  # type: ignore[no-untyped-def]
    return x
