"""Optimizer updates in place: one kernel, one pass over the arrays, for each step of a parameter.

The grid strides over the elements, and each thread has all that belongs to its element in
registers: Adam reads value, gradient and two moments and writes three of them, 28 bytes a float32,
which is what the device's memory bandwidth then decides::

    value      w0 w1 w2 w3 ...        thread i: w_i, g_i, m_i, v_i -> registers -> w_i, m_i, v_i
    gradient   g0 g1 g2 g3 ...
    moments    m0 m1 ..., v0 v1 ...

Numbers that do not depend on the element (bias corrections, 1 - beta) are computed on the host in
float64 and passed in the arrays' dtype. Two conventions differ in where they put a constant: that
of Keras 3.15, and that of PyTorch 2.13; flags choose, as in ``array.updates``. No shared memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.functions import quiet, sqrt
from gpuconv_kernels.device.launch import elementwise_grid, launch
from gpuconv_kernels.device.reductions import MIN_BLOCKS, unsigned
from gpuconv_kernels.device.target import SIMULATED, KernelSpec, compiled, cuda, flat, types

Array = Any

_THREADS = 32 if SIMULATED else 256


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
    """Gradient descent, with momentum where ``velocity`` is given.

    Keras: ``v = mu v - lr g``, then ``w += v`` or, Nesterov, ``w += mu v - lr g``.
    PyTorch: ``v = mu v + g`` (``v = g`` on the ``first`` step), then ``w -= lr v`` or,
    Nesterov, ``w -= lr (g + mu v)``.
    """
    if velocity is None:
        _update(_sgd_kernel(value.dtype.name), value, [gradient], [learning_rate])
        return
    kernel = _momentum_kernel(
        value.dtype.name, bool(nesterov), bool(torch_form), bool(torch_form and first)
    )
    _update(kernel, value, [gradient, velocity], [learning_rate, momentum])


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
    """Adam (Kingma and Ba 2015); ``step`` counts from 1.

    ``w -= a m / (sqrt(v) + eps)`` with ``a = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)`` (Keras).
    With ``epsilon_after_correction`` epsilon is added to ``sqrt(v / (1 - beta_2^t))`` instead
    (PyTorch), which is the same as ``eps sqrt(1 - beta_2^t)`` in the first form.
    """
    root = math.sqrt(1.0 - beta_2**step)
    alpha = learning_rate * root / (1.0 - beta_1**step)
    added = epsilon * root if epsilon_after_correction else epsilon
    numbers = [alpha, beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, added]
    arrays = [gradient, first_moment, second_moment]
    _update(_adam_kernel(value.dtype.name), value, arrays, numbers)


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
    """RMSprop (Hinton 2012), centered where ``mean_gradient`` is given.

    With ``s`` the running mean of ``g^2``, less the square of the running mean of ``g`` if
    centered. Keras (``epsilon_inside_root``): ``d = lr g / sqrt(s + eps)``, ``w -= d``; with
    ``velocity`` ``v = mu v + d``, ``w -= v``. PyTorch: ``d = g / (sqrt(s) + eps)``,
    ``w -= lr d``; with ``velocity`` ``v = mu v + d``, ``w -= lr v``.
    """
    kernel = _rmsprop_kernel(
        value.dtype.name,
        mean_gradient is not None,
        velocity is not None,
        bool(epsilon_inside_root),
    )
    # What is not there is not read either; the gradient, which is only read, stands in its place.
    centre = gradient if mean_gradient is None else mean_gradient
    speed = gradient if velocity is None else velocity
    numbers = [learning_rate, rho, 1.0 - rho, momentum, epsilon]
    _update(kernel, value, [gradient, mean_square, centre, speed], numbers)


def adagrad_update(
    value: Array,
    gradient: Array,
    accumulator: Array,
    learning_rate: float,
    epsilon: float,
    epsilon_inside_root: bool,
) -> None:
    """Adagrad (Duchi, Hazan and Singer 2011): ``s += g^2``.

    Keras (``epsilon_inside_root``): ``w -= lr g / sqrt(s + eps)``.
    PyTorch: ``w -= lr g / (sqrt(s) + eps)``.
    """
    kernel = _adagrad_kernel(value.dtype.name, bool(epsilon_inside_root))
    _update(kernel, value, [gradient, accumulator], [learning_rate, epsilon])


def _update(kernel: Any, value: Array, others: list[Array], numbers: list[float]) -> None:
    if value.size == 0:
        return
    grid, block = elementwise_grid(value.size)
    scalars = [value.dtype.type(number) for number in numbers]
    launch(kernel, grid, block, value, *others, *scalars, np.int64(value.size))


# --- kernels ---------------------------------------------------------------------------


def _sgd() -> Callable[..., None]:
    def sgd(w, g, rate, count):  # type: ignore[no-untyped-def]
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            w[unsigned(i)] -= rate * g[unsigned(i)]

    return sgd


def _momentum(nesterov: bool, torch_form: bool, first: bool) -> Callable[..., None]:
    def sgd_momentum(w, g, v, rate, momentum, count):  # type: ignore[no-untyped-def]
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = unsigned(i)
            slope = g[at]
            if torch_form:
                speed = slope if first else momentum * v[at] + slope
                w[at] -= rate * (momentum * speed + slope if nesterov else speed)
            else:
                move = rate * slope
                speed = momentum * v[at] - move
                w[at] += momentum * speed - move if nesterov else speed
            v[at] = speed

    return sgd_momentum


@functools.cache
def _step_function() -> Any:
    def step(m, v, alpha, added):  # type: ignore[no-untyped-def]
        return alpha * (m / (sqrt(v) + added))

    return quiet(step)


def _adam() -> Callable[..., None]:
    step = _step_function()

    def adam(  # type: ignore[no-untyped-def]
        w, g, m, v, alpha, beta_1, rest_1, beta_2, rest_2, added, count
    ):
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = unsigned(i)
            slope = g[at]
            # Not m += (1 - beta) (g - m): for a small beta the difference would lose digits.
            mean = beta_1 * m[at] + rest_1 * slope
            square = beta_2 * v[at] + rest_2 * (slope * slope)
            m[at] = mean
            v[at] = square
            w[at] -= step(mean, square, alpha, added)

    return adam


@functools.cache
def _quotient_function(inside: bool) -> Any:
    """``g / sqrt(s + eps)`` or ``g / (sqrt(s) + eps)``."""

    def quotient(g, s, epsilon):  # type: ignore[no-untyped-def]
        return g / sqrt(s + epsilon) if inside else g / (sqrt(s) + epsilon)

    return quiet(quotient)


def _rmsprop(dtype: str, centered: bool, moving: bool, inside: bool) -> Callable[..., None]:
    quotient, zero = _quotient_function(inside), np.dtype(dtype).type(0)

    def rmsprop(  # type: ignore[no-untyped-def]
        w, g, s, c, v, rate, rho, rest, momentum, epsilon, count
    ):
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = unsigned(i)
            slope = g[at]
            square = rho * s[at] + rest * (slope * slope)
            s[at] = square
            if centered:
                mean = rho * c[at] + rest * slope
                c[at] = mean
                square -= mean * mean
                # Rounding may leave the variance of a constant gradient just below zero.
                if square < zero:
                    square = zero
            move = quotient(rate * slope if inside else slope, square, epsilon)
            if moving:
                move += momentum * v[at]
                v[at] = move
            w[at] -= move if inside else rate * move

    return rmsprop


def _adagrad(inside: bool) -> Callable[..., None]:
    quotient = _quotient_function(inside)

    def adagrad(w, g, s, rate, epsilon, count):  # type: ignore[no-untyped-def]
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            at = unsigned(i)
            slope = g[at]
            total = s[at] + slope * slope
            s[at] = total
            w[at] -= quotient(rate * slope, total, epsilon)

    return adagrad


@functools.cache
def _sgd_kernel(dtype: str) -> Any:
    return compiled(_sgd(), _THREADS, MIN_BLOCKS)


@functools.cache
def _momentum_kernel(dtype: str, nesterov: bool, torch_form: bool, first: bool) -> Any:
    return compiled(_momentum(nesterov, torch_form, first), _THREADS, MIN_BLOCKS)


@functools.cache
def _adam_kernel(dtype: str) -> Any:
    return compiled(_adam(), _THREADS, MIN_BLOCKS)


@functools.cache
def _rmsprop_kernel(dtype: str, centered: bool, moving: bool, inside: bool) -> Any:
    return compiled(_rmsprop(dtype, centered, moving, inside), _THREADS, MIN_BLOCKS)


@functools.cache
def _adagrad_kernel(dtype: str, inside: bool) -> Any:
    return compiled(_adagrad(inside), _THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    both = (False, True)
    for dtype in ("float32", "float64"):
        array = flat(dtype)

        def spec(
            name: str, function: Callable[..., None], arrays: int, numbers: int, a: Any = array
        ) -> KernelSpec:
            signature = (*(a,) * arrays, *(a.dtype,) * numbers, types.int64)
            return KernelSpec(name, function, signature, _THREADS, min_blocks=MIN_BLOCKS)

        yield spec(f"sgd[{dtype}]", _sgd(), 2, 1)
        for nesterov in both:
            for torch_form, first in ((False, False), (True, False), (True, True)):
                yield spec(
                    f"sgd_momentum[{dtype},{nesterov},{torch_form},{first}]",
                    _momentum(nesterov, torch_form, first),
                    3,
                    2,
                )
        yield spec(f"adam[{dtype}]", _adam(), 4, 6)
        for centered in both:
            for moving in both:
                for inside in both:
                    yield spec(
                        f"rmsprop[{dtype},{centered},{moving},{inside}]",
                        _rmsprop(dtype, centered, moving, inside),
                        5,
                        5,
                    )
        for inside in both:
            yield spec(f"adagrad[{dtype},{inside}]", _adagrad(inside), 3, 2)
