"""First light on a GPU: tests, training, determinism, memory checks and timings, one command.

Each part is a process of its own with a time limit, so that one that fails or hangs takes nothing
from the others; after each part what is known is written down. Needs the checkout and the packages
of a GPU machine (CuPy, Numba and numba-cuda; pytest and PyTorch for some parts), no network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpuconv.backends import registry
from gpuconv.benchmarks import machine
from gpuconv.io import atomic_path

OK, FAILED, TOO_LONG, SKIPPED, NOT_REACHED = "ok", "FAILED", "too long", "skipped", "not reached"
RESULTS = machine.CHECKOUT / "benchmarks" / "results"
_TAIL = 4000
"""Characters of a part's output that are kept."""


@dataclass(frozen=True)
class Part:
    """A question to the GPU.

    Attributes:
        name, about: what it is called, and what it shows.
        command: what is run, in the checkout.
        seconds: how long it may take.
        missing: why it cannot be run here; empty if it can.
    """

    name: str
    about: str
    command: Sequence[str]
    seconds: float
    missing: str = ""


@dataclass
class Answer:
    """What a part said.

    Attributes:
        name, about: of the part.
        state: ``ok``, ``FAILED``, ``too long``, ``skipped`` or ``not reached``.
        seconds: how long it took.
        reason: why it was skipped, or how it failed.
        facts: what it reports about itself, as data.
        tail: the end of what it printed.
    """

    name: str
    about: str
    state: str
    seconds: float = 0.0
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    tail: str = ""


def parts(out: Path, budget: float) -> list[Part]:
    """Return the parts for this machine, the quick and telling ones first."""
    python = sys.executable

    def own(name: str) -> list[str]:
        return [python, "-m", "gpuconv.benchmarks.gpu_parts", name]

    def tests(*paths: str) -> list[str]:
        return [python, "-m", "pytest", "-q", "-x", "--maxfail=20", *paths]

    without_pytest = "" if _has("pytest") else "pytest is not installed"
    sanitizer = shutil.which("compute-sanitizer") or ""
    checked = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *own("once")]
    timings = [python, "benchmarks/gpu.py", "--out", str(out), "--budget", str(int(budget / 3))]
    return [
        Part("machine", "device, driver and versions", own("machine"), 60),
        Part("kernels", "every device kernel against float64 loops, exact on small integers",
             tests("tests/device"), 300, without_pytest),
        Part("engines", "both engines against NumPy: every operation, layouts, dtypes",
             tests("tests/backend", "tests/layers/test_layers_on_a_device.py",
                   "tests/models/test_training_on_a_device.py"), 240, without_pytest),
        Part("curve", "20 training steps give the CPU's losses and weights", own("curve"), 120),
        Part("determinism", "10 times the same bits", own("determinism"), 120),
        Part("transfers", "copies between host and device in a step", own("transfers"), 60),
        Part("memory", "compute-sanitizer's memcheck over a step of every kind of layer",
             checked, 180, "" if sanitizer else "compute-sanitizer is not on the path"),
        Part("timings", "each engine beside PyTorch and cuDNN", timings, budget / 3 + 60),
    ]  # fmt: skip


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def main(
    arguments: Sequence[str] | None = None,
    parts_of: Callable[[Path, float], list[Part]] = parts,
    available: Callable[[], str] | None = None,
) -> int:
    """Ask; returns 0 if all that was asked is right, 1 if something is not, 2 without a GPU.

    Args:
        arguments: default: those of the process.
        parts_of: makes the parts from the folder for results and the budget.
        available: says why there is no GPU, or nothing; default: the probe.
    """
    options = _parser().parse_args(arguments)
    problem = (available or _problem)()
    if problem:
        print(f"No GPU to check here: {problem}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = parts_of(options.out, options.budget)
    unknown = sorted({*(options.part or ())} - {part.name for part in chosen})
    if unknown:
        names = ", ".join(part.name for part in chosen)
        print(f"the parts are {names}. Received: {', '.join(unknown)}", file=sys.stderr)
        return 2
    if options.part:
        chosen = [part for part in chosen if part.name in options.part]
    result: dict[str, Any] = {**machine.provenance("numba", "numba-cuda", "cupy-cuda13x", "torch")}
    answers = [Answer(part.name, part.about, NOT_REACHED) for part in chosen]
    end = time.monotonic() + options.budget
    for number, part in enumerate(chosen):
        print(f"{part.name}: {part.about} ...", flush=True)
        answers[number] = _ask(part, end)
        result["parts"] = [asdict(answer) for answer in answers]
        _keep(options.out, result, answers)  # before the next part can take everything down
        found = answers[number]
        print(f"  {found.state}, {found.seconds:.0f} s {found.reason}", flush=True)
    print(f"In {options.out}: gpu_check.json, gpu_check.txt")
    return int(any(answer.state in (FAILED, TOO_LONG) for answer in answers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", help="default: all; repeatable")
    parser.add_argument("--budget", type=float, default=600, help="seconds for all, default 600")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return parser


def _problem() -> str:
    found = registry.probe_device("cuda")
    return "" if found.available else str(found.reason)


def _ask(part: Part, end: float) -> Answer:
    if part.missing:
        return Answer(part.name, part.about, SKIPPED, reason=part.missing)
    limit = min(part.seconds, end - time.monotonic())
    if limit < 1:
        return Answer(part.name, part.about, NOT_REACHED, reason="the time was up")
    paths = [str(machine.CHECKOUT), str(machine.CHECKOUT / "kernels")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            part.command, cwd=machine.CHECKOUT, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Answer(part.name, part.about, FAILED, reason=str(error))
    state, reason = OK, ""
    try:
        text, _ = process.communicate(timeout=limit)
        if process.returncode:
            state, reason = FAILED, f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        _end(process)
        text, _ = process.communicate()
        state, reason = TOO_LONG, f"stopped after {limit:.0f} s"
    except KeyboardInterrupt:
        _end(process)
        raise
    seconds = time.monotonic() - start
    return Answer(part.name, part.about, state, seconds, reason, _facts(text), text[-_TAIL:])


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and what it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _facts(text: str) -> dict[str, Any]:
    """The last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _keep(out: Path, result: dict[str, Any], answers: Sequence[Answer]) -> None:
    with atomic_path(out / "gpu_check.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = [f"{key}: {value}" for key, value in result.items() if key != "parts"]
    lines.append("")
    for answer in answers:
        lines.append(f"{answer.name:12} {answer.state:12} {answer.seconds:6.0f} s  {answer.about}")
        if answer.reason:
            lines.append(f"{'':12} {answer.reason}")
        lines += [f"{'':14}{key}: {value}" for key, value in answer.facts.items()]
    for answer in answers:
        if answer.state in (FAILED, TOO_LONG):
            lines += ["", f"--- {answer.name}, the end of what it said", answer.tail]
    with atomic_path(out / "gpu_check.txt") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
