"""Element-wise functions over whole arrays, a cache-sized block at a time.

A composite function such as GELU makes several temporaries; of a block they stay in cache, so an
array of any size is read and written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from gpuconv_kernels.array.boxes import box_shape, boxes, slices
from gpuconv_kernels.array.functions import (
    BACKWARD_FROM_INPUT,
    BACKWARD_FROM_OUTPUT,
    BLOCK,
    FORWARD,
)
from gpuconv_kernels.array.reductions import fold_of, row_blocks

NDArray = np.ndarray[Any, Any]


class Function(Protocol):
    """See ``gpuconv.backends.functions.Activation``."""

    @property
    def kind(self) -> str: ...
    @property
    def alpha(self) -> float: ...


def forward(x: NDArray, kind: str, alpha: float = 0.0) -> NDArray:
    """Apply the function called ``kind`` to ``x`` of any strides.

    ``alpha`` is the slope of ``leaky_relu`` (positive) or the scale of ``elu``.
    """
    y: NDArray = np.empty(x.shape, x.dtype)
    apply = FORWARD[kind]
    with np.errstate(all="ignore"):
        for source, target in _blocks(x, y):
            apply(source, target, float(alpha))
    return y


def backward(
    dy: NDArray, x: NDArray | None, y: NDArray | None, kind: str, alpha: float = 0.0
) -> NDArray:
    """``dy`` times the derivative, from ``y`` or, for a kind of ``BACKWARD_FROM_INPUT``, ``x``."""
    dx: NDArray = np.empty(dy.shape, dy.dtype)
    from_output = kind in BACKWARD_FROM_OUTPUT
    apply = (BACKWARD_FROM_OUTPUT if from_output else BACKWARD_FROM_INPUT)[kind]
    with np.errstate(all="ignore"):
        for gradient, source, target in _blocks(dy, y if from_output else x, dx):
            apply(gradient, source, target, float(alpha))
    return dx


def add_bias_activate(y: NDArray, bias: NDArray | None, activation: Function | None) -> None:
    """Add ``bias`` (F,) to ``y`` (..., F) and apply ``activation``, both IN PLACE."""
    if bias is None and activation is None:
        return
    apply = None if activation is None else FORWARD[activation.kind]
    alpha = 0.0 if activation is None else float(activation.alpha)
    with np.errstate(all="ignore"):
        for part, addend in _parts(y, bias):
            if addend is not None:
                part += addend
            if apply is not None:
                apply(part, part, alpha)


def _parts(y: NDArray, bias: NDArray | None) -> Iterator[tuple[NDArray, NDArray | None]]:
    """Cut ``y`` (..., F) into views of about ``BLOCK`` elements, each with its part of ``bias``."""
    if y.flags.c_contiguous:
        filters = y.shape[-1]
        repeated = None if bias is None else np.tile(bias, fold_of(filters))
        for rows in row_blocks(y.reshape(-1, filters), BLOCK):
            yield rows, None if repeated is None else repeated[: rows.shape[1]]
    else:
        for box in boxes(y.shape, box_shape(y.shape, BLOCK)):
            yield y[slices(box)], None if bias is None else bias[slice(*box[-1])]


def _blocks(*arrays: Any) -> Iterator[tuple[NDArray, ...]]:
    """Cut arrays of one shape into matching blocks of about ``BLOCK`` elements."""
    if all(array.flags.c_contiguous for array in arrays):
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, flat[0].size, BLOCK):
            yield tuple(array[start : start + BLOCK] for array in flat)
    else:
        shape = arrays[0].shape
        for box in boxes(shape, box_shape(shape, BLOCK)):
            yield tuple(array[slices(box)] for array in arrays)
