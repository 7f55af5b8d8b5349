"""Losses and their gradients against PyTorch, with drawn shapes, settings and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import losses  # noqa: E402

NDArray = np.ndarray[Any, Any]

SETTINGS = settings(max_examples=40, deadline=None)
SHAPES = st.tuples(
    st.integers(1, 5), st.lists(st.integers(1, 4), max_size=2), st.integers(1, 7)
).map(lambda t: (t[0], *t[1], t[2]))
DTYPES = st.sampled_from(["float32", "float64"])
REDUCTIONS = st.sampled_from(["sum_over_batch_size", "sum", "mean_with_sample_weight"])
SEEDS = st.integers(0, 2**32 - 1)


def weights_for(rng: np.random.Generator, shape: tuple[int, ...], weighted: str) -> NDArray | None:
    if weighted == "none":
        return None
    return rng.random(shape[:1] if weighted == "sample" else shape[:-1])


WEIGHTED = st.sampled_from(["none", "sample", "position"])


def agree(
    loss: losses.Loss,
    labels: NDArray,
    y: NDArray,
    weights: NDArray | None,
    each: Any,
) -> None:
    """Reduce PyTorch's losses ``each(y)`` as ``loss`` does and compare value and gradient."""
    x = torch.tensor(np.ascontiguousarray(y)).requires_grad_()
    values = each(x)
    w = torch.ones_like(values)
    if weights is not None:
        extra = (1,) * (values.ndim - weights.ndim)
        w = w * torch.tensor(weights.reshape(weights.shape + extra)).to(x.dtype)
    total = (w * values).sum()
    divisor: Any = 1
    if loss.reduction == "sum_over_batch_size":
        divisor = values.numel()
    elif loss.reduction == "mean_with_sample_weight":
        divisor = w.sum()
    expected = total / divisor
    expected.backward()
    value, dy = loss.forward(labels, y, weights)
    rtol = 2e-5 if y.dtype == np.float32 else 1e-11
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=rtol, atol=rtol)
    # p - onehot has the rounding error of 1, however small it is itself.
    upstream = float((w / divisor).max())
    np.testing.assert_allclose(dy, x.grad.numpy(), rtol=rtol, atol=rtol * upstream)


@SETTINGS
@given(SHAPES, DTYPES, REDUCTIONS, WEIGHTED, SEEDS)
def test_class_numbers_and_logits(
    shape: tuple[int, ...], dtype: str, reduction: str, weighted: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    y = (10 * rng.standard_normal(shape)).astype(dtype)
    labels = rng.integers(0, shape[-1], shape[:-1])

    def each(x: Any) -> Any:
        rows = F.cross_entropy(
            x.reshape(-1, shape[-1]), torch.tensor(labels).reshape(-1), reduction="none"
        )
        return rows.reshape(shape[:-1])

    loss = losses.SparseCategoricalCrossentropy(True, reduction)
    agree(loss, labels, y, weights_for(rng, shape, weighted), each)


@SETTINGS
@given(SHAPES, DTYPES, REDUCTIONS, WEIGHTED, st.sampled_from([0.0, 0.1, 1.0]), SEEDS)
def test_one_hot_labels_and_logits(
    shape: tuple[int, ...], dtype: str, reduction: str, weighted: str, smoothing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    y = (5 * rng.standard_normal(shape)).astype(dtype)
    labels = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]

    def each(x: Any) -> Any:
        rows = F.cross_entropy(
            x.reshape(-1, shape[-1]),
            torch.tensor(labels).to(x.dtype).reshape(-1, shape[-1]),
            reduction="none",
            label_smoothing=smoothing,
        )
        return rows.reshape(shape[:-1])

    loss = losses.CategoricalCrossentropy(True, smoothing, reduction)
    agree(loss, labels, y, weights_for(rng, shape, weighted), each)


@SETTINGS
@given(SHAPES, DTYPES, REDUCTIONS, WEIGHTED, st.booleans(), SEEDS)
def test_probabilities_are_normalised_and_clipped(
    shape: tuple[int, ...], dtype: str, reduction: str, weighted: str, sparse: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Some scores are zero: the clip binds there.
    y = (rng.random(shape) * (rng.random(shape) > 0.2) + 1e-3 * rng.random(shape)).astype(dtype)
    numbers = rng.integers(0, shape[-1], shape[:-1])
    one_hot = np.eye(shape[-1])[numbers]

    def each(x: Any) -> Any:
        p = x / x.sum(dim=-1, keepdim=True)
        logarithms = torch.log(torch.clamp(p, 1e-7, 1 - 1e-7))
        return -(torch.tensor(one_hot).to(x.dtype) * logarithms).sum(dim=-1)

    weights = weights_for(rng, shape, weighted)
    if sparse:
        agree(losses.SparseCategoricalCrossentropy(False, reduction), numbers, y, weights, each)
    else:
        loss = losses.CategoricalCrossentropy(False, reduction=reduction)
        agree(loss, one_hot, y, weights, each)


@SETTINGS
@given(SHAPES, DTYPES, REDUCTIONS, WEIGHTED, st.booleans(), SEEDS)
def test_binary(
    shape: tuple[int, ...], dtype: str, reduction: str, weighted: str, logits: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, shape)
    y = (20 * rng.standard_normal(shape) if logits else rng.uniform(0.01, 0.99, shape)).astype(
        dtype
    )

    def each(x: Any) -> Any:
        t = torch.tensor(labels).to(x.dtype)
        function = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy
        return function(x, t, reduction="none").mean(dim=-1)

    loss = losses.BinaryCrossentropy(logits, reduction=reduction)
    agree(loss, labels, y, weights_for(rng, shape, weighted), each)


@SETTINGS
@given(SHAPES, DTYPES, REDUCTIONS, WEIGHTED, st.sampled_from([0.1, 1.0, 3.0]), SEEDS)
def test_regression(
    shape: tuple[int, ...], dtype: str, reduction: str, weighted: str, delta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels, y = rng.standard_normal(shape), (2 * rng.standard_normal(shape)).astype(dtype)
    weights = weights_for(rng, shape, weighted)
    for loss, function in (
        (losses.MeanSquaredError(reduction), F.mse_loss),
        (losses.MeanAbsoluteError(reduction), F.l1_loss),
        (
            losses.Huber(delta, reduction),
            lambda x, t, reduction: F.huber_loss(x, t, reduction=reduction, delta=delta),
        ),
    ):

        def each(x: Any, function: Any = function) -> Any:
            return function(x, torch.tensor(labels).to(x.dtype), reduction="none").mean(dim=-1)

        agree(loss, labels.astype(dtype), y, weights, each)
