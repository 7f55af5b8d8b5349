"""Arrays between canaries: a kernel that writes beside its arrays is found out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

_ROOM = 256
_CANARY = 0xA5


@contextmanager
def guarded(*arrays: NDArray) -> Iterator[list[NDArray]]:
    """Give C-contiguous copies of arrays with canaries on both sides; look at these at the end.

    Raises:
        AssertionError: if a canary has changed.
    """
    memories, inside = [], []
    for array in arrays:
        memory = np.full(array.nbytes + 2 * _ROOM, _CANARY, np.uint8)
        copy = memory[_ROOM : _ROOM + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        memories.append(memory)
        inside.append(copy)
    yield inside
    for number, memory in enumerate(memories):
        sides = np.concatenate([memory[:_ROOM], memory[-_ROOM:]])
        assert (sides == _CANARY).all(), f"array {number}: something was written beside it"
