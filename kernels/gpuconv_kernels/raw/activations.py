"""Launchers of activations.cu: element-wise functions, alone and behind a matrix product."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

from gpuconv_kernels.raw.runtime import Runtime, flat_grid, row_grid

Array = Any

KINDS: Final = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "exponential",
    "gelu",
    "gelu_tanh",
    "silu",
    "hard_silu",
    "mish",
    "softplus",
    "softsign",
)
"""In the order of ``enum Kind`` in functions.cuh."""


class Function(Protocol):
    """See ``gpuconv.backends.functions.Activation``."""

    @property
    def kind(self) -> str: ...
    @property
    def alpha(self) -> float: ...


def code_of(activation: Function | None) -> tuple[int, float]:
    """The number and the parameter of a function, as kernels take them; None is linear."""
    if activation is None:
        return 0, 0.0
    return KINDS.index(activation.kind), activation.alpha


def forward(rt: Runtime, x: Array, activation: Function) -> Array:
    """Apply a function to the contiguous ``x``."""
    y = rt.empty(x.shape, x.dtype)
    count = math.prod(x.shape)
    if count:
        grid, block = flat_grid(count, per_thread=4)
        rt.launch("activation", grid, block, (x, y, *code_of(activation), count))
    return y


def backward(rt: Runtime, dy: Array, z: Array, activation: Function) -> Array:
    """``dy`` times the derivative; ``z`` is the output or, where it must be, the input."""
    dx = rt.empty(dy.shape, dy.dtype)
    count = math.prod(dy.shape)
    if count:
        grid, block = flat_grid(count, per_thread=4)
        rt.launch("activation_backward", grid, block, (dy, z, dx, *code_of(activation), count))
    return dx


def add_bias_activate(
    rt: Runtime, y: Array, bias: Array | None, activation: Function | None
) -> None:
    """Add ``bias`` (F,) to ``y`` (rows, F) and apply ``activation``, both IN PLACE."""
    rows, filters = y.shape
    if rows == 0:
        return
    grid, block = row_grid(rows, filters // 4 if filters % 4 == 0 else filters)
    rt.launch("bias_activation", grid, block, (y, bias, *code_of(activation), rows, filters))
