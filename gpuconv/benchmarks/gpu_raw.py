"""Launches of every CUDA C++ kernel of gpuconv_kernels.raw, through the engine ``cuda:cupy``.

The engine is given a runtime that tells of each launch and makes its arrays, between canaries or
with an allocation of their own; see gpu_kernels.Memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.benchmarks import gpu_engines
from gpuconv.benchmarks.gpu_kernels import Memory, Tell
from gpuconv_kernels.raw import source
from gpuconv_kernels.raw.runtime import Runtime

Array = Any


def names() -> list[str]:
    """The kernels' names in reports, for both dtypes."""
    return [name_of(kernel, dtype) for dtype in source.REALS for kernel in source.kernels()]


def name_of(kernel: str, dtype: str) -> str:
    """A kernel's name in reports."""
    return f"raw {kernel}[{dtype}]"


class NotingRuntime:
    """A runtime that makes its arrays with a :class:`Memory` and tells of its launches.

    Args:
        runtime: the one that does the work.
        memory: where arrays come from.
        tell: told of each launch, as by ``gpu_kernels.watching``.
    """

    def __init__(self, runtime: Runtime, memory: Memory, tell: Tell) -> None:
        self._runtime, self._memory, self._tell = runtime, memory, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array full of poison."""
        array = self._memory.scratch(math.prod(shape), np.dtype(dtype))
        return self._runtime.empty(shape, dtype) if array is None else array.reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of zeros."""
        return self._memory.workspace(np.zeros(shape, dtype))

    def launch(self, kernel: str, grid: Any, block: Any, arguments: Sequence[Any]) -> None:
        """Tell of a launch, which then may be started."""
        dtype, _ = source.prepare(kernel, arguments)

        def start() -> None:
            self._runtime.launch(kernel, grid, block, arguments)

        self._tell(name_of(kernel, dtype), kernel, tuple(arguments), start)


def cases(runtime: Callable[[], Runtime], tell: Tell) -> Iterator[tuple[str, Any]]:
    """Yield cases as gpu_kernel_cases does: one for each call of a method of the engine."""
    made = functools.cache(runtime)
    for dtype in source.REALS:
        for method, arguments, _ in gpu_engines.calls(dtype):
            run = functools.partial(_call, made, tell, method, arguments)
            yield f"cuda:cupy {method}, {dtype}", run
        for method in gpu_engines.UPDATES:
            run = functools.partial(_update, made, tell, method, dtype)
            yield f"cuda:cupy {method}, {dtype}", run


def _call(
    runtime: Callable[[], Runtime], tell: Tell, method: str, arguments: Any, memory: Memory
) -> None:
    engine = CudaCupy(NotingRuntime(runtime(), memory, tell))  # type: ignore[arg-type]
    moved = [memory.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
    result = getattr(engine, method)(*moved)
    for array in result if isinstance(result, tuple) else (result,):
        if array is not None:
            memory.expect(array)


def _update(
    runtime: Callable[[], Runtime], tell: Tell, method: str, dtype: str, memory: Memory
) -> None:
    engine = CudaCupy(NotingRuntime(runtime(), memory, tell))  # type: ignore[arg-type]
    slots, given = gpu_engines.UPDATES[method]
    rng = np.random.default_rng(5)
    value, gradient = (rng.standard_normal((7, 9)).astype(dtype) for _ in range(2))
    state = [memory.inout(rng.uniform(0.5, 1, (7, 9)).astype(dtype)) for _ in range(slots)]
    getattr(engine, method)(memory.inout(value), memory.put(gradient), *state, *given)
