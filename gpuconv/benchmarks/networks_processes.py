"""Rows of the benchmark of whole networks that ask processes of their own: memory and start-up."""

from __future__ import annotations

import functools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuconv.backends.selection import VARIABLE
from gpuconv.benchmarks import networks_parts, processes
from gpuconv.benchmarks.candidates import Candidate
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.networks_workload import OURS, RESNET18
from gpuconv.benchmarks.workload import Maker, Row, makers
from gpuconv.errors import UnsupportedError

PARTS = ("memory", "start-up")
TURNS = 5
"""Processes of each side whose first convolution is timed."""
_LIMIT = 300.0
"""Seconds that a process may take."""
_FAR = 2.0
"""How far the loss of a network that has learned nothing may be from the logarithm of classes."""

FIRST_CONVOLUTION = """
import json, time
start = time.perf_counter()
import gpuconv, numpy
imported = time.perf_counter()
x, w = numpy.ones((1, 56, 56, 64), "float32"), numpy.ones((3, 3, 64, 64), "float32")
y = gpuconv.ops.conv2d(x, w, padding="same")
value = float(y[0, 20, 20, 0])
end = time.perf_counter()
ms = {"ms": (end - start) * 1e3, "import_ms": (imported - start) * 1e3}
print(json.dumps({**ms, "value": value}))
"""
FIRST_OF_TORCH = """
import json, time
start = time.perf_counter()
import torch
imported = time.perf_counter()
x, w = torch.ones((1, 64, 56, 56)), torch.ones((64, 64, 3, 3))
value = float(torch.nn.functional.conv2d(x, w, padding=1)[0, 0, 20, 20])
end = time.perf_counter()
ms = {"ms": (end - start) * 1e3, "import_ms": (imported - start) * 1e3}
print(json.dumps({**ms, "value": value}))
"""


def rows(device: Device, torch: Any, engine: str, size: int = 224) -> Iterator[Row]:
    """Yield the rows; arguments as those of ``networks_workload.rows``."""

    def row(
        part: str, layer: str, operation: str, batch: int, share: float, make: Callable[..., Any]
    ) -> Row:
        return Row(part, layer, operation, batch, 0.0, 0.0, make, share=share)

    memory = functools.partial(_memory, device, torch, engine, 8, size)
    title = f"{RESNET18.name} {size}x{size}"
    yield row("memory", title, "peak memory of a step", 8, 30, memory)
    first = functools.partial(_first_convolution, device, torch, engine)
    yield row("start-up", "3x3 64-64 @56", "import, first convolution", 1, 25, first)
    compiling = functools.partial(_compiling, engine)
    yield row("start-up", "gpuconv train", "compiling, empty cache", 32, 45, compiling)


class Answers:
    """The turns of a candidate whose calls each ask a process and return its facts.

    The first call, which was checked, counts too. The least ``ms`` of all is kept, or the facts of
    the only one.
    """

    def __init__(self, device: Device, candidate: Candidate, clock: Callable[[], float]) -> None:
        self.candidate = candidate
        self.samples: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all processes were asked."""
        return len(self.samples) >= self.candidate.details["processes"] - 1

    def take(self) -> None:
        """Ask once more, if that is wanted."""
        if not self.finished:
            self.samples.append(float(self.candidate.calls[0]()["ms"]))

    def summary(self) -> dict[str, Any]:
        """Return the facts."""
        return self.candidate.after()


def _asking(
    name: str, ask: Callable[[], dict[str, Any]], error: Callable[[dict[str, Any]], float],
    allowed: float = 0.0, times: int = 1,
) -> Candidate:  # fmt: skip
    """A candidate of processes, which keeps the facts of the quickest."""
    found: list[dict[str, Any]] = []

    def call() -> dict[str, Any]:
        found.append(ask())
        return found[-1]

    def least() -> dict[str, Any]:
        facts = min(found, key=lambda facts: facts.get("ms", 0.0))
        return {**facts, "min_ms": facts["ms"]} if "ms" in facts else facts

    details = {"processes": times}
    return Candidate(
        name, [call], lambda facts: (error(facts), allowed), details=details, memory=False,
        after=least,
    )  # fmt: skip


def _facts(command: list[str], variables: dict[str, str] | None = None) -> dict[str, Any]:
    """What a process reports, which must be something."""
    reply = processes.ask([sys.executable, *command], _LIMIT, variables)
    facts = reply.facts()
    if reply.problem or not facts:
        raise RuntimeError(_last_words(reply))
    return facts


def _last_words(reply: processes.Reply) -> str:
    lines = reply.text.strip().splitlines()
    return f"{reply.problem or 'it said nothing'}: {lines[-1] if lines else ''}"


def _memory(device: Device, torch: Any, engine: str, batch: int, size: int) -> dict[str, Maker]:
    def error(facts: dict[str, Any]) -> float:
        return abs(float(facts["loss"]) - math.log(RESNET18.classes))

    def candidate(name: str, *ignored: Any) -> Candidate:
        if not networks_parts.CLEAR.exists():
            raise UnsupportedError(f"the peak is read from {networks_parts.STATUS}, as on Linux")
        command = ["-m", "gpuconv.benchmarks.networks_parts", name, "--engine", engine]
        command += ["--batch", str(batch), "--size", str(size)]
        return _asking(name, functools.partial(_facts, command), error, _FAR)

    return makers(device, (OURS,), candidate, torch, candidate)


def _first_convolution(device: Device, torch: Any, engine: str) -> dict[str, Maker]:
    def error(facts: dict[str, Any]) -> float:
        return abs(float(facts["value"]) - 9 * 64) / (9 * 64)

    def candidate(name: str, *ignored: Any) -> Candidate:
        program = FIRST_CONVOLUTION if name == OURS else FIRST_OF_TORCH
        ask = functools.partial(_facts, ["-c", program], {VARIABLE: engine})
        return _asking(name, ask, error, 1e-4, TURNS)

    found = makers(device, (OURS,), candidate, torch, candidate)
    found.pop("torch channels_last", None)  # one layout is enough of what is mostly loading
    return found


def _compiling(engine: str) -> dict[str, Maker]:
    return {OURS: lambda: _asking(OURS, functools.partial(_train_twice, engine), lambda _: 0.0)}


def _train_twice(engine: str) -> dict[str, Any]:
    """Train an epoch with empty caches, and once more: what the first took longer is compiling."""
    with tempfile.TemporaryDirectory(prefix="gpuconv-bench-") as folder:
        seconds, said = [], ""
        for run in ("first", "again"):
            command = [sys.executable, "-m", "gpuconv", "train", "--epochs", "1"]
            command += ["--backend", engine, "--out", str(Path(folder) / run)]
            reply = processes.ask(command, _LIMIT, processes.empty_caches(folder))
            if reply.problem:
                raise RuntimeError(_last_words(reply))
            seconds.append(reply.seconds)
            said = said or next((s for s in reply.text.splitlines() if "is ready after" in s), "")
    if not said:
        raise RuntimeError("gpuconv train did not say that it compiles")
    first, again = seconds
    return {"ms": max(0.0, first - again) * 1e3, "first_s": first, "again_s": again, "said": said}
