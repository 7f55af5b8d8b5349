"""Transposed convolution on the user's own arrays: ``conv_transpose1d/2d/3d``, their gradients.

Each is the convolution of the same weights run the other way round, so there is no kernel of
its own: its forward is that convolution's backward_input, its backward_input is its forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuconv.geometry import as_int, as_tuple
from gpuconv.ops import convolution as core
from gpuconv.ops import layouts
from gpuconv.ops.arguments import hashable, operands, require_bias, require_shape, shape_tuple


def problem_of(
    rank: int,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    output_padding: int | Sequence[int] | None = None,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> core.Convolution:
    """Return the convolution that runs backwards here, from canonical shapes and user words."""
    return core.transposed_convolution(
        x_shape,
        w_shape,
        as_tuple(stride, rank, "stride", 1),
        hashable(padding),
        hashable(output_padding),
        as_tuple(dilation, rank, "dilation", 1),
        as_int(groups, "groups", 1),
    )


def _make(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def conv_transpose(
        x: Any,
        w: Any,
        bias: Any = None,
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        output_padding: int | Sequence[int] | None = None,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x, w, bias), wrap = operands(x=x, w=w, bias=bias)
        layouts.require_rank(x, rank, "x", layout)
        layouts.require_rank(w, rank, "w", layouts.kernel_layout(rank, first))
        x, w = layouts.channels_last(x, first), layouts.kernel_last(w, first)
        problem = problem_of(
            rank, x.shape, w.shape, stride, padding, output_padding, groups, dilation
        )
        require_bias(bias, problem.geometry.in_channels)
        y = core.backward_input(x, w, problem)
        if bias is not None:
            y += bias
        return wrap(layouts.from_channels_last(y, first))

    def conv_transpose_backward_input(
        dy: Any,
        w: Any,
        x_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        output_padding: int | Sequence[int] | None = None,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy, w), wrap = operands(dy=dy, w=w)
        layouts.require_rank(dy, rank, "dy", layout)
        layouts.require_rank(w, rank, "w", layouts.kernel_layout(rank, first))
        w = layouts.kernel_last(w, first)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        problem = problem_of(
            rank, extents, w.shape, stride, padding, output_padding, groups, dilation
        )
        require_shape(dy, problem.geometry.x_shape, "dy", first)
        dx = core.forward(layouts.channels_last(dy, first), w, None, problem)
        return wrap(layouts.from_channels_last(dx, first))

    def conv_transpose_backward_weight(
        dy: Any,
        x: Any,
        w_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        output_padding: int | Sequence[int] | None = None,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy, x), wrap = operands(dy=dy, x=x)
        layouts.require_rank(dy, rank, "dy", layout)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        extents = shape_tuple(w_shape, rank, "w_shape", layouts.kernel_layout(rank, first))
        kernel = layouts.kernel_shape_last(extents, first)
        problem = problem_of(
            rank, x.shape, kernel, stride, padding, output_padding, groups, dilation
        )
        require_shape(dy, problem.geometry.x_shape, "dy", first)
        dw = core.backward_weight(x, layouts.channels_last(dy, first), problem)
        return wrap(layouts.from_kernel_last(dw, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    for function, suffix, text in (
        (conv_transpose, "", _FORWARD),
        (conv_transpose_backward_input, "_backward_input", _BACKWARD_INPUT),
        (conv_transpose_backward_weight, "_backward_weight", _BACKWARD_WEIGHT),
    ):
        function.__doc__ = text.format(**names)
        function.__name__ = function.__qualname__ = f"conv_transpose{rank}d{suffix}"
    return (
        conv_transpose,
        conv_transpose_backward_input,
        conv_transpose_backward_weight,
    )


_FORWARD = """{rank}-D transposed convolution, as PyTorch's ``conv_transpose{rank}d``.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        w: ``(*kernel, F/groups, C)``, or ``(C, F/groups, *kernel)`` for {channels_first!r}.
        bias: ``(F,)`` or None.
        stride, dilation: an int or one a dimension, default 1.
        padding: an int, one a dimension or ``((lo, hi), ...)``, cropped from the result as in
            PyTorch; or ``"valid"`` / ``"same"``, Keras's rules. Default 0.
        output_padding: added to the end of the result; below stride or dilation. None (default)
            is 0, and for the words what Keras computes.
        groups: divides C and F. Default 1.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``(N, *out, F)`` in the layout and container of ``x``, with ``out = (in - 1)*stride -
        lo - hi + dilation*(kernel - 1) + 1 + output_padding``.

    Raises:
        ShapeError: ranks, channels, groups or extents do not fit together.
        DTypeError: not float32 or float64, or not the same for all.
        InvalidArgumentError: an impossible stride, padding, dilation, groups or layout.
    """
_BACKWARD_INPUT = """Gradient of ``conv_transpose{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``.
        w: the weights of the forward call.
        x_shape: shape of its input, in ``layout``.
        stride, padding, output_padding, groups, dilation, layout: as in the forward call.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``conv_transpose{rank}d``; also if ``dy``
            has not the shape of the forward result.
    """
_BACKWARD_WEIGHT = """Gradient of ``conv_transpose{rank}d`` with respect to its weights.

    Args:
        dy: gradient of the output, in ``layout``.
        x: the input of the forward call.
        w_shape: shape of its weights, in the kernel layout that belongs to ``layout``.
        stride, padding, output_padding, groups, dilation, layout: as in the forward call.

    Returns:
        ``dw`` of shape ``w_shape``, a fresh array in the container of ``dy``.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``conv_transpose{rank}d``; also if ``dy``
            has not the shape of the forward result.
    """

(
    conv_transpose1d,
    conv_transpose1d_backward_input,
    conv_transpose1d_backward_weight,
) = _make(1)
(
    conv_transpose2d,
    conv_transpose2d_backward_input,
    conv_transpose2d_backward_weight,
) = _make(2)
(
    conv_transpose3d,
    conv_transpose3d_backward_input,
    conv_transpose3d_backward_weight,
) = _make(3)
