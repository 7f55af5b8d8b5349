"""Looking at the processor, its memory and the libraries that compute on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.backends.base import Probe
from gpuconv.backends.packages import installed_version
from gpuconv.settings import physical_memory

_GIB = 1024**3


def probe_cpu() -> Probe:
    """Name of the processor, cores that this process may use, vector extensions found."""
    usable, present = usable_cores(), os.cpu_count() or 1
    cores = f"{usable} of {present} cores" if usable != present else f"{usable} core(s)"
    return Probe(True, f"{processor_name()}, {cores}, {', '.join(simd_extensions())}")


def probe_memory() -> Probe:
    """Physical memory of the machine."""
    total = physical_memory()
    if total is None:
        return Probe(False, "the operating system does not say how much memory there is")
    return Probe(True, f"{total / _GIB:.1f} GiB")


def probe_blas() -> Probe:
    """Library that carries out NumPy's matrix products."""
    return Probe(True, blas_name())


def probe_numba() -> Probe:
    """Look for Numba and its compiler without importing them."""
    found = []
    for name in ("numba", "llvmlite"):
        version = installed_version(name)
        if version is None:
            return Probe(False, f"the package {name} is not installed", f"Install {name}.")
        found.append(f"{name} {version}")
    return Probe(True, " with ".join(found))


def probe_compiler() -> Probe:
    """Say whether kernels can be compiled for this processor; imports Numba."""
    found = probe_numba()
    if not found.available:
        return found
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return Probe(
            False, "NUMBA_DISABLE_JIT is set: Numba compiles nothing", "Unset it, and start again."
        )
    try:
        from gpuconv_kernels.host.target import host
    except Exception as error:  # whatever an installation that does not fit together raises
        return Probe(False, f"importing Numba failed: {error}", "Install numba again.")
    return Probe(True, f"{found.reason}, vectors of {8 * host().vector_bytes} bits")


def processor_name() -> str:
    """What the processor calls itself, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has this file
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simd_extensions() -> tuple[str, ...]:
    """Vector extensions of this processor that NumPy knows, in its words."""
    found = _build_information().get("SIMD Extensions", {})
    names = (*found.get("baseline", ()), *found.get("found", ()))
    return names or ("no vector extensions",)


def blas_name() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    blas = _build_information().get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()


def _build_information() -> dict[str, Any]:
    found: Any = np.show_config(mode="dicts")
    return found or {}
