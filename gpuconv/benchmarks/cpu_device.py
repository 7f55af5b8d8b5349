"""The CPU as the benchmark sees it: clocks, memory that NumPy allocates, what the cores can do."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpuconv.backends import registry
from gpuconv.backends.cpu_probe import (
    blas_name,
    processor_name,
    simd_extensions,
    usable_cores,
)
from gpuconv.benchmarks.devices import Array, Device, Rates
from gpuconv.benchmarks.fma import fma_rate
from gpuconv.benchmarks.timing import seconds_of

SQUARE = 1024
"""Extent of the square product that stands for the rate of BLAS."""
_COPIED = 128 * 1024**2
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GPUCONV_THREADS")


class CpuDevice(Device):
    """The cores that this process may use."""

    backend = "cpu"
    cache_bytes = 0  # what a layer computes is in the cache as far as it fits when the next begins
    sees_tensors = has_tf32 = False

    def __init__(self) -> None:
        names = registry.engine_names("cpu")
        self.engines = tuple(name for name in names if registry.probe(name).available)

    # --- arrays -----------------------------------------------------------------------

    def put(self, array: Array) -> Array:
        return array

    def get(self, array: Array) -> Array:
        return array

    def from_torch(self, tensor: Any) -> Array:
        return np.from_dlpack(tensor.detach())

    def difference(self, actual: Array, expected: Array) -> float:
        if actual.shape != expected.shape:
            raise ValueError(f"shape {actual.shape} where {expected.shape} is expected")
        if not expected.size:
            return 0.0
        worst = float(np.abs(actual - expected).max())  # NaN wins
        return worst / (float(np.abs(expected).max()) or 1.0)

    # --- time -------------------------------------------------------------------------

    def event(self) -> float:
        return time.perf_counter()

    def milliseconds(self, start: float, end: float) -> float:
        return (end - start) * 1e3

    def synchronize(self) -> None:
        """Return at once: what was called has finished."""

    def hold(self, seconds: float) -> None:
        """Return at once: there is no queue to fill."""

    # --- memory -----------------------------------------------------------------------

    def release(self) -> None:
        """Return at once: NumPy keeps nothing worth giving back."""

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        """Call a function; return the most memory that it held in NumPy's arrays.

        Not seen: what compiled kernels allocate inside, and what was allocated before and kept.
        """
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            result = function()
            peak = tracemalloc.get_traced_memory()[1] - before
            del result
        finally:
            tracemalloc.stop()
        return peak

    # --- what it is and what it can do ------------------------------------------------

    def describe(self) -> dict[str, Any]:
        set_by = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        return {
            "device": processor_name(),
            "cores": usable_cores(),
            "vectors": " ".join(simd_extensions()),
            "blas": blas_name(),
        } | set_by

    def rates(self) -> Rates:
        """Measure copying by all cores, BLAS, and multiply-adds (0 where Numba cannot compile)."""
        return Rates(_copy_rate(), _gemm_rate(), fma_rate() or 0.0)


def _copy_rate() -> float:
    """Bytes read and written a second by all cores, between arrays larger than any cache."""
    cores = usable_cores()
    source = np.ones((cores, _COPIED // 4 // cores), "float32")
    target = np.zeros_like(source)
    with ThreadPoolExecutor(cores) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, target, source))  # which lets the other threads run

        return 2 * source.nbytes / seconds_of(copy)


def _gemm_rate() -> float:
    a = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), dtype="float32")
    out = np.empty_like(a)
    return 2 * SQUARE**3 / seconds_of(lambda: np.matmul(a, a, out=out), times=8)
