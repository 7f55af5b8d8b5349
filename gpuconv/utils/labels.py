"""Labels and inputs as arrays: to_categorical and normalize."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.errors import DTypeError, InvalidArgumentError
from gpuconv.geometry import as_int


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray[Any, Any]:
    """Return class numbers as one-hot rows, as ``keras.utils.to_categorical``.

    Args:
        x: integers from 0, of any shape; a last axis of extent 1 is dropped.
        num_classes: length of a row; None: the largest number and one.

    Returns:
        float64 of the shape of ``x`` and ``num_classes``.

    Raises:
        DTypeError: not integers.
        InvalidArgumentError: negative, or not below ``num_classes``.
    """
    labels = np.asarray(x)
    if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)  # as they come out of some files
    if labels.dtype.kind not in "iub":
        raise DTypeError(f"class numbers must be integers. Received: {labels.dtype}")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    least, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, -1)
    count = largest + 1 if num_classes is None else as_int(num_classes, "num_classes", 1)
    if least < 0 or largest >= count:
        raise InvalidArgumentError(
            f"class numbers must lie from 0 to {count - 1}. Received: {least} to {largest}"
        )
    return (labels[..., np.newaxis] == np.arange(count)).astype(np.float64)


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray[Any, Any]:
    """Return ``x`` divided by its norm along an axis, as ``keras.utils.normalize``.

    Args:
        x: numbers of any shape.
        axis: along which the norm is taken; a norm of 0 counts as 1.
        order: of the norm, at least 1.

    Raises:
        InvalidArgumentError: an impossible axis or order.
    """
    array = np.atleast_1d(np.asarray(x))
    if not -array.ndim <= as_int(axis, "axis") < array.ndim:
        raise InvalidArgumentError(
            f"axis must be one of an array of {array.ndim} dimensions. Received: {axis}"
        )
    norm = np.linalg.norm(array, as_int(order, "order", 1), axis, keepdims=True)
    return np.asarray(array / np.where(norm == 0, 1, norm))
