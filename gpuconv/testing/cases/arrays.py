"""Arrays to test with: reproducible, exact, and in every kind of memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

Host = np.ndarray[Any, Any]


def generator(name: str) -> np.random.Generator:
    """The random generator that belongs to a name, such as a case's id."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def small_integers(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: Any = np.float32,
    low: int = -4,
    high: int = 4,
) -> Host:
    """Integers in [low, high] stored as floats: their sums of products are exact in any order."""
    return rng.integers(low, high + 1, shape).astype(dtype)


def distinct_values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64
) -> Host:
    """Shuffled, evenly spaced values in (-1, 1), none of them zero: no ties, no kink nearby.

    Max pooling and ReLU are differentiable here, so differences can check them.
    """
    size = int(np.prod(shape))
    values = (2.0 * np.arange(size) + 1.0) / max(size, 1) - 1.0
    if size % 2:
        values += 0.5 / size  # an odd count would hit zero
    return rng.permutation(values).reshape(shape).astype(dtype)


def views_of(array: Host) -> Iterator[tuple[str, Host]]:
    """Yield ``(name, view)``: arrays equal to ``array`` in other kinds of memory.

    Contiguous, read-only, Fortran order, channels-first memory, every second element of a
    buffer, backwards, a slice of wider rows, and memory that is not aligned. What lies between
    the elements is NaN, for integers their largest value.
    """
    plain = np.ascontiguousarray(array)
    between = np.iinfo(plain.dtype).max if plain.dtype.kind in "iu" else np.nan
    yield "contiguous", plain.copy()

    frozen = plain.copy()
    frozen.setflags(write=False)
    yield "read-only", frozen

    yield "fortran", np.asfortranarray(plain)
    if plain.ndim > 1:
        yield "channels-first", np.moveaxis(np.ascontiguousarray(np.moveaxis(plain, -1, 1)), 1, -1)

    doubled = np.full(tuple(2 * n for n in plain.shape), between, plain.dtype)
    every_second = doubled[(slice(None, None, 2),) * plain.ndim]
    every_second[...] = plain
    yield "every-second", every_second

    backwards = (slice(None, None, -1),) * plain.ndim
    yield "backwards", plain[backwards].copy()[backwards]

    wider = np.full((*plain.shape[:-1], plain.shape[-1] + 3), between, plain.dtype)
    wider[..., 1:-2] = plain
    yield "slice", wider[..., 1:-2]

    raw = np.zeros(plain.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(plain.dtype).reshape(plain.shape)
    unaligned[...] = plain
    yield "unaligned", unaligned
