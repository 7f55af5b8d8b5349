"""What a device can do, in the numbers that a model of costs needs: a roofline and its steps.

Sources: attributes of the device as the CUDA runtime reports them; operations a clock of one
multiprocessor from the table "Throughput of Native Arithmetic Instructions" of NVIDIA's CUDA
C++ Programming Guide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpuconv.backends.cpu_probe import processor_name

_CORES: dict[tuple[int, int], tuple[int, int]] = {
    (6, 0): (64, 32),
    (6, 1): (128, 4),
    (7, 0): (64, 32),
    (7, 2): (64, 32),
    (7, 5): (64, 2),
    (8, 0): (64, 32),
    (8, 6): (128, 2),
    (8, 7): (128, 2),
    (8, 9): (128, 2),
    (9, 0): (128, 64),
    (10, 0): (128, 64),
    (10, 3): (128, 2),
    (12, 0): (128, 2),
    (12, 1): (128, 2),
}
"""Compute capability -> multiply-adds a clock of one multiprocessor in float32 and in float64."""
_UNKNOWN_CORES = (128, 2)
"""For capabilities that are younger than this table."""
_FP64_TENSOR_CORES = ((8, 0), (9, 0))
"""Where cuBLAS multiplies float64 on tensor cores, at twice the rate of the others."""

# Numbers of the attributes in the enumeration cudaDeviceAttr.
_CLOCK_RATE, _MULTIPROCESSORS = 13, 16
_MEMORY_CLOCK_RATE, _BUS_WIDTH, _L2_SIZE = 36, 37, 38
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class DeviceProfile:
    """The numbers of one device.

    Attributes:
        name: what the device calls itself, such as ``"NVIDIA H200"``.
        capability: compute capability, such as ``(9, 0)``.
        multiprocessors: number of them.
        fp32_flops, fp64_flops: multiplications and additions a second at the highest clock, without
            tensor cores.
        bandwidth: bytes a second of the memory: twice its clock times the width of its bus.
        l2_bytes: size of the L2 cache.
        memory_bytes: size of the memory.
        launch_seconds: between the beginnings of two kernels that have nothing to do. Not an
            attribute of the device; 5 us is usual for launches from Python.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    fp32_flops: float
    fp64_flops: float
    bandwidth: float
    l2_bytes: int
    memory_bytes: int
    launch_seconds: float = 5e-6

    def flops(self, dtype: str) -> float:
        """Peak rate of a kernel's own arithmetic in ``"float32"`` or ``"float64"``."""
        return self.fp64_flops if dtype == "float64" else self.fp32_flops

    def gemm_flops(self, dtype: str) -> float:
        """Peak rate of the vendor's matrix product, which has tensor cores for float64 on some."""
        if dtype == "float64" and self.capability in _FP64_TENSOR_CORES:
            return 2 * self.fp64_flops
        return self.flops(dtype)


SIMULATOR = DeviceProfile(
    name="simulator",
    capability=(7, 5),
    multiprocessors=1,
    fp32_flops=1e6,
    fp64_flops=1e6,
    bandwidth=4e6,
    l2_bytes=0,
    memory_bytes=1024**3,
    launch_seconds=1e-2,
)
"""The profile of ``cuda-sim``: fixed, so that decisions there are the same on every machine. The
rates are of the order of a thread's 1.5 ms in Numba's simulator; only their ratios matter."""


def current_profile(device: str) -> DeviceProfile:
    """Return the profile of the current device of ``"cuda"``, or of ``"cuda-sim"``.

    Read when first asked for, once for each CUDA device of the machine.

    Raises:
        ValueError: another word; the CPU has no such profile.
        ImportError: CuPy is missing.
    """
    if device == "cuda-sim":
        return SIMULATOR
    if device != "cuda":
        raise ValueError(f"only cuda and cuda-sim have a profile. Received: {device!r}")
    from cupy.cuda import runtime

    return _cuda_profile(runtime.getDevice())


@functools.cache
def _cuda_profile(number: int) -> DeviceProfile:
    from cupy.cuda import runtime

    def attribute(code: int) -> int:
        try:
            return int(runtime.deviceGetAttribute(code, number))
        except runtime.CUDARuntimeError:  # an attribute that this driver no longer knows
            return 0

    return profile_from(runtime.getDeviceProperties(number), attribute)


def profile_from(properties: dict[str, Any], attribute: Callable[[int], int]) -> DeviceProfile:
    """Make a profile of what the CUDA runtime reports.

    Args:
        properties: of ``cudaGetDeviceProperties``; ``name`` and ``totalGlobalMem`` are read.
        attribute: value of an attribute by its number in ``cudaDeviceAttr``; 0 where it is not
            known: the clocks then count as 1.5 GHz, the memory as 300 GB/s, the L2 as 4 MiB.
    """
    name = properties["name"]
    capability = (attribute(_MAJOR), attribute(_MINOR))
    single, double = _CORES.get(capability, _UNKNOWN_CORES)
    multiprocessors = max(attribute(_MULTIPROCESSORS), 1)
    clock = 1e3 * (attribute(_CLOCK_RATE) or 1_500_000)  # reported in kHz
    bandwidth = 2 * 1e3 * attribute(_MEMORY_CLOCK_RATE) * attribute(_BUS_WIDTH) / 8
    return DeviceProfile(
        name=name.decode() if isinstance(name, bytes) else str(name),
        capability=capability,
        multiprocessors=multiprocessors,
        fp32_flops=2.0 * single * multiprocessors * clock,
        fp64_flops=2.0 * double * multiprocessors * clock,
        bandwidth=bandwidth or 300e9,
        l2_bytes=attribute(_L2_SIZE) or 4 * 1024**2,
        memory_bytes=int(properties["totalGlobalMem"]),
    )


def device_name(device: str) -> str:
    """Return what names the hardware behind a device: the GPU's name, or the processor's."""
    return current_profile(device).name if device.startswith("cuda") else _processor()


_processor = functools.cache(processor_name)
