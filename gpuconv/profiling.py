"""Where the time of a training step goes, layer by layer."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.device_profile import device_name
from gpuconv.backends.units import in_bytes, in_seconds
from gpuconv.containers import unwrap
from gpuconv.data import make_batches
from gpuconv.dispatch import Decision, engine_for
from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.geometry import as_int
from gpuconv.layers.base import Backward, Layer
from gpuconv.layers.costs import decisions_of, flops_of
from gpuconv.layers.input import InputLayer
from gpuconv.random import seeds_unchanged
from gpuconv.tapping import Run, paths_of, tapped

if TYPE_CHECKING:
    from gpuconv.models.model import Model


@dataclass(frozen=True)
class LayerProfile:
    """What one run of a layer costs; times are the least of all repeats.

    Attributes:
        name: path of the layer in the model.
        kind: its class.
        output_shape: the batch first.
        parameters: how many numbers it holds.
        output_bytes: memory of its output.
        engine: who computes it.
        algorithm: how, where there is a choice; else empty.
        forward_ms, backward_ms: milliseconds; the backward pass is None where it is not run,
            below the lowest layer that learns.
        forward_flops, backward_flops: twice the multiply-adds of convolutions and dense layers;
            0 for other layers. Backwards only the gradients that were computed count.
        decisions: what the dispatcher decided, by operation, with its reasons.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    output_bytes: int
    engine: str
    algorithm: str
    forward_ms: float
    backward_ms: float | None
    forward_flops: int
    backward_flops: int
    decisions: dict[str, Decision] = field(repr=False, default_factory=dict)

    @property
    def forward_gflops(self) -> float | None:
        """GFLOP/s of the forward pass; None for layers without multiply-adds to count."""
        return _rate(self.forward_flops, self.forward_ms)

    @property
    def backward_gflops(self) -> float | None:
        """GFLOP/s of the backward pass; None where there is nothing to count."""
        return _rate(self.backward_flops, self.backward_ms)


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found; ``print`` shows it as a table.

    Attributes:
        model: name.
        device: what it ran on, in words.
        batch: number of samples.
        repeats: how often each pass was timed.
        rows: the layers in the order in which they run.
        forward_ms, backward_ms: milliseconds of the whole passes, the least of all repeats; the
            loss is in neither.
        parameters: of the whole model.
    """

    model: str
    device: str
    batch: int
    repeats: int
    rows: tuple[LayerProfile, ...]
    forward_ms: float
    backward_ms: float
    parameters: int

    @property
    def output_bytes(self) -> int:
        """Memory of all layers' outputs together."""
        return sum(row.output_bytes for row in self.rows)

    def __str__(self) -> str:
        header: tuple[str, ...] = ("layer", "output", "parameters", "memory", "engine", "algorithm")
        header += ("forward", "GFLOP/s", "backward", "GFLOP/s")
        table = [header, *(_cells(row) for row in self.rows), self._total()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        left = (0, 1, 4, 5)
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in table
        ]
        rule = "-" * max(map(len, lines))
        title = (
            f"{self.model}, batch of {self.batch}, on {self.device}; "
            f"least of {self.repeats} turn{'s' * (self.repeats > 1)}"
        )
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _total(self) -> tuple[str, ...]:
        flops = [sum(row.forward_flops for row in self.rows)]
        flops.append(sum(row.backward_flops for row in self.rows))
        return (
            "whole passes",
            "",
            f"{self.parameters:,}",
            in_bytes(self.output_bytes),
            "",
            "",
            in_seconds(self.forward_ms / 1e3),
            _shown(_rate(flops[0], self.forward_ms)),
            in_seconds(self.backward_ms / 1e3),
            _shown(_rate(flops[1], self.backward_ms)),
        )


def profile(model: Model, x: Any, y: Any = None, repeats: int = 5) -> Profile:
    """Measure each layer's forward and backward pass in training steps on one batch.

    A copy of the model runs ``repeats`` training steps after one that is not timed, so that all
    layers are timed in turns, each step one turn; the least time of each counts. Nothing of the
    model changes but that it is built. On a GPU every layer is waited for, which the sums of the
    rows include and a real step does not.

    Args:
        model: any model; layers of models inside are rows of their own.
        x: one batch of inputs.
        y: its targets. With them, in a compiled model, the gradient of the loss runs backwards;
            without, a gradient of ones.
        repeats: steps that are timed; default 5.

    Returns:
        A :class:`Profile`. A layer that is used several times has several rows.

    Raises:
        InvalidArgumentError: not a model, an empty batch, or ``repeats`` below 1.
        ShapeError, DTypeError: the batch does not fit the model.
    """
    from gpuconv.models.model import Model

    if not isinstance(model, Model):
        raise InvalidArgumentError(f"profile needs a model. Received: {shown(model)}")
    turns = as_int(repeats, "repeats", 1)
    targets = y is not None
    (batch,) = make_batches(
        x, y, None, batch_size=2**62, targets=targets, form=model.batch_form
    ).epoch()
    model.accept([tuple(unwrap(p)[0].shape) for p in _several(batch[0])])
    with seeds_unchanged():
        twin = copy.deepcopy(model)
        step = _Step(twin, batch[0], batch[1])
        step.run()
        step.measuring = True
        for _ in range(turns):
            step.run()
    device = twin.backend or "cpu"
    return Profile(
        model=model.name,
        device=device_name(device),
        batch=int(unwrap(_several(batch[0])[0])[0].shape[0]),
        repeats=turns,
        rows=tuple(step.rows()),
        forward_ms=step.forward * 1e3,
        backward_ms=step.backward * 1e3,
        parameters=model.count_params(),
    )


class _Record:
    """One run of a layer within a step, over all repeats."""

    def __init__(self, layer: Layer, x: Any, y: Any) -> None:
        self.layer = layer
        self.x_shape, self.x_dtype = tuple(x.shape), x.dtype.name
        self.y_shape, self.y_bytes = tuple(y.shape), int(y.nbytes)
        self.engine = engine_for(y).name
        self.forward = self.backward = math.inf
        self.gradients = 0


class _Step:
    """A training step of which every layer is timed."""

    def __init__(self, model: Model, x: Any, y: Any) -> None:
        self.model = model
        self.network, self.loss = model, None
        if y is not None and model.loss is not None:
            self.network, self.loss, _ = model.network_and_loss()  # type: ignore[assignment]
        self.x = model.prepare(x)
        self.y = model.prepare_targets(y)
        self.records: list[_Record] = []
        self.position = 0
        self.measuring = False
        self.forward = self.backward = math.inf

    def run(self) -> None:
        """Run one step; in the first one find out what there is to be timed."""
        leaves = [
            layer
            for layer in paths_of(self.network).values()
            if not layer.sublayers and not isinstance(layer, InputLayer)
        ]
        self.position = 0
        self.network.zero_grad()
        with self.model.computing(), tapped(leaves, self._tap):
            self._wait()
            start = time.perf_counter()
            outputs, backward = self.network.run(self.x, training=True)
            self._wait()
            forward = time.perf_counter() - start
            gradient = self._gradient(outputs)
            self._wait()
            start = time.perf_counter()
            backward(gradient, input_gradient=False)
            self._wait()
            if self.measuring:
                self.forward = min(self.forward, forward)
                self.backward = min(self.backward, time.perf_counter() - start)

    def rows(self) -> Iterator[LayerProfile]:
        """Yield what was found."""
        paths = {id(layer): path for path, layer in paths_of(self.network).items()}
        with self.model.computing():
            for record in self.records:
                layer = record.layer
                decisions = decisions_of(layer, record.x_shape, record.x_dtype)
                first = next(iter(decisions.values()), None)
                flops = flops_of(layer, record.x_shape, record.y_shape)
                backwards = record.backward < math.inf
                yield LayerProfile(
                    name=paths[id(layer)],
                    kind=type(layer).__name__,
                    output_shape=record.y_shape,
                    parameters=layer.count_params(),
                    output_bytes=record.y_bytes,
                    engine=record.engine if first is None else first.engine,
                    algorithm="" if first is None else first.algorithm,
                    forward_ms=record.forward * 1e3,
                    backward_ms=record.backward * 1e3 if backwards else None,
                    forward_flops=flops,
                    backward_flops=flops * record.gradients if backwards else 0,
                    decisions=decisions,
                )

    def _gradient(self, outputs: Any) -> Any:
        if self.loss is not None:
            return self.loss.compute(self.y, outputs)[1]
        if isinstance(outputs, (list, tuple)):
            return [array_module(part).ones_like(part) for part in outputs]
        return array_module(outputs).ones_like(outputs)

    def _tap(self, layer: Layer, run: Run) -> Run:
        def timed(x: Any, training: bool) -> tuple[Any, Backward]:
            self._wait()
            start = time.perf_counter()
            y, backward = run(x, training)
            self._wait()
            seconds = time.perf_counter() - start
            if self.position == len(self.records):
                self.records.append(_Record(layer, _several(x)[0], y))
            record = self.records[self.position]
            self.position += 1
            if self.measuring:
                record.forward = min(record.forward, seconds)

            def timed_backward(dy: Any, input_gradient: bool = True) -> Any:
                self._wait()
                start = time.perf_counter()
                dx = backward(dy, input_gradient)
                self._wait()
                if self.measuring:
                    record.backward = min(record.backward, time.perf_counter() - start)
                    record.gradients = bool(input_gradient) + any(
                        p.trainable and p.value.ndim > 1 for p in layer.parameters
                    )
                return dx

            return y, timed_backward

        return timed

    def _wait(self) -> None:
        """Wait until the device has finished; on the CPU it has."""
        if self.model.backend == "cuda":
            sys.modules["cupy"].cuda.runtime.deviceSynchronize()


def _several(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _rate(flops: int, ms: float | None) -> float | None:
    return flops / ms / 1e6 if flops and ms else None


def _shown(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"


def _cells(row: LayerProfile) -> tuple[str, ...]:
    return (
        f"{row.name} ({row.kind})",
        " x ".join(map(str, row.output_shape)),
        f"{row.parameters:,}" if row.parameters else "",
        in_bytes(row.output_bytes),
        row.engine,
        row.algorithm,
        in_seconds(row.forward_ms / 1e3),
        _shown(row.forward_gflops),
        "" if row.backward_ms is None else in_seconds(row.backward_ms / 1e3),
        _shown(row.backward_gflops),
    )
