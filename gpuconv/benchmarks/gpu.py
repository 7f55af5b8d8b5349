"""Convolution, pooling and training steps on the GPU, by each engine, beside PyTorch and cuDNN.

Every result is compared with the CPU engine's before anything is timed. Times are the device's own,
by events in a queue that is kept full, of inputs that are not in its cache; candidates take turns.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuconv.backends import registry
from gpuconv.benchmarks import gpu_report, keeping, machine, processes, pytorch
from gpuconv.benchmarks.candidates import run
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.gpu_picture import draw
from gpuconv.benchmarks.workload import OPERATIONS, PARTS, Row, rows
from gpuconv.errors import FileFormatError, InvalidArgumentError

QUICK = (
    "3x3 64-64 @56",
    "3x3 512-512 @7",
    "1x1 256-64 @56",
    "1x1/2 256-512 @56",
    "*seed*",
    "*64 @112*",
)
PACKAGES = ("numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch")


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    open_device: Callable[[], Device] | None = None,
) -> int:
    """Run what the command line asks for; returns the exit status.

    0: all was right; 1: a result was wrong, or the device failed; 2: no GPU, or options that make
    no sense; 130 after Ctrl-C. What was measured is kept in each case.

    Args:
        arguments: default: those of the process.
        program: what the command is called in its help.
        open_device: default: the CUDA device.
    """
    options = _parser(program).parse_args(arguments)
    if options.fresh_cache:  # before anything imports Numba or CuPy, which look once
        _forget_compiled_kernels()
    if open_device is None:
        found = registry.probe_device("cuda")
        if not found.available:
            print(
                f"No GPU benchmark here: {found.reason}. On the CPU: gpuconv bench --backend cpu, "
                f"or python benchmarks/cpu.py",
                file=sys.stderr,
            )
            return 2
        open_device = _cuda
    try:
        return _run(options, open_device())
    except (InvalidArgumentError, FileFormatError, OSError) as error:
        print(f"gpu benchmark: {error}", file=sys.stderr)
        return 2


def _parser(program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description=__doc__)
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="default: all; repeatable")
    add("--operation", action="append", choices=OPERATIONS, help="default: all; repeatable")
    add("--layer", action="append", help="names like this, with * and ?; repeatable")
    add("--quick", action="store_true", help="a few rows of each part, half a second each")
    add("--engine", action="append", help="cuda, cuda:numba, cuda:cupy; default: all; repeatable")
    add("--batch", type=int, default=None, help="default 32, and training at 32 and 128")
    add("--seconds", type=float, default=None, help="of timing for each row, default 1")
    add("--budget", type=float, default=540.0, help="seconds for all, default 540")
    add("--autotune", action="store_true", help="let the dispatcher measure before it chooses")
    add("--fresh-cache", action="store_true", help="first calls compile every kernel anew")
    add("--out", type=Path, default=None, help="folder; default: benchmarks/results")
    keeping.add_options(parser)
    return parser


def _cuda() -> Device:
    from gpuconv.benchmarks.cuda_device import CudaDevice

    return CudaDevice()


def _forget_compiled_kernels() -> None:
    """Let everything that keeps compiled kernels or choices begin with an empty folder."""
    os.environ.update(processes.empty_caches(tempfile.mkdtemp(prefix="gpuconv-bench-")))


# --- the run ------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, device: Device) -> int:
    started = time.perf_counter()
    if options.autotune:
        import gpuconv

        gpuconv.config.autotune = True
    torch = None if options.no_torch else pytorch.load(device.backend)
    engines = tuple(options.engine or (*device.engines, device.backend))
    waiting = collections.deque(_wanted(options, device, torch, engines))
    if not waiting:
        raise InvalidArgumentError("no row is called that; the names stand in the table")
    result = _empty(options, device, torch, engines)
    folder = options.out or _default_folder()
    stem = folder / f"gpu-{_slug(result['device']['device'])}"
    waiting = keeping.left_to_do(result, waiting, stem, options.resume)
    for text in gpu_report.header(result)[:3]:
        print(text)

    seconds = _seconds(options)

    def rates() -> str:
        result["rates"] = dataclasses.asdict(device.rates())
        return gpu_report.header(result)[3]

    def record(row: Row) -> dict[str, Any]:
        return keeping.record(device, row, lambda makers: run(device, makers, seconds))

    status = keeping.measure(
        result,
        waiting,
        rates,
        record,
        gpu_report.line,
        stem.with_suffix(".json"),
        started + options.budget,
    )
    _finish(result, stem)
    return status or int(keeping.any_wrong(result))


def _wanted(
    options: argparse.Namespace, device: Device, torch: Any, engines: Sequence[str]
) -> Iterator[Row]:
    for name in engines:
        if name.partition(":")[0] != device.backend:
            raise InvalidArgumentError(
                f"--engine takes {device.backend} and its engines. Received: {name}"
            )
    if options.batch is not None and options.batch < 1:
        raise InvalidArgumentError(f"--batch must be at least 1. Received: {options.batch}")
    batch = 32 if options.batch is None else options.batch
    training = (32, 128) if options.batch is None else (batch,)
    patterns = options.layer or (QUICK if options.quick else ["*"])
    parts = [part for part in PARTS if part in (options.part or PARTS)]
    for row in rows(device, torch, parts, batch, training, engines):
        if options.operation and row.operation not in options.operation:
            continue
        if any(fnmatch.fnmatchcase(row.layer, pattern) for pattern in patterns):
            yield row


def _seconds(options: argparse.Namespace) -> float:
    if options.seconds is not None:
        return float(options.seconds)
    return 0.5 if options.quick else 1.0


# --- what is kept -------------------------------------------------------------------------------


def _empty(
    options: argparse.Namespace, device: Device, torch: Any, engines: Sequence[str]
) -> dict[str, Any]:
    found = keeping.empty(device, engines, PACKAGES, options.commit)
    if torch is not None and device.backend == "cuda":
        found["versions"]["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _finish(result: dict[str, Any], stem: Path) -> None:
    """Print the tables; write them, the JSON and, with Matplotlib, the picture."""
    gpu_report.write(result, sys.stdout)
    text = io.StringIO()
    gpu_report.write(result, text)
    keeping.leave(result, stem, ".txt", text.getvalue(), draw)


def _default_folder() -> Path:
    kept = machine.CHECKOUT / "benchmarks" / "results"
    return kept if kept.is_dir() else Path("benchmarks") / "results"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
