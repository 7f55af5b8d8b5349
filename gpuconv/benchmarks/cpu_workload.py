"""The rows that only the CPU benchmark has, and the order in which all of its rows are done."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends.selection import use_backend
from gpuconv.benchmarks import pytorch
from gpuconv.benchmarks.candidates import Candidate
from gpuconv.benchmarks.devices import Array, Device
from gpuconv.benchmarks.shapes import (
    DEEPBENCH,
    MOBILENETV2,
    ODD,
    POOLS,
    RESNET50,
    SEED,
    VGG16,
    ConvShape,
)
from gpuconv.benchmarks.workload import (
    Maker,
    Row,
    allowed_error,
    conv_rows,
    force,
    makers,
    on_the_cpu,
    pool_rows,
    training_rows,
)
from gpuconv.optimizers import torch_forms
from gpuconv.parameter import Parameter

NETWORKS: dict[str, tuple[ConvShape, ...]] = {
    "resnet50": RESNET50,
    "mobilenetv2": MOBILENETV2,
    "vgg16": VGG16,
    "seed": SEED,
    "deepbench": DEEPBENCH,
    "odd": ODD,
}
"""Layers by the network, or the collection, that they are of."""
PARTS = (*NETWORKS, "pooling", "elementwise", "training", "inference", "fit")
SMALL, MIDDLE, LARGE = 1, 4, 8
"""Batches of layers; VGG-16's goal is about the middle one."""
TRAINING_BATCHES = (32, 128)
IMAGES = 1024
"""Of an epoch of ``fit``."""
MAPS = ((56, 64), (56, 256), (14, 1024))
"""Extent and channels of what is normalised and activated, as in ResNet-50."""
_EPSILON = 1e-3


def rows(
    device: Device,
    torch: Any,
    batches: Sequence[int] | None = None,
    training_batches: Sequence[int] = TRAINING_BATCHES,
    engines: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Yield all rows, what the goals are about first.

    Args:
        device: the CPU.
        torch: the module, or None.
        batches: of layers; default: 8 and 1, and 4 for VGG-16 too, whose 8 come last since they
            take as long as much of the rest.
        training_batches: of the seed network's training, inference and ``fit``.
        engines: to compare; default: all that can run, and where several may take part in one
            row, the dispatcher's choice too.
    """
    several = tuple(engines or (*device.engines, device.backend))
    single = single_engines(device, several)
    conv = functools.partial(_network, device, torch, names=single)
    if batches is None:
        yield from conv("resnet50", LARGE)
        yield from conv("mobilenetv2", LARGE)
        yield from _whole(device, torch, training_batches, several)
        yield from _passes(device, torch, LARGE, single)
        yield from conv("vgg16", MIDDLE)
        yield from conv("seed", LARGE)
        yield from conv("deepbench", LARGE)
        yield from conv("odd", LARGE)
        for network in ("resnet50", "mobilenetv2", "seed", "vgg16"):
            yield from conv(network, SMALL)
        yield from conv("vgg16", LARGE)
        return
    for batch in batches:
        for network in NETWORKS:
            yield from conv(network, batch)
        yield from _passes(device, torch, batch, single)
    yield from _whole(device, torch, training_batches, several)


def batch_of_goals(network: str) -> int:
    """Return the batch that a network's goals are about."""
    return MIDDLE if network == "vgg16" else LARGE


def single_engines(device: Device, names: Sequence[str]) -> tuple[str, ...]:
    """Return the engines that compute a single operation for what was named."""
    return tuple(name for name in names if ":" in name) or device.engines


def _network(
    device: Device, torch: Any, network: str, batch: int, names: Sequence[str]
) -> Iterator[Row]:
    for shape in NETWORKS[network]:
        yield from conv_rows(device, torch, network, shape, batch, names)


def _passes(device: Device, torch: Any, batch: int, names: Sequence[str]) -> Iterator[Row]:
    for pool in POOLS:
        yield from pool_rows(device, torch, pool, batch, names)
    yield from _elementwise(device, torch, batch, names)


def _whole(
    device: Device, torch: Any, batches: Sequence[int], names: Sequence[str]
) -> Iterator[Row]:
    yield from training_rows(device, torch, "seed", batches, names)
    for batch in batches:
        make = functools.partial(_inference, device, torch, batch, names)
        yield Row("inference", "seed network", "predict", batch, 0.0, 0.0, make)
    for batch in batches:
        # Engines differ in their steps, which are subtracted: one is enough.
        name = device.backend if device.backend in names else names[0]
        make = functools.partial(_fit, name, batch)
        yield Row("fit", "seed network", "epoch", batch, 0.0, 0.0, make)


# --- one pass over the numbers ------------------------------------------------------------------


def _elementwise(device: Device, torch: Any, batch: int, names: Sequence[str]) -> Iterator[Row]:
    def row(name: str, operation: str, moved: int, make: Callable[[], dict[str, Maker]]) -> Row:
        first = device.engines[0]  # takes what has no geometry
        return Row("elementwise", name, operation, batch, 0.0, 4.0 * moved, make, lambda: first)

    for extent, channels in MAPS:
        shape = (batch, extent, extent, channels)
        count = batch * extent**2 * channels
        for operation, moved in (("forward", 3 * count), ("backward", 5 * count)):
            make = functools.partial(_batch_norm, device, torch, operation, shape, names)
            # x is read for its moments before it is normalised; backward reads x and dy twice.
            yield row(f"BatchNorm {channels} @{extent}", operation, moved, make)
        make = functools.partial(_relu_backward, device, torch, shape, names)
        yield row(f"ReLU {channels} @{extent}", "backward", 3 * count, make)
    for name, shapes in _parameters().items():
        moved = 7 * sum(int(np.prod(shape)) for shape in shapes)
        make = functools.partial(_adam, torch, shapes, names)
        yield row(f"Adam {name}", "step", moved, make)


def _batch_norm(
    device: Device, torch: Any, operation: str, shape: tuple[int, ...], names: Sequence[str]
) -> dict[str, Maker]:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape), "float32")
    scale, offset = rng.uniform(0.5, 1.5, (2, shape[-1])).astype("float32")

    def ours() -> Callable[[], Any]:
        layer = gc.layers.BatchNormalization(epsilon=_EPSILON)
        layer.build((None, *shape[1:]))
        assert layer.gamma is not None
        assert layer.beta is not None
        layer.gamma.assign(scale)
        layer.beta.assign(offset)
        if operation == "forward":
            return lambda: layer.run(x, training=True)[0]
        _, backward = layer.run(x, training=True)
        return lambda: backward(dy)

    expected = on_the_cpu(lambda: ours()())
    allowed = allowed_error(x.size // shape[-1])

    def engine(name: str) -> Candidate:
        with use_backend(name):
            call = ours()
        return Candidate(
            name, [call], lambda y: (device.difference(y, expected), allowed), force(name)
        )

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        tx, tdy = (pytorch.images(torch, array, memory) for array in (x, dy))
        call = pytorch.batch_norm(torch, operation, tx, tdy, scale, offset, _EPSILON)
        return _rival(device, name, call, expected, allowed)

    return makers(device, names, engine, torch, rival)


def _rival(
    device: Device, name: str, call: Callable[[], Any], expected: Array, allowed: float
) -> Candidate:
    """PyTorch's candidate whose result is a tensor of images."""

    def check(result: Any) -> tuple[float, float]:
        array = device.from_torch(result.permute(0, 2, 3, 1))
        return device.difference(array, expected), allowed

    return Candidate(name, [call], check, memory=False)


def _relu_backward(
    device: Device, torch: Any, shape: tuple[int, ...], names: Sequence[str]
) -> dict[str, Maker]:
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), "float32")
    expected = np.where(x > 0, dy, np.float32(0))
    layer = gc.layers.ReLU()

    def engine(name: str) -> Candidate:
        with use_backend(name):
            _, backward = layer.run(x, training=True)
        return Candidate(
            name,
            [lambda: backward(dy)],
            lambda result: (device.difference(result, expected), 0.0),
            force(name),
        )

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        y, ty = (pytorch.images(torch, a, memory) for a in (np.maximum(x, 0), dy))
        return _rival(device, name, pytorch.relu_backward(torch, y, ty), expected, 0.0)

    return makers(device, names, engine, torch, rival)


def _parameters() -> dict[str, list[tuple[int, ...]]]:
    """Shapes of what is updated: of many small parameters, and of a large one."""
    small = [p.shape for p in gc.zoo.seed_network().trainable_parameters]
    return {"seed network": small, "3x3 512-512": [(3, 3, 512, 512)]}


def _adam(torch: Any, shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> dict[str, Maker]:
    """Steps in PyTorch's form, so that both have the same rule."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape, "float32") for shape in shapes]
    gradients = [rng.standard_normal(shape, "float32") for shape in shapes]

    def ours() -> Callable[[], Any]:
        parameters = [Parameter(value.copy(), str(i)) for i, value in enumerate(values)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer = torch_forms.Adam(parameters)

        def step() -> Any:
            optimizer.step(zero_grad=False)
            return parameters[0].value

        return step

    expected = on_the_cpu(lambda: ours()())

    def check(result: Any) -> tuple[float, float]:
        return float(np.abs(np.asarray(result) - expected).max()), allowed_error(1)

    found: dict[str, Maker] = {
        name: functools.partial(lambda name: Candidate(name, [ours()], check, force(name)), name)
        for name in names
    }
    if torch is not None:
        for name, fused in (("torch contiguous", False), ("torch fused", True)):
            found[name] = functools.partial(
                lambda name, fused: Candidate(
                    name,
                    [pytorch.adam_step(torch, values, gradients, fused)],
                    check,
                    memory=False,
                ),
                name,
                fused,
            )
    return found


# --- the seed network as a whole ----------------------------------------------------------------


def _inference(device: Device, torch: Any, batch: int, names: Sequence[str]) -> dict[str, Maker]:
    x = np.random.default_rng(0).standard_normal((batch, 32, 32, 3), dtype="float32")
    gc.set_seed(0)
    model = gc.zoo.seed_network(backend=device.backend)
    expected = on_the_cpu(lambda: model.infer_batch(x))
    values = [parameter.numpy() for parameter in model.trainable_parameters]

    def check(result: Any) -> tuple[float, float]:
        return device.difference(np.asarray(result), expected), 1e-4

    def engine(name: str) -> Candidate:
        return Candidate(name, [lambda: model.infer_batch(x)], check, force(name))

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        call = pytorch.inference(torch, x, values, memory)
        return Candidate(name, [call], check, memory=False)

    return makers(device, names, engine, torch, rival)


def _fit(name: str, batch: int) -> dict[str, Maker]:
    """An epoch of ``fit``, and how much of its time is not in its training steps."""
    rng = np.random.default_rng(0)
    images = max(IMAGES, 4 * batch)
    x = rng.standard_normal((images, 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, images)

    def make() -> Candidate:
        with use_backend(name):
            model = gc.zoo.seed_network(backend="cpu")
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        step = model.train_step
        steps: list[float] = []
        beyond: list[float] = []

        def timed_step(*words: Any) -> Any:
            start = time.perf_counter()
            result = step(*words)
            steps.append(time.perf_counter() - start)
            return result

        model.train_step = timed_step  # type: ignore[assignment]

        def epoch() -> Any:
            steps.clear()
            start = time.perf_counter()
            history = model.fit(x, y, batch_size=batch, epochs=1, verbose=0)
            beyond.append((time.perf_counter() - start) / sum(steps) - 1)
            return history.history["loss"][0]

        def check(loss: Any) -> tuple[float, float]:
            return abs(float(loss) - np.log(10.0)), 1.0

        def after() -> dict[str, Any]:
            return {"beyond_steps": statistics.median(beyond[1:]), "images": images}

        return Candidate(name, [epoch], check, force(name), memory=False, after=after)

    return {name: make}
