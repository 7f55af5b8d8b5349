"""From what a user may write for an integer or a tuple of integers to plain ints."""

from __future__ import annotations

import operator
from typing import Any

from gpuconv.errors import InvalidArgumentError


def as_int(value: Any, name: str, minimum: int | None = None) -> int:
    """Return ``value`` as a Python int; NumPy integers count, bools and floats do not.

    Raises:
        InvalidArgumentError: not an integer, or below ``minimum``.
    """
    bound = "" if minimum is None else f" of at least {minimum}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidArgumentError(f"{name} must be an integer{bound}. Received: {value!r}")
    try:
        number = operator.index(value)
    except TypeError:  # an array of several elements has __index__ too
        raise InvalidArgumentError(
            f"{name} must be an integer{bound}. Received: {value!r}"
        ) from None
    if minimum is not None and number < minimum:
        raise InvalidArgumentError(f"{name} must be an integer{bound}. Received: {value!r}")
    return number


def as_tuple(value: Any, rank: int, name: str, minimum: int | None = None) -> tuple[int, ...]:
    """Return one int a dimension from an int or a sequence of ``rank`` ints.

    Raises:
        InvalidArgumentError: wrong length, not integers, or below ``minimum``.
    """
    if isinstance(value, (str, bytes)):
        entries = None
    elif hasattr(value, "__index__") and not hasattr(value, "__len__"):
        entries = [value] * rank
    else:
        try:
            entries = list(value)
        except TypeError:
            entries = None
    if entries is not None and len(entries) == 1 and rank > 1:
        entries = None  # (3,) for two dimensions is more likely a slip than a wish
    if entries is None or len(entries) != rank:
        bound = "" if minimum is None else f" of at least {minimum}"
        plural = "integer" if rank == 1 else f"tuple of {rank} integers"
        raise InvalidArgumentError(
            f"{name} must be an integer or a {plural}{bound}. Received: {value!r}"
            if rank > 1
            else f"{name} must be an integer{bound}, or a tuple of one. Received: {value!r}"
        )
    return tuple(as_int(entry, name, minimum) for entry in entries)
