"""Normalisation and activation layers against PyTorch, forward, backward and state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpuconv import layers  # noqa: E402
from gpuconv.activations import NAMES  # noqa: E402
from gpuconv.testing.cases.layers import randomize  # noqa: E402

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**16)
quick = settings(max_examples=30, deadline=None)


def close(found: Any, expected: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-7, atol=atol)


def step(layer: Any, oracle: Any, x: Any, training: bool, rng: np.random.Generator) -> None:
    """Compare output and input gradient of one forward and backward pass."""
    given_x = torch.tensor(x, requires_grad=True)
    expected = oracle(given_x)
    dy = rng.standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(dy))
    y, backward = layer.forward(x, training=training)
    close(y, expected)
    close(backward(dy), given_x.grad)


def parameters(layer: Any, weight: Any, bias: Any) -> None:
    """Compare the gradients summed up so far."""
    for ours, theirs in ((layer.gamma, weight), (layer.beta, bias)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            close(ours.grad, theirs.grad)


@quick
@given(
    extents=shapes,
    batch=st.integers(2, 5),
    momentum=st.sampled_from([0.1, 0.5, 1.0, None]),
    epsilon=st.sampled_from([1e-5, 1e-2]),
    affine=st.booleans(),
    tracked=st.booleans(),
    seed=seeds,
)
def test_batch_norm(
    extents: tuple[int, ...],
    batch: int,
    momentum: float | None,
    epsilon: float,
    affine: bool,
    tracked: bool,
    seed: int,
) -> None:
    """PyTorch's momentum is the weight of the new value; its running variance is unbiased."""
    rng = np.random.default_rng(seed)
    kind = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm2d}
    oracle = kind.get(len(extents), torch.nn.BatchNorm3d)(
        extents[0], epsilon, momentum, affine, tracked, dtype=torch.float64
    )
    layer = layers.BatchNormalization(
        axis=1,
        momentum=None if momentum is None else 1 - momentum,
        epsilon=epsilon,
        center=affine,
        scale=affine,
        unbiased_moving_variance=True,
        track_moving_statistics=tracked,
        dtype="float64",
    )
    layer.build((None, *extents))
    randomize(layer)
    state = layer.state()
    names = {"gamma": "weight", "beta": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    names |= {"batches_seen": "num_batches_tracked"}
    oracle.load_state_dict(
        {names[key]: torch.tensor(value) for key, value in state.items()}, strict=False
    )
    for training in (True, True, False, True):
        oracle.train(training)
        step(layer, oracle, rng.normal(1.0, 2.0, (batch, *extents)), training, rng)
    parameters(layer, oracle.weight, oracle.bias)
    for key, value in layer.state().items():
        close(value, getattr(oracle, names[key]))


@quick
@given(extents=shapes, normalized=st.integers(1, 4), affine=st.booleans(), seed=seeds)
def test_layer_norm(extents: tuple[int, ...], normalized: int, affine: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = min(normalized, len(extents))
    oracle = torch.nn.LayerNorm(extents[-count:], 1e-5, affine, dtype=torch.float64)
    layer = layers.LayerNormalization(
        axis=tuple(range(-count, 0)), epsilon=1e-5, center=affine, scale=affine, dtype="float64"
    )
    layer.build((None, *extents))
    randomize(layer)
    if affine:
        oracle.load_state_dict(
            {"weight": torch.tensor(layer.gamma.value), "bias": torch.tensor(layer.beta.value)}
        )
    step(layer, oracle, rng.normal(1.0, 2.0, (3, *extents)), True, rng)
    parameters(layer, oracle.weight, oracle.bias)


@quick
@given(
    spatial=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    groups=st.integers(1, 4),
    size=st.integers(1, 4),
    affine=st.booleans(),
    seed=seeds,
)
def test_group_norm(
    spatial: tuple[int, ...], groups: int, size: int, affine: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    channels = groups * size
    oracle = torch.nn.GroupNorm(groups, channels, 1e-5, affine, dtype=torch.float64)
    layer = layers.GroupNormalization(
        groups, axis=1, epsilon=1e-5, center=affine, scale=affine, dtype="float64"
    )
    layer.build((None, channels, *spatial))
    randomize(layer)
    if affine:
        oracle.load_state_dict(
            {"weight": torch.tensor(layer.gamma.value), "bias": torch.tensor(layer.beta.value)}
        )
    step(layer, oracle, rng.normal(1.0, 2.0, (3, channels, *spatial)), True, rng)
    parameters(layer, oracle.weight, oracle.bias)


def test_instance_norm() -> None:
    rng = np.random.default_rng(0)
    layer = layers.GroupNormalization(-1, axis=1, epsilon=1e-5, dtype="float64")
    oracle = torch.nn.InstanceNorm2d(3, affine=True, dtype=torch.float64)
    step(layer, oracle, rng.normal(1.0, 2.0, (2, 3, 4, 5)), True, rng)
    parameters(layer, oracle.weight, oracle.bias)


ACTIVATIONS: dict[str, Any] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "exponential": torch.exp,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hard_silu": F.hardswish,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}


def test_every_activation_has_an_oracle() -> None:
    assert set(ACTIVATIONS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_activation(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 4.0, (5, 40))
    x[0, :4] = [0.0, 6.0, -20.0, 19.0]
    step(layers.Activation(name, dtype="float64"), ACTIVATIONS[name], x, True, rng)


@quick
@given(alpha=st.floats(0.0, 3.0), seed=seeds)
def test_activations_with_a_parameter(alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 3.0, (4, 10))
    for layer, oracle in (
        (layers.LeakyReLU(alpha, dtype="float64"), lambda x: F.leaky_relu(x, alpha)),
        (layers.ELU(alpha, dtype="float64"), lambda x: F.elu(x, alpha)),
    ):
        step(layer, oracle, x, True, rng)


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -3])
def test_softmax_axis(axis: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 4.0, (2, 3, 4, 5))
    step(layers.Softmax(axis, dtype="float64"), torch.nn.Softmax(axis), x, True, rng)


@quick
@given(extents=shapes, start=st.integers(-5, 4), end=st.integers(-5, 4))
def test_flatten(extents: tuple[int, ...], start: int, end: int) -> None:
    x = np.arange(2.0 * np.prod(extents)).reshape(2, *extents)
    layer = layers.Flatten(start_dim=start, end_dim=end, dtype="float64")
    try:
        expected = torch.flatten(torch.tensor(x), start, end)
    except (IndexError, RuntimeError):
        if x.ndim > 1:
            with pytest.raises(ValueError, match="Received"):
                layer(x)
        return
    close(layer(x), expected)
