"""A device for the GPU benchmark that is made of NumPy: what its tests run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv.benchmarks.devices import Device, Rates


class HostDevice(Device):
    """A device of NumPy arrays, with a clock that only its own work moves on.

    A call takes as long as ``work`` says, by default a millisecond on the device and 0.1 on
    the host.
    """

    backend = "cpu"
    engines = ("cpu:numpy",)
    cache_bytes = 100_000

    def __init__(self) -> None:
        self.host = self.queue = 0.0
        self.held: list[float] = []
        self.lost = False
        self.stamps = 0

    def clock(self) -> float:
        """Return the host's time in seconds."""
        return self.host

    def work(self, device: float = 1e-3, host: float = 1e-4) -> None:
        """Queue some work."""
        self.host += host
        self.queue = max(self.queue, self.host) + device

    def describe(self) -> dict[str, Any]:
        return {"device": "Host made of NumPy", "driver": "none"}

    def put(self, array: Any) -> Any:
        return np.array(array)

    def get(self, array: Any) -> Any:
        return array

    def from_torch(self, tensor: Any) -> Any:
        return np.from_dlpack(tensor.detach())

    def difference(self, actual: Any, expected: Any) -> float:
        assert actual.shape == expected.shape
        return float(np.abs(actual - expected).max() / np.abs(expected).max())

    def event(self) -> float:
        self.stamps += 1
        return max(self.queue, self.host)

    def milliseconds(self, start: float, end: float) -> float:
        return (end - start) * 1e3

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError("an illegal memory access was encountered")
        self.host = self.queue = max(self.host, self.queue)

    def hold(self, seconds: float) -> None:
        self.held.append(seconds)
        self.queue = max(self.queue, self.host) + seconds

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        function()
        return 3 * 1024**2

    def release(self) -> None:
        self.synchronize()

    def rates(self) -> Rates:
        return Rates(copy=1e10, gemm=5e10, fma=1e11)


class RealTime(HostDevice):
    """The same with the time that the work really takes."""

    def event(self) -> float:
        return time.perf_counter()

    def synchronize(self) -> None:
        pass

    def hold(self, seconds: float) -> None:
        pass


class OutOfMemoryError(Exception):
    """What CuPy and PyTorch call theirs."""
