"""Optimizer updates in place, a block at a time.

Each function works through flat views in blocks of ``BLOCK`` elements, so that temporaries
are two small buffers that stay in cache and a large parameter is read and written once.

``value`` and the state arrays are modified; they are C-contiguous, of one dtype and shape.
``gradient`` is left alone and may be a view of any strides.

Two conventions differ in where they put a constant: that of Keras 3.15, and that of
PyTorch 2.13. The flags of each function choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

NDArray = np.ndarray[Any, Any]

BLOCK: Final = 16_384
"""Elements of a block: with four arrays and two buffers of float32, 384 KiB."""


def sgd_update(
    value: NDArray,
    gradient: NDArray,
    velocity: NDArray | None,
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
    for (w, g, v), (a, _) in _blocks(value, gradient, velocity):
        if v is None:
            np.multiply(g, learning_rate, out=a)
            w -= a
        elif torch_form:
            if first:
                v[...] = g
            else:
                v *= momentum
                v += g
            if nesterov:
                np.multiply(v, momentum, out=a)
                a += g
                a *= learning_rate
            else:
                np.multiply(v, learning_rate, out=a)
            w -= a
        else:
            np.multiply(g, learning_rate, out=a)
            v *= momentum
            v -= a
            if nesterov:
                w -= a
                np.multiply(v, momentum, out=a)
                w += a
            else:
                w += v


def adam_update(
    value: NDArray,
    gradient: NDArray,
    first_moment: NDArray,
    second_moment: NDArray,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    epsilon_after_correction: bool,
) -> None:
    """Adam (Kingma and Ba 2015); ``step`` counts from 1.

    ``w -= a m / (sqrt(v) + eps)`` with ``a = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)``
    (Keras). With ``epsilon_after_correction`` epsilon is added to ``sqrt(v / (1 - beta_2^t))``
    instead (PyTorch), which is the same as ``eps sqrt(1 - beta_2^t)`` in the first form.
    """
    root = math.sqrt(1.0 - beta_2**step)
    alpha = learning_rate * root / (1.0 - beta_1**step)
    added = epsilon * root if epsilon_after_correction else epsilon
    for (w, g, m, v), (a, _) in _blocks(value, gradient, first_moment, second_moment):
        # Not m += (1 - beta) (g - m): for a small beta the difference would lose digits.
        m *= beta_1
        np.multiply(g, 1.0 - beta_1, out=a)
        m += a
        v *= beta_2
        np.multiply(g, g, out=a)
        a *= 1.0 - beta_2
        v += a
        np.sqrt(v, out=a)
        a += added
        np.divide(m, a, out=a)
        a *= alpha
        w -= a


def rmsprop_update(
    value: NDArray,
    gradient: NDArray,
    mean_square: NDArray,
    mean_gradient: NDArray | None,
    velocity: NDArray | None,
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
    ``w -= lr d``; with ``velocity`` ``v = mu v + d``, ``w -= lr v``. The two keep different
    velocities, which shows when the learning rate changes between steps.
    """
    for (w, g, s, c, v), (a, b) in _blocks(value, gradient, mean_square, mean_gradient, velocity):
        s *= rho
        np.multiply(g, g, out=a)
        a *= 1.0 - rho
        s += a
        if c is None:
            a[...] = s
        else:
            c *= rho
            np.multiply(g, 1.0 - rho, out=a)
            c += a
            np.multiply(c, c, out=a)
            np.subtract(s, a, out=a)
            # Rounding may leave the variance of a constant gradient just below zero.
            np.maximum(a, 0.0, out=a)
        if epsilon_inside_root:
            a += epsilon
            np.sqrt(a, out=a)
            np.multiply(g, learning_rate, out=b)
        else:
            np.sqrt(a, out=a)
            a += epsilon
            b[...] = g
        np.divide(b, a, out=a)
        if v is not None:
            v *= momentum
            v += a
            a[...] = v
        if not epsilon_inside_root:
            a *= learning_rate
        w -= a


def adagrad_update(
    value: NDArray,
    gradient: NDArray,
    accumulator: NDArray,
    learning_rate: float,
    epsilon: float,
    epsilon_inside_root: bool,
) -> None:
    """Adagrad (Duchi, Hazan and Singer 2011): ``s += g^2``.

    Keras (``epsilon_inside_root``): ``w -= lr g / sqrt(s + eps)``.
    PyTorch: ``w -= lr g / (sqrt(s) + eps)``.
    """
    for (w, g, s), (a, b) in _blocks(value, gradient, accumulator):
        np.multiply(g, g, out=a)
        s += a
        if epsilon_inside_root:
            np.add(s, epsilon, out=a)
            np.sqrt(a, out=a)
        else:
            np.sqrt(s, out=a)
            a += epsilon
        np.multiply(g, learning_rate, out=b)
        np.divide(b, a, out=a)
        w -= a


def _blocks(
    value: NDArray, gradient: NDArray, *state: NDArray | None
) -> Iterator[tuple[tuple[Any, ...], tuple[NDArray, NDArray]]]:
    """Yield matching blocks of the flat arrays (None stays None) and two buffers."""
    for array in (value, *state):
        if array is not None and not array.flags.c_contiguous:
            raise ValueError("an optimizer updates C-contiguous arrays only")
    flat = [None if a is None else a.reshape(-1) for a in (value, gradient, *state)]
    size = value.size
    buffers: NDArray = np.empty((2, min(size, BLOCK)), value.dtype)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        cut = tuple(None if a is None else a[start:stop] for a in flat)
        a, b = buffers[0, : stop - start], buffers[1, : stop - start]
        yield cut, (a, b)
