"""The rows of the benchmarks: what is computed, by whom, and what the right result is.

:func:`rows` are those of the GPU benchmark; ``cpu_workload.py`` adds to them for the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends import registry
from gpuconv.backends.selection import use_backend
from gpuconv.benchmarks import pytorch
from gpuconv.benchmarks.candidates import Candidate, copies
from gpuconv.benchmarks.devices import Array, Device
from gpuconv.benchmarks.shapes import POOLS, RESNET50, SEED, VGG16, ConvShape, PoolShape
from gpuconv.testing.tolerances import tolerance

CONVOLUTIONS = {"resnet50": RESNET50, "vgg16": VGG16, "seed": SEED}
PARTS = ("resnet50", "training", "pooling", "seed", "vgg16")
"""In the order in which they are done: what the goals are about comes first."""
CONV_OPERATIONS = ("forward", "backward_input", "backward_weight")
POOL_OPERATIONS = ("forward", "backward")
OPERATIONS = (*CONV_OPERATIONS, "backward", "step")
TF32_EPSILON = 2.0**-10 / 2.0**-23
"""How much coarser TF32's 10 bits are than float32's 23."""
STEPS = 10
"""Training steps between two time stamps."""

Maker = Callable[[], Candidate]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: of the benchmark: a network, "pooling" or "training".
        layer, operation, batch: what is computed.
        flops, moved: operations, and bytes of inputs and outputs, each counted once.
        makers: called when the row's turn comes; returns a maker for each candidate.
        chosen: returns the engine that the dispatcher would take, where it is no candidate itself.
        share: how much time it gets where the time of all rows is given, by that of the others.
    """

    part: str
    layer: str
    operation: str
    batch: int
    flops: float
    moved: float
    makers: Callable[[], dict[str, Maker]] = field(repr=False, compare=False)
    chosen: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    share: float = field(default=1.0, compare=False)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells rows apart."""
        return (self.part, self.layer, self.operation, self.batch)


def rows(
    device: Device,
    torch: Any,
    parts: Sequence[str] = PARTS,
    batch: int = 32,
    training_batches: Sequence[int] = (32, 128),
    engines: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of some parts; nothing is computed before a row's makers are called.

    Args:
        device: where to compute.
        torch: the module, or None.
        parts: some of ``PARTS``.
        batch: of layers.
        training_batches: of training steps.
        engines: backends to compare; default: each engine of the device, and the dispatcher.
    """
    names = (*device.engines, device.backend) if engines is None else tuple(engines)
    for part in parts:
        if part in CONVOLUTIONS:
            for shape in CONVOLUTIONS[part]:
                yield from conv_rows(device, torch, part, shape, batch, names)
        elif part == "pooling":
            for pool in POOLS:
                yield from pool_rows(device, torch, pool, batch, names)
        else:
            for network in ("seed", "digits"):
                yield from training_rows(device, torch, network, training_batches, names)


def force(name: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return what puts a backend in force for the calls of a candidate."""
    return functools.partial(use_backend, name)


def on_the_cpu(function: Callable[[], Any]) -> Any:
    """Call a function with the CPU engine in force: the reference of every row."""
    with use_backend("cpu:numpy"):
        return function()


# --- convolution --------------------------------------------------------------------------------


def conv_rows(
    device: Device, torch: Any, part: str, shape: ConvShape, batch: int, names: Sequence[str]
) -> Iterator[Row]:
    """Yield the three operations of a convolution layer."""

    def normal(seed: int, *extents: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).standard_normal(extents, dtype="float32")

    @functools.cache  # drawn once for the three operations
    def operands() -> tuple[Any, Any, Any]:
        side, out = shape.extent, shape.output
        return (
            normal(1, batch, side, side, shape.channels),
            normal(2, *shape.weights),
            normal(3, batch, out, out, shape.filters),
        )

    for operation in CONV_OPERATIONS:
        make = functools.partial(_conv_makers, device, torch, shape, operation, operands, names)
        flops, moved = float(shape.flops(batch)), 4.0 * shape.numbers(batch)
        chosen = functools.partial(_conv_choice, device.backend, shape, operation, batch)
        yield Row(part, shape.name, operation, batch, flops, moved, make, chosen)


def _conv_words(shape: ConvShape) -> dict[str, int]:
    return {"stride": shape.stride, "padding": shape.pad, "groups": shape.groups}


def _conv_choice(backend: str, shape: ConvShape, operation: str, batch: int) -> str:
    x_shape = (batch, shape.extent, shape.extent, shape.channels)
    op, words = _conv_op(operation), _conv_words(shape)
    return str(_decision(backend, op, x_shape, shape.weights, words)["engine"])


def _conv_op(operation: str) -> str:
    return "conv2d" if operation == "forward" else f"conv2d_{operation}"


def _conv_makers(
    device: Device,
    torch: Any,
    shape: ConvShape,
    operation: str,
    operands: Callable[[], tuple[Any, Any, Any]],
    names: Sequence[str],
) -> dict[str, Maker]:
    host = operands()
    x_shape, w_shape = host[0].shape, host[1].shape
    words = _conv_words(shape)

    def ours(x: Array, w: Array, dy: Array) -> Any:
        if operation == "forward":
            return gc.ops.conv2d(x, w, **words)
        if operation == "backward_input":
            return gc.ops.conv2d_backward_input(dy, w, x_shape, **words)
        return gc.ops.conv2d_backward_weight(dy, x, w_shape, **words)

    length = {
        "forward": shape.kernel**2 * shape.channels // shape.groups,
        "backward_input": shape.kernel**2 * shape.filters // shape.groups,
        "backward_weight": host[0].shape[0] * shape.output**2,
    }[operation]
    allowed = allowed_error(length)
    expected = device.put(on_the_cpu(lambda: ours(*host)))
    sets = copies(device, host)

    def engine(name: str) -> Candidate:
        return Candidate(
            name,
            [functools.partial(ours, *arrays) for arrays in sets],
            lambda result: (device.difference(result, expected), allowed),
            force(name),
            _decision(name, _conv_op(operation), x_shape, w_shape, words),
        )

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        def prepared(x: Array, w: Array, dy: Array) -> Callable[[], Any]:
            tx, tdy = pytorch.images(torch, x, memory), pytorch.images(torch, dy, memory)
            tw = pytorch.weights(torch, w, memory)
            return pytorch.convolution(torch, operation, shape, tx, tw, tdy)

        def check(result: Any) -> tuple[float, float]:
            array = device.from_torch(pytorch.convolution_result(operation, result))
            return device.difference(array, expected), allowed * (TF32_EPSILON if tf32 else 1)

        context = functools.partial(pytorch.tensor_cores, torch, tf32)
        calls = [prepared(*arrays) for arrays in sets]
        return Candidate(name, calls, check, context, memory=device.sees_tensors)

    return makers(device, names, engine, torch, rival)


def allowed_error(length: int) -> float:
    """Return how far, relative to the largest value, a sum of so many products may be off.

    Twice the tolerance of one result: the reference is rounded in float32 too.
    """
    return 2 * tolerance("float32", length)


def makers(
    device: Device,
    names: Sequence[str],
    engine: Callable[[str], Candidate],
    torch: Any,
    rival: Callable[[str, str, bool], Candidate],
    products: bool = True,
) -> dict[str, Maker]:
    """Return the makers of a row: each engine, then PyTorch in both memory formats.

    Args:
        device: where to compute.
        names: of the engines.
        engine: makes the candidate of an engine.
        torch: the module, or None.
        rival: makes PyTorch's, given its name, the memory format, and whether TF32 is allowed.
        products: whether TF32 would make a difference, where there is such a thing.
    """
    tf32 = (False, True) if products and device.has_tf32 else (False,)
    found: dict[str, Maker] = {name: functools.partial(engine, name) for name in names}
    if torch is not None:
        for memory in pytorch.FORMATS:
            for coarse in tf32:
                name = f"torch {memory}{' tf32' if coarse else ''}"
                found[name] = functools.partial(rival, name, memory, coarse)
    return found


def _decision(
    name: str, op: str, x_shape: Sequence[int], second: Any, words: dict[str, Any]
) -> dict[str, Any]:
    """Return who computes, for the record."""
    chosen = gc.explain(op, x_shape, second, backend=name, **words)
    return {
        "engine": chosen.engine,
        "algorithm": chosen.algorithm,
        "workspace_mib": chosen.workspace_bytes / 1024**2,
    }


# --- pooling ------------------------------------------------------------------------------------


def pool_rows(
    device: Device, torch: Any, shape: PoolShape, batch: int, names: Sequence[str]
) -> Iterator[Row]:
    """Yield the two operations of a pooling layer."""

    @functools.cache
    def operands() -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, shape.extent, shape.extent, shape.channels), "float32")
        dy = rng.standard_normal((batch, shape.output, shape.output, shape.channels), "float32")
        return x, dy

    x_count = batch * shape.extent**2 * shape.channels
    y_count = batch * shape.output**2 * shape.channels
    # The places of the maxima are counted as 4 bytes: what is needed, whatever an engine takes.
    moved = 4.0 * (x_count + y_count * (2 if shape.kind == "max" else 1))
    for operation in POOL_OPERATIONS:
        make = functools.partial(_pool_makers, device, torch, shape, operation, operands, names)
        chosen = functools.partial(_pool_choice, device.backend, shape, operation, batch)
        yield Row("pooling", shape.name, operation, batch, 0.0, moved, make, chosen)


def _pool_choice(backend: str, shape: PoolShape, operation: str, batch: int) -> str:
    x_shape = (batch, shape.extent, shape.extent, shape.channels)
    op, words = _pool_op(shape, operation), {"stride": shape.stride, "padding": shape.pad}
    return str(_decision(backend, op, x_shape, shape.window, words)["engine"])


def _pool_op(shape: PoolShape, operation: str) -> str:
    return f"{shape.kind}_pool2d{'_backward' if operation == 'backward' else ''}"


def _pool_makers(
    device: Device,
    torch: Any,
    shape: PoolShape,
    operation: str,
    operands: Callable[[], tuple[Any, Any]],
    names: Sequence[str],
) -> dict[str, Maker]:
    x, dy = operands()
    words: dict[str, Any] = {"stride": shape.stride, "padding": shape.pad}
    forward_of = gc.ops.max_pool2d if shape.kind == "max" else gc.ops.avg_pool2d
    # Training keeps the places of the maxima, so they are part of the forward pass.
    more = {"return_indices": True} if shape.kind == "max" else {}
    backward_of = gc.ops.max_pool2d_backward if shape.kind == "max" else gc.ops.avg_pool2d_backward

    def forward(x: Array) -> Any:
        found = forward_of(x, shape.window, **words, **more)
        return found[0] if shape.kind == "max" else found

    def backward(dy: Array, *places: Array) -> Any:
        return backward_of(dy, *places, x.shape, shape.window, **words)

    def places(x: Array) -> tuple[Array, ...]:
        if shape.kind == "avg":
            return ()
        return (gc.ops.max_pool2d(x, shape.window, return_indices=True, **words)[1],)

    exact = operation == "forward" and shape.kind == "max"
    allowed = 0.0 if exact else allowed_error(shape.window**2)
    sets = copies(device, (x, dy))
    if operation == "forward":
        expected = device.put(on_the_cpu(lambda: forward(x)))
    else:
        expected = device.put(on_the_cpu(lambda: backward(dy, *places(x))))

    def engine(name: str) -> Candidate:
        with use_backend(name):
            calls = [
                functools.partial(forward, a)
                if operation == "forward"
                else functools.partial(backward, b, *places(a))
                for a, b in sets
            ]
        return Candidate(
            name,
            calls,
            lambda result: (device.difference(result, expected), allowed),
            force(name),
            _decision(name, _pool_op(shape, operation), x.shape, shape.window, words),
        )

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        def check(result: Any) -> tuple[float, float]:
            array = device.from_torch(result.permute(0, 2, 3, 1))
            return device.difference(array, expected), allowed

        calls = [
            pytorch.pooling(
                torch, operation, shape, *(pytorch.images(torch, t, memory) for t in arrays)
            )
            for arrays in sets
        ]
        return Candidate(name, calls, check, memory=device.sees_tensors)

    return makers(device, names, engine, torch, rival, products=False)


# --- training -----------------------------------------------------------------------------------


def training_rows(
    device: Device, torch: Any, network: str, batches: Sequence[int], names: Sequence[str]
) -> Iterator[Row]:
    """Yield a training step (forward, backward, Adam) of a network at some batch sizes."""
    for batch in batches:
        make = functools.partial(_training, device, torch, network, batch, names)
        yield Row("training", f"{network} network", "step", batch, 0.0, 0.0, make)


def _training(
    device: Device, torch: Any, network: str, batch: int, names: Sequence[str]
) -> dict[str, Maker]:
    rng = np.random.default_rng(0)
    if network == "seed":
        x = rng.standard_normal((batch, 32, 32, 3), dtype="float32")
    else:
        x = rng.integers(0, 17, (batch, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 10, batch)
    make = {"seed": gc.zoo.seed_network, "digits": gc.zoo.digits_network}[network]
    checked = 3  # steps whose losses are compared

    def fresh(backend: str) -> Any:
        gc.set_seed(0)
        model = make(backend=backend)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def losses(model: Any, x: Array, y: Array) -> list[float]:
        return [float(model.train_step(x, y)[0]) for _ in range(checked)]

    def reference() -> tuple[Any, list[float]]:
        model = fresh("cpu")
        return model.predict(x, verbose=0), losses(model, x, y)

    predictions, expected = on_the_cpu(reference)
    on_device = (device.put(x), device.put(y))

    def engine(name: str) -> Candidate:
        with use_backend(name):
            model = fresh(device.backend)

        def check(result: Any) -> tuple[float, float]:
            """Compare untrained predictions and the losses of the first steps of a new model."""
            model = fresh(device.backend)
            error = float(np.abs(model.predict(x, verbose=0) - predictions).max())
            taken = losses(model, *on_device)
            if network == "seed" or _same_masks(device, name):
                error = max(error, *(abs(a - b) / b for a, b in zip(taken, expected, strict=True)))
            elif not np.isfinite(taken).all():
                error = float("nan")
            return error, 1e-3

        step = functools.partial(model.train_step, *on_device)
        return Candidate(name, [step], check, force(name), {"engine": name}, chain=STEPS)

    def rival(name: str, memory: str, tf32: bool) -> Candidate:
        step = pytorch.training_step(torch, network, *on_device, memory)
        context = functools.partial(pytorch.tensor_cores, torch, tf32)

        def check(result: Any) -> tuple[float, float]:
            # Other initial weights: the loss of ten classes begins near log(10).
            return abs(float(result) - np.log(10.0)), 1.0

        return Candidate(name, [step], check, context, chain=STEPS, memory=device.sees_tensors)

    return makers(device, names, engine, torch, rival)


def _same_masks(device: Device, name: str) -> bool:
    """Whether dropout drops the same numbers on the device as on the CPU."""
    chosen = name if ":" in name else registry.engine_names(device.backend)[0]
    mask = registry.engine(chosen).dropout_mask((64,), 0.5, (1, 2), "float32")
    expected = registry.engine("cpu:numpy").dropout_mask((64,), 0.5, (1, 2), "float32")
    return bool(np.array_equal(device.get(mask), expected))
