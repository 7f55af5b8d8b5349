"""How many multiply-adds the cores can do: the micro-kernel of ``cpu:jit`` on data in the L1 cache.

That is the roof of everything that is made of it. The same vector of ``b`` and the same numbers of
``a`` are read at every step, so that nothing but the arithmetic takes time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv.benchmarks.timing import seconds_of

STEPS = 20_000
"""Of a task: a fraction of a millisecond."""
_TASKS_A_THREAD = 25


def fma_rate() -> float | None:
    """Return float32 operations a second of all cores, or None where Numba cannot compile."""
    try:
        return _measure()
    except ImportError:
        return None


@functools.cache
def _kernel() -> tuple[Callable[..., Any], int, int]:
    """Return the kernel, and rows and columns of its sums."""
    import numba

    from gpuconv_kernels.host.microkernel import micro_kernel, most_vectors, rows_for
    from gpuconv_kernels.host.parallel import take
    from gpuconv_kernels.host.target import host

    of = host()
    vectors = most_vectors(of)
    rows = rows_for(vectors, of)
    multiply = micro_kernel("float32", of, rows, vectors)

    def multiply_add(counter, tasks, a, b, results, bias, steps):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            multiply(a, 1, 0, 0, b, 0, 0, steps, results + 8 * rows * task, bias, 0, 0)
            task = take(counter)

    return numba.njit(nogil=True)(multiply_add), rows, vectors * of.lanes("float32")


def _measure() -> float:
    from gpuconv_kernels.host.parallel import run
    from gpuconv_kernels.threads import threads

    kernel, rows, width = _kernel()
    tasks = threads() * _TASKS_A_THREAD
    numbers = np.random.default_rng(0).uniform(0.5, 1, (rows + 2, width)).astype("float32")
    a, b, bias = numbers[:rows], numbers[rows], numbers[rows + 1]
    sums = np.zeros((tasks, rows, width), "float32")  # a place for each task: no shared cache lines

    def addresses(array: np.ndarray[Any, Any], pitch: int) -> np.ndarray[Any, Any]:
        count = array.nbytes // pitch
        return array.ctypes.data + pitch * np.arange(count, dtype=np.int64)

    of_a, of_sums = addresses(a, a.strides[0]), addresses(sums, sums.strides[1])
    words = (of_a.ctypes.data, b.ctypes.data, of_sums.ctypes.data, bias.ctypes.data, STEPS)
    seconds = seconds_of(lambda: run(kernel, tasks, *words), times=12)
    expected = bias + STEPS * (a[:, :1].astype("float64") * b)
    if not np.allclose(sums[-1], expected, rtol=1e-2):  # 20,000 roundings of a growing sum
        raise RuntimeError("the multiply-adds that were to be timed were not all computed")
    return float(2 * tasks * STEPS * rows * width / seconds)
