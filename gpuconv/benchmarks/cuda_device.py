"""The GPU as the benchmark sees it, through CuPy: events, memory pools, the rates of the device."""

from __future__ import annotations

import itertools
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from gpuconv.backends import registry
from gpuconv.benchmarks.devices import Array, Device, Rates

GEMM = 8192
"""Extent of the square product whose rate is measured."""

# A thread that watches the clock (in nanoseconds), and multiply-adds that depend on nothing but
# their own register: eight chains a thread hide their latency.
SOURCE = r"""
extern "C" __global__ void hold(unsigned long long nanoseconds)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}

extern "C" __global__ void multiply_add(float *out, float a, float b, int rounds)
{
    float r[8];
    #pragma unroll
    for (int i = 0; i < 8; ++i) r[i] = (float)(threadIdx.x + i);
    for (int n = 0; n < rounds; ++n) {
        #pragma unroll
        for (int k = 0; k < 16; ++k) {
            #pragma unroll
            for (int i = 0; i < 8; ++i) r[i] = fmaf(r[i], a, b);
        }
    }
    float sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < 8; ++i) sum += r[i];
    if (sum == 0.5f) out[0] = sum;  // never, but the compiler does not know
}
"""
_FUSED_A_ROUND = 16 * 8
_THREADS = 256


class CudaDevice(Device):
    """The current CUDA device."""

    backend = "cuda"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self._device = cupy.cuda.Device()
        self._properties = cupy.cuda.runtime.getDeviceProperties(self._device.id)
        self.engines = tuple(
            name for name in registry.engine_names("cuda") if registry.probe(name).available
        )
        self.cache_bytes = int(self._properties["l2CacheSize"])
        self._hold = cupy.RawKernel(SOURCE, "hold")
        self._multiply_add = cupy.RawKernel(SOURCE, "multiply_add")

    # --- arrays -----------------------------------------------------------------------

    def put(self, array: Array) -> Array:
        return self.cupy.array(array)

    def get(self, array: Array) -> Array:
        return self.cupy.asnumpy(array)

    def from_torch(self, tensor: Any) -> Array:
        return self.cupy.from_dlpack(tensor.detach())

    def difference(self, actual: Array, expected: Array) -> float:
        if actual.shape != expected.shape:
            raise ValueError(f"shape {actual.shape} where {expected.shape} is expected")
        if not expected.size:
            return 0.0
        worst = float(self.cupy.abs(actual - expected).max())  # NaN wins
        return worst / (float(self.cupy.abs(expected).max()) or 1.0)

    # --- time -------------------------------------------------------------------------

    def event(self) -> Any:
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        return float(self.cupy.cuda.get_elapsed_time(start, end))

    def synchronize(self) -> None:
        self._device.synchronize()

    def hold(self, seconds: float) -> None:
        self._hold((1,), (1,), (self.cupy.uint64(max(0, round(seconds * 1e9))),))

    # --- memory -----------------------------------------------------------------------

    def release(self) -> None:
        self.synchronize()
        self.cupy.get_default_memory_pool().free_all_blocks()
        if (torch := _loaded_torch()) is not None:
            torch.cuda.empty_cache()

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        # The emptied pool asks the driver for what the call needs and keeps it until it is emptied
        # again: what it holds afterwards is the peak. PyTorch counts its own.
        self.release()
        pool, torch = self.cupy.get_default_memory_pool(), _loaded_torch()
        before = pool.total_bytes()
        tensors = 0
        if torch is not None:
            torch.cuda.reset_peak_memory_stats()
            tensors = torch.cuda.memory_allocated()
        result = function()
        self.synchronize()
        peak = int(pool.total_bytes() - before)
        if torch is not None:
            peak += int(torch.cuda.max_memory_allocated() - tensors)
        del result
        return peak

    # --- what it is and what it can do ------------------------------------------------

    def describe(self) -> dict[str, Any]:
        runtime, found = self.cupy.cuda.runtime, self._properties
        described = {
            "device": found["name"].decode(),
            "compute_capability": f"{found['major']}.{found['minor']}",
            "multiprocessors": int(found["multiProcessorCount"]),
            "memory_gib": round(found["totalGlobalMem"] / 1024**3, 1),
            "l2_mib": round(self.cache_bytes / 1024**2, 1),
            "cuda_runtime": runtime.runtimeGetVersion(),
            "cuda_of_driver": runtime.driverGetVersion(),
        }
        return described | _from_nvidia_smi(self._device.pci_bus_id)

    def rates(self) -> Rates:
        rates = Rates(self._copy_rate(), self._gemm_rate(), self._fma_rate())
        self.release()
        return rates

    def _copy_rate(self) -> float:
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        count = min(2**28, free // 32)  # 1 GiB each, if there is room
        source = self.cupy.ones(count, "float32")
        target = self.cupy.empty_like(source)
        return 2 * source.nbytes / self._seconds(lambda: self.cupy.copyto(target, source))

    def _gemm_rate(self) -> float:
        a = self.cupy.ones((GEMM, GEMM), "float32")
        out = self.cupy.empty_like(a)
        # CuPy asks for TF32 only where CUPY_TF32=1 is set, which describe() would not show.
        return 2 * GEMM**3 / self._seconds(lambda: self.cupy.matmul(a, a, out=out))

    def _fma_rate(self) -> float:
        blocks = int(self._properties["multiProcessorCount"]) * 32
        out, rounds = self.cupy.zeros(1, "float32"), 4096
        a, b = self.cupy.float32(0.999), self.cupy.float32(0.001)

        def run() -> None:
            self._multiply_add((blocks,), (_THREADS,), (out, a, b, self.cupy.int32(rounds)))

        return 2 * blocks * _THREADS * rounds * _FUSED_A_ROUND / self._seconds(run)

    def _seconds(self, function: Callable[[], Any], times: int = 10) -> float:
        """The median of some calls in a full queue, after two that are not timed."""
        for _ in range(2):
            function()
        self.hold(0.002)
        stamps = [self.event()]
        for _ in range(times):
            function()
            stamps.append(self.event())
        self.synchronize()
        taken = [self.milliseconds(a, b) for a, b in itertools.pairwise(stamps)]
        return statistics.median(taken) / 1e3


def _loaded_torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _from_nvidia_smi(bus: str) -> dict[str, str]:
    """What only NVIDIA's tool says, where it is installed."""
    fields = ("driver_version", "clocks.max.sm", "power.limit")
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={bus}"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(("driver", "max_clock", "power_limit"), values, strict=False))
