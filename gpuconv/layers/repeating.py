"""Layers that change nothing or say it several times: Identity and RepeatVector."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.geometry import as_int
from gpuconv.layers.base import Backward, Layer, Shape


class Identity(Layer):
    """Gives on what it gets, as Keras's Identity: a place holder."""

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return x, lambda dy, input_gradient=True: dy if input_gradient else None

    def infer(self, x: Array) -> Array:
        return x


class RepeatVector(Layer):
    """Repeats a vector ``n`` times, as Keras's RepeatVector: (N, C) becomes (N, n, C).

    Args:
        n: at least 1.

    Raises:
        InvalidArgumentError: an impossible number.
        ShapeError: an input of another rank.
    """

    exact_rank = 2

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = as_int(n, "n", 1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.n, input_shape[1])

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy.sum(axis=1) if input_gradient else None

        return array_module(x).repeat(x[:, None, :], self.n, axis=1), backward
