"""What a benchmark needs of a device; the GPU's is tested with one that is made of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Array = Any


@dataclass(frozen=True, slots=True)
class Rates:
    """What the device itself can do, measured in the same run.

    Attributes:
        copy: bytes a second, read and written, of a copy within the device's memory.
        gemm: float32 operations a second of the library's product of large square matrices, without
            TF32: 8192 x 8192 on a GPU, 1024 x 1024 on the CPU.
        fma: float32 operations a second of multiply-adds in registers: what arithmetic can reach.
    """

    copy: float
    gemm: float
    fma: float


class Device(Protocol):
    """Arrays, clocks and memory of one device. Work is queued and runs in its order.

    Attributes:
        backend: what gpuconv calls it, ``"cuda"``.
        engines: names of the engines to force in turn.
        cache_bytes: of the last level of cache; 0 where operands need not be kept out of it.
        sees_tensors: whether ``peak_bytes`` counts PyTorch's memory too.
        has_tf32: whether PyTorch is timed with TF32 too.
    """

    backend: str
    engines: tuple[str, ...]
    cache_bytes: int
    sees_tensors: bool = True
    has_tf32: bool = True

    def describe(self) -> dict[str, Any]:
        """Return name, driver and versions, for the record; ``"device"`` is its name."""

    def put(self, array: Array) -> Array:
        """Return a copy of a NumPy array on the device."""

    def get(self, array: Array) -> Array:
        """Return a NumPy copy of an array on the device."""

    def from_torch(self, tensor: Any) -> Array:
        """Return the memory of a tensor as an array of the device."""

    def difference(self, actual: Array, expected: Array) -> float:
        """Return the largest difference by the largest expected value; NaN if there is one."""

    def event(self) -> Any:
        """Put a time stamp into the queue."""

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two time stamps that have been reached."""

    def synchronize(self) -> None:
        """Wait until the queue is empty."""

    def hold(self, seconds: float) -> None:
        """Keep the device busy, so that what is queued meanwhile runs without gaps."""

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        """Call a function and return the memory that it needed at its worst."""

    def release(self) -> None:
        """Give the memory back that libraries keep for later use."""

    def rates(self) -> Rates:
        """Measure what the device can do."""
