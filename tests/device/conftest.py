"""Device kernels, run wherever they can: in Numba's simulator, or on a GPU.

``python -m pytest`` starts these files in processes of their own with
``NUMBA_ENABLE_CUDASIM=1`` and a time limit (tests/kernels/test_device_simulated.py). On a machine
with a GPU ``python -m pytest tests/device`` runs them on it. Elsewhere they are not collected.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from gpuconv.backends import cuda_probe

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

collect_ignore_glob = [] if SIMULATED or cuda_probe.probe_cuda().available else ["test_*.py"]


class Memory:
    """Where the kernels' arrays live: NumPy arrays in the simulator, CuPy arrays on a GPU."""

    def put(self, array: Any) -> Any:
        """Return a contiguous copy of a NumPy array on the device."""
        array = np.ascontiguousarray(array)
        if SIMULATED:
            return array.copy()
        import cupy

        return cupy.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array on the device full of poison: NaN, or a number far out of range."""
        poison = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
        return self.put(np.full(shape, poison, dtype))

    def get(self, array: Any) -> Any:
        """Return a NumPy copy."""
        return array.copy() if SIMULATED else array.get()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own: each test draws other numbers, the same on every run."""
    seed = [ord(c) for c in request.node.nodeid]
    return np.random.default_rng(seed)
