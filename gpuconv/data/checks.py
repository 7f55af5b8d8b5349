"""Checks of the user's data before the first step; none of them copies it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.data.forms import Parts, leaves
from gpuconv.data.sources import as_source, is_several, read_rows, row_count
from gpuconv.errors import InvalidArgumentError, ShapeError

_BLOCK_BYTES = 16 * 1024**2


def check_finite(x: Any, name: str = "x") -> None:
    """Look for NaN and infinity in floating-point data, block by block.

    Args:
        x: an array, array-like or Tensor, or a list or tuple of them.
        name: how the message calls it.

    Raises:
        InvalidArgumentError: a value is not finite; the message says where the first one is.
    """
    if is_several(x):
        for number, part in enumerate(x):
            check_finite(part, f"{name}[{number}]")
        return
    source = as_source(x, name)
    dtype = np.dtype(source.dtype)
    if dtype.kind != "f":
        return
    row_bytes = dtype.itemsize * int(np.prod(source.shape[1:], dtype=np.int64))
    rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, row_count(source), rows):
        block = read_rows(source, start, min(start + rows, row_count(source)))
        finite = array_module(block).isfinite(block)
        if not bool(finite.all()):
            _report(to_numpy(block), to_numpy(finite), start, name)


def _report(
    block: np.ndarray[Any, Any], finite: np.ndarray[Any, Any], start: int, name: str
) -> None:
    first = np.unravel_index(int(np.argmin(finite)), finite.shape)
    where = ", ".join(str(int(i) + (start if axis == 0 else 0)) for axis, i in enumerate(first))
    raise InvalidArgumentError(
        f"{name} must hold finite numbers only; clean or mask the data before training. "
        f"Received: {float(block[first])} at {name}[{where}]"
    )


def check_lengths(x: Parts, y: Parts = None, sample_weight: Parts = None, prefix: str = "") -> int:
    """Return the number of samples that inputs, targets and weights have in common.

    Args:
        x, y, sample_weight: arrays, or tuples or dicts of arrays; the last two may be None.
        prefix: of the names in messages.

    Raises:
        ShapeError: they differ, or the weights are not one number a sample.
        InvalidArgumentError: there are no samples.
    """
    x_name = f"{prefix}x"
    inputs = [source for _, source in leaves(x, x_name)]
    samples = row_count(inputs[0])
    lengths = [row_count(source) for source in inputs]
    if any(length != samples for length in lengths):
        raise ShapeError(
            f"{x_name} is a list of {len(inputs)} arrays, which stands for {len(inputs)} inputs, "
            "and all inputs must have the same number of samples (for a list of samples, use "
            f"numpy.stack). Received: {lengths[:8]}{'...' if len(lengths) > 8 else ''}"
        )
    weights = list(leaves(sample_weight, "sample_weight"))
    for name, part in weights:
        if len(part.shape) != 1:
            raise ShapeError(
                f"{name} must have one number a sample, shape ({samples},). "
                f"Received: {tuple(part.shape)}"
            )
    for name, part in (*leaves(y, "y"), *weights):
        if row_count(part) != samples:
            raise ShapeError(
                f"{x_name} and {name} must have the same number of samples. "
                f"Received: {x_name} with {samples}, {name} with {row_count(part)}"
            )
    if samples == 0:
        raise InvalidArgumentError(
            f"{x_name} must have at least one sample. Received: shape {tuple(inputs[0].shape)}"
        )
    return samples


def check_count(value: Any, name: str) -> int:
    """Return ``value`` as an int.

    Raises:
        InvalidArgumentError: not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidArgumentError(f"{name} must be an integer of at least 1. Received: {value!r}")
    return int(value)
