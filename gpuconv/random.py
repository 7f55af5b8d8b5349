"""Reproducible randomness: one global seed, and streams whose state is two integers.

A :class:`SeedStream` never holds a generator: each draw builds a counter-based Philox
generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") from
``(seed, count)``. Its state can therefore be written into a file and restored exactly.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator

import numpy as np

from gpuconv.errors import InvalidArgumentError

_LIMIT = 2**63


class SeedStream:
    """A sequence of independent random generators, reproducible from its state.

    Args:
        seed: integer in [0, 2**63); None takes the next seed of the global stream.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = next_seed() if seed is None else check_seed(seed)
        self.count = 0

    def next_key(self) -> tuple[int, int]:
        """Return ``(seed, count)``, unique for each call, and advance."""
        key = (self.seed, self.count)
        self.count += 1
        return key

    def generator(self) -> np.random.Generator:
        """Return the next generator of the sequence."""
        return generator_for(self.next_key())

    @property
    def state(self) -> tuple[int, int]:
        return (self.seed, self.count)

    @state.setter
    def state(self, state: tuple[int, int]) -> None:
        self.seed, self.count = int(state[0]), int(state[1])


def check_seed(seed: int) -> int:
    """Return ``seed`` as an int.

    Raises:
        InvalidArgumentError: not an integer in [0, 2**63).
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < _LIMIT:
        raise InvalidArgumentError(f"a seed must be an integer in [0, 2**63). Received: {seed!r}")
    return int(seed)


def generator_for(key: tuple[int, int]) -> np.random.Generator:
    """Return the generator that belongs to ``(seed, count)``."""
    return np.random.Generator(np.random.Philox(key=key[0], counter=[0, 0, 0, key[1]]))


_lock = threading.Lock()
_global = SeedStream(secrets.randbelow(_LIMIT))


def set_seed(seed: int) -> None:
    """Make initial weights, dropout and shuffling reproducible from here on.

    Layers, models and initializers that are given no seed of their own draw one from
    here, in the order in which they first need it.

    Raises:
        InvalidArgumentError: not an integer in [0, 2**63).
    """
    with _lock:
        _global.state = (check_seed(seed), 0)


def next_seed() -> int:
    """Draw a fresh seed from the global stream."""
    with _lock:
        return int(_global.generator().integers(_LIMIT))


@contextlib.contextmanager
def seeds_unchanged() -> Iterator[None]:
    """Let a ``with`` block draw global seeds as if it never had: later draws are the same."""
    state = _global.state
    try:
        yield
    finally:
        with _lock:
            _global.state = state
