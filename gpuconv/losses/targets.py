"""Labels and sample weights brought into the shape of the outputs that they belong to.

Shapes are checked always. Values are checked on the host only: looking at values on a device
would make the program wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import device_of, to_device
from gpuconv.containers import Wrap, unwrap
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Extents = tuple[int, ...]


def bring_together(
    labels: Any, y: Any, sample_weight: Any
) -> tuple[Array, Array, Array | None, Wrap]:
    """Return the arrays on the device of ``y``, and the way back to the container of ``y``."""
    y, wrap = unwrap(y, "outputs")
    device = device_of(y)
    labels = to_device(unwrap(labels, "labels")[0], device)
    if sample_weight is not None:
        sample_weight = to_device(unwrap(sample_weight, "sample_weight")[0], device)
    return labels, y, sample_weight, wrap


def known_shape(y_shape: Sequence[int | None], labels: Array) -> Extents:
    """Return ``y_shape`` with an unknown (None) number of samples taken from the labels.

    Raises:
        ShapeError: labels and outputs have no samples axis or different numbers of samples.
    """
    shape = tuple(y_shape)
    if not shape or not labels.ndim:
        raise ShapeError(
            f"labels and outputs need an axis of samples. "
            f"Received: labels of shape {tuple(labels.shape)}, outputs of shape {shape}"
        )
    samples = labels.shape[0] if shape[0] is None else shape[0]
    if labels.shape[0] != samples:
        raise ShapeError(
            f"labels and outputs must hold as many samples. "
            f"Received: {labels.shape[0]} labels, {samples} outputs"
        )
    return (samples, *(int(n or 0) for n in shape[1:]))


def common_shape(labels_shape: Extents, y_shape: Extents) -> Extents:
    """Return the shape in which labels and outputs are compared element by element.

    They must be equal but for one last axis of extent 1, which Keras 3.15 adds or drops: it is
    added to vectors and dropped from anything larger. A vector against a vector counts as one
    value a sample, ``(N, 1)``.

    Raises:
        ShapeError: the shapes differ otherwise.
    """
    if labels_shape == y_shape:
        shape = y_shape
    elif (*labels_shape, 1) == y_shape:
        shape = y_shape if len(labels_shape) == 1 else labels_shape
    elif labels_shape == (*y_shape, 1):
        shape = labels_shape if len(y_shape) == 1 else y_shape
    else:
        raise ShapeError(
            f"labels must have the shape of the outputs. "
            f"Received: labels of shape {labels_shape}, outputs of shape {y_shape}"
        )
    return shape if len(shape) > 1 else (*shape, 1)


def check_class_shape(labels_shape: Extents, y_shape: Extents) -> None:
    """Check class numbers (N, ...) or (N, ..., 1) against scores (N, ..., K).

    Raises:
        ShapeError: they do not belong together.
    """
    if len(y_shape) < 2:
        raise ShapeError(
            f"outputs need an axis of classes behind the axis of samples. "
            f"Received: outputs of shape {y_shape}"
        )
    if labels_shape in (y_shape[:-1], (*y_shape[:-1], 1)):
        return
    hint = ""
    if labels_shape == y_shape:
        hint = " One-hot labels belong to the categorical form; the sparse form takes numbers."
    raise ShapeError(
        f"class numbers must have the shape {y_shape[:-1]} of the outputs without their last "
        f"axis.{hint} Received: labels of shape {labels_shape}, outputs of shape {y_shape}"
    )


def check_class_numbers(labels: Array, classes: int) -> None:
    """Check the values of class numbers that lie on the host; others pass.

    Raises:
        InvalidArgumentError: a label is not an integer in [0, classes).
        DTypeError: the labels are not numbers.
    """
    if labels.dtype.kind not in "iubf":
        raise DTypeError(f"class numbers must be integers. Received: dtype {labels.dtype}")
    if not isinstance(labels, np.ndarray) or labels.size == 0:
        return
    if labels.dtype.kind == "f":
        fractional = labels[labels != np.floor(labels)]
        if fractional.size:
            raise InvalidArgumentError(
                f"class numbers must be integers. Received: a label {fractional[0]!r}"
            )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise InvalidArgumentError(
            f"labels must lie in [0, {classes}), for {classes} outputs. "
            f"Received: labels from {low} to {high}"
        )


def check_one_hot_shape(labels_shape: Extents, y_shape: Extents) -> None:
    """Check class probabilities (N, ..., K) against scores (N, ..., K).

    Raises:
        ShapeError: the shapes differ.
    """
    if len(y_shape) > 1 and labels_shape == y_shape:
        return
    hint = ""
    if labels_shape in (y_shape[:-1], (*y_shape[:-1], 1)):
        hint = " Class numbers belong to the sparse categorical form."
    raise ShapeError(
        f"one-hot labels or probabilities must have the shape (N, ..., classes) of the outputs."
        f"{hint} Received: labels of shape {labels_shape}, outputs of shape {y_shape}"
    )


def class_numbers(labels: Array, y_shape: Extents) -> Array:
    """Return checked class numbers as int64, in the shape of the outputs without classes.

    Raises:
        ShapeError: labels and outputs do not belong together.
        InvalidArgumentError: a label on the host is not an integer in [0, classes).
    """
    check_class_shape(tuple(labels.shape), y_shape)
    check_class_numbers(labels, y_shape[-1])
    return labels.reshape(y_shape[:-1]).astype("int64", copy=False)


def align_weights(weights: Array, shape: Extents) -> Array:
    """Return sample weights as a view that broadcasts to per-sample values of ``shape``.

    Args:
        weights: one for each sample (N,), one for each value, or anything between: their shape
            is a leading part of ``shape``; trailing axes of extent 1 do not matter. One number
            stands for all.
        shape: (N, ...).

    Raises:
        ShapeError: their shape is none of these.
    """
    extents = tuple(weights.shape)
    while len(extents) > len(shape) and extents[-1] == 1:
        extents = extents[:-1]
    padded = (*extents, *([1] * (len(shape) - len(extents))))
    fits = len(padded) == len(shape) and all(
        w == n or (w == 1 and axis > 0)
        for axis, (w, n) in enumerate(zip(padded, shape, strict=True))
    )
    if extents and not fits:
        raise ShapeError(
            f"sample weights must be one for each sample, {shape[:1]}, or for each value, {shape}. "
            f"Received: weights of shape {tuple(weights.shape)}"
        )
    return weights.reshape(padded if extents else (1,) * len(shape))


def check_fraction(value: Any, name: str) -> float:
    """Return ``value`` as a float.

    Raises:
        InvalidArgumentError: not a number in [0, 1].
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and 0 <= value <= 1):
        raise InvalidArgumentError(f"{name} must be a number in [0, 1]. Received: {value!r}")
    return float(value)
