"""Reading the folder that ``gpuconv train`` leaves; every damage is found here."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuconv.errors import FileFormatError, InvalidArgumentError
from gpuconv.io import read_model_file
from gpuconv.io.run_files import HISTORY, MODEL, SETTINGS
from gpuconv.models import Model, load_model


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where it lies.
        model: as it was saved last.
        settings: how the run was started; empty if no file says so.
        record: all of ``run.json``; empty if the run has not come to its end.
        history: a list a metric, a number an epoch; NaN where there is none.
        epochs: the epochs that these belong to, counted from 0.
    """

    folder: Path
    model: Model
    settings: dict[str, Any]
    record: dict[str, Any]
    history: dict[str, list[float]]
    epochs: list[int]

    @property
    def data(self) -> str:
        """Name of the data set, or an empty string."""
        name = self.settings.get("data")
        return name if isinstance(name, str) else ""


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises:
        InvalidArgumentError: no folder, or one without a model.
        FileFormatError: one of its files is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise InvalidArgumentError(
            f"expected the folder of a run of 'gpuconv train', found {what}. Received: {folder}"
        )
    if not (path / MODEL).is_file():
        raise InvalidArgumentError(
            f"expected the folder of a run of 'gpuconv train'; there is no {MODEL} in this one. "
            f"Received: {folder}"
        )
    record = _read_record(path / SETTINGS)
    epochs, history = _read_history(path / HISTORY)
    model = load_model(path / MODEL)
    settings = record.get("settings")
    if settings is None:  # stopped before its end: the model file knows, too
        progress = read_model_file(path / MODEL)[0].get("progress")
        settings = progress.get("settings") if isinstance(progress, dict) else None
    return Run(
        folder=path,
        model=model,
        settings=settings if isinstance(settings, dict) else {},
        record=record,
        history=history,
        epochs=epochs,
    )


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"expected JSON ({error}). Received: {path}") from error
    if not isinstance(record, dict):
        raise FileFormatError(
            f"expected a JSON object, found a {type(record).__name__}. Received: {path}"
        )
    return record


def _read_history(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    if not path.exists():
        return [], {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
        names, lines = (rows[0], rows[1:]) if rows else ([], [])
        if names[:1] != ["epoch"] or len({*names}) != len(names):
            raise ValueError("the first line should be 'epoch' and the names of the metrics")
        if any(len(line) != len(names) for line in lines):
            raise ValueError(f"every line should have {len(names)} entries")
        epochs = [int(line[0]) for line in lines]
        history = {
            name: [float(line[n]) if line[n] else math.nan for line in lines]
            for n, name in enumerate(names)
            if n
        }
    except (ValueError, csv.Error) as error:
        raise FileFormatError(
            f"expected a table with an epoch a line ({error}). Received: {path}"
        ) from error
    return epochs, history
