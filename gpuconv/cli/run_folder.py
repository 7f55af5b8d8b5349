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

from gpuconv.callbacks import BackupAndRestore, History
from gpuconv.errors import InvalidArgumentError
from gpuconv.io import atomic_path
from gpuconv.io.run_files import CURVES as CURVES
from gpuconv.io.run_files import HISTORY, MODEL, SETTINGS
from gpuconv.io.run_files import MISTAKES as MISTAKES


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


class RunFolder(BackupAndRestore):
    """Keeps the run in its folder after each epoch, and at once when Ctrl-C stops it.

    The model file is the backup too: it holds the optimizer, the random streams and how far the run
    has come, so that a run that goes on ends with the same weights as one that was not stopped.

    Args:
        folder: the run folder.
        settings: how the run was started, kept for ``--resume``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, delete_checkpoint=False)
        self.settings = dict(settings)

    @property
    def path(self) -> Path:
        return self.backup_dir / MODEL

    def progress(self, epoch: int, batch: int) -> dict[str, Any]:
        return {**super().progress(epoch, batch), "settings": self.settings}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        super().on_epoch_end(epoch, logs)
        (history,) = (peer for peer in self.peers if isinstance(peer, History))
        write_history(self.backup_dir, history)


def write_history(folder: Path, history: History) -> None:
    """Write ``history.csv``: an epoch a row."""
    names = sorted(history.history)
    with (
        atomic_path(folder / HISTORY) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["epoch", *names])
        writer.writerows(zip(history.epoch, *(history.history[n] for n in names), strict=True))


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``run.json``: settings, versions, backend and results."""
    with atomic_path(path / SETTINGS) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
