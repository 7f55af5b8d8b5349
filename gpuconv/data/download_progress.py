"""What is shown while a file is fetched: a bar on a terminal, one line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpuconv.errors import InvalidArgumentError

Report = Callable[[int, "int | None"], None]
"""Called with the bytes received so far, and the length of the whole file or None."""


@contextmanager
def reporting(name: str, url: str, progress: Any) -> Iterator[Report]:
    """Yield the function that is told how a download goes on.

    Args:
        name: of the file.
        url: where it comes from.
        progress: False for silence, True for a bar, None for a bar on a terminal and one line
            elsewhere; or the function itself.

    Raises:
        InvalidArgumentError: another ``progress``.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield _silent
    elif progress is True or (progress is None and _on_terminal()):
        yield from _bar(name)
    elif progress is None:
        print(f"Fetching {name} from {url}", flush=True)
        yield _silent
    else:
        raise InvalidArgumentError(
            f"progress must be True, False, None or a function. Received: {progress!r}"
        )


def _bar(name: str) -> Iterator[Report]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=None)
        yield lambda received, total: bar.update(task, completed=received, total=total)


def _silent(received: int, total: int | None) -> None:
    """Say nothing."""


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
