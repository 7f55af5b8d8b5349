"""First light on a GPU: memory checks, tests, training, determinism and timings, in one command.

Each part is a process of its own with a time limit, so that one that fails or hangs takes nothing
from the others; after each part what is known is written down. Needs the checkout and the packages
of a GPU machine (CuPy, Numba and numba-cuda; pytest and PyTorch for some parts), no network, and
no installation: see gpu_environment for what is set and what is done where something is missing.

The limits of all parts add up to the budget. Time that a part does not use goes to those after it:
a part may take up to twice its limit, the last one all that is left.

The exit status is 0 if all that was asked was run and is right, 1 if something is wrong or took
too long, 2 without a GPU or with options that make no sense, 3 if nothing is wrong, but something
was not run, or not to its end.

``gpu_check.txt`` is the report to read; ``gpu_check.json`` holds the same as data::

    date, command, commit, processor, cores, system, versions    where: machine.provenance
    budget        seconds for all
    notes         what is known about this machine, in sentences
    environment   variables that were set for the parts
    verdict       as the exit status: "right", "wrong", "incomplete"
    parts         a list, in the order in which they were run:
        name, about, state        state: ok, unfinished, FAILED, too long, skipped, not reached
        seconds, limit            how long it took, and how long it might have
        reason                    why it was skipped, or what is wrong, in a sentence
        failures                  the first lines of what went wrong
        facts                     what the part reports of itself; see the part's module
        tail                      the end of what it printed
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpuconv.backends import registry
from gpuconv.benchmarks import gpu_environment, machine, processes
from gpuconv.io import atomic_path

OK, UNFINISHED, FAILED, TOO_LONG = "ok", "unfinished", "FAILED", "too long"
SKIPPED, NOT_REACHED = "skipped", "not reached"
RESULTS = machine.CHECKOUT / "benchmarks" / "results"
BUDGET = 600.0
"""Seconds for all, and what the limits of :func:`parts` add up to."""
_LIMIT = "{seconds}"
"""Stands in a command for the seconds that the part may take, less what ending takes."""
_ENDING = 5
_LAST_ROW = 25
"""Seconds for the row of timings that is begun last: seven candidates are made, checked and timed,
and cuDNN tries its algorithms for four of them."""
_TAIL = 4000
"""Characters of a part's output that are kept."""
_FAILURES = 12
"""Lines of a failure that the report shows."""
_TELLING = re.compile(
    r"^(E  |FAILED|ERROR|Traceback|[\w.]*(Error|Exception|Interrupt)\b|.*(?<!No )\berror:|=+ Error)"
)


@dataclass(frozen=True)
class Part:
    """A question to the GPU.

    Attributes:
        name, about: what it is called, and what it shows.
        command: what is run, in the checkout; ``{seconds}`` stands for how long it may take.
        seconds: how long it may take, if no earlier part leaves time over.
        missing: why it cannot be run here; empty if it can.
        ending: how many of the seconds it needs for what it has begun when the others are over.
    """

    name: str
    about: str
    command: Sequence[str]
    seconds: float
    missing: str = ""
    ending: int = _ENDING


@dataclass
class Answer:
    """What a part said; the module's text says what is in each attribute."""

    name: str
    about: str
    state: str
    seconds: float = 0.0
    limit: float = 0.0
    reason: str = ""
    failures: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tail: str = ""


def parts(out: Path, budget: float = BUDGET) -> list[Part]:
    """Return the parts for this machine: what everything rests on, then right or wrong, then speed.

    Args:
        out: folder for the results.
        budget: seconds for all; the limits are shares of it.
    """
    python, of = sys.executable, budget / BUDGET

    def module(name: str, *words: str) -> list[str]:
        return [python, "-m", f"gpuconv.benchmarks.{name}", *words]

    def timed(name: str, *words: str) -> list[str]:
        return module(name, *words, "--seconds", _LIMIT)

    no_pytest = "" if gpu_environment.has("pytest") else "not run: pytest is not installed"
    no_tool = "" if gpu_environment.sanitizer() else "not run: no compute-sanitizer"
    timings = module("gpu_parts", "timings", "--", "--out", str(out), "--budget", _LIMIT)
    return [
        Part("machine", "device, driver, versions, one kernel of three threads",
             module("gpu_parts", "machine"), 30 * of),
        Part("warm-up", "compiles every kernel, several at once, into the cache on the disk",
             timed("gpu_warm"), 85 * of),
        Part("guards", "every kernel singly, its arrays between canaries and full of NaN",
             timed("gpu_memory", "guards"), 40 * of),
        Part("operations", "every method of both engines, exact on small integers",
             timed("gpu_engines", "operations"), 40 * of),
        Part("curve", "20 training steps give the CPU's losses and weights",
             module("gpu_parts", "curve"), 30 * of),
        Part("determinism", "10 times the same bits", module("gpu_parts", "determinism"), 30 * of),
        Part("transfers", "copies between host and device in a step",
             module("gpu_parts", "transfers"), 20 * of),
        Part("memcheck", "compute-sanitizer over every kernel: memory",
             timed("gpu_memory", "memcheck"), 50 * of, no_tool),
        Part("tests", "tests/device: every device kernel against float64 loops",
             timed("gpu_tests", "tests/device"), 60 * of, no_pytest),
        Part("layers", "every layer on both engines, both layouts, both dtypes",
             timed("gpu_engines", "layers"), 50 * of),
        Part("racecheck", "compute-sanitizer over every kernel: shared memory",
             timed("gpu_memory", "racecheck"), 30 * of, no_tool),
        Part("synccheck", "compute-sanitizer over every kernel: barriers",
             timed("gpu_memory", "synccheck"), 25 * of, no_tool),
        Part("timings", "each engine beside PyTorch and cuDNN", timings, 110 * of,
             ending=_LAST_ROW),
    ]  # fmt: skip


def main(
    arguments: Sequence[str] | None = None,
    parts_of: Callable[[Path, float], list[Part]] = parts,
    available: Callable[[], str] | None = None,
) -> int:
    """Ask; returns the exit status that the module's text explains.

    Args:
        arguments: default: those of the process.
        parts_of: makes the parts from the folder for results and the budget.
        available: says why there is no GPU, or nothing; default: the probe.
    """
    options = _parser().parse_args(arguments)
    chosen = parts_of(options.out, options.budget)
    unknown = sorted({*(options.only or ())} - {part.name for part in chosen})
    if unknown:
        names = ", ".join(part.name for part in chosen)
        print(f"the parts are {names}. Received: {', '.join(unknown)}", file=sys.stderr)
        return 2
    if options.only:
        chosen = [part for part in chosen if part.name in options.only]
    if options.list:
        for part in chosen:
            print(f"{part.name:12} {part.seconds:4.0f} s  {part.about}")
            if part.missing:
                print(f"{'':12} {part.missing}")
        return 0
    problem = (available or _problem)()
    if problem:
        print(f"No GPU to check here: {problem}", file=sys.stderr)
        return 2
    out = _writable(options.out)
    if out != options.out:
        print(f"{options.out} cannot be written; results go to {out}", file=sys.stderr)
        again = {part.name: part for part in parts_of(out, options.budget)}
        chosen = [again[part.name] for part in chosen]
    return _ask_all(chosen, out, options.budget)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", action="append", metavar="PART", help="default: all; repeatable")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and end")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds, default 600")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return parser


def _problem() -> str:
    found = registry.probe("cuda:cupy")  # the other engine's package may be what is broken
    return "" if found.available else str(found.reason)


def _writable(out: Path) -> Path:
    """The folder itself, or a new one where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        return out
    except OSError:
        return Path(tempfile.mkdtemp(prefix="gpuconv-gpu-check-"))


def _ask_all(chosen: Sequence[Part], out: Path, budget: float) -> int:
    variables = gpu_environment.variables(gpu_environment.folder_for_caches())
    packages = ("numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch")
    result: dict[str, Any] = machine.provenance(*packages)
    result |= {"budget": budget, "notes": gpu_environment.notes(), "environment": variables}
    for note in result["notes"]:
        print(f"note: {note}", flush=True)
    answers = [Answer(part.name, part.about, NOT_REACHED) for part in chosen]
    end = time.monotonic() + budget
    for number, part in enumerate(chosen):
        later = sum(other.seconds for other in chosen[number + 1 :] if not other.missing)
        free = end - time.monotonic() - later
        last = number == len(chosen) - 1
        limit = min(free if last else 2 * part.seconds, max(free, part.seconds))
        limit = min(limit, end - time.monotonic())
        print(f"{part.name}: {part.about}, up to {limit:.0f} s ...", flush=True)
        answers[number] = _ask(part, limit, variables)
        result["verdict"] = _verdict(answers)
        result["parts"] = [asdict(answer) for answer in answers]
        _keep(out, result, answers)  # before the next part can take everything down
        found = answers[number]
        print(f"  {found.state}, {found.seconds:.0f} s {found.reason}", flush=True)
        for line in found.failures:
            print(f"    {line}", flush=True)
    print(f"{_verdict(answers)}. In {out}: gpu_check.json, gpu_check.txt")
    return {"right": 0, "wrong": 1, "incomplete": 3}[_verdict(answers)]


def _verdict(answers: Sequence[Answer]) -> str:
    states = {answer.state for answer in answers}
    if states & {FAILED, TOO_LONG}:
        return "wrong"
    return "right" if states <= {OK} else "incomplete"


def _ask(part: Part, limit: float, variables: dict[str, str]) -> Answer:
    answer = Answer(part.name, part.about, OK, limit=round(limit, 1))
    if part.missing:
        answer.state, answer.reason = SKIPPED, part.missing
        return answer
    if limit < 1:
        answer.state, answer.reason = NOT_REACHED, "the time was up"
        return answer
    inner = max(1, int(limit) - part.ending)
    command = [word.replace(_LIMIT, str(inner)) for word in part.command]
    reply = processes.ask(command, limit, variables)
    answer.seconds, answer.facts = round(reply.seconds, 1), reply.facts()
    answer.tail = reply.text[-_TAIL:]
    if reply.stopped:
        answer.state, answer.reason = TOO_LONG, reply.problem
    elif reply.problem:
        answer.state, answer.reason = FAILED, str(answer.facts.get("wrong") or reply.problem)
    elif "unfinished" in answer.facts:
        answer.state, answer.reason = UNFINISHED, str(answer.facts["unfinished"])
    if answer.state in (FAILED, TOO_LONG):
        answer.failures = _failures(reply.text, answer.facts)
    return answer


def _failures(text: str, facts: dict[str, Any]) -> list[str]:
    """The first lines of what went wrong: those in the facts, else in the text, else its end."""
    found: list[str] = []
    for name in ("failures", "errors", "wrong ones", "failed"):
        value = facts.get(name)
        if isinstance(value, dict):
            found += _together({key: _in_a_line(why) for key, why in value.items()})
        elif isinstance(value, list):
            found += dict.fromkeys(map(str, value))
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and line[0] != "{"]
    if not found:
        found = [line for line in lines if _TELLING.match(line)] or lines[-_FAILURES:]
    return [line[:300] for line in found[:_FAILURES]]


def _together(reasons: dict[str, str]) -> list[str]:
    """Names with their reasons; those of one reason in one line."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    more = {why: f" and {len(named) - 1} more" * (len(named) > 1) for why, named in names.items()}
    return [f"{named[0]}{more[why]}: {why}" for why, named in names.items()]


def _in_a_line(why: Any) -> str:
    return "; ".join(map(str, why)) if isinstance(why, list) else str(why)


def _keep(out: Path, result: dict[str, Any], answers: Sequence[Answer]) -> None:
    with atomic_path(out / "gpu_check.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with atomic_path(out / "gpu_check.txt") as path:
        path.write_text("\n".join(report(result, answers)) + "\n", encoding="utf-8")


def report(result: dict[str, Any], answers: Sequence[Answer]) -> list[str]:
    """Return the lines of the report: verdicts first, then what went wrong, then the facts."""
    where = ("date", "command", "commit", "processor", "cores", "system", "versions")
    lines = [f"Verdict: {result['verdict']}", ""]
    lines.append(f"{'part':12} {'verdict':12} {'seconds':>8} {'limit':>6}")
    for answer in answers:
        times = f"{answer.seconds:8.0f} {answer.limit:6.0f}"
        lines.append(f"{answer.name:12} {answer.state:12} {times}  {answer.about}")
        if answer.reason:
            lines.append(f"{'':12} {answer.reason}")
    for answer in answers:
        if answer.failures:
            lines += ["", f"--- {answer.name}: the first lines of what went wrong"]
            lines += [f"    {line}" for line in answer.failures]
    lines += ["", "--- notes", *(f"    {note}" for note in result["notes"])]
    lines += ["", "--- where", *(f"    {name}: {result[name]}" for name in where if name in result)]
    for answer in answers:
        short = {name: str(value) for name, value in answer.facts.items()}
        shown = [f"    {name}: {value}" for name, value in short.items() if len(value) <= 400]
        if shown:
            lines += ["", f"--- {answer.name}", *shown]
    for answer in answers:
        if answer.state in (FAILED, TOO_LONG) and answer.tail:
            lines += ["", f"--- {answer.name}: the end of what it said", answer.tail.rstrip()]
    return lines
