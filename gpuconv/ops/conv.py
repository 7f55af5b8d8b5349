"""Convolution on the user's own arrays: ``conv1d``, ``conv2d``, ``conv3d`` and their gradients.

One N-dimensional implementation; the public names differ in their number of spatial dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuconv.errors import one_of
from gpuconv.geometry import PADDING_MODES, as_int, as_tuple
from gpuconv.ops import convolution as core
from gpuconv.ops import layouts
from gpuconv.ops.arguments import hashable, operands, require_bias, require_shape, shape_tuple


def problem_of(
    rank: int,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> core.Convolution:
    """Return the convolution for canonical shapes and a user's words; errors as ``conv2d``."""
    return core.convolution(
        x_shape,
        w_shape,
        as_tuple(stride, rank, "stride", 1),
        hashable(padding),
        as_tuple(dilation, rank, "dilation", 1),
        as_int(groups, "groups", 1),
        one_of(padding_mode, PADDING_MODES, "padding_mode"),
    )


def _make(rank: int) -> tuple[Callable[..., Any], ...]:
    default, channels_first = layouts.LAYOUTS[rank]

    def conv(
        x: Any,
        w: Any,
        bias: Any = None,
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (x, w, bias), wrap = operands(x=x, w=w, bias=bias)
        layouts.require_rank(x, rank, "x", layout)
        layouts.require_rank(w, rank, "w", layouts.kernel_layout(rank, first))
        x, w = layouts.channels_last(x, first), layouts.kernel_last(w, first)
        problem = problem_of(
            rank, x.shape, w.shape, stride, padding, dilation, groups, padding_mode
        )
        require_bias(bias, w.shape[-1])
        return wrap(layouts.from_channels_last(core.forward(x, w, bias, problem), first))

    def conv_backward_input(
        dy: Any,
        w: Any,
        x_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy, w), wrap = operands(dy=dy, w=w)
        layouts.require_rank(dy, rank, "dy", layout)
        layouts.require_rank(w, rank, "w", layouts.kernel_layout(rank, first))
        w = layouts.kernel_last(w, first)
        extents = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
        problem = problem_of(
            rank, extents, w.shape, stride, padding, dilation, groups, padding_mode
        )
        require_shape(dy, problem.geometry.y_shape, "dy", first)
        dx = core.backward_input(layouts.channels_last(dy, first), w, problem)
        return wrap(layouts.from_channels_last(dx, first))

    def conv_backward_weight(
        dy: Any,
        x: Any,
        w_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        layout: str = default,
    ) -> Any:
        first = layouts.is_channels_first(layout, rank)
        (dy, x), wrap = operands(dy=dy, x=x)
        layouts.require_rank(dy, rank, "dy", layout)
        layouts.require_rank(x, rank, "x", layout)
        x = layouts.channels_last(x, first)
        extents = shape_tuple(w_shape, rank, "w_shape", layouts.kernel_layout(rank, first))
        problem = problem_of(
            rank,
            x.shape,
            layouts.kernel_shape_last(extents, first),
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
        )
        require_shape(dy, problem.geometry.y_shape, "dy", first)
        dw = core.backward_weight(layouts.channels_last(dy, first), x, problem)
        return wrap(layouts.from_kernel_last(dw, first))

    names = {"rank": rank, "default": default, "channels_first": channels_first}
    conv.__doc__ = _FORWARD.format(**names)
    conv_backward_input.__doc__ = _BACKWARD_INPUT.format(**names)
    conv_backward_weight.__doc__ = _BACKWARD_WEIGHT.format(**names)
    for function, suffix in (
        (conv, ""),
        (conv_backward_input, "_backward_input"),
        (conv_backward_weight, "_backward_weight"),
    ):
        function.__name__ = function.__qualname__ = f"conv{rank}d{suffix}"
    return conv, conv_backward_input, conv_backward_weight


_FORWARD = """{rank}-D convolution (cross-correlation: the kernel is not flipped), as PyTorch's.

    Args:
        x: ``(N, *in, C)`` for layout {default!r}, ``(N, C, *in)`` for {channels_first!r}; a NumPy
            or CuPy array or a Tensor, float32 or float64. Never modified.
        w: ``(*kernel, C/groups, F)``, or ``(F, C/groups, *kernel)`` for {channels_first!r}.
        bias: ``(F,)`` or None.
        stride, dilation: an int or one a dimension, default 1. Both may exceed 1 (PyTorch allows
            that, Keras does not).
        padding: an int, one int a dimension, ``((lo, hi), ...)``, ``"valid"``, ``"same"``
            (``out = ceil(in / stride)``, Keras's rule at any stride) or, for one dimension,
            ``"causal"``. Default 0.
        groups: divides C and F; ``groups == C`` is a depthwise convolution. Default 1.
        padding_mode: ``"zeros"`` (default), ``"reflect"``, ``"replicate"`` or ``"circular"``.
        layout: {default!r} (default) or {channels_first!r}.

    Returns:
        ``(N, *out, F)`` in the layout and container of ``x``, with
        ``out = floor((in + lo + hi - dilation*(kernel - 1) - 1) / stride) + 1``.

    Raises:
        ShapeError: ranks, channels, groups or extents do not fit together.
        DTypeError: not float32 or float64, or not the same for all.
        InvalidArgumentError: an impossible stride, padding, dilation, groups, mode or layout.
    """
_BACKWARD_INPUT = """Gradient of ``conv{rank}d`` with respect to its input.

    Args:
        dy: gradient of the output, in ``layout``.
        w: the weights of the forward call.
        x_shape: shape of its input, in ``layout``.
        stride, padding, dilation, groups, padding_mode, layout: as in ``conv{rank}d``.

    Returns:
        ``dx`` of shape ``x_shape``, a fresh array in the container of ``dy``.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``conv{rank}d``; also if ``dy`` has not
            the shape of the forward result.
    """
_BACKWARD_WEIGHT = """Gradient of ``conv{rank}d`` with respect to its weights.

    Args:
        dy: gradient of the output, in ``layout``.
        x: the input of the forward call.
        w_shape: shape of its weights, in the kernel layout that belongs to ``layout``.
        stride, padding, dilation, groups, padding_mode, layout: as in ``conv{rank}d``.

    Returns:
        ``dw`` of shape ``w_shape``, a fresh array in the container of ``dy`` (nothing is
        accumulated here; layers add it into their parameter's ``grad``). The gradient of a bias
        is the sum of ``dy`` over every axis but the channels.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as ``conv{rank}d``; also if ``dy`` has not
            the shape of the forward result.
    """

conv1d, conv1d_backward_input, conv1d_backward_weight = _make(1)
conv2d, conv2d_backward_input, conv2d_backward_weight = _make(2)
conv3d, conv3d_backward_input, conv3d_backward_weight = _make(3)
