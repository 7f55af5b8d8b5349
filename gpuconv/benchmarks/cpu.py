"""Convolutions, passes over the numbers, training and inference on the CPU, beside PyTorch.

Every engine that can run here, and PyTorch in both memory formats where it is installed, take turns
in one process (see timing.py). Every result is compared with the NumPy engine's before it is timed.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.benchmarks import cpu_goals, cpu_report, keeping, pytorch
from gpuconv.benchmarks.candidates import Candidate, run
from gpuconv.benchmarks.cpu_device import CpuDevice
from gpuconv.benchmarks.cpu_picture import draw
from gpuconv.benchmarks.cpu_workload import (
    NETWORKS,
    PARTS,
    TRAINING_BATCHES,
    batch_of_goals,
    rows,
    single_engines,
)
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.timing import RestedTurns, far_behind
from gpuconv.benchmarks.workload import OPERATIONS, Row
from gpuconv.errors import FileFormatError, InvalidArgumentError

QUICK = (
    "3x3 64-64 @56",
    "3x3 512-512 @7",
    "1x1 256-64 @56",
    "1x1/2 256-512 @56",
    "dw 3x3 144 @56",
    "3x3 256-256 @56",
    "3x3 64-64 @6",
    "1x1 192-64 @28",
    "3x3 17-35 @31",
    "*seed*",
    "* 64 @56",
    "avg 3x3*",
)
PACKAGES = ("numba", "llvmlite", "torch")
NAME = "cpu"
"""Of the files."""

Record = dict[str, Any]
RIVALS = {f"torch {memory}" for memory in pytorch.FORMATS}


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run what the command line asks for; returns the exit status.

    0: all was right; 1: a result was wrong; 2: options that make no sense; 130 after Ctrl-C. What
    was measured is kept in each case.

    Args:
        arguments: default: those of the process.
        program: what the command is called in its help.
    """
    options = _parser(program).parse_args(arguments)
    try:
        return _run(options, CpuDevice())
    except (InvalidArgumentError, FileFormatError, OSError) as error:
        print(f"cpu benchmark: {error}", file=sys.stderr)
        return 2


def _parser(program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description=__doc__)
    add = parser.add_argument
    operations = (*OPERATIONS, "predict", "epoch")
    add("--part", action="append", choices=PARTS, help="default: all; repeatable")
    add("--operation", action="append", choices=operations, help="default: all; repeatable")
    add("--layer", action="append", help="names like this, with * and ?; repeatable")
    add("--quick", action="store_true", help="a few rows of each part, half a minute")
    add("--engine", action="append", help="by its name, or cpu; default: all; repeatable")
    add("--batch", action="append", type=int, help="of layers; default 8 and 1, VGG-16 also 4")
    add("--training-batch", action="append", type=int, help="default 32 and 128")
    add("--seconds", type=float, default=None, help="of timing for each row, default 0.6")
    add("--budget", type=float, default=440.0, help="seconds for all, default 440")
    add("--out", type=Path, default=None, help="folder for table, JSON and picture")
    keeping.add_options(parser)
    return parser


# --- the run ------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, device: Device) -> int:
    end = time.perf_counter() + options.budget
    torch = None if options.no_torch else pytorch.load()
    if torch is not None:
        torch.set_num_threads(usable_cores())
    waiting = collections.deque(_wanted(options, device, torch))
    if not waiting:
        raise InvalidArgumentError("no row is called that; the names stand in the table")
    result = _empty(options, device, torch)
    stem = None if options.out is None else options.out / NAME
    waiting = keeping.left_to_do(result, waiting, stem, options.resume)
    for text in cpu_report.header({**result, "rates": None}):
        print(text)
    status = keeping.measure(
        result,
        waiting,
        lambda: "\n".join([_measured_again(result, device), "", cpu_report.title(result)]),
        _recorder(options, device, result),
        _liner(result),
        None if stem is None else stem.with_suffix(".json"),
        end,
    )
    _finish(result, stem)
    return status or int(keeping.any_wrong(result))


def _wanted(options: argparse.Namespace, device: Device, torch: Any) -> Iterator[Row]:
    known = (*device.engines, device.backend)
    for name in options.engine or ():
        if name not in known:
            raise InvalidArgumentError(f"--engine takes {', '.join(known)}. Received: {name}")
    for word, batches in (("--batch", options.batch), ("--training-batch", options.training_batch)):
        if batches is not None and min(batches) < 1:
            raise InvalidArgumentError(f"{word} must be at least 1. Received: {min(batches)}")
    quick = options.quick and options.batch is None
    training = options.training_batch or (TRAINING_BATCHES[:1] if quick else TRAINING_BATCHES)
    patterns = options.layer or (QUICK if options.quick else ["*"])
    for row in rows(device, torch, options.batch, training, options.engine):
        if row.part not in (options.part or PARTS):
            continue
        if quick and row.part in NETWORKS and row.batch != batch_of_goals(row.part):
            continue
        if options.operation and row.operation not in options.operation:
            continue
        if any(fnmatch.fnmatchcase(row.layer, pattern) for pattern in patterns):
            yield row


def _recorder(
    options: argparse.Namespace, device: Device, result: Record
) -> Callable[[Row], Record]:
    """Return what does a row; between parts it looks again at what the cores can do."""
    seconds = options.seconds
    if seconds is None:
        seconds = 0.25 if options.quick else 0.6
    last: list[tuple[str, int]] = []

    def record(row: Row) -> Record:
        if last and last[-1] != (row.part, row.batch):
            _measured_again(result, device)
        last[:] = [(row.part, row.batch)]
        more: Record = {}

        def timed(makers: dict[str, Callable[[], Candidate]]) -> dict[str, Record]:
            sides = {name: name for name in makers}
            if row.chosen is not None:  # else everybody is somebody's goal
                more["chosen"] = row.chosen()
                sides |= dict.fromkeys(sides.keys() & RIVALS, "torch")
                sides |= dict.fromkeys(sides.keys() & set(device.engines), "engines")
            settled = far_behind(sides, {result["judged"], more.get("chosen")})
            return run(device, makers, seconds, turns_of=RestedTurns, settled=settled)

        return keeping.record(device, row, timed) | more

    return record


def _measured_again(result: Record, device: Device) -> str:
    """Keep the best rates of the run: others may have had the machine when they were measured."""
    before, now = result["rates"] or {}, dataclasses.asdict(device.rates())
    result["rates"] = {name: max(value, before.get(name, 0.0)) for name, value in now.items()}
    return cpu_report.rates(result)


def _liner(result: Record) -> Callable[[Record], str]:
    """Return what makes the lines of the table, with a heading where a part begins."""
    last = ""

    def line(row: Record) -> str:
        nonlocal last
        above, last = last, cpu_report.heading(row)
        text = cpu_report.line(result, row)
        return text if above == last else f"{last}\n{text}"

    return line


# --- what is kept -------------------------------------------------------------------------------


def _empty(options: argparse.Namespace, device: Device, torch: Any) -> Record:
    names = options.engine or [*device.engines, device.backend]
    engines = list(dict.fromkeys((*single_engines(device, names), *names)))
    return {
        **keeping.empty(device, engines, PACKAGES, options.commit),
        "judged": options.engine[0] if options.engine else device.backend,
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "goals": [],
    }


def _finish(result: Record, stem: Path | None) -> None:
    """Print the goals; write the table, the JSON and, with Matplotlib, the picture."""
    result["goals"] = cpu_goals.reached(result)
    summary = list(cpu_report.summary(result))
    print("", *summary, sep="\n")
    if stem is not None:
        lines = [*cpu_report.header(result), "", *cpu_report.whole_table(result), "", *summary]
        keeping.leave(result, stem, ".txt", "\n".join(lines) + "\n", draw)
