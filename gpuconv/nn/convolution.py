"""Convolutions under PyTorch 2.13's signatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.geometry import as_int, as_tuple
from gpuconv.geometry.padding import Pads, torch_same_pads
from gpuconv.initializers import TorchUniform
from gpuconv.layers.convolution import Conv1D, Conv2D, Conv3D, ConvND
from gpuconv.layers.transposed import (
    Conv1DTranspose,
    Conv2DTranspose,
    Conv3DTranspose,
    ConvTransposeND,
)
from gpuconv.nn.arguments import EXTENTS, built, dtype_or_default, named_constructor, refuse

C = TypeVar("C", bound=ConvND)
C_co = TypeVar("C_co", bound=ConvND, covariant=True)
T = TypeVar("T", bound=ConvTransposeND)
T_co = TypeVar("T_co", bound=ConvTransposeND, covariant=True)

Ints = int | Sequence[int]


class ConvConstructor(Protocol[C_co]):
    """See the docstring of ``Conv2d``."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: str | Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> C_co: ...


class ConvTransposeConstructor(Protocol[T_co]):
    """See the docstring of ``ConvTranspose2d``."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> T_co: ...


def _make(cls: type[C]) -> ConvConstructor[C]:
    rank = cls.rank

    def conv(
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: str | Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> C:
        channels, filters = _channels(in_channels, out_channels, groups)
        kernel = as_tuple(kernel_size, rank, "kernel_size", 1)
        steps = as_tuple(stride, rank, "stride", 1)
        apart = as_tuple(dilation, rank, "dilation", 1)
        fan_in = channels // groups * math.prod(kernel)
        layer = cls(
            filters,
            kernel,
            strides=steps,
            padding=_pads(padding, kernel, steps, apart),
            data_format="channels_first",
            dilation_rate=apart,
            groups=groups,
            padding_mode=padding_mode,
            use_bias=bias,
            kernel_initializer=TorchUniform(fan_in),
            bias_initializer=TorchUniform(fan_in),
            dtype=dtype_or_default(dtype),
        )
        return built(layer, (None, channels, *(None,) * rank), device)

    return named_constructor(conv, f"Conv{rank}d", _CONV, rank=rank, extents=EXTENTS[rank])


def _make_transposed(cls: type[T]) -> ConvTransposeConstructor[T]:
    rank = cls.rank

    def conv_transpose(
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> T:
        refuse("padding_mode", padding_mode, "zeros", "transposed convolutions know no other")
        channels, filters = _channels(in_channels, out_channels, groups)
        kernel = as_tuple(kernel_size, rank, "kernel_size", 1)
        # PyTorch reads the fan off axis 1 of its weights (in, out/groups, *k).
        fan_in = filters // groups * math.prod(kernel)
        layer = cls(
            filters,
            kernel,
            strides=as_tuple(stride, rank, "stride", 1),
            padding=as_tuple(padding, rank, "padding", 0),
            output_padding=as_tuple(output_padding, rank, "output_padding", 0),
            data_format="channels_first",
            dilation_rate=as_tuple(dilation, rank, "dilation", 1),
            groups=groups,
            use_bias=bias,
            kernel_initializer=TorchUniform(fan_in),
            bias_initializer=TorchUniform(fan_in),
            dtype=dtype_or_default(dtype),
        )
        return built(layer, (None, channels, *(None,) * rank), device)

    name = f"ConvTranspose{rank}d"
    return named_constructor(
        conv_transpose, name, _CONV_TRANSPOSE, rank=rank, extents=EXTENTS[rank]
    )


def _channels(in_channels: Any, out_channels: Any, groups: Any) -> tuple[int, int]:
    """Return both numbers of channels, checked against each other and ``groups``."""
    checked = (
        as_int(in_channels, "in_channels", 1),
        as_int(out_channels, "out_channels", 1),
    )
    divisor = as_int(groups, "groups", 1)
    for name, value in zip(("in_channels", "out_channels"), checked, strict=True):
        if value % divisor:
            raise InvalidArgumentError(
                f"{name} must be a multiple of groups ({divisor}). Received: {value}"
            )
    return checked


def _pads(
    padding: Any, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Pads | tuple[int, ...]:
    """Return explicit pads, by PyTorch's rules."""
    rank = len(kernel)
    if not isinstance(padding, str):
        return as_tuple(padding, rank, "padding", 0)
    if one_of(padding, ("valid", "same"), "padding") == "valid":
        return (0,) * rank
    if any(s != 1 for s in stride):
        raise InvalidArgumentError(
            f"padding='same' needs stride 1, as in PyTorch. Received: stride {stride}"
        )
    return tuple(torch_same_pads(k, d) for k, d in zip(kernel, dilation, strict=True))


_CONV = """{rank}-D convolution (cross-correlation) under the signature of ``torch.nn.Conv{rank}d``.

    Args:
        in_channels, out_channels: multiples of ``groups``.
        kernel_size, stride (1), dilation (1): an int or one a dimension.
        padding: an int, one int a dimension, ``"valid"``, or ``"same"``: stride must then be 1,
            and an odd element goes to the end.
        groups: default 1.
        bias: whether there is one; default True.
        padding_mode: ``"zeros"`` (default), ``"reflect"``, ``"replicate"``, ``"circular"``.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.

    Returns:
        A ``gpuconv.layers.Conv{rank}D`` for inputs (N, C, {extents}), its parameters created:
        ``kernel`` (*k, in/groups, out), the reverse order of PyTorch's axes, and ``bias``
        (out,), both from U(+-1/sqrt(in/groups * taps)), as PyTorch.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """

_CONV_TRANSPOSE = """{rank}-D transposed convolution, as ``torch.nn.ConvTranspose{rank}d``.

    Args:
        in_channels, out_channels: multiples of ``groups``.
        kernel_size, stride (1), dilation (1): an int or one a dimension.
        padding: ``dilation * (kernel_size - 1) - padding`` zeros are put around the input, an
            int or one a dimension; default 0.
        output_padding: added to one end of the output; below stride or dilation. Default 0.
        groups: default 1.
        bias: whether there is one; default True.
        padding_mode: ``"zeros"``, nothing else, as in PyTorch.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.

    Returns:
        A ``gpuconv.layers.Conv{rank}DTranspose`` for inputs (N, C, {extents}), its parameters
        created: ``kernel`` (*k, out/groups, in), the reverse order of PyTorch's axes, and
        ``bias`` (out,), both from U(+-1/sqrt(out/groups * taps)), as PyTorch.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """

Conv1d = _make(Conv1D)
Conv2d = _make(Conv2D)
Conv3d = _make(Conv3D)
ConvTranspose1d = _make_transposed(Conv1DTranspose)
ConvTranspose2d = _make_transposed(Conv2DTranspose)
ConvTranspose3d = _make_transposed(Conv3DTranspose)
