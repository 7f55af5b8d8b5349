"""``gpuconv.warmup``: compiling and choosing before the first batch comes."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module
from gpuconv.backends.device_profile import device_name
from gpuconv.callbacks.progress import seconds as in_words
from gpuconv.dispatch import Decision, watching
from gpuconv.errors import GpuconvError, InvalidArgumentError, shown
from gpuconv.geometry import as_extents, entries_of
from gpuconv.losses import Loss
from gpuconv.models.fitting import on_host
from gpuconv.models.model import Model
from gpuconv.random import seeds_unchanged
from gpuconv.settings import config
from gpuconv_kernels.compiling import compiled_so_far


@dataclass(frozen=True)
class Warmup:
    """What a warm-up did.

    Attributes:
        seconds: how long it took.
        decisions: who computes what: those that no earlier call had made.
        measured: how many of them rest on measured times.
        compiled: CPU kernels that were compiled, and not found on the disk.
        compiling: seconds that this took.
    """

    seconds: float
    decisions: tuple[Decision, ...]
    measured: int
    compiled: int = 0
    compiling: float = 0.0

    def __str__(self) -> str:
        count = len(self.decisions)
        decisions = f"{count} decision{'' if count == 1 else 's'}"
        kernels = f"{self.compiled} kernel{'' if self.compiled == 1 else 's'} compiled in "
        kernels = f"{kernels}{in_words(self.compiling)}, " if self.compiled else ""
        done = f"{kernels}{decisions}, {self.measured} by measurement"
        return f"ready after {in_words(self.seconds)}: {done}"


def warmup(
    model: Model, batch_shape: Sequence[Any], training: bool = True, verbose: int = 1
) -> Warmup:
    """Compile, and with ``config.autotune`` measure, all that batches of one shape will need.

    A copy of the model goes through one step on made-up data, so nothing of the model changes but
    that it is built: parameters, gradients, moving statistics, optimizer, metrics and random
    numbers are the same bits as before. The copy needs the memory of a second model meanwhile.

    Args:
        model: built for this shape if it is not built yet. If it is compiled, loss, metrics and
            optimizer are warmed up too.
        batch_shape: shape of a batch, the batch size first; for several inputs a list of shapes.
        training: False leaves out what only training needs. Default True.
        verbose: 0 is silent; 1 (default) says what is going on: on a terminal in a line that is
            redrawn, elsewhere at the beginning and the end.

    Returns:
        A :class:`Warmup` with the time that it took and the decisions that were made.

    Raises:
        InvalidArgumentError: not a model, or not a shape of positive integers.
        ShapeError: the model cannot take such a batch.
    """
    if not isinstance(model, Model):
        raise InvalidArgumentError(f"warmup needs a model. Received: {shown(model)}")
    shapes = _shapes_of(batch_shape)
    start, compiled_before = time.perf_counter(), compiled_so_far()
    model.accept(shapes)
    decisions: list[Decision] = []
    with _progress(model, shapes, verbose) as show, seeds_unchanged():

        def watcher(decision: Decision) -> None:
            decisions.append(decision)
            show(f"{decision.op}: {decision.engine}, {decision.algorithm}")

        with watching(watcher):
            _rehearse(copy.deepcopy(model), shapes, training)
    measured = sum(d.is_measured for d in decisions)
    compiled = compiled_so_far()
    done = Warmup(
        time.perf_counter() - start,
        tuple(decisions),
        measured,
        compiled.kernels - compiled_before.kernels,
        compiled.seconds - compiled_before.seconds,
    )
    if verbose:
        print(f"{model.name} is {done}", flush=True)
    return done


def _shapes_of(batch_shape: Any) -> list[tuple[int, ...]]:
    entries = entries_of(batch_shape)
    if not entries:
        raise InvalidArgumentError(
            f"batch_shape must be a shape with the batch first, such as (32, 28, 28, 1). "
            f"Received: {shown(batch_shape)}"
        )
    several = [batch_shape] if entries_of(entries[0]) is None else entries
    shapes = [as_extents(shape, "batch_shape") for shape in several]
    if any(min(shape, default=0) < 1 for shape in shapes):
        raise InvalidArgumentError(
            f"batch_shape must have a batch size and extents of at least 1. "
            f"Received: {shown(batch_shape)}"
        )
    return shapes


def _rehearse(twin: Model, shapes: Sequence[tuple[int, ...]], training: bool) -> None:
    """Run everything once on made-up data, and wait until it is done."""
    generator = np.random.Generator(np.random.Philox(key=0))
    made_up = tuple(generator.random(shape, dtype="float32") for shape in shapes)
    x = made_up if twin.several_inputs else made_up[0]
    y = _targets(twin, shapes)
    if training and y is not None:
        _, predictions = twin.train_step(x, y)
        twin.require_compiled()[0].update_metrics(y, predictions)
    elif training:
        with twin.computing():
            outputs, backward = twin.run(twin.prepare(x), training=True)
            several = outputs if twin.several_outputs else [outputs]
            ones = [array_module(part).ones_like(part) for part in several]
            backward(ones if twin.several_outputs else ones[0], input_gradient=False)
    if y is not None:
        twin.test_step(x, y)
    on_host(twin.infer_batch(x))


def _targets(twin: Model, shapes: Sequence[tuple[int, ...]]) -> Any:
    """Targets that the model's losses accept; None if it has none, or they take unusual ones."""
    if twin.objectives is None or not twin.objectives.trained:
        return None
    shape = twin.compute_output_shape(list(shapes) if twin.several_inputs else shapes[0])
    pairs = zip(twin.objectives.several, shape if twin.several_outputs else [shape], strict=True)
    found = tuple(_targets_for(one.loss, extents, twin.dtype) for one, extents in pairs)
    if any(part is None for part in found):
        return None
    return found if twin.several_outputs else found[0]


def _targets_for(loss: Loss | None, shape: tuple[int, ...], dtype: str | None) -> Any:
    """Targets that a loss accepts for outputs of this shape; any if there is no loss."""
    first = np.zeros(shape, dtype or "float32")
    first[..., 0] = 1  # one-hot, or any values
    for candidate in (first, np.zeros(shape[:-1], "int64")):
        try:
            if loss is not None:
                loss.check_targets(candidate, shape)
        except GpuconvError:
            continue
        return candidate
    return None


@contextmanager
def _progress(model: Model, shapes: Sequence[tuple[int, ...]], verbose: int) -> Iterator[Any]:
    """Say what begins; yield a function that shows what is being done."""
    if not verbose:
        yield lambda text: None
        return
    device = model.backend or "cpu"
    batches = ", ".join(map(str, shapes))
    print(f"preparing {model.name} for batches of {batches} on {device_name(device)}", flush=True)
    print("the first run compiles its kernels; later ones find them on the disk", flush=True)
    if config.autotune:
        print("candidates are timed once and remembered (gpuconv.config.autotune)", flush=True)
    if sys.stdout is None or not sys.stdout.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    count = 0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(text: str) -> None:
            nonlocal count
            count += 1
            line = Text(f"{count:4}  {text}", no_wrap=True, overflow="ellipsis")
            live.update(line, refresh=True)

        yield show
