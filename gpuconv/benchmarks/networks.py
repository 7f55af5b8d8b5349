"""Whole networks on the CPU, beside PyTorch: training, transfer, inference, memory, start-up.

gpuconv and PyTorch in both memory formats have the same weights and take turns in one process; what
each computes is compared with the NumPy engine before it is timed. Memory and start-up are asked of
processes of their own.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.benchmarks import (
    keeping,
    networks_goals,
    networks_processes,
    networks_report,
    networks_workload,
    pytorch,
)
from gpuconv.benchmarks.candidates import Candidate, run
from gpuconv.benchmarks.cpu_device import CpuDevice
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.networks_picture import draw
from gpuconv.benchmarks.networks_workload import OURS, RESNET18
from gpuconv.benchmarks.timing import RestedTurns
from gpuconv.benchmarks.workload import Row
from gpuconv.errors import FileFormatError, InvalidArgumentError

PACKAGES = ("numba", "llvmlite", "torch")
NAME = "networks"
"""Of the files."""
_LEAST_SIZE = 32

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status.

    0: all was right; 1: a result was wrong; 2: options that make no sense; 130 after Ctrl-C. What
    was measured is kept in each case.

    Args:
        arguments: default: those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options, CpuDevice())
    except (InvalidArgumentError, FileFormatError, OSError) as error:
        print(f"networks benchmark: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--row", action="append", help="'training: ResNet-18*' or so, with * and ?; repeatable")
    add("--engine", default="cpu", help="gpuconv's; default cpu: the dispatcher chooses")
    add("--size", type=int, default=RESNET18.size, help="of images; default 224, as in the goals")
    add("--seconds", type=float, default=None, help="of timing for each row; default: its share")
    add("--budget", type=float, default=330.0, help="seconds for all, default 330")
    add("--out", type=Path, default=None, help="folder for tables, JSON and picture")
    keeping.add_options(parser)
    return parser


def _run(options: argparse.Namespace, device: CpuDevice) -> int:
    end = time.perf_counter() + options.budget
    torch = None if options.no_torch else pytorch.load()
    if torch is not None:
        torch.set_num_threads(usable_cores())
    waiting: deque[Row] = deque(_wanted(options, device, torch))
    if not waiting:
        raise InvalidArgumentError("no row is called that; the names stand in the table")
    result = _empty(options, device, torch)
    stem = None if options.out is None else options.out / NAME
    waiting = keeping.left_to_do(result, waiting, stem, options.resume)
    for text in networks_report.header(result):
        print(text)
    status = keeping.measure(
        result,
        waiting,
        networks_report.title,
        _recorder(options, device, waiting, end),
        lambda row: networks_report.line(result, row),
        None if stem is None else stem.with_suffix(".json"),
        end,
    )
    result["goals"] = networks_goals.reached(result)
    print("", *networks_report.summary(result), sep="\n")
    if stem is not None:
        keeping.leave(result, stem, ".md", "\n".join(networks_report.markdown(result)) + "\n", draw)
    return status or int(keeping.any_wrong(result))


def _wanted(options: argparse.Namespace, device: CpuDevice, torch: Any) -> Iterator[Row]:
    known = (*device.engines, device.backend)
    if options.engine not in known:
        raise InvalidArgumentError(f"--engine takes {', '.join(known)}. Received: {options.engine}")
    if options.size < _LEAST_SIZE:
        raise InvalidArgumentError(
            f"--size must be at least {_LEAST_SIZE}. Received: {options.size}"
        )
    parts = (networks_workload, networks_processes)
    every = [
        row for part in parts for row in part.rows(device, torch, options.engine, options.size)
    ]
    # What the goals are about takes longest and comes first.
    for row in sorted(every, key=lambda row: -row.share):
        name = f"{row.part}: {row.layer}, {row.operation}, batch {row.batch}"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.row or ("*",)):
            yield row


def _recorder(
    options: argparse.Namespace, device: Device, waiting: deque[Row], end: float
) -> Callable[[Row], Record]:
    """Return what does a row; the time that is left is divided among those that are waiting."""

    def record(row: Row) -> Record:
        seconds = options.seconds
        if seconds is None:
            left = max(0.0, end - time.perf_counter())
            seconds = left * row.share / (row.share + sum(other.share for other in waiting))

        def timed(makers: dict[str, Callable[[], Candidate]]) -> dict[str, Record]:
            if row.part in networks_processes.PARTS:  # as many processes as it takes
                return run(device, makers, math.inf, turns_of=networks_processes.Answers)
            return run(device, makers, seconds, turns_of=RestedTurns)

        return keeping.record(device, row, timed)

    return record


def _empty(options: argparse.Namespace, device: Device, torch: Any) -> Record:
    return {
        **keeping.empty(device, [options.engine], PACKAGES, options.commit),
        "judged": OURS,
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "without_torch": "not asked for" if options.no_torch else "not installed",
        "goals": [],
    }
