"""Lets a training run that was interrupted go on as if it had not been."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuconv.callbacks.base import Callback, Logs
from gpuconv.callbacks.frequency import SaveFrequency
from gpuconv.callbacks.interruption import StopOnInterrupt
from gpuconv.callbacks.rates import rate_of, set_rate
from gpuconv.errors import FileFormatError, InvalidArgumentError

_FILE = "backup.safetensors"


class BackupAndRestore(Callback):
    """Saves the state of a run, and goes on from there when the same ``fit`` is called again.

    The state is one file: the weights, the optimizer with its learning rate, the streams of
    shuffling and dropout, and what the other callbacks know (the history, the patience of
    ``EarlyStopping``, ...). A run that goes on gives the same weights, bit for bit, as one that
    was never interrupted, and the same history. With data from an iterable that holds if it
    starts anew in each epoch.

    Args:
        backup_dir: a folder for this run alone; it is created.
        save_freq: ``"epoch"``, or a number of batches after which to save, counted across
            epochs. Ctrl-C under ``StopOnInterrupt`` saves too, wherever the run stands. A run that
            goes on within an epoch skips the batches that were done, and the means that are
            logged for this epoch are those of its other batches.
        delete_checkpoint: whether to delete the backup when the run is complete: all epochs done,
            or stopped by a callback, but not by Ctrl-C or an error.

    Raises:
        InvalidArgumentError: an impossible ``save_freq``.
        FileFormatError: when training begins: the backup is damaged or of another model.
    """

    called_last = True

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        if not os.fspath(backup_dir):
            raise InvalidArgumentError(f"backup_dir must be a folder. Received: {backup_dir!r}")
        self.backup_dir = Path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = bool(delete_checkpoint)
        self._frequency = SaveFrequency(save_freq)
        self._due = False
        self._epoch = 0
        self._epochs_done = 0
        self._batches_done = 0
        self._shuffle: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        """The file that holds the backup."""
        return self.backup_dir / _FILE

    def on_train_begin(self, logs: Logs) -> None:
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        for part in self.backup_dir.glob(f".{self.path.stem}.*.tmp{self.path.suffix}"):
            part.unlink(missing_ok=True)  # of a run that was killed while it saved
        self._due = False
        self._epochs_done = 0
        if self.path.exists():
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._epoch = epoch
        self._batches_done = 0
        self._shuffle = self._shuffle_state()

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        # A save that is due waits until it is known that the epoch has a further batch.
        if self._due:
            self._save(self._epoch, batch)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self._due = self._frequency.due_after_batch() or self._due
        self._batches_done = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._epochs_done = epoch + 1
        self._batches_done = 0
        if self._due or self._frequency.every_epoch:
            self._shuffle = self._shuffle_state()
            self._save(epoch + 1, 0)

    def on_train_end(self, logs: Logs) -> None:
        interrupted = any(isinstance(c, StopOnInterrupt) and c.interrupted for c in self.peers)
        if interrupted and self._batches_done:  # in mid-epoch, between two batches
            self._save(self._epoch, self._batches_done)
        stopped = self.model.stop_training and not interrupted
        complete = stopped or self._epochs_done >= self.params["epochs"]
        if complete and self.delete_checkpoint:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # it stays if it holds other files
                self.backup_dir.rmdir()

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._frequency.batches}

    def set_state(self, state: Any) -> None:
        self._frequency.batches = state["batches"]

    def progress(self, epoch: int, batch: int) -> dict[str, Any]:
        """Return what is saved beside the model, for a run that has come to this batch."""
        return {
            "epoch": epoch,
            "batch": batch,
            "shuffle": self._shuffle,
            "learning_rate": rate_of(self),
            "callbacks": {name: callback.get_state() for name, callback in self._named_peers()},
        }

    def _save(self, epoch: int, batch: int) -> None:
        self._due = False
        self.model.save(self.path, progress=self.progress(epoch, batch))

    def _restore(self) -> None:
        try:
            progress = self.model.restore(self.path)
        except FileFormatError as error:
            raise FileFormatError(
                f"the run cannot go on from its backup; delete {self.backup_dir} to start anew. "
                f"{error}"
            ) from error
        if "epoch" not in progress:
            raise FileFormatError(
                f"expected a backup of a run, found a model without one. Received: {self.path}"
            )
        if self.model.shuffle_stream is not None and progress["shuffle"] is not None:
            self.model.shuffle_stream.state = tuple(progress["shuffle"])
        with suppress(InvalidArgumentError):  # a schedule finds the rate from the steps taken
            set_rate(self, progress["learning_rate"])
        states = progress["callbacks"]
        for name, callback in self._named_peers():
            if name in states:
                callback.set_state(states[name])
        self._epochs_done = progress["epoch"]
        self.model.resume_at = (progress["epoch"], progress["batch"])

    def _shuffle_state(self) -> tuple[int, int] | None:
        stream = self.model.shuffle_stream
        return None if stream is None else stream.state

    def _named_peers(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks of the run by class name, numbered where there are several."""
        counts: Counter[str] = Counter()
        for callback in self.peers:
            name = type(callback).__name__
            counts[name] += 1
            yield (f"{name}_{counts[name]}" if counts[name] > 1 else name), callback
