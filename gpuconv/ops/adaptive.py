"""Adaptive pooling on the user's own arrays: ``adaptive_avg_pool1d/2d/3d`` and the same for max.

One N-dimensional implementation; the public names differ in their number of spatial dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuconv.errors import ShapeError
from gpuconv.ops import adaptive_pool as core
from gpuconv.ops import layouts
from gpuconv.ops.arguments import index_operand, operands, require_shape, shape_tuple

OutputSizeArgument = int | Sequence[int | None]


def _checked_gradient(dy: Any, x_shape: tuple[int, ...], first: bool) -> tuple[int, ...]:
    """Check ``dy`` against the canonical shape of the input; return that shape's extents.

    Raises:
        ShapeError: another batch or other channels, or an empty input or output.
    """
    wanted = (x_shape[0], *layouts.shape_last(dy.shape, first)[1:-1], x_shape[-1])
    require_shape(dy, wanted, "dy", first)
    if min(wanted[1:-1]) < 1:
        raise ShapeError(
            f"dy: expected extents of at least 1. Received: the shape {tuple(dy.shape)}"
        )
    return core.output_extents(x_shape[1:-1], (None,) * (len(x_shape) - 2))


def _make_avg(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def adaptive_avg_pool(x: Any, output_size: OutputSizeArgument, layout: str = default) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x,), wrap = operands(x=x)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        output = core.output_extents(x.shape[1:-1], core.output_size_of(output_size, rank))
        return wrap(layouts.from_channels_last(core.avg_pool(x, output), first))

    def adaptive_avg_pool_backward(dy: Any, x_shape: Sequence[int], layout: str = default) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy,), wrap = operands(dy=dy)
        layouts.require_rank(dy, rank, "dy", layout)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        input = _checked_gradient(dy, extents, first)
        dx = core.avg_pool_backward(layouts.channels_last(dy, first), input)
        return wrap(layouts.from_channels_last(dx, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    for function, suffix, text in (
        (adaptive_avg_pool, "", _AVG),
        (adaptive_avg_pool_backward, "_backward", _AVG_BACKWARD),
    ):
        function.__doc__ = text.format(**names)
        function.__name__ = function.__qualname__ = f"adaptive_avg_pool{rank}d{suffix}"
    return adaptive_avg_pool, adaptive_avg_pool_backward


def _make_max(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def adaptive_max_pool(
        x: Any,
        output_size: OutputSizeArgument,
        return_indices: bool = False,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x,), wrap = operands(x=x)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        output = core.output_extents(x.shape[1:-1], core.output_size_of(output_size, rank))
        y, indices = core.max_pool(x, output, bool(return_indices))
        result = wrap(layouts.from_channels_last(y, first))
        if not return_indices:
            return result
        return result, wrap(layouts.from_channels_last(indices, first))

    def adaptive_max_pool_backward(
        dy: Any, indices: Any, x_shape: Sequence[int], layout: str = default
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy,), wrap = operands(dy=dy)
        layouts.require_rank(dy, rank, "dy", layout)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        input = _checked_gradient(dy, extents, first)
        dy = layouts.channels_last(dy, first)
        indices = index_operand(indices, input)
        require_shape(indices, dy.shape, "indices", first)
        dx = core.max_pool_backward(dy, layouts.channels_last(indices, first), input)
        return wrap(layouts.from_channels_last(dx, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    for function, suffix, text in (
        (adaptive_max_pool, "", _MAX),
        (adaptive_max_pool_backward, "_backward", _MAX_BACKWARD),
    ):
        function.__doc__ = text.format(**names)
        function.__name__ = function.__qualname__ = f"adaptive_max_pool{rank}d{suffix}"
    return adaptive_max_pool, adaptive_max_pool_backward


_AVG = """{rank}-D average pooling to a given size, as PyTorch's ``adaptive_avg_pool{rank}d``.

    Output position ``i`` averages the elements from ``floor(i * in / out)`` up to
    ``ceil((i + 1) * in / out)``; windows may overlap, and the output may be the larger one.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        output_size: an int or one a dimension, at least 1; None in a tuple keeps the extent.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``y`` (N, *output_size, C) in the layout and container of ``x``.

    Raises:
        ShapeError: a wrong rank or an empty input.
        DTypeError: not float32 or float64.
        InvalidArgumentError: an impossible output size or layout.
    """
_AVG_BACKWARD = """Gradient of ``adaptive_avg_pool{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``; its extents are the output size.
        x_shape: shape of the input of the forward call, in ``layout``.
        layout: as in the forward call.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as the forward call; also if ``dy`` has not
            the batch and channels of ``x_shape``.
    """
_MAX = """{rank}-D max pooling to a given size, as PyTorch's ``adaptive_max_pool{rank}d``.

    Output position ``i`` is the maximum of the elements from ``floor(i * in / out)`` up to
    ``ceil((i + 1) * in / out)``; windows may overlap, and the output may be the larger one.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        output_size: an int or one a dimension, at least 1; None in a tuple keeps the extent.
        return_indices: also return where each maximum was. Default False.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``y`` (N, *output_size, C) in the layout and container of ``x``; with ``return_indices``
        the pair ``(y, indices)``, int64, counting row-major in the spatial plane. The first of
        equal maxima wins; NaN beats every number.

    Raises:
        ShapeError: a wrong rank or an empty input.
        DTypeError: not float32 or float64.
        InvalidArgumentError: an impossible output size or layout.
    """
_MAX_BACKWARD = """Gradient of ``adaptive_max_pool{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``; its extents are the output size.
        indices: what the forward call returned with ``return_indices``.
        x_shape: shape of the input of the forward call, in ``layout``.
        layout: as in the forward call.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``. Each gradient goes
        to the one position that won; windows that overlap add up.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as the forward call; also if ``dy`` has not
            the batch and channels of ``x_shape``, or the indices are not integers of the spatial
            plane in the shape of ``dy``.
    """

adaptive_avg_pool1d, adaptive_avg_pool1d_backward = _make_avg(1)
adaptive_avg_pool2d, adaptive_avg_pool2d_backward = _make_avg(2)
adaptive_avg_pool3d, adaptive_avg_pool3d_backward = _make_avg(3)
adaptive_max_pool1d, adaptive_max_pool1d_backward = _make_max(1)
adaptive_max_pool2d, adaptive_max_pool2d_backward = _make_max(2)
adaptive_max_pool3d, adaptive_max_pool3d_backward = _make_max(3)
