"""Looking for a GPU without starting one: each way to fail has its own words.

``import cupy`` succeeds without a driver, and in Numba's simulator ``cuda.is_available()`` is
True, so neither proves anything; the driver library is asked directly, for a device.

A device needs the driver and CuPy, which owns its memory; the engine ``cuda:numba`` also needs
numba-cuda (:func:`probe_numba_engine`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys

from gpuconv.backends.base import Probe
from gpuconv.backends.packages import installed_version

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def probe_cuda() -> Probe:
    """Say whether a CUDA device can be used, or the first thing that is missing."""
    driver, cupy = probe_driver(), probe_cupy()
    for found in (driver, cupy):
        if not found.available:
            return found
    built_for = re.match(r"cupy-cuda(\d+)x", cupy.reason)
    supported = re.search(r"supports CUDA (\d+)\.\d+", driver.reason)
    if built_for and supported and int(built_for[1]) > int(supported[1]):
        return Probe(
            False,
            f"the NVIDIA driver is too old for {cupy.reason}: it supports "
            f"CUDA {supported[0].rpartition(' ')[2]}",
            f"Update the NVIDIA driver, or install cupy-cuda{supported[1]}x in its place.",
        )
    return driver


def probe_numba_engine() -> Probe:
    """Say whether Numba's kernels can run on a CUDA device, or the first thing that is missing."""
    if probe_simulator().available:
        return Probe(
            False,
            "Numba runs its CUDA simulator in this process (NUMBA_ENABLE_CUDASIM=1)",
            "Unset NUMBA_ENABLE_CUDASIM, or use backend='cuda-sim'.",
        )
    found = probe_cuda()
    return probe_numba_cuda() if found.available else found


def probe_driver() -> Probe:
    """Ask the NVIDIA driver for its version and its devices."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return Probe(
            False,
            f"no NVIDIA driver: the library {_DRIVER} was not found",
            "Install the NVIDIA driver, or use backend='cpu'.",
        )
    status = driver.cuInit(0)
    if status == 100:  # CUDA_ERROR_NO_DEVICE
        return Probe(
            False,
            "the NVIDIA driver is installed but finds no device",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use backend='cpu'.",
        )
    if status != 0:
        return Probe(
            False,
            f"the NVIDIA driver does not start (cuInit returned error {status})",
            "Check nvidia-smi; after a driver update a restart may be needed.",
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    number = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if count.value == 0:
        return Probe(
            False,
            "the NVIDIA driver is installed but finds no device",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use backend='cpu'.",
        )
    if version.value < 12000:
        return Probe(
            False,
            f"the NVIDIA driver is too old: it supports CUDA {number}, 12.0 is needed",
            "Update the NVIDIA driver, or use backend='cpu'.",
        )
    return Probe(True, f"{count.value} device(s), the driver supports CUDA {number}")


def probe_devices() -> Probe:
    """Ask the NVIDIA driver for the name, memory and compute capability of every device."""
    found = probe_driver()
    if not found.available:
        return found
    driver = ctypes.CDLL(_DRIVER)
    count, device, number = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGetCount(ctypes.byref(count))
    described = []
    for index in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        capability = []
        for attribute in _CAPABILITY:
            driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            capability.append(str(number.value))
        described.append(
            f"{name.value.decode()}, {memory.value / 1024**3:.1f} GiB, "
            f"compute capability {'.'.join(capability)}"
        )
    return Probe(True, "; ".join(described))


def probe_cupy() -> Probe:
    """Look for CuPy without importing it."""
    if importlib.util.find_spec("cupy") is None:
        return Probe(
            False,
            "the package cupy is not installed",
            "Install gpuconv[cuda12] or gpuconv[cuda13], matching the driver.",
        )
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        version = installed_version(name)
        if version:
            return Probe(True, f"{name} {version}")
    return Probe(True, "cupy, of unknown version")


def probe_numba_cuda() -> Probe:
    """Look for Numba's CUDA target without importing it."""
    version = installed_version("numba-cuda")
    if version is None:
        return Probe(
            False,
            "the package numba-cuda is not installed",
            "Install gpuconv[cuda12] or gpuconv[cuda13], matching the driver.",
        )
    return Probe(True, f"numba-cuda {version}")


def probe_simulator() -> Probe:
    """Say whether Numba's CUDA simulator is switched on."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return Probe(True, "NUMBA_ENABLE_CUDASIM=1")
    return Probe(
        False,
        "Numba's CUDA simulator is off",
        "Set NUMBA_ENABLE_CUDASIM=1 before Python starts.",
    )
