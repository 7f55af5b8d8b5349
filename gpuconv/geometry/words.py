"""From what a user may write for an integer or a tuple of integers to plain ints."""

from __future__ import annotations

import operator
from typing import Any

from gpuconv.errors import InvalidArgumentError, shown


def as_int(value: Any, name: str, minimum: int | None = None) -> int:
    """Return ``value`` as a Python int; NumPy integers count, bools and floats do not.

    Raises:
        InvalidArgumentError: not an integer, or below ``minimum``.
    """
    if type(value) is int and (minimum is None or value >= minimum):
        return value  # as nearly always
    bound = "" if minimum is None else f" of at least {minimum}"
    # Older NumPy gives its own bool an __index__ too, which warns.
    boolean = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    if boolean or not hasattr(value, "__index__"):
        raise InvalidArgumentError(f"{name} must be an integer{bound}. Received: {shown(value)}")
    try:
        number = operator.index(value)
    except TypeError:  # an array of several elements has __index__ too
        raise InvalidArgumentError(
            f"{name} must be an integer{bound}. Received: {shown(value)}"
        ) from None
    if minimum is not None and number < minimum:
        raise InvalidArgumentError(f"{name} must be an integer{bound}. Received: {shown(value)}")
    return number


def as_tuple(value: Any, rank: int, name: str, minimum: int | None = None) -> tuple[int, ...]:
    """Return one int a dimension from an int or a sequence of ``rank`` ints.

    Raises:
        InvalidArgumentError: wrong length, not integers, or below ``minimum``.
    """
    if type(value) is int:
        return (as_int(value, name, minimum),) * rank
    if isinstance(value, (str, bytes)):
        entries = None
    elif hasattr(value, "__index__") and not hasattr(value, "__len__"):
        entries = [value] * rank
    else:
        entries = entries_of(value)
    if entries is not None and len(entries) == 1 and rank > 1:
        entries = None  # (3,) for two dimensions is more likely a slip than a wish
    if entries is None or len(entries) != rank:
        bound = "" if minimum is None else f" of at least {minimum}"
        plural = "integer" if rank == 1 else f"tuple of {rank} integers"
        raise InvalidArgumentError(
            f"{name} must be an integer or a {plural}{bound}. Received: {shown(value)}"
            if rank > 1
            else f"{name} must be an integer{bound}, or a tuple of one. Received: {shown(value)}"
        )
    return tuple(as_int(entry, name, minimum) for entry in entries)


def as_extents(value: Any, name: str) -> tuple[int, ...]:
    """Return the shape of an array as a tuple of ints.

    Raises:
        InvalidArgumentError: not a sequence of integers of at least 0.
    """
    entries = entries_of(value)
    if entries is None or getattr(value, "ndim", 1) != 1:
        raise InvalidArgumentError(
            f"{name} must be a tuple of integers of at least 0. Received: {shown(value)}"
        )
    return tuple(as_int(entry, name, 0) for entry in entries)


def as_open_shape(value: Any, name: str, minimum: int = 0) -> tuple[int | None, ...]:
    """Return a shape in which extents that are not known yet are None.

    Raises:
        InvalidArgumentError: not a sequence of None and integers of at least ``minimum``.
    """
    entries = entries_of(value)
    if entries is None:
        hint = f" Did you mean ({value},)?" if isinstance(value, int) else ""
        raise InvalidArgumentError(
            f"{name} must be a tuple of integers, or of None where an extent is not known.{hint} "
            f"Received: {shown(value)}"
        )
    return tuple(None if entry is None else as_int(entry, name, minimum) for entry in entries)


def entries_of(value: Any) -> list[Any] | None:
    """Return the entries of a sequence other than a string, or None."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        return list(value)
    except (TypeError, NotImplementedError):  # the latter from a memoryview with several axes
        return None
