"""What both benchmarks do with rows: record, keep, go on with what was kept, show progress."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuconv.benchmarks.candidates import Candidate, DeviceLostError
from gpuconv.benchmarks.devices import Device
from gpuconv.benchmarks.workload import Row
from gpuconv.errors import FileFormatError, InvalidArgumentError
from gpuconv.io import atomic_path

Record = dict[str, Any]
SAME = ("backend", "commit", "versions")
"""What must be the same for a run to go on with the results of another."""


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
