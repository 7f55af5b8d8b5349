"""Batch, layer and group normalisation, one set of elements at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpuconv.testing.reference.extents import F64, as_f64


def _mean_and_variance(values: F64) -> tuple[float, float]:
    """Mean and biased variance by two passes of exact sums."""
    flat = [float(v) for v in values.reshape(-1)]
    mean = math.fsum(flat) / len(flat)
    return mean, math.fsum((v - mean) ** 2 for v in flat) / len(flat)


def batch_norm(x: F64, gamma: F64, beta: F64, epsilon: float) -> tuple[F64, F64, F64]:
    """Normalise each channel of ``x`` (N, ..., C) by its own batch.

    Returns:
        ``y`` and the mean and biased variance of each channel, (C,).
    """
    x, gamma, beta = as_f64(x), as_f64(gamma), as_f64(beta)
    channels = x.shape[-1]
    y, means, variances = np.empty(x.shape), np.empty(channels), np.empty(channels)
    for c in range(channels):
        mean, variance = _mean_and_variance(x[..., c])
        y[..., c] = (x[..., c] - mean) / math.sqrt(variance + epsilon) * gamma[c] + beta[c]
        means[c], variances[c] = mean, variance
    return y, means, variances


def batch_norm_inference(
    x: F64, gamma: F64, beta: F64, mean: F64, variance: F64, epsilon: float
) -> F64:
    """Normalise each channel of ``x`` (N, ..., C) by the given statistics, all (C,)."""
    x, gamma, beta, mean, variance = map(as_f64, (x, gamma, beta, mean, variance))
    y: F64 = np.empty(x.shape)
    for c in range(x.shape[-1]):
        scale = gamma[c] / math.sqrt(variance[c] + epsilon)
        y[..., c] = (x[..., c] - mean[c]) * scale + beta[c]
    return y


def layer_norm(x: F64, gamma: F64, beta: F64, epsilon: float, axes: Sequence[int] = (-1,)) -> F64:
    """Normalise ``x`` over ``axes``; ``gamma`` and ``beta`` have their extents, in that order."""
    x, gamma, beta = as_f64(x), as_f64(gamma), as_f64(beta)
    moved = np.moveaxis(x, axes, range(-len(axes), 0))
    y: F64 = np.empty(moved.shape)
    for position in np.ndindex(*moved.shape[: -len(axes)]):
        mean, variance = _mean_and_variance(moved[position])
        y[position] = (moved[position] - mean) / math.sqrt(variance + epsilon) * gamma + beta
    return np.ascontiguousarray(np.moveaxis(y, range(-len(axes), 0), axes))


def group_norm(x: F64, gamma: F64, beta: F64, groups: int, epsilon: float) -> F64:
    """Normalise each sample of ``x`` (N, ..., C) over runs of C/groups channels."""
    x, gamma, beta = as_f64(x), as_f64(gamma), as_f64(beta)
    size = x.shape[-1] // groups
    y: F64 = np.empty(x.shape)
    for n in range(x.shape[0]):
        for g in range(groups):
            channels = slice(g * size, (g + 1) * size)
            part = x[n, ..., channels]
            mean, variance = _mean_and_variance(part)
            normal = (part - mean) / math.sqrt(variance + epsilon)
            y[n, ..., channels] = normal * gamma[channels] + beta[channels]
    return y
