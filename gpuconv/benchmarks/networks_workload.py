"""Whole networks on both sides with the same weights: training steps, transfer steps, inference.

Results are compared with the NumPy engine's: outputs, or the losses of two steps, of which the
second depends on every gradient and update of the first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends.selection import use_backend
from gpuconv.benchmarks import pytorch
from gpuconv.benchmarks.candidates import Candidate
from gpuconv.benchmarks.devices import Array, Device
from gpuconv.benchmarks.workload import Maker, Row, force, makers, on_the_cpu
from gpuconv.io import torch_state
from gpuconv.layers import BatchNormalization

OURS = "gpuconv"
"""The candidate that a row is judged by."""
AS_TRAINED, FULL_STEP = f"{OURS} as trained", f"{OURS} all layers"
"""Beside it: the model before ``optimize_for_inference``; the step in which nothing is frozen."""
STEPS = 2
"""Of training, whose losses are compared."""
_ALLOWED = 1e-3


@dataclass(frozen=True)
class Network:
    """A network that both sides have.

    Attributes:
        name: in words.
        key: in ``gpuconv.zoo`` and ``pytorch_networks.NETWORKS``.
        size, channels, classes: of images, which are square, and outputs.
        head: the last layer.
        optimizer, rate, more: class in ``gpuconv.optimizers`` and ``torch.optim``, its learning
            rate and other arguments.
    """

    name: str
    key: str
    size: int = 224
    channels: int = 3
    classes: int = 1000
    head: str = "fc"
    optimizer: str = "SGD"
    rate: float = 0.01
    more: tuple[tuple[str, Any], ...] = (("momentum", 0.9),)

    @property
    def title(self) -> str:
        """The name with the extent of the images."""
        return f"{self.name} {self.size}x{self.size}"

    def images(self, batch: int) -> Array:
        """Return random images (N, H, W, C)."""
        shape = (batch, self.size, self.size, self.channels)
        return np.random.default_rng(0).standard_normal(shape, dtype="float32")

    def labels(self, batch: int) -> Array:
        """Return random class numbers."""
        return np.random.default_rng(1).integers(0, self.classes, batch)


RESNET18 = Network("ResNet-18", "resnet18")
LENET5 = Network("LeNet-5", "lenet5", 28, 1, 10, "fc3", "Adam", 1e-3, ())
RESNET50 = Network("ResNet-50", "resnet50")
MOBILENETV2 = Network("MobileNet-V2", "mobilenet_v2")
VGG16 = Network("VGG-16", "vgg16")


# --- our side -----------------------------------------------------------------------------------


def model_of(network: Network, training: bool, only_head: bool = False) -> gc.Model:
    """Return gpuconv's model on the CPU, always with the same weights.

    Args:
        network: which.
        training: True ends it in a softmax and compiles it; False gives logits, and normalisations
            moving statistics and scales that matter.
        only_head: whether all layers but the last are frozen.
    """
    gc.set_seed(0)
    model: gc.Model = getattr(gc.zoo, network.key)(
        input_shape=(network.size, network.size, network.channels),
        classes=network.classes,
        classifier_activation="softmax" if training else None,
        backend="cpu",
    )
    if not training:
        _spread(model)
        return model
    if only_head:
        for layer in model.layers:
            layer.trainable = layer.name == network.head
    optimizer = getattr(gc.optimizers, network.optimizer)(network.rate, **dict(network.more))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def _spread(model: gc.Model) -> None:
    rng = np.random.default_rng(2)
    for layer in model.walk():
        if isinstance(layer, BatchNormalization):
            assert layer.gamma is not None
            shape = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.8, 1.1, shape))
            layer.moving_mean[...] = rng.uniform(-0.1, 0.1, shape)
            layer.moving_variance[...] = rng.uniform(0.8, 1.1, shape)


@functools.cache
def _expected_losses(network: Network, batch: int, only_head: bool) -> list[float]:
    def losses() -> list[float]:
        model = model_of(network, True, only_head)
        x, y = network.images(batch), network.labels(batch)
        return [float(model.train_step(x, y)[0]) for _ in range(STEPS)]

    found: list[float] = on_the_cpu(losses)
    return found


# --- PyTorch's side -----------------------------------------------------------------------------


def step_of(
    torch: Any,
    network: Network,
    batch: int,
    memory: str,
    only_head: bool = False,
    state: Mapping[str, Array] | None = None,
) -> Callable[[], Any]:
    """Return PyTorch's training step as a function that returns the loss.

    Args:
        torch: the module.
        network: of which the steps are.
        batch: images.
        memory: format of images and weights.
        only_head: whether all layers but the last are frozen.
        state: weights, as ``torch_state`` returns them; None leaves the network as it begins.
    """
    net = pytorch.network(torch, network.key, network.classes, state or {})
    if only_head:
        pytorch.freeze_all_but(net, network.head)
    return pytorch.step_of(
        torch, net, network.images(batch), network.labels(batch), memory, network.optimizer,
        lr=network.rate, **dict(network.more),
    )  # fmt: skip


# --- rows ---------------------------------------------------------------------------------------


def rows(device: Device, torch: Any, engine: str, size: int = 224) -> Iterator[Row]:
    """Yield the rows that are timed in this process; nothing is computed before makers are called.

    Args:
        device: the CPU.
        torch: the module, or None.
        engine: gpuconv's: ``"cpu"`` lets the dispatcher choose.
        size: of the images, but for LeNet-5's.
    """

    def row(
        part: str, network: Network, batch: int, share: float, make: Callable[..., dict[str, Maker]]
    ) -> Row:
        operation = {"inference": "predict", "transfer": "step, head only"}.get(part, "step")
        bound = functools.partial(make, device, torch, engine, network, batch)
        return Row(part, network.title, operation, batch, 0.0, 0.0, bound, share=share)

    sized = functools.partial(dataclasses.replace, size=size)
    yield row("training", sized(RESNET18), 8, 75, _training)
    yield row("transfer", sized(RESNET18), 8, 45, _transfer)
    yield row("inference", sized(RESNET50), 1, 40, _inference)
    yield row("inference", sized(MOBILENETV2), 1, 15, _inference)
    yield row("inference", sized(MOBILENETV2), 8, 20, _inference)
    yield row("inference", sized(VGG16), 1, 20, _inference)
    yield row("training", LENET5, 32, 6, _training)


def _training(
    device: Device, torch: Any, engine: str, network: Network, batch: int
) -> dict[str, Maker]:
    ours = functools.partial(_step, engine, network, batch)
    return _beside(device, torch, network, batch, {OURS: functools.partial(ours, OURS, False)})


def _transfer(
    device: Device, torch: Any, engine: str, network: Network, batch: int
) -> dict[str, Maker]:
    ours = functools.partial(_step, engine, network, batch)
    steps = {name: functools.partial(ours, name, name == OURS) for name in (OURS, FULL_STEP)}
    return _beside(device, torch, network, batch, steps, only_head=True)


def _step(engine: str, network: Network, batch: int, name: str, only_head: bool) -> Candidate:
    x, y = network.images(batch), network.labels(batch)
    with use_backend(engine):
        model = model_of(network, True, only_head)

    def call() -> Any:
        return model.train_step(x, y)[0]

    return _learning(name, call, engine, _expected_losses(network, batch, only_head))


def _learning(
    name: str, call: Callable[[], Any], engine: str | None, expected: Sequence[float]
) -> Candidate:
    """The candidate whose calls are steps; its first ones are those that are checked."""

    def check(first: Any) -> tuple[float, float]:
        losses = [float(first), *(float(call()) for _ in range(STEPS - 1))]
        return max(abs(a - b) / b for a, b in zip(losses, expected, strict=True)), _ALLOWED

    if engine is None:
        return Candidate(name, [call], check, memory=False)
    return Candidate(name, [call], check, force(engine), {"engine": engine}, memory=False)


def _beside(
    device: Device,
    torch: Any,
    network: Network,
    batch: int,
    ours: Mapping[str, Maker],
    only_head: bool = False,
) -> dict[str, Maker]:
    """Our makers, and PyTorch's of the same step."""

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        state = torch_state(model_of(network, True))
        call = step_of(torch, network, batch, memory, only_head, state)
        return _learning(name, call, None, _expected_losses(network, batch, only_head))

    return makers(device, list(ours), lambda name: ours[name](), torch, rival)


def _inference(
    device: Device, torch: Any, engine: str, network: Network, batch: int
) -> dict[str, Maker]:
    x = network.images(batch)
    model = model_of(network, False)
    expected = on_the_cpu(lambda: model.infer_batch(x))

    def check(result: Any) -> tuple[float, float]:
        return device.difference(np.asarray(result), expected), _ALLOWED

    def ours(name: str) -> Candidate:
        chosen = model.optimize_for_inference() if name == OURS else model
        call = functools.partial(chosen.infer_batch, x)
        return Candidate(name, [call], check, force(engine), {"engine": engine}, memory=False)

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        net = pytorch.network(torch, network.key, network.classes, torch_state(model))
        return Candidate(name, [pytorch.prediction(torch, net, x, memory)], check, memory=False)

    return makers(device, (OURS, AS_TRAINED), ours, torch, rival)
