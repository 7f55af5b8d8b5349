"""Losses, one number for each sample: the last axis is summed or averaged, nothing else.

The definitions are Keras's; :func:`reduce_loss` then averages over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuconv.testing.reference.dense import log_softmax
from gpuconv.testing.reference.extents import F64, I64

_CLIP = 1e-7


def _clip(p: float) -> float:
    return min(max(p, _CLIP), 1.0 - _CLIP)


def categorical_crossentropy(
    targets: F64, outputs: F64, from_logits: bool = False, label_smoothing: float = 0.0
) -> F64:
    """``targets`` and ``outputs`` (..., K) -> (...).

    Probabilities are divided by their sum and clipped to [1e-7, 1 - 1e-7] first.
    """
    classes = outputs.shape[-1]
    losses: F64 = np.zeros(outputs.shape[:-1])
    logarithms = log_softmax(outputs) if from_logits else None
    for position in np.ndindex(*losses.shape):
        total = math.fsum(outputs[position])
        terms = []
        for k in range(classes):
            target = float(targets[position][k])
            target = target * (1.0 - label_smoothing) + label_smoothing / classes
            if logarithms is not None:
                logarithm = float(logarithms[position][k])
            else:
                logarithm = math.log(_clip(float(outputs[position][k]) / total))
            terms.append(-target * logarithm)
        losses[position] = math.fsum(terms)
    return losses


def one_hot(labels: I64, classes: int) -> F64:
    """``labels`` (...) of class numbers -> (..., classes)."""
    targets: F64 = np.zeros((*labels.shape, classes))
    for position in np.ndindex(*labels.shape):
        targets[position][int(labels[position])] = 1.0
    return targets


def sparse_categorical_crossentropy(
    labels: I64,
    outputs: F64,
    from_logits: bool = False,
) -> F64:
    """``labels`` (...) or (..., 1) of class numbers, ``outputs`` (..., K) -> (...)."""
    labels = labels.reshape(outputs.shape[:-1])
    return categorical_crossentropy(one_hot(labels, outputs.shape[-1]), outputs, from_logits)


def _mean_over_last(pair: Callable[[float, float], float], targets: F64, outputs: F64) -> F64:
    losses: F64 = np.zeros(outputs.shape[:-1])
    for position in np.ndindex(*losses.shape):
        rows = zip(targets[position], outputs[position], strict=True)
        losses[position] = math.fsum(pair(float(t), float(o)) for t, o in rows)
    return losses / outputs.shape[-1]


def binary_crossentropy(
    targets: F64, outputs: F64, from_logits: bool = False, label_smoothing: float = 0.0
) -> F64:
    """``targets`` and ``outputs`` (..., K) -> (...), the mean over the last axis."""

    def pair(target: float, output: float) -> float:
        target = target * (1.0 - label_smoothing) + 0.5 * label_smoothing
        if from_logits:
            return max(output, 0.0) - output * target + math.log1p(math.exp(-abs(output)))
        p = _clip(output)
        return -target * math.log(p) - (1.0 - target) * math.log(1.0 - p)

    return _mean_over_last(pair, targets, outputs)


def mean_squared_error(targets: F64, outputs: F64) -> F64:
    """The mean of ``(output - target)**2`` over the last axis."""
    return _mean_over_last(lambda t, o: (o - t) ** 2, targets, outputs)


def mean_absolute_error(targets: F64, outputs: F64) -> F64:
    """The mean of ``|output - target|`` over the last axis."""
    return _mean_over_last(lambda t, o: abs(o - t), targets, outputs)


def huber(targets: F64, outputs: F64, delta: float = 1.0) -> F64:
    """Quadratic up to ``delta``, linear beyond; the mean over the last axis."""

    def pair(target: float, output: float) -> float:
        error = abs(output - target)
        return 0.5 * error * error if error <= delta else delta * error - 0.5 * delta * delta

    return _mean_over_last(pair, targets, outputs)


def reduce_loss(losses: F64, sample_weight: F64 | None = None) -> float:
    """``sum(weight * loss) / number of losses``: the weights are not normalised (Keras).

    ``sample_weight`` has the shape of the leading axes of ``losses``.
    """
    terms = []
    for position in np.ndindex(*losses.shape):
        weight = 1.0
        if sample_weight is not None:
            weight = float(sample_weight[position[: sample_weight.ndim]])
        terms.append(weight * float(losses[position]))
    return math.fsum(terms) / len(terms)
