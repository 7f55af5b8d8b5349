"""Pooling under PyTorch 2.13's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from gpuconv.geometry import as_tuple
from gpuconv.layers import adaptive_pooling as adaptive
from gpuconv.layers import pooling as windows
from gpuconv.layers.spatial import Spatial
from gpuconv.nn.arguments import EXTENTS, named_constructor, refuse

S = TypeVar("S", bound=Spatial)
S_co = TypeVar("S_co", bound=Spatial, covariant=True)

Ints = int | Sequence[int]
OutputSize = int | Sequence[int | None]


class MaxPoolConstructor(Protocol[S_co]):
    """See the docstring of ``MaxPool2d``."""

    def __call__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> S_co: ...


class AvgPool1dConstructor(Protocol[S_co]):
    """See the docstring of ``AvgPool1d``."""

    def __call__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> S_co: ...


class AvgPoolConstructor(Protocol[S_co]):
    """See the docstring of ``AvgPool2d``."""

    def __call__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> S_co: ...


class AdaptiveMaxPoolConstructor(Protocol[S_co]):
    """See the docstring of ``AdaptiveMaxPool2d``."""

    def __call__(self, output_size: OutputSize, return_indices: bool = False) -> S_co: ...


class AdaptiveAvgPoolConstructor(Protocol[S_co]):
    """See the docstring of ``AdaptiveAvgPool2d``."""

    def __call__(self, output_size: OutputSize) -> S_co: ...


def _make_max(cls: type[S]) -> MaxPoolConstructor[S]:
    rank = cls.rank

    def max_pool(
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> S:
        refuse("return_indices", return_indices, False, _one_output(f"max_pool{rank}d"))
        return cls(
            **_window(rank, kernel_size, stride, padding),
            dilation=as_tuple(dilation, rank, "dilation", 1),
            ceil_mode=ceil_mode,
        )

    return named_constructor(max_pool, f"MaxPool{rank}d", _MAX, **_words(rank))


def _make_avg(cls: type[S]) -> AvgPoolConstructor[S]:
    rank = cls.rank

    def avg_pool(
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> S:
        return cls(
            **_window(rank, kernel_size, stride, padding),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )

    return named_constructor(avg_pool, f"AvgPool{rank}d", _AVG, divisor=_DIVISOR, **_words(rank))


def _make_avg_1d(cls: type[S]) -> AvgPool1dConstructor[S]:
    def avg_pool(
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> S:
        return cls(
            **_window(1, kernel_size, stride, padding),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )

    return named_constructor(avg_pool, "AvgPool1d", _AVG, divisor="", **_words(1))


def _make_adaptive_max(cls: type[S]) -> AdaptiveMaxPoolConstructor[S]:
    rank = cls.rank

    def adaptive_max_pool(output_size: OutputSize, return_indices: bool = False) -> S:
        refuse("return_indices", return_indices, False, _one_output(f"adaptive_max_pool{rank}d"))
        return cls(output_size=output_size, data_format="channels_first", dtype=None)

    return named_constructor(
        adaptive_max_pool, f"AdaptiveMaxPool{rank}d", _ADAPTIVE_MAX, **_words(rank)
    )


def _make_adaptive_avg(cls: type[S]) -> AdaptiveAvgPoolConstructor[S]:
    rank = cls.rank

    def adaptive_avg_pool(output_size: OutputSize) -> S:
        return cls(output_size=output_size, data_format="channels_first", dtype=None)

    return named_constructor(
        adaptive_avg_pool, f"AdaptiveAvgPool{rank}d", _ADAPTIVE_AVG, **_words(rank)
    )


def _window(rank: int, kernel_size: Ints, stride: Ints | None, padding: Ints) -> dict[str, Any]:
    """The arguments that both kinds share, checked under PyTorch's names."""
    return {
        "pool_size": as_tuple(kernel_size, rank, "kernel_size", 1),
        "strides": None if stride is None else as_tuple(stride, rank, "stride", 1),
        "padding": as_tuple(padding, rank, "padding", 0),
        "data_format": "channels_first",
        "dtype": None,
    }


def _one_output(op: str) -> str:
    return f"a layer has one output; gpuconv.ops.{op} gives the indices too"


def _words(rank: int) -> dict[str, Any]:
    return {"rank": rank, "extents": EXTENTS[rank]}


_MAX = """{rank}-D max pooling of (N, C, {extents}), as ``torch.nn.MaxPool{rank}d``.

    Args:
        kernel_size: an int or one a dimension.
        stride: likewise; None (default) is ``kernel_size``.
        padding: likewise; at most half of the window, never wins. Default 0.
        dilation: distance of the window's positions; default 1.
        return_indices: must be False; ``gpuconv.ops.max_pool{rank}d`` gives indices.
        ceil_mode: round the output extent up; default False.

    Returns:
        A ``gpuconv.layers.MaxPooling{rank}D``.

    Raises:
        InvalidArgumentError: an impossible argument.
    """

_AVG = """{rank}-D average pooling of (N, C, {extents}), as ``torch.nn.AvgPool{rank}d``.

    Args:
        kernel_size: an int or one a dimension.
        stride: likewise; None (default) is ``kernel_size``.
        padding: likewise; at most half of the window. Default 0.
        ceil_mode: round the output extent up; default False.
        count_include_pad: whether padding counts in the averages; default True.{divisor}

    Returns:
        A ``gpuconv.layers.AveragePooling{rank}D``.

    Raises:
        InvalidArgumentError: an impossible argument.
    """

_DIVISOR = """
        divisor_override: divide by this instead; default None."""

_ADAPTIVE_MAX = """Max pooling of (N, C, {extents}) to given extents, as PyTorch's.

    Args:
        output_size: an int or one a dimension; None in a tuple keeps the input's extent.
        return_indices: must be False; ``gpuconv.ops.adaptive_max_pool{rank}d`` gives indices.

    Returns:
        A ``gpuconv.layers.AdaptiveMaxPooling{rank}D``.

    Raises:
        InvalidArgumentError: an impossible argument.
    """

_ADAPTIVE_AVG = """Average pooling of (N, C, {extents}) to given extents, as PyTorch's.

    Args:
        output_size: an int or one a dimension; None in a tuple keeps the input's extent.

    Returns:
        A ``gpuconv.layers.AdaptiveAveragePooling{rank}D``.

    Raises:
        InvalidArgumentError: an impossible size.
    """

MaxPool1d = _make_max(windows.MaxPooling1D)
MaxPool2d = _make_max(windows.MaxPooling2D)
MaxPool3d = _make_max(windows.MaxPooling3D)
AvgPool1d = _make_avg_1d(windows.AveragePooling1D)
AvgPool2d = _make_avg(windows.AveragePooling2D)
AvgPool3d = _make_avg(windows.AveragePooling3D)
AdaptiveMaxPool1d = _make_adaptive_max(adaptive.AdaptiveMaxPooling1D)
AdaptiveMaxPool2d = _make_adaptive_max(adaptive.AdaptiveMaxPooling2D)
AdaptiveMaxPool3d = _make_adaptive_max(adaptive.AdaptiveMaxPooling3D)
AdaptiveAvgPool1d = _make_adaptive_avg(adaptive.AdaptiveAveragePooling1D)
AdaptiveAvgPool2d = _make_adaptive_avg(adaptive.AdaptiveAveragePooling2D)
AdaptiveAvgPool3d = _make_adaptive_avg(adaptive.AdaptiveAveragePooling3D)
