"""The test files that run device kernels, each in a process of its own, several at once.

    python -m gpuconv.benchmarks.gpu_tests --seconds 120 tests/device
    python -m gpuconv.benchmarks.gpu_tests --one tests/device/test_direct.py

Needs pytest. A file that imports a package which is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuconv.benchmarks import gpu_environment, gpu_shares, machine
from gpuconv.benchmarks.gpu_shares import Message, Share

_LAST = re.compile(r"\d+ (?:passed|failed|error|skipped|deselected|xfailed).* in [\d.]+s")
_FAILED = re.compile(r"^(FAILED|ERROR|E   )")
_NEEDED = ("hypothesis", "numba", "torch", "sklearn", "PIL", "matplotlib")
_SLOW_FIRST = ("test_engine_numba.py", "test_direct.py", "test_implicit_gemm.py")


def files_in(paths: Sequence[str]) -> list[Path]:
    """Return the test files in some folders of the checkout, those that take longest first."""
    found = []
    for path in paths:
        place = machine.CHECKOUT / path
        found += sorted(place.glob("test_*.py")) if place.is_dir() else [place]
    return sorted(found, key=lambda path: path.name not in _SLOW_FIRST)


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
    waiting, facts = list(paths), dict[str, Any]()
    results: dict[str, dict[str, Any]] = {}
    left_out = {path.name: missing_for(path) for path in waiting}
    waiting = [path for path in waiting if not left_out[path.name]]
    shares = [Share(*_one_after_the_other(waiting, results)) for _ in range(at_once)]
    gpu_shares.run_all(shares, seconds)
    unfinished = [name for name, result in results.items() if "status" not in result]
    unfinished += [path.name for path in waiting]
    bad = [name for name, result in results.items() if result.get("status") not in (None, 0)]
    facts["files"] = {name: result.get("said", "not finished") for name, result in results.items()}
    facts["left out"] = {n: f"needs {', '.join(m)}" for n, m in left_out.items() if m}
    facts["failures"] = [line for name in bad for line in results[name]["failures"][:6]][:30]
    if bad:
        facts["wrong"] = f"tests failed in {', '.join(bad)}"
    elif not results:
        facts["wrong"] = "no test file could be run"
    elif unfinished:
        facts["unfinished"] = f"the time was up: {', '.join(unfinished)}"
    return facts


def _one_after_the_other(waiting: list[Path], results: dict[str, dict[str, Any]]) -> Any:
    """The three functions of a share that takes one file after the other."""
    running: list[str] = []

    def command(count: int) -> list[str]:
        try:
            path = waiting.pop(0)
        except IndexError:  # another share has taken the last one
            return [sys.executable, "-c", ""]
        running[:] = [path.name]
        results[path.name] = {"failures": []}
        place = str(path.relative_to(machine.CHECKOUT))
        return [sys.executable, "-m", "gpuconv.benchmarks.gpu_tests", "--one", place]

    def hear(message: Message) -> None:
        line = str(message.get("text", ""))
        if not running:
            return
        if _FAILED.match(line):
            results[running[0]]["failures"].append(line)
        elif _LAST.search(line):
            results[running[0]]["said"] = line.strip("= ")

    def again(status: int) -> bool:
        if running:
            results[running.pop()]["status"] = status
        return bool(waiting)

    return command, hear, again


def run_one(path: str) -> int:
    """Run one file in this process; returns pytest's exit status."""
    gpu_environment.mend()
    words = ["-q", "--maxfail=5", "--tb=short", "-o", "addopts=", "-p", "no:cacheprovider"]
    # A warning of a package that is newer than ours is shown, but is no failure of a kernel.
    sys.argv = ["pytest", *words, "-W", "default", path]
    try:
        runpy.run_module("pytest", run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run test files; returns 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=["tests/device"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--processes", type=int, default=None, help="default: by cores and memory")
    parser.add_argument("--one", help="run this file in this process")
    options = parser.parse_args(arguments)
    if options.one:
        gpu_shares.end_with_parent()
        return run_one(options.one)
    alone = 1 if not gpu_environment.can_share_caches() else None
    at_once = options.processes or alone or gpu_shares.processes()
    facts = run_files(files_in(options.paths), options.seconds, at_once)
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
