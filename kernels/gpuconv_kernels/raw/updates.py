"""Launchers of updates.cu: optimizer updates in place.

``value`` and the state arrays are modified; they are C-contiguous, of one dtype and shape, which
``launch`` checks. What the formulas derive from their constants is worked out here, in Python's
floats.
"""

from __future__ import annotations

import math
from typing import Any

from gpuconv_kernels.raw.runtime import Runtime, flat_grid

Array = Any


def sgd_update(
    rt: Runtime,
    value: Array,
    gradient: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    torch_form: bool,
    first: bool,
) -> None:
    """Gradient descent, with momentum where ``velocity`` is given."""
    _launch(
        rt,
        "sgd_update",
        (value, gradient, velocity, learning_rate, momentum, nesterov, torch_form, first),
    )


def adam_update(
    rt: Runtime,
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
    """Adam (Kingma and Ba 2015); ``step`` counts from 1."""
    root = math.sqrt(1.0 - beta_2**step)
    alpha = learning_rate * root / (1.0 - beta_1**step)
    added = epsilon * root if epsilon_after_correction else epsilon
    constants = (alpha, beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, added)
    _launch(rt, "adam_update", (value, gradient, first_moment, second_moment, *constants))


def rmsprop_update(
    rt: Runtime,
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
    """RMSprop (Hinton 2012), centered where ``mean_gradient`` is given."""
    constants = (learning_rate, rho, 1.0 - rho, momentum, epsilon, epsilon_inside_root)
    _launch(
        rt, "rmsprop_update", (value, gradient, mean_square, mean_gradient, velocity, *constants)
    )


def adagrad_update(
    rt: Runtime,
    value: Array,
    gradient: Array,
    accumulator: Array,
    learning_rate: float,
    epsilon: float,
    epsilon_inside_root: bool,
) -> None:
    """Adagrad (Duchi, Hazan and Singer 2011)."""
    constants = (learning_rate, epsilon, epsilon_inside_root)
    _launch(rt, "adagrad_update", (value, gradient, accumulator, *constants))


def _launch(rt: Runtime, kernel: str, arguments: tuple[Any, ...]) -> None:
    count = math.prod(arguments[0].shape)
    if count:
        grid, block = flat_grid(count)
        rt.launch(kernel, grid, block, (*arguments, count))
