"""Writes the numbers of each epoch into a CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.callbacks.base import Callback, Logs
from gpuconv.errors import InvalidArgumentError
from gpuconv.io import atomic_path

_MISSING = "NA"


class CSVLogger(Callback):
    """Writes a row after each epoch: ``epoch``, from 0, then the logs sorted by name.

    A row is written as a whole and at once, so that a run that is killed leaves whole rows. What
    a row lacks is ``NA``; a name that comes up later, as validation does when not every epoch
    has one, becomes a further column, and the earlier rows get ``NA`` there.

    Args:
        filename: the file; its folder must exist.
        separator: one character between the columns.
        append: whether to go on in a file that is there, with its columns; else it is replaced.

    Raises:
        InvalidArgumentError: an impossible separator.
        FileNotFoundError, IsADirectoryError: when training begins: the file cannot be there.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
            raise InvalidArgumentError(
                f"separator must be one character, such as ',' or ';'. Received: {separator!r}"
            )
        self.filename = Path(filename)
        self.separator = separator
        self.append = bool(append)
        self._columns: list[str] = []
        self._started = False
        self._resumed_size: int | None = None

    def on_train_begin(self, logs: Logs) -> None:
        if self.filename.is_dir():
            raise IsADirectoryError(f"expected a file, not a folder. Received: {self.filename}")
        if not self.filename.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"the folder of the file does not exist. Received: {self.filename}"
            )
        self._columns = []
        self._started = False
        self._resumed_size = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        # Not in on_train_begin: only now it is known whether the run goes on from a backup.
        if not self._started:
            self._start()
            self._started = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        values = {"epoch": epoch, **{name: _cell(logs[name]) for name in sorted(logs)}}
        if new := [name for name in values if name not in self._columns]:
            self._add_columns(new)
        self._write_row([values.get(name, _MISSING) for name in self._columns])

    def get_state(self) -> dict[str, Any]:
        return {"size": self.filename.stat().st_size if self._started else None}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._resumed_size = state["size"]

    def _start(self) -> None:
        """Find the columns of a file that is continued, or begin an empty one."""
        size = self.filename.stat().st_size if self.filename.exists() else 0
        if self._resumed_size is not None and self._resumed_size <= size:
            os.truncate(self.filename, self._resumed_size)  # rows after the backup come again
        elif not self.append:
            self.filename.write_bytes(b"")
        if not self.filename.exists() or self.filename.stat().st_size == 0:
            return
        rows = self._read()
        self._columns = rows[0]
        with self.filename.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            ended = file.read() == b"\n"
        if not ended:  # another program may leave out the last line's end
            self._write(b"\n")

    def _add_columns(self, names: Sequence[str]) -> None:
        rows = self._read() if self._columns else []
        self._columns = [*self._columns, *names]
        if not rows:
            self._write_row(self._columns)
            return
        table = [self._columns, *([*row, *[_MISSING] * len(names)] for row in rows[1:])]
        with atomic_path(self.filename) as temporary:
            temporary.write_bytes(b"".join(self._row(row) for row in table))

    def _read(self) -> list[list[str]]:
        with self.filename.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file, delimiter=self.separator) if row]

    def _row(self, cells: Sequence[Any]) -> bytes:
        line = io.StringIO()
        csv.writer(line, delimiter=self.separator, lineterminator="\n").writerow(cells)
        return line.getvalue().encode()

    def _write_row(self, cells: Sequence[Any]) -> None:
        self._write(self._row(cells))

    def _write(self, content: bytes) -> None:
        with self.filename.open("ab", buffering=0) as file:
            file.write(content)  # one call of the system, which Ctrl-C does not part


def _cell(value: Any) -> Any:
    """Return a number as Python's, which is written with all its digits, and an array as a list."""
    return np.asarray(value).tolist() if isinstance(value, (np.ndarray, np.generic)) else value
