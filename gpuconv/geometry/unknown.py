"""Shapes of which some extents are not known yet, as those of images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gpuconv.errors import ShapeError

Extents = tuple[Any, ...]
"""Spatial extents; None where one is not known yet."""

_LARGE: Final = 1_000_000
"""Stands for an extent that is not known: no kernel is larger, whatever its dilation."""


def where_known(extents: Extents, compute: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Extents:
    """Return the output's extents for an input's; None for those that depend on an unknown one.

    Args:
        extents: of the input, None where they are not known.
        compute: from the input's extents to the output's, each dimension by itself; no extent
            that is large enough is an error to it.

    Raises:
        ShapeError: what ``compute`` says of the extents that are known.
    """
    if None not in extents:
        return compute(extents)
    try:
        output = compute(tuple(_LARGE if extent is None else extent for extent in extents))
    except ShapeError as error:
        stands = f", where {_LARGE} stands for an extent that is not known"
        raise ShapeError(f"{error}{stands if str(_LARGE) in str(error) else ''}") from None
    return tuple(
        None if extent is None else out for extent, out in zip(extents, output, strict=True)
    )
