"""Element-wise functions and their derivatives: each array is read and written once.

An array is a flat row of numbers, cut into tasks of fixed size; a task is one loop, and the
function is compiled into it::

    x, y (or dy, y, dx)     |<--- task 0 --->|<--- task 1 --->|<-- task 2 -->|
                             y = f(x), all numbers of the task in one loop

A bias is added in the same way; a filter's number is found by reading long rows, see ``rows``.

Here are the functions that need no exponential, and the derivatives that follow from the output
without one: bit for bit what ``array.functions`` computes, where the definitions are. The other
functions spend their time in NumPy's vectorised ``exp`` and ``tanh``, and stay there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpuconv_kernels.array.functions import SELU_ALPHA, SELU_SCALE
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import fold_of, name_of, repeated
from gpuconv_kernels.host.target import ITEMSIZE, inlined

Array = Any

TASK: Final = 64 * 1024
"""Numbers of a task, about: some 50 us, more than it costs to hand it to another thread."""

FORWARD: Final = frozenset({"relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu", "softsign"})
"""Functions that :func:`forward` and :func:`add_bias` know."""

BACKWARD_FROM_OUTPUT: Final = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "exponential"}
)
BACKWARD_FROM_INPUT: Final = frozenset({"hard_silu", "softsign"})
"""Functions that :func:`backward` knows, by what it computes the derivative from."""


def forward(x: Array, y: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``y = f(x)`` for a kind of ``FORWARD``; ``alpha`` is the slope of ``leaky_relu``.

    ``x`` has any strides, ``y`` is C-contiguous and of its shape; they may be the same array.
    """
    x = np.ascontiguousarray(x)
    _run_flat(unary(name_of(y.dtype), kind), y.size, address(x), address(y), float(alpha))


def backward(dy: Array, z: Array, dx: Array, kind: str, alpha: float = 0.0) -> None:
    """Write ``dx = dy f'``, where ``z`` is the output or, for ``BACKWARD_FROM_INPUT``, the input.

    ``dy`` and ``z`` have any strides, ``dx`` is C-contiguous; all have one shape.
    """
    dy, z = np.ascontiguousarray(dy), np.ascontiguousarray(z)
    kernel = binary(name_of(dx.dtype), kind)
    _run_flat(kernel, dx.size, address(dy), address(z), address(dx), float(alpha))


def add_bias(y: Array, bias: Array, kind: str | None = None, alpha: float = 0.0) -> None:
    """``y = f(y + bias)`` IN PLACE for C-contiguous ``y`` (..., F) and ``bias`` (F,).

    ``kind`` is one of ``FORWARD``, or None: the sum is not changed.
    """
    if y.size == 0:
        return
    width = fold_of(bias.size, y.dtype) * bias.size
    long = repeated(y.dtype, bias.size, bias)
    task = max(TASK // width, 1) * width
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


def _run_flat(kernel: Any, size: int, *arguments: Any) -> None:
    if size:
        run(kernel, -(-size // TASK), *arguments, size)


# --- the loops ---------------------------------------------------------------------------


@functools.cache
def unary(dtype: str, kind: str) -> Any:
    """Return the compiled kernel that applies a function."""
    return Kernel(define_unary(dtype, kind), dtype, kind)


def define_unary(dtype: str, kind: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`unary`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    apply = inlined(_functions(dtype)[kind])

    def activate(counter, tasks, x, y, alpha, size):  # type: ignore[no-untyped-def]
        slope = number(alpha)
        task = take(counter)
        while task < tasks:
            count = min(TASK, size - task * TASK)
            source = array(x + task * TASK * itemsize, count)
            target = array(y + task * TASK * itemsize, count)
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
    apply = inlined(derivatives(dtype)[kind])

    def activate_backward(counter, tasks, dy, z, dx, alpha, size):  # type: ignore[no-untyped-def]
        slope = number(alpha)
        task = take(counter)
        while task < tasks:
            count = min(TASK, size - task * TASK)
            gradient = array(dy + task * TASK * itemsize, count)
            source = array(z + task * TASK * itemsize, count)
            target = array(dx + task * TASK * itemsize, count)
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
    apply = inlined(_identity if kind is None else _functions(dtype)[kind])

    def add(counter, tasks, y, bias, alpha, size, width, piece):  # type: ignore[no-untyped-def]
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


# --- the functions, of one number ----------------------------------------------------------


def _identity(x, alpha):  # type: ignore[no-untyped-def]
    return x


def _functions(dtype: str) -> dict[str, Callable[..., Any]]:
    """Functions ``f(x, alpha)``. A comparison with NaN is false, so NaN takes the last branch."""
    number = np.dtype(dtype).type
    zero, one, three, six = number(0), number(1), number(3), number(6)

    def relu(x, alpha):  # type: ignore[no-untyped-def]
        return zero if x <= zero else x

    def relu6(x, alpha):  # type: ignore[no-untyped-def]
        low = zero if x <= zero else x
        return six if low >= six else low

    def leaky_relu(x, alpha):  # type: ignore[no-untyped-def]
        return x if x > zero else x * alpha

    def hard_sigmoid(x, alpha):  # type: ignore[no-untyped-def]
        moved = x + three
        low = zero if moved <= zero else moved
        return (six if low >= six else low) / six

    def hard_silu(x, alpha):  # type: ignore[no-untyped-def]
        moved = x + three
        low = zero if moved <= zero else moved
        return x * ((six if low >= six else low) / six)

    def softsign(x, alpha):  # type: ignore[no-untyped-def]
        return x / (abs(x) + one)

    return {f.__name__: f for f in (relu, relu6, leaky_relu, hard_sigmoid, hard_silu, softsign)}


def derivatives(dtype: str) -> dict[str, Callable[..., Any]]:
    """Functions ``f(dy, z, alpha)`` with ``z`` the output or the input.

    A gradient that is cut off is 0 even if it was infinite; so these are choices, not products.
    """
    number = np.dtype(dtype).type
    zero, one, three, six, half = (number(n) for n in (0, 1, 3, 6, 0.5))
    selu_scale, selu_floor = number(SELU_SCALE), number(SELU_SCALE * SELU_ALPHA)

    def relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return zero if y == zero else dy  # an output is positive, 0 or NaN

    def relu6(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if (y > zero) & (y < six) else zero

    def leaky_relu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else dy * alpha

    def elu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy if y > zero else (y + alpha) * dy

    def selu(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * selu_scale if y > zero else (y + selu_floor) * dy

    def sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * ((one - y) * y)

    def hard_sigmoid(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy / six if (y > zero) & (y < one) else zero

    def tanh(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * (one - y * y)

    def exponential(dy, y, alpha):  # type: ignore[no-untyped-def]
        return dy * y

    def hard_silu(dy, x, alpha):  # type: ignore[no-untyped-def]
        inner = dy if x >= three else (x / three + half) * dy
        return zero if x <= -three else inner

    def softsign(dy, x, alpha):  # type: ignore[no-untyped-def]
        size = abs(x) + one
        return dy / (size * size)

    all_of_them = (
        relu, relu6, leaky_relu, elu, selu, sigmoid, hard_sigmoid, tanh, exponential, hard_silu,
        softsign,
    )  # fmt: skip
    return {f.__name__: f for f in all_of_them}
