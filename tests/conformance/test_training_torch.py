"""Twenty steps of training follow PyTorch's, for every optimizer, in float64.

Two networks: the one of the study notes (channels-last, trained by ``compile`` and
``train_step``), and one made of ``gpuconv.nn`` and trained by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpuconv import layers, nn  # noqa: E402
from gpuconv.models import Sequential  # noqa: E402

NDArray = np.ndarray[Any, Any]
STEPS = 20

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.02}),
    ("SGD", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.002}),
    ("Adam", {"lr": 0.002, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.01}),
    ("AdamW", {"lr": 0.002, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.0005}),
    ("RMSprop", {"lr": 0.0005, "momentum": 0.7, "centered": True, "weight_decay": 0.01}),
    # The default epsilon of 1e-10 would turn a rounding error of 1e-17 into a step of 1e-9.
    ("Adagrad", {"lr": 0.01, "eps": 1e-6}),
    ("Adagrad", {"lr": 0.01, "lr_decay": 0.1, "initial_accumulator_value": 0.05}),
]
every_optimizer = pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS, ids=str)
one_of_each = pytest.mark.parametrize(
    ("name", "arguments"), [OPTIMIZERS[i] for i in (1, 3, 4, 6, 7, 9)], ids=str
)


def in_torch_order(array: NDArray) -> NDArray:
    """(*k, a, b) -> (b, a, *k); vectors stay."""
    if array.ndim == 1:
        return array
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def copy_weights(ours: Any, theirs: Any) -> None:
    for p, there in zip(ours.parameters, theirs.parameters(), strict=True):
        value = np.ascontiguousarray(in_torch_order(p.numpy()))
        assert tuple(there.shape) == value.shape
        there.data = torch.tensor(value)


def assert_same_weights(ours: Any, theirs: Any, start: list[NDArray]) -> None:
    """Weights agree, and they moved: the distance that they went is far above the tolerance."""
    for p, there in zip(ours.parameters, theirs.parameters(), strict=True):
        np.testing.assert_allclose(
            in_torch_order(p.numpy()), there.detach().numpy(), rtol=1e-9, atol=1e-11, err_msg=p.path
        )
    moved = [
        np.abs(p.numpy() - first).max() for p, first in zip(ours.parameters, start, strict=True)
    ]
    assert min(moved) > 1e-6


# --- the network of the study notes ----------------------------------------------------


def seed_network() -> Sequential:
    float64 = {"dtype": "float64"}
    return Sequential(
        [
            layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3), **float64),
            layers.MaxPooling2D((2, 2), **float64),
            layers.Conv2D(64, (3, 3), activation="relu", **float64),
            layers.MaxPooling2D((2, 2), **float64),
            layers.Conv2D(64, (3, 3), activation="relu", **float64),
            layers.Flatten(**float64),
            layers.Dense(64, activation="relu", **float64),
            layers.Dense(10, activation="softmax", **float64),
        ]
    )


class ChannelsLastFlatten(torch.nn.Module):
    """Flatten in the order of a channels-last network."""

    def forward(self, x: Any) -> Any:
        return x.permute(0, 2, 3, 1).flatten(1)


def seed_network_there() -> Any:
    t = torch.nn
    return t.Sequential(
        *(t.Conv2d(3, 32, 3), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(32, 64, 3), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(64, 64, 3), t.ReLU()),
        ChannelsLastFlatten(),
        *(t.Linear(1024, 64), t.ReLU(), t.Linear(64, 10)),
    ).double()


@one_of_each
def test_seed_network(name: str, arguments: dict[str, Any]) -> None:
    model, theirs = seed_network(), seed_network_there()
    copy_weights(model, theirs)
    start = [p.numpy() for p in model.parameters]
    model.compile(getattr(nn.optim, name)(**arguments), "sparse_categorical_crossentropy")
    optimizer = getattr(torch.optim, name)(theirs.parameters(), **arguments)
    rng = np.random.default_rng(1)
    batches = [(rng.random((2, 32, 32, 3)), rng.integers(0, 10, 2)) for _ in range(3)]
    for step in range(STEPS):
        x, labels = batches[step % 3]
        loss, _ = model.train_step(x, labels)
        optimizer.zero_grad()
        logits = theirs(torch.tensor(x).permute(0, 3, 1, 2))
        loss_there = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        loss_there.backward()
        optimizer.step()
        assert float(loss) == pytest.approx(loss_there.item(), rel=1e-9), step
    assert_same_weights(model, theirs, start)


# --- a network of gpuconv.nn -----------------------------------------------------------


def network(lib: Any, **dtype: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(3, 8, 3, padding=1, bias=False, **dtype),
        lib.BatchNorm2d(8, **dtype),
        lib.ReLU(),
        lib.AvgPool2d(3, 2, padding=1),
        lib.Conv2d(8, 8, 3, padding="same", groups=4, padding_mode="reflect", **dtype),
        lib.GroupNorm(2, 8, **dtype),
        lib.GELU(),
        lib.ConvTranspose2d(8, 6, 2, stride=2, **dtype),
        lib.LeakyReLU(0.1),
        lib.AdaptiveAvgPool2d(3),
        lib.Flatten(),
        lib.Linear(54, 5, **dtype),
    )


@every_optimizer
def test_nn_network(name: str, arguments: dict[str, Any]) -> None:
    ours, theirs = network(nn, dtype="float64"), network(torch.nn).double()
    copy_weights(ours, theirs)
    start = [p.numpy() for p in ours.parameters]
    optimizer = getattr(nn.optim, name)(ours.parameters, **arguments)
    optimizer_there = getattr(torch.optim, name)(theirs.parameters(), **arguments)
    criterion, criterion_there = nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    rng = np.random.default_rng(2)
    for step in range(STEPS):
        x, labels = rng.normal(size=(6, 3, 8, 9)), rng.integers(0, 5, 6)
        y, backward = ours.forward(x, training=True)
        loss, dy = criterion.forward(y, labels)
        backward(dy)
        optimizer.step()
        optimizer_there.zero_grad()
        loss_there = criterion_there(theirs(torch.tensor(x)), torch.tensor(labels))
        loss_there.backward()
        optimizer_there.step()
        assert float(loss) == pytest.approx(loss_there.item(), rel=1e-9), step
    assert_same_weights(ours, theirs, start)
    statistics, there = ours.layers[1], theirs[1]
    np.testing.assert_allclose(statistics.moving_mean, there.running_mean, rtol=1e-9)
    np.testing.assert_allclose(statistics.moving_variance, there.running_var, rtol=1e-9)
    x = rng.normal(size=(3, 3, 8, 9))
    theirs.eval()
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-7)
