"""Counting copies between host and device: how a test shows that a training step does not wait.

Counted are the copies that gpuconv makes, and on ``cuda-sim`` also every way in which a number is
read off an array implicitly (``float(x)``, ``if x:``, ``x.tolist()``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Transfers:
    """Copies since counting began.

    Attributes:
        to_device: arrays that went from the host to a device.
        to_host: arrays or numbers that came back; each waits for the device.
    """

    to_device: int = 0
    to_host: int = 0


_active: ContextVar[tuple[Transfers, ...]] = ContextVar("gpuconv_transfers", default=())


@contextlib.contextmanager
def count_transfers() -> Iterator[Transfers]:
    """Count the copies of this thread inside a ``with`` block; may be nested."""
    counted = Transfers()
    token = _active.set((*_active.get(), counted))
    try:
        yield counted
    finally:
        _active.reset(token)


def note_to_device() -> None:
    """Count one copy to a device."""
    for counted in _active.get():
        counted.to_device += 1


def note_to_host() -> None:
    """Count one copy to the host."""
    for counted in _active.get():
        counted.to_host += 1
