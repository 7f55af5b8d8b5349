"""Losses, metrics, optimizers, schedules and layers that few programs use, against Keras's."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from gpuconv import layers, losses, metrics, optimizers  # noqa: E402
from gpuconv.optimizers import schedules  # noqa: E402
from gpuconv.parameter import Parameter  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="written for Keras on torch"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

RNG = np.random.default_rng(0)
P = RNG.uniform(0.02, 0.98, (40, 3)).astype("float32")
T = RNG.integers(0, 2, (40, 3)).astype("float32")
W = RNG.uniform(0, 2, 40).astype("float32")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LogCosh", {}),
        ("Poisson", {}),
        ("MeanAbsolutePercentageError", {}),
        ("MeanSquaredLogarithmicError", {}),
        ("Hinge", {}),
        ("SquaredHinge", {}),
        ("KLDivergence", {}),
        ("BinaryFocalCrossentropy", {}),
        (
            "BinaryFocalCrossentropy",
            {
                "apply_class_balancing": True,
                "alpha": 0.3,
                "gamma": 1.5,
                "from_logits": True,
                "label_smoothing": 0.1,
            },
        ),
    ],
)
def test_losses(name: str, arguments: dict[str, Any]) -> None:
    t = P[::-1].copy() if "Percentage" in name or name == "KLDivergence" else T
    y = torch.tensor(P, requires_grad=True)
    value = getattr(keras.losses, name)(**arguments)(torch.tensor(t), y, torch.tensor(W))
    value.backward()
    mine, dy = getattr(losses, name)(**arguments).forward(t, P, W)
    np.testing.assert_allclose(mine, value.detach().numpy(), rtol=2e-5)
    np.testing.assert_allclose(dy, y.grad.numpy(), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("TruePositives", {}),
        ("FalsePositives", {"thresholds": 0.3}),
        ("TrueNegatives", {"thresholds": [0.3, 0.8]}),
        ("FalseNegatives", {}),
        ("AUC", {}),
        ("AUC", {"curve": "PR", "num_thresholds": 30}),
        ("F1Score", {}),
        ("F1Score", {"average": "weighted", "threshold": 0.4}),
        ("F1Score", {"average": "micro"}),
        ("RootMeanSquaredError", {}),
        ("BinaryCrossentropy", {}),
        ("CategoricalCrossentropy", {"from_logits": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics(name: str, arguments: dict[str, Any], weighted: bool) -> None:
    theirs, mine = (getattr(m, name)(**arguments) for m in (keras.metrics, metrics))
    one_hot = np.eye(3, dtype="float32")[RNG.integers(0, 3, 40)]
    t = one_hot if name in ("F1Score", "CategoricalCrossentropy") else T
    for rows in (slice(0, 25), slice(25, 40)):
        weight = W[rows] if weighted else None
        for metric in (theirs, mine):
            metric.update_state(t[rows], P[rows], weight)
    expected = keras.ops.convert_to_numpy(theirs.result())
    np.testing.assert_allclose(mine.result(), expected, rtol=2e-4)


def test_mean_iou() -> None:
    t, y = RNG.integers(0, 4, (5, 6)), RNG.integers(0, 3, (5, 6))
    theirs, mine = keras.metrics.MeanIoU(num_classes=4), metrics.MeanIoU(num_classes=4)
    theirs.update_state(t, y)
    np.testing.assert_allclose(mine(t, y), float(theirs.result()), rtol=1e-6)


@pytest.mark.parametrize("name", ["Adadelta", "Adamax", "Nadam", "Lion"])
def test_optimizers(name: str) -> None:
    theirs, mine = (
        getattr(o, name)(0.05, weight_decay=0.01) for o in (keras.optimizers, optimizers)
    )
    first = RNG.standard_normal((3, 4)).astype("float32")
    variable, w = keras.Variable(first), Parameter(first.copy(), "w")
    for _ in range(12):
        gradient = RNG.standard_normal((3, 4)).astype("float32")
        theirs.apply([torch.tensor(gradient)], [variable])
        w.grad = gradient.copy()
        mine.step([w])
    got = keras.ops.convert_to_numpy(variable)
    np.testing.assert_allclose(w.value, got, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("InverseTimeDecay", (0.3, 7, 0.5)),
        ("InverseTimeDecay", (0.3, 7, 0.5, True)),
        ("CosineDecayRestarts", (0.3, 5)),
        ("CosineDecayRestarts", (0.3, 5, 1.0, 0.8, 0.1)),
        ("CosineDecayRestarts", (0.3, 4, 1.5, 0.8, 0.1)),
    ],
    ids=str,
)
def test_schedules(name: str, arguments: tuple[Any, ...]) -> None:
    theirs = getattr(keras.optimizers.schedules, name)(*arguments)
    mine = getattr(schedules, name)(*arguments)
    steps = [0, 1, 2, 3, 6, 7, 9, 11, 13, 22, 41]
    expected = [float(theirs(step)) for step in steps]
    np.testing.assert_allclose([mine(step) for step in steps], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Cropping2D", {"cropping": ((1, 0), (2, 1))}),
        ("Cropping2D", {}),
        ("Cropping1D", {}),
        ("Cropping3D", {}),
        ("Resizing", {"height": 5, "width": 9}),
        ("Resizing", {"height": 13, "width": 4}),
        ("Resizing", {"height": 5, "width": 12, "interpolation": "nearest"}),
        ("CenterCrop", {"height": 4, "width": 3}),
        ("RepeatVector", {"n": 3}),
        ("PReLU", {"alpha_initializer": "ones", "shared_axes": [1, 2]}),
        ("Identity", {}),
    ],
    ids=str,
)
def test_layers(name: str, arguments: dict[str, Any]) -> None:
    rank = {"Cropping1D": 3, "Cropping3D": 5, "RepeatVector": 2}.get(name, 4)
    x = RNG.standard_normal([*[2, 8, 7, 6][: rank - 1], 3]).astype("float32")
    theirs, mine = (getattr(m, name)(**arguments) for m in (keras.layers, layers))
    expected = keras.ops.convert_to_numpy(theirs(x))
    np.testing.assert_allclose(mine(x), expected, rtol=1e-5, atol=1e-5)


def test_time_distributed() -> None:
    x = RNG.standard_normal((2, 3, 6, 5, 2)).astype("float32")
    theirs = keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, activation="relu"))
    mine = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"))
    expected = keras.ops.convert_to_numpy(theirs(x))
    mine.build(x.shape)
    mine.set_weights(theirs.get_weights())
    np.testing.assert_allclose(mine(x), expected, rtol=1e-4, atol=1e-5)
