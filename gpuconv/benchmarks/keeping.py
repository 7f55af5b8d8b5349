"""What the benchmarks do with rows: record, keep, go on with what was kept, show progress."""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuconv.benchmarks import machine
from gpuconv.benchmarks.candidates import WRONG, Candidate, DeviceLostError
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.gpu_report import key
from gpuconv.benchmarks.workload import Row
from gpuconv.errors import FileFormatError, InvalidArgumentError
from gpuconv.io import atomic_path

Record = dict[str, Any]
SAME = ("backend", "commit", "versions")
"""What must be the same for a run to go on with the results of another."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the benchmarks have in common."""
    add = parser.add_argument
    add("--no-torch", action="store_true", help="do not time PyTorch")
    add("--resume", action="store_true", help="keep the rows that are in --out already")
    add("--commit", default=None, help="what was measured, where git is not at hand")


def measure(
    result: Record,
    waiting: deque[Row],
    begin: Callable[[], str],
    record: Callable[[Row], Record],
    line: Callable[[Record], str],
    path: Path | None,
    end: float,
) -> int:
    """Do the rows in their order until the time is up; each is kept as soon as it is done.

    Args:
        result: gets ``rows``, and in ``not_reached`` the number of those that are left.
        waiting: the rows, which are taken out.
        begin: measures what the device can do, if there are any; returns a line about it.
        record: does a row.
        line: returns what is printed about a record.
        path: of the JSON; None keeps nothing.
        end: when to begin no other row, by ``time.perf_counter``.

    Returns:
        The exit status: 0, 1 if the device failed, 130 after Ctrl-C.
    """
    status = 0
    with _progress(len(waiting)) as (say, advance):
        try:
            if waiting:
                say(begin())
            while waiting and time.perf_counter() < end:
                row = waiting.popleft()  # its operands are freed with it
                advance(f"{row.layer}, {row.operation}")
                done = record(row)
                result["rows"].append(done)
                result["not_reached"] = len(waiting)
                if path is not None:
                    save(result, path)
                say(line(done))
        except KeyboardInterrupt:
            say("Interrupted: what was measured is kept")
            status = 130
        except DeviceLostError as error:
            say(f"The device failed and is of no more use to this process: {error}")
            status = 1
    result["not_reached"] = len(waiting)
    return status


def record(
    device: Device,
    row: Row,
    run: Callable[[dict[str, Callable[[], Candidate]]], dict[str, Record]],
) -> Record:
    """Let a row's candidates run; return what is kept of it.

    Raises:
        DeviceLostError: the device is of no more use to this process.
    """
    start = time.perf_counter()
    try:
        candidates = run(row.makers())
    except DeviceLostError:
        raise
    except Exception as error:  # no room for the operands, for one: the next row may have it
        candidates = {"operands": {"state": "failed", "reason": f"{type(error).__name__}: {error}"}}
    device.release()
    return {
        "part": row.part,
        "layer": row.layer,
        "operation": row.operation,
        "batch": row.batch,
        "flops": row.flops,
        "moved": row.moved,
        "seconds": round(time.perf_counter() - start, 2),
        "candidates": candidates,
    }


def resume(result: Record, path: Path) -> None:
    """Take the rows of a kept run of the same code on the same machine.

    Raises:
        FileFormatError: the file cannot be read.
        InvalidArgumentError: it was made by other code or on another machine.
    """
    if not path.exists():
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        same = {name: kept[name] for name in SAME}
        device = kept["device"]["device"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"expected the results of a benchmark. Received: {path}") from error
    same["device"] = device
    now = {**{name: result[name] for name in SAME}, "device": result["device"]["device"]}
    for name, value in same.items():
        if value != now[name]:
            raise InvalidArgumentError(
                f"--resume needs results of the same {name}, {now[name]}. "
                f"Received: {value} in {path}"
            )
    result["rows"], result["rates"] = kept["rows"], kept["rates"]
    result["commands"] = [*kept["commands"], *result["commands"]]


def empty(
    device: Device, engines: Sequence[str], packages: Sequence[str], commit: str | None
) -> Record:
    """Return a result without rows: where, when and with what it is measured.

    Args:
        device: where.
        engines: names of those that take part.
        packages: whose versions are told.
        commit: what is measured; None asks git.
    """
    found = machine.provenance(*packages)
    command = found.pop("command")
    return {
        **found,
        "commit": commit or found["commit"],
        "commands": [command],
        "device": device.describe(),
        "backend": device.backend,
        "engines": list(engines),
        "rates": None,
        "not_reached": 0,
        "rows": [],
    }


def left_to_do(
    result: Record, wanted: Iterable[Row], stem: Path | None, resumed: bool
) -> deque[Row]:
    """Make the folder, take over what is kept if that is wanted, return the rows that are left.

    Args:
        result: gets the rows that are there.
        wanted: all rows.
        stem: of the files, without their suffix; None keeps nothing.
        resumed: whether to go on with a kept run.

    Raises:
        FileFormatError, InvalidArgumentError: there is nothing that could be gone on with.
    """
    if resumed:
        if stem is None:
            raise InvalidArgumentError("--resume goes on with what is in a folder: --out")
        resume(result, stem.with_suffix(".json"))
    if stem is not None:
        stem.parent.mkdir(parents=True, exist_ok=True)
    done = {key(row) for row in result["rows"]}
    return deque(row for row in wanted if row.key not in done)


def any_wrong(result: Record) -> bool:
    """Whether a result was not what it should be."""
    return any(r["state"] == WRONG for row in result["rows"] for r in row["candidates"].values())


def leave(
    result: Record, stem: Path, suffix: str, text: str, draw: Callable[[Record, Path], bool]
) -> None:
    """Write the JSON, the tables and, with Matplotlib, the picture; say what was written.

    Args:
        result: of the run.
        stem: of the files, without their suffix.
        suffix: of the tables.
        text: the tables.
        draw: draws a result into a file; returns whether there was anything to draw.
    """
    written = [stem.with_suffix(end) for end in (".json", suffix, ".png")]
    save(result, written[0])
    with atomic_path(written[1]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print("The picture needs Matplotlib: python -m pip install 'gpuconv[plot]'")
        written.pop()
    elif not draw(result, written[2]):
        written.pop()
    print(f"In {stem.parent}: {', '.join(path.name for path in written)}")


def save(result: Record, path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        text = json.dumps(result, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Yield what prints a line and what tells which row is being done; a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(highlight=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("{task.description}", markup=False), console=console,
        transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("measuring what the device can do", total=total, completed=-1)

        def say(text: str) -> None:
            if console.is_terminal:
                console.print(text, markup=False)
            else:
                print(text, flush=True)

        def advance(text: str) -> None:
            bar.update(task, advance=1, description=text)

        yield say, advance
