"""The test files that run device kernels, each in a process of its own, several at once.

    python -m gpuconv.benchmarks.gpu_tests --seconds 120 tests/device
    python -m gpuconv.benchmarks.gpu_tests --one tests/device/test_direct.py
    python -m gpuconv.benchmarks.gpu_tests --one tests/device/test_direct.py --part 0/2

Files whose kernels take long to compile are dealt out to several processes, test by test. A test
counts as soon as it has ended: what is known when the time is up is not lost.

Needs pytest. A file that imports a package which is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuconv.benchmarks import gpu_environment, gpu_shares, machine
from gpuconv.benchmarks.gpu_shares import Message, Share

_ENDED = re.compile(r"^(\S+::.+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_TELLING = re.compile(r"^(FAILED|ERROR|E   )")
_NEEDED = ("hypothesis", "numba", "torch", "sklearn", "PIL", "matplotlib")
_PROCESSES = {
    "test_implicit_gemm.py": 6,
    "test_weight_gradient.py": 3,
    "test_engine_numba.py": 2,
    "test_device_normalization.py": 2,
}
"""Files that launch dozens of kernels in forms that are not compiled beforehand, with the processes
that share each of them, where there are so many."""


@dataclass
class Run:
    """A file, or a part of its tests, in a process.

    Attributes:
        path, part: of which file, and which tests of it, as in ``"0/2"``; empty for all.
        counts: tests that have ended, by how.
        failed: names of those that failed.
        told: lines that say why.
        last: the last line of all: where a process that died was.
        status: pytest's exit status; None if it was stopped before it had one.
    """

    path: Path
    part: str = ""
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    last: str = ""
    status: int | None = None

    @property
    def bad(self) -> bool:
        """Whether a test failed, or pytest itself."""
        return bool(self.failed) or self.status not in (None, 0)

    def why(self) -> list[str]:
        """The first lines of what went wrong."""
        return (self.told or self.failed or [f"exit status {self.status}: {self.last}"])[:6]

    def hear(self, line: str) -> None:
        """Take a line of pytest's."""
        self.last = line.strip() or self.last
        ended = _ENDED.match(line)
        if ended:
            self.counts[ended[2].lower()] += 1
            if ended[2] in ("FAILED", "ERROR"):
                self.failed.append(ended[1])
        elif _TELLING.match(line):
            self.told.append(line)


def files_in(paths: Sequence[str]) -> list[Path]:
    """Return the test files in some folders of the checkout, those that take longest first."""
    found = []
    for path in paths:
        place = machine.CHECKOUT / path
        found += sorted(place.glob("test_*.py")) if place.is_dir() else [place]
    return sorted(found, key=lambda path: -_PROCESSES.get(path.name, 1))


def missing_for(path: Path) -> list[str]:
    """Return the packages that a test file imports and that are not installed."""
    return sorted({name for name in _imported(path) if not gpu_environment.has(name)})


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        yield from {name.partition(".")[0] for name in names} & {*_NEEDED}


def run_files(paths: Sequence[Path], seconds: float, at_once: int) -> dict[str, Any]:
    """Run test files, so many at once; return the facts, with ``wrong`` if a test failed."""
    left_out = {path.name: missing_for(path) for path in paths}
    waiting = [run for path in paths if not left_out[path.name] for run in _dealt(path, at_once)]
    all_runs = tuple(waiting)
    shares = [Share(*_one_after_the_other(waiting)) for _ in range(at_once)]
    gpu_shares.run_all(shares, seconds)
    bad = [run for run in all_runs if run.bad]
    unfinished = [run.path.name for run in all_runs if run.status is None]
    files = dict.fromkeys(run.path.name for run in all_runs)
    facts: dict[str, Any] = {
        "files": {name: _said([r for r in all_runs if r.path.name == name]) for name in files},
        "left out": {n: f"needs {', '.join(m)}" for n, m in left_out.items() if m},
        "failures": [line for run in bad for line in run.why()][:30],
    }
    if bad:
        facts["wrong"] = f"tests failed in {', '.join(dict.fromkeys(r.path.name for r in bad))}"
    elif not all_runs:
        facts["wrong"] = "no test file could be run"
    elif unfinished:
        facts["unfinished"] = f"the time was up: {', '.join(dict.fromkeys(unfinished))}"
    return facts


def _dealt(path: Path, at_once: int) -> list[Run]:
    """A file as one run, or as several that share its tests."""
    of = min(_PROCESSES.get(path.name, 1), at_once)
    return [Run(path, f"{number}/{of}" if of > 1 else "") for number in range(of)]


def _said(runs: Sequence[Run]) -> str:
    """How the tests of a file ended."""
    counts = sum((run.counts for run in runs), collections.Counter[str]())
    words = [f"{count} {how}" for how, count in sorted(counts.items())]
    words += ["not finished"] * any(run.status is None for run in runs)
    return ", ".join(words) or "no test has ended"


def _one_after_the_other(waiting: list[Run]) -> Any:
    """The three functions of a share that takes one run after the other."""
    running: list[Run] = []

    def command(count: int) -> list[str]:
        try:
            run = waiting.pop(0)
        except IndexError:  # another share has taken the last one
            return [sys.executable, "-c", ""]
        running[:] = [run]
        place = str(run.path.relative_to(machine.CHECKOUT))
        words = [sys.executable, "-m", "gpuconv.benchmarks.gpu_tests", "--one", place]
        return words + ["--part", run.part] * bool(run.part)

    def hear(message: Message) -> None:
        if running:
            running[0].hear(str(message.get("text", "")))

    def again(status: int) -> bool:
        if running:
            running.pop().status = status
        return bool(waiting)

    return command, hear, again


class _Part:
    """A plugin of pytest that leaves every n-th test to a process."""

    def __init__(self, part: str) -> None:
        self.number, self.of = map(int, part.split("/"))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep this process's tests; those beside each other, which compile most, go apart."""
        items[:] = items[self.number :: self.of]


def run_one(path: str, part: str = "") -> int:
    """Run one file, or a part of its tests, in this process; returns pytest's exit status."""
    gpu_environment.mend()
    words = ["-v", "--maxfail=5", "--tb=short", "-o", "addopts=", "-p", "no:cacheprovider"]
    # A warning of a package that is newer than ours is shown, but is no failure of a kernel.
    words += ["-W", "default", path]
    pytest = importlib.import_module("pytest")
    return int(pytest.main(words, plugins=[_Part(part)] if part else []))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run test files; returns 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=["tests/device"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--processes", type=int, default=None, help="default: by cores and memory")
    parser.add_argument("--one", help="run this file in this process")
    parser.add_argument("--part", default="", help="of its tests: 0/2, 1/2; default: all")
    options = parser.parse_args(arguments)
    if options.one:
        gpu_shares.end_with_parent()
        return run_one(options.one, options.part)
    alone = 1 if not gpu_environment.can_share_caches() else None
    at_once = options.processes or alone or gpu_shares.processes()
    facts = run_files(files_in(options.paths), options.seconds, at_once)
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
