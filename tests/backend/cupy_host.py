"""The engine ``cuda:cupy`` on the CPU: its kernels compiled by the machine's C++ compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.testing import host_cuda

needs_compiler = pytest.mark.skipif(
    host_cuda.compiler() is None,
    reason="the CUDA C++ kernels are run on the CPU here, which takes g++ on Linux",
)


def on_host(xp: Any = np, reverse: bool = False) -> tuple[CudaCupy, host_cuda.HostRuntime]:
    """An engine of its own, and the runtime that counts what it does."""
    runtime = host_cuda.HostRuntime(xp, reverse)
    return CudaCupy(runtime), runtime
