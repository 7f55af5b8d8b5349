"""Small helpers that Keras programs use."""

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
