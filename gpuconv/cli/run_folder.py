"""The folder that a training run leaves: model, history, pictures, settings.

Everything that is needed to go on lies in the model file, which is replaced as a whole after each
epoch, so that a run may end at any moment.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuconv.callbacks import Callback
from gpuconv.callbacks.base import Logs
from gpuconv.errors import InvalidArgumentError
from gpuconv.io import atomic_path

MODEL, HISTORY, SETTINGS = "model.safetensors", "history.csv", "run.json"
CURVES, MISTAKES = "curves.png", "misclassified.png"


def new_folder(out: str | None, data: str) -> Path:
    """Create the folder of a new run.

    Raises:
        InvalidArgumentError: it holds a run already.
    """
    if out is None:
        stem = f"{data}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        path, number = Path("runs") / stem, 1
        while path.exists():
            number += 1
            path = Path("runs") / f"{stem}-{number}"
    else:
        path = Path(out)
    if (path / MODEL).exists():
        raise InvalidArgumentError(
            f"the folder holds a run; use --resume to go on with it, or another --out. "
            f"Received: --out {path}"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def existing_folder(out: str | None) -> Path:
    """Return the folder of the run to go on with: ``out``, or the one in runs/ changed last.

    Raises:
        InvalidArgumentError: there is no run.
    """
    if out is not None:
        if not (Path(out) / MODEL).exists():
            raise InvalidArgumentError(
                f"--resume needs a run, a folder with {MODEL}. Received: --out {out}"
            )
        return Path(out)
    runs = sorted(Path("runs").glob(f"*/{MODEL}"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise InvalidArgumentError(f"--resume finds no run: there is no runs/*/{MODEL} here")
    return runs[-1].parent


class RunFolder(Callback):
    """Saves the run after each epoch, and what an interrupted epoch learned.

    Args:
        path: the folder.
        settings: how the run was started; kept in the model file for ``--resume``.
        history: numbers of earlier epochs, continued here.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], history: Mapping[str, list[Any]]
    ) -> None:
        self.path = path
        self.settings = dict(settings)
        self.history = {name: list(values) for name, values in history.items()}

    @property
    def epochs_done(self) -> int:
        """Number of whole epochs so far."""
        return len(self.history.get("loss", ()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self.save()

    def on_train_end(self, logs: Logs) -> None:
        self.save()

    def save(self) -> None:
        """Write model and history."""
        progress = {"settings": self.settings, "history": self.history}
        self.model.save(self.path / MODEL, progress=progress)
        with (
            atomic_path(self.path / HISTORY) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.writer(file)
            names = sorted(self.history)
            writer.writerow(["epoch", *names])
            for epoch in range(self.epochs_done):
                writer.writerow([epoch, *(self.history[name][epoch] for name in names)])


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``run.json``: settings, versions, backend and results."""
    with atomic_path(path / SETTINGS) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
