"""Mixup (Zhang et al. 2018): training on blends of two samples, and of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, device_of, to_device
from gpuconv.containers import FLOATS, unwrap
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.random import SeedStream

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


def mixup(
    x: Any,
    y: Any,
    alpha: float = 0.2,
    num_classes: int | None = None,
    seed: int | SeedStream | None = None,
) -> tuple[Any, Any]:
    """Blend every sample of a batch with another one, and their labels by the same weights.

    Sample ``i`` becomes ``w*x[i] + (1 - w)*x[j]``, with ``w`` of its own from
    Beta(alpha, alpha) and ``j`` from a random permutation of the batch, as in Keras's MixUp.

    Args:
        x: samples, (N, ...), array or Tensor. Integers become float32.
        y: labels: integers, (N,) or (N, 1), with ``num_classes``; or rows of targets such as
            one-hot vectors, (N, K); or floats, (N, ...), which are blended as they are.
        alpha: strength; 0 blends nothing, 1 draws the weights evenly from 0 to 1.
        num_classes: classes that integer labels stand for.
        seed: an integer gives the same blends at every call; a ``gpuconv.random.SeedStream``
            others at each, reproducibly; None takes a seed from ``gpuconv.random``.

    Returns:
        ``(x, y)``: new ones in the same containers, on the same device; integer labels have
        become (N, num_classes), for ``categorical_crossentropy``.

    Raises:
        ShapeError: different numbers of samples, or labels and ``num_classes`` that disagree.
        InvalidArgumentError: an impossible ``alpha`` or ``seed``, integer labels without
            ``num_classes``, or a label outside ``[0, num_classes)``.
        DTypeError: not numbers.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.integer, np.floating)):
        raise InvalidArgumentError(f"alpha must be a number of at least 0. Received: {alpha!r}")
    if not 0 <= alpha < np.inf:
        raise InvalidArgumentError(f"alpha must be a number of at least 0. Received: {alpha!r}")
    samples, wrap_x = unwrap(x, "x")
    labels, wrap_y = unwrap(y, "y")
    if not (samples.ndim and labels.ndim and len(samples) == len(labels)):
        raise ShapeError(
            "x and y must have the same number of samples. "
            f"Received: shapes {tuple(samples.shape)} and {tuple(labels.shape)}"
        )
    samples = _as_float(samples, "float32")
    targets = _as_targets(labels, num_classes, samples.dtype.name)
    stream = seed if isinstance(seed, SeedStream) else SeedStream(seed)
    generator = stream.generator()
    order = generator.permutation(len(samples))
    weights = generator.beta(alpha, alpha, len(samples)) if alpha else np.ones(len(samples))
    return wrap_x(_blend(samples, order, weights)), wrap_y(_blend(targets, order, weights))


def _blend(values: Array, order: Any, weights: Any) -> Array:
    device = device_of(values)
    weight = to_device(weights.astype(values.dtype), device)
    weight = weight.reshape(-1, *(1,) * (values.ndim - 1))
    blended = weight * values
    blended += (1 - weight) * values[to_device(order, device)]
    return blended


def _as_float(array: Array, otherwise: str) -> Array:
    return array if array.dtype.name in FLOATS else array.astype(otherwise)


def _as_targets(labels: Array, num_classes: int | None, dtype: str) -> Array:
    """Labels as floats that can be blended.

    Raises:
        ShapeError, InvalidArgumentError: they do not fit ``num_classes``.
    """
    classes = labels.dtype.kind in "iu" and (
        labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    )
    if num_classes is not None:
        num_classes = as_int(num_classes, "num_classes", 1)
    if not classes:
        if num_classes is not None and (labels.ndim != 2 or labels.shape[1] != num_classes):
            raise ShapeError(
                f"y must hold integers, or rows of num_classes={num_classes} numbers. "
                f"Received: shape {tuple(labels.shape)} and dtype {labels.dtype.name}"
            )
        return _as_float(labels, dtype)
    if num_classes is None:
        raise InvalidArgumentError(
            "integer labels can be blended as one-hot vectors only: pass num_classes. "
            f"Received: y of shape {tuple(labels.shape)}, num_classes=None"
        )
    xp = array_module(labels)
    flat = labels.reshape(-1)
    if not bool(((flat >= 0) & (flat < num_classes)).all()):
        raise InvalidArgumentError(
            f"labels must lie in [0, {num_classes}). "
            f"Received: labels from {int(flat.min())} to {int(flat.max())}"
        )
    return (flat[:, None] == xp.arange(num_classes)).astype(dtype)
