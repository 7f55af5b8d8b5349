"""Layouts that users write, as strided views of the one layout that is computed in.

Inside, activations are ``(N, *spatial, C)`` and kernels ``(*kernel, C/groups, F)``. The other
layouts are the same memory with its axes named in another order: no data moves here.
"""

from __future__ import annotations

from typing import Final

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, ShapeError, shown, suggestion

LAYOUTS: Final = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}
"""Number of spatial dimensions -> (channels-last, channels-first)."""


def is_channels_first(layout: str, rank: int) -> bool:
    """Return whether a layout word names channels first.

    Raises:
        InvalidArgumentError: not a layout of this many spatial dimensions.
    """
    if not isinstance(layout, str) or layout not in LAYOUTS[rank]:
        hint = suggestion(layout, LAYOUTS[rank]) if isinstance(layout, str) else ""
        raise InvalidArgumentError(
            f"layout must be one of {', '.join(map(repr, LAYOUTS[rank]))} for {rank} spatial "
            f"dimension(s).{hint} Received: {shown(layout)}"
        )
    return layout == LAYOUTS[rank][1]


def kernel_layout(rank: int, channels_first: bool) -> str:
    """Return the kernel layout that goes with a data layout: ``"HWIO"`` or ``"OIHW"``."""
    spatial = LAYOUTS[rank][0][1:-1]
    return f"OI{spatial}" if channels_first else f"{spatial}IO"


def channels_last(x: Array, channels_first: bool) -> Array:
    """View ``(N, C, *spatial)`` as ``(N, *spatial, C)`` if it is channels-first."""
    return x.transpose(0, *range(2, x.ndim), 1) if channels_first else x


def from_channels_last(y: Array, channels_first: bool) -> Array:
    """View ``(N, *spatial, C)`` as ``(N, C, *spatial)`` if that is wanted."""
    return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1)) if channels_first else y


def kernel_last(w: Array, channels_first: bool) -> Array:
    """View ``(F, C/g, *kernel)`` as ``(*kernel, C/g, F)`` if it is channels-first."""
    return w.transpose(*range(2, w.ndim), 1, 0) if channels_first else w


def from_kernel_last(w: Array, channels_first: bool) -> Array:
    """View ``(*kernel, C/g, F)`` as ``(F, C/g, *kernel)`` if that is wanted."""
    return w.transpose(w.ndim - 1, w.ndim - 2, *range(w.ndim - 2)) if channels_first else w


def shape_last(shape: tuple[int, ...], channels_first: bool) -> tuple[int, ...]:
    """:func:`channels_last` of a shape."""
    return (shape[0], *shape[2:], shape[1]) if channels_first else tuple(shape)


def shape_from_last(shape: tuple[int, ...], channels_first: bool) -> tuple[int, ...]:
    """:func:`from_channels_last` of a shape."""
    return (shape[0], shape[-1], *shape[1:-1]) if channels_first else tuple(shape)


def kernel_shape_last(shape: tuple[int, ...], channels_first: bool) -> tuple[int, ...]:
    """:func:`kernel_last` of a shape."""
    return (*shape[2:], shape[1], shape[0]) if channels_first else tuple(shape)


def require_rank(array: Array, rank: int, name: str, layout: str) -> None:
    """Check that an array has a batch axis, a channel axis and ``rank`` spatial axes.

    Raises:
        ShapeError: it has not.
    """
    if array.ndim != rank + 2:
        raise ShapeError(
            f"{name}: expected {rank + 2} dimensions ({layout}). "
            f"Received: {array.ndim} dimension(s), shape {tuple(array.shape)}"
        )
