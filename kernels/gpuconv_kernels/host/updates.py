"""Optimizer updates in place: every array of a parameter is read and written once.

``value`` and the state are flat rows of numbers, cut into tasks of fixed size. A small parameter is
one task. Parameters that are updated :func:`together` stand in one table, and are one call::

    for a number w with its gradient g and state m, v:            28 bytes for Adam in float32,
        m, v = ...                                                which memory delivers slower
        w -= ...                                                  than the formula is computed

The formulas are those of ``array.updates``, where they are documented, in the same order and each
step rounded to the arrays' own dtype: the results have the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.target import ITEMSIZE, inlined

Array = Any

TASK: Final = 32 * 1024
"""Numbers of a task: some 50 us, more than it costs to hand it to another thread."""


def sgd_update(
    value: Array,
    gradient: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    torch_form: bool,
    first: bool,
) -> None:
    """As ``array.updates.sgd_update``."""
    form = "plain" if velocity is None else "torch" if torch_form else "keras"
    kernel = sgd(name_of(value.dtype), form, velocity is not None and nesterov)
    _run(kernel, value, gradient, (velocity,), learning_rate, momentum, first)


def adam_update(
    value: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    epsilon_after_correction: bool,
) -> None:
    """As ``array.updates.adam_update``; both conventions are one kernel."""
    root = math.sqrt(1.0 - beta_2**step)
    alpha = learning_rate * root / (1.0 - beta_1**step)
    added = epsilon * root if epsilon_after_correction else epsilon
    state = (first_moment, second_moment)
    _run(adam(name_of(value.dtype)), value, gradient, state, alpha, added, beta_1, beta_2)


def rmsprop_update(
    value: Array,
    gradient: Array,
    mean_square: Array,
    mean_gradient: Array | None,
    velocity: Array | None,
    learning_rate: float,
    rho: float,
    momentum: float,
    epsilon: float,
    epsilon_inside_root: bool,
) -> None:
    """As ``array.updates.rmsprop_update``."""
    kernel = rmsprop(
        name_of(value.dtype), mean_gradient is not None, velocity is not None, epsilon_inside_root
    )
    state = (mean_square, mean_gradient, velocity)
    _run(kernel, value, gradient, state, learning_rate, rho, momentum, epsilon)


def adagrad_update(
    value: Array,
    gradient: Array,
    accumulator: Array,
    learning_rate: float,
    epsilon: float,
    epsilon_inside_root: bool,
) -> None:
    """As ``array.updates.adagrad_update``."""
    kernel = adagrad(name_of(value.dtype), epsilon_inside_root)
    _run(kernel, value, gradient, (accumulator,), learning_rate, epsilon)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Compute the updates of the block at its end, those with the same numbers in one call.

    Most parameters of a network are small: calling a kernel takes longer than their update.
    """
    outer, _waiting.calls = _waiting.calls, {}
    try:
        yield
        for (kernel, numbers), rows in _waiting.calls.items():
            _update(kernel, rows, numbers)
    finally:
        _waiting.calls = outer


class _Waiting(threading.local):
    """The updates of a block, by kernel and numbers; None outside of one."""

    calls: dict[tuple[Any, tuple[float, ...]], list[tuple[Array | None, ...]]] | None = None


_waiting = _Waiting()


def _run(
    kernel: Any, value: Array, gradient: Array, state: tuple[Array | None, ...], *numbers: float
) -> None:
    for array in (value, *state):
        if array is not None and not array.flags.c_contiguous:
            raise ValueError("an optimizer updates C-contiguous arrays only")
    if value.size == 0:
        return
    row = (value, np.ascontiguousarray(gradient), *state)
    if _waiting.calls is None:
        _update(kernel, [row], numbers)
    else:
        _waiting.calls.setdefault((kernel, numbers), []).append(row)


def _update(kernel: Any, rows: list[tuple[Array | None, ...]], numbers: tuple[float, ...]) -> None:
    words: list[int] = []
    tasks = 0
    for row in rows:
        size = row[0].size  # type: ignore[union-attr]
        tasks += -(-size // TASK)
        words += (tasks, size)
        for array in row:
            words.append(0 if array is None else address(array))
        words += [0] * (_ROW - 2 - len(row))
    table = np.array(words, np.int64)
    run(kernel, tasks, address(table), *(float(n) for n in numbers))


_ROW: Final = 8
"""Words of a row of the table: tasks up to its end, numbers, addresses of value, gradient, state"""


@inlined
def find(table, task):  # type: ignore[no-untyped-def]
    """The row of a task, and the first number of the task in that row's arrays."""
    before = 0
    row = _words(table, _ROW)
    while task >= row[0]:
        before = row[0]
        table += 8 * _ROW
        row = _words(table, _ROW)
    return row, (task - before) * TASK


_words: Any = view("int64")


# --- the kernels -------------------------------------------------------------------------


@functools.cache
def sgd(dtype: str, form: str, nesterov: bool) -> Any:
    """Return the compiled kernel; ``form`` is plain, keras or torch."""
    return Kernel(define_sgd(dtype, form, nesterov), dtype, form, nesterov)


def define_sgd(dtype: str, form: str, nesterov: bool) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`sgd`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    plain, torch = form == "plain", form == "torch"

    def update_sgd(  # type: ignore[no-untyped-def]
        counter, tasks, table, learning_rate, momentum, starts
    ):
        lr, mu = number(learning_rate), number(momentum)
        task = take(counter)
        while task < tasks:
            row, begin = find(table, task)
            count, first = min(TASK, row[1] - begin), begin * itemsize
            w, g = array(row[2] + first, count), array(row[3] + first, count)
            v = array(row[4] + first, count)
            for i in range(count):
                if plain:
                    w[i] -= g[i] * lr
                elif torch:
                    now = g[i] if starts else v[i] * mu + g[i]
                    v[i] = now
                    w[i] -= (now * mu + g[i]) * lr if nesterov else now * lr
                else:
                    step = g[i] * lr
                    now = v[i] * mu - step
                    v[i] = now
                    w[i] = w[i] - step + now * mu if nesterov else w[i] + now
            task = take(counter)

    return update_sgd


@functools.cache
def adam(dtype: str) -> Any:
    """Return the compiled kernel."""
    return Kernel(define_adam(dtype), dtype)


def define_adam(dtype: str) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`adam`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type

    def update_adam(  # type: ignore[no-untyped-def]
        counter, tasks, table, alpha, epsilon, beta_1, beta_2
    ):
        rate, added = number(alpha), number(epsilon)
        b1, b2, c1, c2 = number(beta_1), number(beta_2), number(1 - beta_1), number(1 - beta_2)
        task = take(counter)
        while task < tasks:
            row, begin = find(table, task)
            count, first = min(TASK, row[1] - begin), begin * itemsize
            w, g = array(row[2] + first, count), array(row[3] + first, count)
            m, v = array(row[4] + first, count), array(row[5] + first, count)
            for i in range(count):
                mean = m[i] * b1 + g[i] * c1
                square = v[i] * b2 + g[i] * g[i] * c2
                m[i] = mean
                v[i] = square
                w[i] -= mean / (np.sqrt(square) + added) * rate
            task = take(counter)

    return update_adam


@functools.cache
def rmsprop(dtype: str, centered: bool, with_velocity: bool, inside: bool) -> Any:
    """Return the compiled kernel; ``inside``: epsilon stands inside of the root."""
    function = define_rmsprop(dtype, centered, with_velocity, inside)
    return Kernel(function, dtype, centered, with_velocity, inside)


def define_rmsprop(
    dtype: str, centered: bool, with_velocity: bool, inside: bool
) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`rmsprop`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type
    zero = number(0)

    def update_rmsprop(  # type: ignore[no-untyped-def]
        counter, tasks, table, learning_rate, rho, momentum, epsilon
    ):
        lr, mu, added = number(learning_rate), number(momentum), number(epsilon)
        keep, new = number(rho), number(1 - rho)
        task = take(counter)
        while task < tasks:
            row, begin = find(table, task)
            count, first = min(TASK, row[1] - begin), begin * itemsize
            w, g = array(row[2] + first, count), array(row[3] + first, count)
            s, c = array(row[4] + first, count), array(row[5] + first, count)
            v = array(row[6] + first, count)
            for i in range(count):
                spread = s[i] * keep + g[i] * g[i] * new
                s[i] = spread
                if centered:
                    mean = c[i] * keep + g[i] * new
                    c[i] = mean
                    spread -= mean * mean
                    # Rounding may leave the variance of a constant gradient just below zero.
                    spread = zero if spread <= zero else spread
                if inside:
                    step = g[i] * lr / np.sqrt(spread + added)
                else:
                    step = g[i] / (np.sqrt(spread) + added)
                if with_velocity:
                    step = v[i] * mu + step
                    v[i] = step
                w[i] -= step if inside else step * lr
            task = take(counter)

    return update_rmsprop


@functools.cache
def adagrad(dtype: str, inside: bool) -> Any:
    """Return the compiled kernel; ``inside``: epsilon stands inside of the root."""
    return Kernel(define_adagrad(dtype, inside), dtype, inside)


def define_adagrad(dtype: str, inside: bool) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`adagrad`."""
    itemsize, array, number = ITEMSIZE[dtype], view(dtype), np.dtype(dtype).type

    def update_adagrad(  # type: ignore[no-untyped-def]
        counter, tasks, table, learning_rate, epsilon
    ):
        lr, added = number(learning_rate), number(epsilon)
        task = take(counter)
        while task < tasks:
            row, begin = find(table, task)
            count, first = min(TASK, row[1] - begin), begin * itemsize
            w, g = array(row[2] + first, count), array(row[3] + first, count)
            s = array(row[4] + first, count)
            for i in range(count):
                total = s[i] + g[i] * g[i]
                s[i] = total
                root = np.sqrt(total + added) if inside else np.sqrt(total) + added
                w[i] -= g[i] * lr / root
            task = take(counter)

    return update_adagrad
