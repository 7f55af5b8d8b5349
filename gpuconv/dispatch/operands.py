"""Arrays for timing an operation: of the geometry's shapes, with numbers like those in use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_device
from gpuconv.backends.base import Array, Engine
from gpuconv.geometry import ConvGeometry, PoolGeometry

_PATTERN = 65_536

_ARRAYS: dict[str, tuple[str, ...]] = {
    "conv_forward": ("x", "w", "bias"),
    "conv_backward_input": ("y", "w"),
    "conv_backward_weight": ("y", "x"),
    "max_pool": ("x",),
    "max_pool_backward": ("y", "indices"),
    "avg_pool": ("x",),
    "avg_pool_backward": ("y",),
}
"""The arrays that an operation of the contract takes, in its order; gradients by their shape."""


class Operands:
    """The arrays that one operation takes, made once and shared by all candidates.

    The numbers are random: a GPU's clock, and so its speed, depends on how many bits change,
    and zeros would flatter.

    Args:
        op: method of the engine contract.
        geometry: of the operation.
        dtype: ``"float32"`` or ``"float64"``.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        MemoryError: the device has no room for them.
    """

    def __init__(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, device: str
    ) -> None:
        self.op = op
        self.geometry: Any = geometry
        host = np.random.Generator(np.random.Philox(key=1)).uniform(-1, 1, _PATTERN).astype(dtype)
        self._pattern = to_device(host, device)
        names = [name for name in _ARRAYS[op] if name != "indices"]
        self._arrays = {name: self._filled(_shape(name, geometry)) for name in names}

    @staticmethod
    def can_make(op: str) -> bool:
        """Whether the arrays of this operation are known here."""
        return op in _ARRAYS

    def run(self, engine: Engine, limit: int) -> Callable[[], object]:
        """Return a function that lets ``engine`` carry out the operation once.

        Args:
            engine: who computes.
            limit: of the workspace, in bytes.
        """
        if self.op == "max_pool_backward" and "indices" not in self._arrays:
            x = self._filled(self.geometry.x_shape)
            self._arrays["indices"] = engine.max_pool(x, self.geometry, True)[1]
        method: Callable[..., object] = getattr(engine, self.op)
        arguments: list[Any] = [*(self._arrays[n] for n in _ARRAYS[self.op]), self.geometry]
        if self.op.startswith("conv"):
            arguments.append(limit)
        elif self.op == "max_pool":
            arguments.append(True)  # with indices, as in training
        return lambda: method(*arguments)

    def _filled(self, shape: tuple[int, ...]) -> Array:
        """A new array that repeats the pattern."""
        pattern, count = self._pattern, math.prod(shape)
        array = array_module(pattern).empty(count, pattern.dtype)
        whole = count - count % _PATTERN
        array[:whole].reshape(-1, _PATTERN)[...] = pattern
        array[whole:] = pattern[: count - whole]
        return array.reshape(shape)


def _shape(name: str, geometry: ConvGeometry | PoolGeometry) -> tuple[int, ...]:
    if name == "bias":
        return geometry.y_shape[-1:]
    shape: tuple[int, ...] = getattr(geometry, f"{name}_shape")
    return shape
