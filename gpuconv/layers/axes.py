"""Axes of an input by number, as users write them: negative ones count from the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int


def resolve_axis(axis: int, rank: int, who: str) -> int:
    """Return the axis as a number in [1, rank); axis 0 is the batch.

    Args:
        axis: as the user wrote it.
        rank: dimensions of the input, the batch included.
        who: the layer's name, for the error.

    Raises:
        ShapeError: there is no such axis, or it is the batch axis.
    """
    resolved = axis + rank if axis < 0 else axis
    if not 1 <= resolved < rank:
        raise ShapeError(
            f"{who}: expected an input of which axis {axis} exists and is not the batch axis. "
            f"Received: an input of {rank} dimensions"
        )
    return resolved


def resolve_axes(axes: Sequence[int], rank: int, who: str) -> tuple[int, ...]:
    """Return :func:`resolve_axis` of each, in rising order.

    Raises:
        ShapeError: an axis does not exist, is the batch axis, or was given twice.
    """
    resolved = sorted(resolve_axis(axis, rank, who) for axis in axes)
    if len(set(resolved)) != len(resolved):
        raise ShapeError(
            f"{who}: expected different axes. Received: axis={tuple(axes)} for an input of "
            f"{rank} dimensions"
        )
    return tuple(resolved)


def as_axes(axis: Any) -> int | tuple[int, ...]:
    """Return an ``axis`` argument: an int, or a tuple of at least one int for a sequence.

    Raises:
        InvalidArgumentError: neither.
    """
    if not isinstance(axis, (list, tuple)):
        return as_int(axis, "axis")
    if not axis:
        raise InvalidArgumentError(f"axis must name at least one axis. Received: {axis!r}")
    return tuple(as_int(entry, "axis") for entry in axis)


def require_extents(shape: Sequence[Any], axes: Sequence[int], who: str) -> tuple[int, ...]:
    """Return the extents of ``axes``.

    Raises:
        ShapeError: one of them is unknown (None).
    """
    extents = tuple(shape[axis] for axis in axes)
    if any(extent is None for extent in extents):
        raise ShapeError(
            f"{who}: the extent of axis {', '.join(map(str, axes))} must be known. "
            f"Received: shape {tuple(shape)}"
        )
    return extents
