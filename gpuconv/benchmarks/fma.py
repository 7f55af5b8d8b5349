"""How many multiply-adds the cores can do: the micro-kernel of ``cpu:jit`` on data in its caches.

That is the roof of everything that is made of it: the same few numbers are read over and over, in
sums so long that nothing but the arithmetic takes time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuconv.benchmarks.timing import seconds_of

STEPS = 256
"""Of a call, which begins and ends in the time of some four."""
CALLS = 75
"""Of a task: a fraction of a millisecond."""
_TASKS_A_THREAD = 100


def fma_rate() -> float | None:
    """Return float32 operations a second of all cores, or None where Numba cannot compile."""
    try:
        return _measure()
    except ImportError:
        return None


@functools.cache
def _kernel() -> tuple[Any, int, int, int]:
    """Return the kernel, the micro-kernel's address, and rows and columns of its sums."""
    from gpuconv_kernels.host.kernel import Kernel
    from gpuconv_kernels.host.microkernel import most_vectors, multiply, pixel_kernel, rows_for
    from gpuconv_kernels.host.parallel import take
    from gpuconv_kernels.host.target import host

    of = host()
    vectors = most_vectors(of)
    rows = rows_for(vectors, of)
    kernel = pixel_kernel("float32", of, rows, vectors)

    # The micro-kernel's address is an argument: what is compiled is kept for other processes.
    def multiply_add(counter, tasks, micro_kernel, a, order, b, results, bias):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            c = results + 8 * rows * task
            for call in range(CALLS):
                multiply(micro_kernel, a, order, 1, 0, a, b, STEPS, c, 0, bias, call, 0)
            task = take(counter)

    made_for = CALLS, STEPS, rows, multiply_add.__code__.co_code
    return Kernel(multiply_add, *made_for), kernel, rows, vectors * of.lanes("float32")


def _measure() -> float:
    from gpuconv_kernels.host.memory import aligned
    from gpuconv_kernels.host.parallel import run
    from gpuconv_kernels.threads import threads

    kernel, micro_kernel, rows, width = _kernel()
    tasks = threads() * _TASKS_A_THREAD
    rng = np.random.default_rng(0)
    a = rng.uniform(0.5, 1, (rows, STEPS)).astype("float32")
    b = aligned(STEPS * width, "float32").reshape(STEPS, width)  # as packed weights are
    b[...] = rng.uniform(0.5, 1, b.shape)
    bias, order = np.zeros(width, "float32"), np.zeros(1, "int64")
    sums = np.zeros((tasks, rows, width), "float32")  # a place for each task: no shared cache lines

    def addresses(array: np.ndarray[Any, Any], pitch: int) -> np.ndarray[Any, Any]:
        count = array.nbytes // pitch
        return array.ctypes.data + pitch * np.arange(count, dtype=np.int64)

    of_a, of_sums = addresses(a, a.strides[0]), addresses(sums, sums.strides[1])
    arrays = (of_a, order, b, of_sums, bias)
    words = [micro_kernel, *(array.ctypes.data for array in arrays)]
    seconds = seconds_of(lambda: run(kernel, tasks, *words), times=12)
    expected = CALLS * (a.astype("float64") @ b)
    if not np.allclose(sums[-1], expected, rtol=1e-2):  # 20,000 roundings of a growing sum
        raise RuntimeError("the multiply-adds that were to be timed were not all computed")
    return float(2 * tasks * CALLS * STEPS * rows * width / seconds)
