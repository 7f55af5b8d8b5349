"""Bringing batches to a device ahead of their use: the next one travels while this one is computed.

On CUDA a batch is copied into page-locked (pinned) memory and from there by a side stream, so that
neither the host nor the computing stream waits. Two *slots* take turns, each with its pinned
and its device memory, used again and again::

    side stream   copy 0 | copy 1      | copy 2      | copy 3
    main stream          | compute 0   | compute 1   | compute 2
    slot             0       1              0             1

Two orders must hold, both kept by events on the device: a batch is computed after it was copied,
and a slot is overwritten after the batch that lay there was computed. What is handed out is
therefore valid until the next batch is asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_device
from gpuconv.data.batches import Batch
from gpuconv.data.forms import each

_ALIGNMENT = 256  # as CUDA's own allocations; vector loads need 16


def on_device(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """Yield the same batches with all their arrays on ``device``, in their own dtypes.

    A batch is valid until the next one is taken: its memory is then used again. On the CPU batches
    pass as they are; elsewhere the next batch is taken from ``batches`` before this one is yielded.
    """
    if device == "cpu":
        return iter(batches)
    return _pipelined(batches, _slots(device))


def _pipelined(batches: Iterable[Batch], slots: list[Slot]) -> Iterator[Batch]:
    source = iter(batches)
    waiting: list[tuple[Batch, Slot]] = []
    turn = 0
    try:
        while True:
            while len(waiting) < len(slots):
                batch = next(source, None)
                if batch is None:
                    break
                slot = slots[turn % len(slots)]
                turn += 1
                waiting.append((_copied(batch, slot), slot))
            if not waiting:
                return
            batch, slot = waiting.pop(0)
            slot.wait_until_copied()
            yield batch
            slot.computed()
    finally:  # also where training stops early, with the next batch still on its way
        for slot in slots:
            slot.give_up()


def _copied(batch: Batch, slot: Slot) -> Batch:
    x, y, weights = batch
    slot.begin()
    copied = each(slot.copy, x), each(slot.copy, y), each(slot.copy, weights)
    slot.end()
    return copied


class Slot(ABC):
    """Memory for one batch, and the order in which it may be used."""

    @abstractmethod
    def begin(self) -> None:
        """Start copying a batch, after the last one that lay here has been computed."""

    @abstractmethod
    def copy(self, array: Any) -> Any:
        """Start copying an array; return it as it will lie on the device."""

    @abstractmethod
    def end(self) -> None:
        """All arrays of the batch have been started."""

    @abstractmethod
    def wait_until_copied(self) -> None:
        """Let what is computed from here on come after the copies."""

    @abstractmethod
    def computed(self) -> None:
        """All that uses the batch has been started."""

    @abstractmethod
    def give_up(self) -> None:
        """Wait until no copy is under way: others may then get the memory."""


class PlainSlot(Slot):
    """Copies at once, into new memory: nothing to order. For devices without streams."""

    def __init__(self, device: str) -> None:
        self.device = device

    def begin(self) -> None:
        """New memory each time."""

    def copy(self, array: Any) -> Any:
        return to_device(array, self.device)

    def end(self) -> None:
        """The copies are done."""

    def wait_until_copied(self) -> None:
        """They were done at once."""

    def computed(self) -> None:
        """The memory is not used again."""

    def give_up(self) -> None:
        """The copies are done."""


class CudaSlot(Slot):
    """Pinned and device memory of one batch, and the events that order their use.

    Args:
        cupy: the module, given so that a test can watch the order of calls.
        stream: the side stream of all slots.
    """

    def __init__(self, cupy: Any, stream: Any) -> None:
        self.cupy = cupy
        self.stream = stream
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.free = cupy.cuda.Event(disable_timing=True)
        self.used = False
        self.pinned: list[np.ndarray[Any, Any]] = []
        self.memory: list[Any] = []
        self.parts = 0

    def begin(self) -> None:
        self.parts = 0
        if self.used:
            self.copied.synchronize()  # of two batches ago: the pinned memory is read from no more
            self.stream.wait_event(self.free)
        self.used = True

    def copy(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray):
            return array  # it lies on the device already
        part, self.parts = self.parts, self.parts + 1
        if part == len(self.memory) or self.memory[part].nbytes < array.nbytes:
            self._reserve(part, array.nbytes)
        staged = self.pinned[part][: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(staged, array)
        there = self.memory[part][: array.nbytes].view(array.dtype).reshape(array.shape)
        there.set(staged, stream=self.stream)
        return there

    def _reserve(self, part: int, nbytes: int) -> None:
        nbytes = max(math.ceil(nbytes / _ALIGNMENT) * _ALIGNMENT, _ALIGNMENT)
        pinned = self.cupy.cuda.alloc_pinned_memory(nbytes)
        host = np.frombuffer(pinned, np.uint8, nbytes)
        # Allocated for the main stream, which uses it; the side stream comes in by events alone.
        memory = self.cupy.empty(nbytes, np.uint8)
        started = self.cupy.cuda.get_current_stream().record()
        self.stream.wait_event(started)  # the pool may give memory that is still in use there
        if part == len(self.memory):
            self.pinned.append(host)
            self.memory.append(memory)
        else:
            self.pinned[part], self.memory[part] = host, memory

    def end(self) -> None:
        self.copied.record(self.stream)

    def wait_until_copied(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self.copied)

    def computed(self) -> None:
        self.free.record(self.cupy.cuda.get_current_stream())

    def give_up(self) -> None:
        # The pools know nothing of this stream, and would hand the memory out while it is copied.
        self.stream.synchronize()


def _slots(device: str, count: int = 2) -> list[Slot]:
    if device != "cuda":
        return [PlainSlot(device) for _ in range(count)]
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    return [CudaSlot(cupy, stream) for _ in range(count)]
