"""Layers that change extents and nothing else, under PyTorch 2.13's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.geometry import as_int, as_tuple
from gpuconv.layers.upsampling import UpSamplingND
from gpuconv.nn.arguments import constructor, refuse

_UPSAMPLING = {1: layers.UpSampling1D, 2: layers.UpSampling2D, 3: layers.UpSampling3D}


@constructor
def Flatten(start_dim: int = 1, end_dim: int = -1) -> layers.Flatten:
    """Merges the axes from ``start_dim`` to ``end_dim`` into one, in row-major order.

    Raises:
        InvalidArgumentError: not integers.
    """
    return layers.Flatten(
        start_dim=as_int(start_dim, "start_dim"), end_dim=as_int(end_dim, "end_dim"), dtype=None
    )


@constructor
def Upsample(
    size: Any = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> UpSamplingND:
    """Images (N, C, H, W) enlarged by whole factors, as ``torch.nn.Upsample``.

    Args:
        size: must be None: layers here enlarge by factors.
        scale_factor: a whole number, or one a dimension; the length of a tuple says how many
            spatial dimensions there are (with a number: 2), which PyTorch sees from the input.
        mode: ``"nearest"`` (default), or ``"bilinear"`` for two dimensions.
        align_corners: None or False.
        recompute_scale_factor: without effect, as for whole factors in PyTorch.

    Raises:
        InvalidArgumentError: an impossible argument, or one of those that do not exist here.
    """
    refuse("size", size, None, "give scale_factor; layers here enlarge by factors")
    one_of(mode, ("nearest", "bilinear"), "mode")
    if align_corners:
        raise InvalidArgumentError(
            f"align_corners must be None or False: pixels are areas. Received: {align_corners!r}"
        )
    if mode == "nearest" and align_corners is not None:
        raise InvalidArgumentError(
            f"align_corners goes with mode='bilinear', as in PyTorch. Received: {align_corners!r}"
        )
    factors = _whole(scale_factor)
    rank = len(factors)
    if rank not in _UPSAMPLING or (mode == "bilinear" and rank != 2):
        raise InvalidArgumentError(
            f"scale_factor must hold one factor for each of "
            f"{'2' if mode == 'bilinear' else '1 to 3'} dimensions for mode={mode!r}. "
            f"Received: {scale_factor!r}"
        )
    words: dict[str, Any] = {"interpolation": mode} if rank == 2 else {}
    return _UPSAMPLING[rank](factors, data_format="channels_first", dtype=None, **words)


def _whole(scale_factor: Any) -> tuple[int, ...]:
    """Return factors as ints, two for a single number."""
    several = isinstance(scale_factor, Sequence) and not isinstance(scale_factor, str)
    entries = list(scale_factor) if several else [scale_factor] * 2
    for entry in entries:
        number = isinstance(entry, (int, float, np.integer, np.floating))
        if not number or isinstance(entry, bool) or entry < 1 or entry % 1:
            raise InvalidArgumentError(
                f"scale_factor must be a whole number of at least 1, or a tuple of them. "
                f"Received: {scale_factor!r}"
            )
    return tuple(int(entry) for entry in entries)


@constructor
def ZeroPad2d(padding: int | Sequence[int]) -> layers.ZeroPadding2D:
    """Zeros around images (N, C, H, W), as ``torch.nn.ZeroPad2d``.

    Args:
        padding: one number for all sides, or ``(left, right, top, bottom)``; not negative.

    Raises:
        InvalidArgumentError: anything else.
    """
    left, right, top, bottom = as_tuple(padding, 4, "padding", 0)
    return layers.ZeroPadding2D(
        ((top, bottom), (left, right)), data_format="channels_first", dtype=None
    )
