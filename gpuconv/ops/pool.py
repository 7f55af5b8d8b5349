"""Pooling on canonical arrays: what layers and the public ops both call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.dispatch import select_engine
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import PoolGeometry, resolve_padding


@lru_cache(maxsize=4096)
def pooling(
    x_shape: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    divisor_override: int | None = None,
) -> PoolGeometry:
    """Build and check a pooling from a canonical shape; ``padding`` as users write it.

    Raises:
        InvalidArgumentError: an impossible window, stride, padding or dilation; padding in
            numbers of more than half the window, dilation not counted (PyTorch's rule).
        ShapeError: an empty input, or the window does not fit into the padded one.
    """
    batch, *input, channels = x_shape
    if min(input) < 1:
        raise ShapeError(
            f"pooling needs an input of at least 1 in each dimension, before padding. "
            f"Received: input {tuple(input)}, window {window}"
        )
    for name, values in (("pool size", window), ("stride", stride), ("dilation", dilation)):
        if min(values) < 1:
            raise InvalidArgumentError(f"{name} must be at least 1. Received: {tuple(values)}")
    pads = resolve_padding(padding, input, window, stride, dilation, allow_causal=False)
    if not isinstance(padding, str) and any(
        max(pad) > k // 2 for k, pad in zip(window, pads, strict=True)
    ):
        raise InvalidArgumentError(
            f"pooling can be padded by at most half of the window {window}, whatever its "
            f"dilation. Received: padding {pads}"
        )
    return PoolGeometry(
        batch=batch,
        channels=channels,
        input=tuple(input),
        window=window,
        stride=stride,
        dilation=dilation,
        pads=pads,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


def max_pool(x: Array, geometry: PoolGeometry, with_indices: bool) -> tuple[Array, Array | None]:
    """``x`` (N, *in, C) -> ``y`` and, if wanted, ``indices`` into the plane, both (N, *out, C)."""
    return select_engine("max_pool", geometry, x).max_pool(x, geometry, with_indices)


def max_pool_backward(dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    engine = select_engine("max_pool_backward", geometry, dy)
    return engine.max_pool_backward(dy, indices, geometry)


def avg_pool(x: Array, geometry: PoolGeometry) -> Array:
    """``x`` (N, *in, C) -> ``y`` (N, *out, C)."""
    return select_engine("avg_pool", geometry, x).avg_pool(x, geometry)


def avg_pool_backward(dy: Array, geometry: PoolGeometry) -> Array:
    """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""
    return select_engine("avg_pool_backward", geometry, dy).avg_pool_backward(dy, geometry)
