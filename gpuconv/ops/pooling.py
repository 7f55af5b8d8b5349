"""Pooling on the user's own arrays: ``max_pool1d/2d/3d``, ``avg_pool1d/2d/3d``, their gradients.

One N-dimensional implementation; the public names differ in their number of spatial dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuconv.errors import InvalidArgumentError
from gpuconv.geometry import PoolGeometry, as_int, as_tuple
from gpuconv.ops import layouts
from gpuconv.ops import pool as core
from gpuconv.ops.arguments import hashable, index_operand, operands, require_shape, shape_tuple


def check_divisor(divisor_override: int | None) -> int | None:
    """Return the divisor that replaces the size of a window.

    Raises:
        InvalidArgumentError: zero, or not an integer.
    """
    if divisor_override is None:
        return None
    divisor = as_int(divisor_override, "divisor_override")
    if divisor == 0:
        raise InvalidArgumentError("divisor_override must not be zero. Received: 0")
    return divisor


def geometry_of(
    rank: int,
    x_shape: tuple[int, ...],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> PoolGeometry:
    """Return the pooling for a canonical shape and a user's words; errors as ``max_pool2d``."""
    window = as_tuple(kernel_size, rank, "kernel_size", 1)
    return core.pooling(
        x_shape,
        window,
        window if stride is None else as_tuple(stride, rank, "stride", 1),
        hashable(padding),
        as_tuple(dilation, rank, "dilation", 1),
        bool(ceil_mode),
        bool(count_include_pad),
        check_divisor(divisor_override),
    )


def _make_max(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def max_pool(
        x: Any,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x,), wrap = operands(x=x)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        geometry = geometry_of(rank, x.shape, kernel_size, stride, padding, dilation, ceil_mode)
        y, indices = core.max_pool(x, geometry, bool(return_indices))
        result = wrap(layouts.from_channels_last(y, first))
        if not return_indices:
            return result
        return result, wrap(layouts.from_channels_last(indices, first))

    def max_pool_backward(
        dy: Any,
        indices: Any,
        x_shape: Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy,), wrap = operands(dy=dy)
        layouts.require_rank(dy, rank, "dy", layout)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        geometry = geometry_of(rank, extents, kernel_size, stride, padding, dilation, ceil_mode)
        require_shape(dy, geometry.y_shape, "dy", first)
        indices = index_operand(indices, geometry.input)
        require_shape(indices, geometry.y_shape, "indices", first)
        dx = core.max_pool_backward(
            layouts.channels_last(dy, first), layouts.channels_last(indices, first), geometry
        )
        return wrap(layouts.from_channels_last(dx, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    max_pool.__doc__ = _MAX.format(**names)
    max_pool_backward.__doc__ = _MAX_BACKWARD.format(**names)
    max_pool.__name__ = max_pool.__qualname__ = f"max_pool{rank}d"
    max_pool_backward.__name__ = max_pool_backward.__qualname__ = f"max_pool{rank}d_backward"
    return max_pool, max_pool_backward


def _make_avg(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def avg_pool(
        x: Any,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x,), wrap = operands(x=x)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        averages = (count_include_pad, divisor_override)
        geometry = geometry_of(rank, x.shape, kernel_size, stride, padding, 1, ceil_mode, *averages)
        return wrap(layouts.from_channels_last(core.avg_pool(x, geometry), first))

    def avg_pool_backward(
        dy: Any,
        x_shape: Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy,), wrap = operands(dy=dy)
        layouts.require_rank(dy, rank, "dy", layout)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        averages = (count_include_pad, divisor_override)
        geometry = geometry_of(rank, extents, kernel_size, stride, padding, 1, ceil_mode, *averages)
        require_shape(dy, geometry.y_shape, "dy", first)
        dx = core.avg_pool_backward(layouts.channels_last(dy, first), geometry)
        return wrap(layouts.from_channels_last(dx, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    avg_pool.__doc__ = _AVG.format(**names)
    avg_pool_backward.__doc__ = _AVG_BACKWARD.format(**names)
    avg_pool.__name__ = avg_pool.__qualname__ = f"avg_pool{rank}d"
    avg_pool_backward.__name__ = avg_pool_backward.__qualname__ = f"avg_pool{rank}d_backward"
    return avg_pool, avg_pool_backward


_MAX = """{rank}-D max pooling, as PyTorch's ``max_pool{rank}d``.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        kernel_size: extent of the window, an int or one a dimension.
        stride: an int or one a dimension; None (default) is ``kernel_size``.
        padding: an int, one int a dimension, ``((lo, hi), ...)``, ``"valid"``, or ``"same"``
            (``out = ceil(in / stride)``, Keras's rule); padding never wins, and numbers may be at
            most half of the window. Default 0.
        dilation: distance of the window's positions, an int or one a dimension. Default 1.
        ceil_mode: round the output extent up; a last window that would start in the right padding
            is dropped. Default False.
        return_indices: also return where each maximum was. Default False.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``y`` (N, *out, C) in the layout and container of ``x``; with ``return_indices`` the pair
        ``(y, indices)``, int64, counting row-major in the spatial plane without padding. The first
        of equal maxima wins; NaN beats every number. A window that meets no element at all (a
        dilated one can step over a small input) gives -inf and the index -1.

    Raises:
        ShapeError: a wrong rank, or the window does not fit into the padded input.
        DTypeError: not float32 or float64.
        InvalidArgumentError: an impossible window, stride, padding, dilation or layout.
    """
_MAX_BACKWARD = """Gradient of ``max_pool{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``.
        indices: what the forward call returned with ``return_indices``.
        x_shape: shape of its input, in ``layout``.
        kernel_size, stride, padding, dilation, ceil_mode, layout: as in the forward call.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``. Each gradient goes
        to the one position that won; windows that overlap add up.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``max_pool{rank}d``; also if ``dy`` or
            ``indices`` have not the shape of the forward result, or the indices are not integers
            of the spatial plane.
    """
_AVG = """{rank}-D average pooling, as PyTorch's ``avg_pool{rank}d``.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        kernel_size: extent of the window, an int or one a dimension.
        stride: an int or one a dimension; None (default) is ``kernel_size``.
        padding: an int, one int a dimension, ``((lo, hi), ...)``, ``"valid"``, or ``"same"``
            (``out = ceil(in / stride)``, Keras's rule); numbers may be at most half of the window.
            Default 0.
        ceil_mode: round the output extent up; a last window that would start in the right padding
            is dropped. Default False.
        count_include_pad: divide by the window's part inside the padded input (True, default), or
            by the number of its real elements (False; Keras's layers do that).
        divisor_override: divide by this instead; not zero.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``y`` (N, *out, C) in the layout and container of ``x``.

    Raises:
        ShapeError: a wrong rank, or the window does not fit into the padded input.
        DTypeError: not float32 or float64.
        InvalidArgumentError: an impossible window, stride, padding, divisor or layout.
    """
_AVG_BACKWARD = """Gradient of ``avg_pool{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``.
        x_shape: shape of the input of the forward call, in ``layout``.
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout: as in
            the forward call.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``avg_pool{rank}d``; also if ``dy`` has
            not the shape of the forward result.
    """

max_pool1d, max_pool1d_backward = _make_max(1)
max_pool2d, max_pool2d_backward = _make_max(2)
max_pool3d, max_pool3d_backward = _make_max(3)
avg_pool1d, avg_pool1d_backward = _make_avg(1)
avg_pool2d, avg_pool2d_backward = _make_avg(2)
avg_pool3d, avg_pool3d_backward = _make_avg(3)
