"""Convolution on canonical arrays: what layers and the public ops both call.

A :class:`Convolution` joins the geometry with the padding mode. Modes other than zeros copy
border values, so the input is padded first and the convolution itself is then "valid".

The transposed convolution is the same object used the other way round: its forward is
backward_input, its backward_input is forward. For it ``geometry.input`` is the LARGE side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gpuconv.backends.base import Array, Engine
from gpuconv.backends.functions import Activation
from gpuconv.dispatch import engine_for, select_with_limit
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.geometry.padding import Pads
from gpuconv.geometry.transposed import transposed_extents
from gpuconv.parameter import Parameter


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with its padding mode.

    Attributes:
        geometry: of the input after ``mode_pads`` were applied.
        mode: how ``mode_pads`` are filled: reflect, replicate or circular.
        mode_pads: applied before the convolution; all zero for the mode zeros, whose pads
            are part of the geometry.
        padded_first: whether the input is padded by a pass of its own.
    """

    geometry: ConvGeometry
    mode: str
    mode_pads: Pads
    padded_first: bool = field(init=False)

    def __post_init__(self) -> None:
        padded_first = any(pad != (0, 0) for pad in self.mode_pads)
        object.__setattr__(self, "padded_first", padded_first)


@lru_cache(maxsize=4096)
def convolution(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
    groups: int,
    mode: str = "zeros",
) -> Convolution:
    """Build and check a convolution from canonical shapes; ``padding`` as users write it.

    ``mode`` is one of ``PADDING_MODES``: callers check the word, as it need not be hashable.

    Raises:
        ShapeError: channels, groups and kernel do not fit together or into the input.
        InvalidArgumentError: an impossible stride, dilation or padding.
    """
    *kernel, per_group, filters = w_shape
    batch, *input, channels = x_shape
    if channels != per_group * groups:
        raise ShapeError(
            f"expected {per_group * groups} input channels: the weights have {per_group} for each "
            f"of {groups} group(s). Received: {channels}"
        )
    for name, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(values) < 1:  # before resolve_padding divides by them
            raise InvalidArgumentError(f"{name} must be at least 1. Received: {tuple(values)}")
    pads = resolve_padding(padding, input, kernel, stride, dilation)
    mode_pads: Pads = ((0, 0),) * len(kernel)
    if mode != "zeros":
        check_mode_pads(input, pads, mode)
        input = [i + lo + hi for i, (lo, hi) in zip(input, pads, strict=True)]
        pads, mode_pads = mode_pads, pads
    geometry = ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        input=tuple(input),
        kernel=tuple(kernel),
        stride=stride,
        dilation=dilation,
        pads=pads,
        groups=groups,
    )
    return Convolution(geometry, mode, mode_pads)


@lru_cache(maxsize=4096)
def transposed_convolution(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    output_padding: Any,
    dilation: tuple[int, ...],
    groups: int,
) -> Convolution:
    """Build the convolution that a transposed convolution runs backwards.

    Args:
        x_shape: ``(N, *small, C_in)``, the input of the transposed convolution.
        w_shape: ``(*k, C_out/g, C_in)``.
        stride, padding, output_padding, dilation: see ``transposed_extents``.
        groups: divides both numbers of channels.

    Returns:
        A convolution from ``(N, *large, C_out)`` to ``x_shape``.

    Raises:
        ShapeError: channels, groups and kernel do not fit together.
        InvalidArgumentError: an impossible stride, dilation or padding.
    """
    *kernel, per_group, channels = w_shape
    batch, *small, received = x_shape
    if received != channels:
        raise ShapeError(
            f"expected {channels} input channels, as the weights have. Received: {received}"
        )
    for name, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(values) < 1:
            raise InvalidArgumentError(f"{name} must be at least 1. Received: {tuple(values)}")
    large, pads = transposed_extents(small, kernel, stride, padding, output_padding, dilation)
    geometry = ConvGeometry(
        batch=batch,
        in_channels=per_group * groups,
        out_channels=channels,
        input=large,
        kernel=tuple(kernel),
        stride=stride,
        dilation=dilation,
        pads=pads,
        groups=groups,
    )
    return Convolution(geometry, "zeros", ((0, 0),) * len(kernel))


def check_mode_pads(input: Sequence[int], pads: Pads, mode: str) -> None:
    """Check that border values exist for a padding mode (PyTorch's limits).

    Raises:
        ShapeError: reflect needs pads below the extent, circular pads of at most the extent.
    """
    for extent, pad in zip(input, pads, strict=True):
        limit = {"reflect": extent - 1, "circular": extent}.get(mode)
        if (limit is not None and max(pad) > limit) or (max(pad) > 0 and extent == 0):
            raise ShapeError(
                f"padding_mode={mode!r} can add at most {max(limit or 0, 0)} to an extent of "
                f"{extent}. Received: padding {pad}"
            )


def forward(
    x: Array,
    w: Array | Parameter,
    bias: Array | None,
    conv: Convolution,
    activation: Activation | None = None,
) -> Array:
    """``x`` (N, *in, C), ``w`` (*k, C/g, F), ``bias`` (F,) -> ``y`` (N, *out, F).

    Of weights that come as a fixed Parameter the engine keeps what it makes of them.
    """
    engine, limit = _engine("conv_forward", conv, x)
    weights = w.prepared_by(engine) if isinstance(w, Parameter) else w
    padded = _padded(engine, x, conv)
    return engine.conv_forward(padded, weights, bias, conv.geometry, limit, activation)


def add_forward(
    x: Array,
    w: Array | Parameter,
    bias: Array | None,
    residual: Array,
    conv: Convolution,
    activation: Activation | None = None,
) -> Array:
    """:func:`forward`, where ``residual`` (N, *out, F) is added before the activation."""
    engine, limit = _engine("conv_forward", conv, x)
    weights = w.prepared_by(engine) if isinstance(w, Parameter) else w
    padded = _padded(engine, x, conv)
    return engine.conv_add_forward(
        padded, weights, bias, residual, conv.geometry, limit, activation
    )


def backward_input(dy: Array, w: Array, conv: Convolution) -> Array:
    """``dy`` (N, *out, F), ``w`` (*k, C/g, F) -> ``dx`` (N, *in, C)."""
    engine, limit = _engine("conv_backward_input", conv, dy)
    dx = engine.conv_backward_input(dy, w, conv.geometry, limit)
    return engine.pad_backward(dx, conv.mode_pads, conv.mode) if conv.padded_first else dx


def backward_weight(dy: Array, x: Array, conv: Convolution) -> Array:
    """``dy`` (N, *out, F), ``x`` (N, *in, C) -> ``dw`` (*k, C/g, F), a fresh array."""
    engine, limit = _engine("conv_backward_weight", conv, dy)
    return engine.conv_backward_weight(dy, _padded(engine, x, conv), conv.geometry, limit)


def backward_bias(dy: Array) -> Array:
    """``dy`` (N, *out, F) -> ``db`` (F,)."""
    return engine_for(dy).sum_channels(dy)


def _engine(op: str, conv: Convolution, array: Array) -> tuple[Engine, int]:
    return select_with_limit(op, conv.geometry, array)


def _padded(engine: Engine, x: Array, conv: Convolution) -> Array:
    return engine.pad(x, conv.mode_pads, conv.mode) if conv.padded_first else x
