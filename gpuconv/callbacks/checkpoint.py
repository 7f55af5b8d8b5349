"""Saves the model while it is in training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from gpuconv.callbacks.base import Logs
from gpuconv.callbacks.frequency import SaveFrequency
from gpuconv.callbacks.monitor import MonitorCallback, as_number
from gpuconv.errors import InvalidArgumentError, suggestion


class ModelCheckpoint(MonitorCallback):
    """Saves the model after every epoch, or whenever a monitored number is better, as in Keras.

    Files are complete or not there at all; their folders are created. ``gpuconv.load_model``
    reads them.

    Args:
        filepath: the file, by custom ``*.safetensors``. Fields such as in
            ``"{epoch:02d}-{val_loss:.2f}.safetensors"`` are filled in: ``epoch`` from 1,
            ``batch`` from 1 (with a number as ``save_freq``), and the names in the logs.
        monitor, mode: which number ``save_best_only`` looks at, and what counts as better; see
            :class:`~gpuconv.callbacks.monitor.MonitorCallback`.
        save_best_only: whether to save only when the monitored number is the best so far.
        save_weights_only: whether to leave out the optimizer and its state, loss and metrics.
        save_freq: ``"epoch"``, or a number of batches after which to save, counted across
            epochs. The logs are then the means of the epoch so far.
        initial_value_threshold: the value that the first save with ``save_best_only`` must
            improve on.
        verbose: 1 prints each file's name.

    Attributes:
        best: the best value so far, or None.

    Raises:
        InvalidArgumentError: an impossible value; while saving: ``filepath`` has a field that
            does not exist.
        IsADirectoryError: while saving: the file is a folder.
    """

    purpose = "saves nothing"

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        *,
        initial_value_threshold: float | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = os.fspath(filepath)
        _check_template(self.filepath)
        for name, value in (
            ("save_best_only", save_best_only),
            ("save_weights_only", save_weights_only),
        ):
            if not isinstance(value, bool):  # Keras's third argument is verbose, a number
                raise InvalidArgumentError(f"{name} must be True or False. Received: {value!r}")
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.verbose = verbose
        self.best = (
            None
            if initial_value_threshold is None
            else as_number(initial_value_threshold, "initial_value_threshold")
        )
        self._frequency = SaveFrequency(save_freq)
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if self._frequency.due_after_batch():
            self._save(_Fields(logs, {"epoch": self._epoch + 1, "batch": batch + 1}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        if self._frequency.every_epoch:
            self._save(_Fields(logs, {"epoch": epoch + 1}))

    def _save(self, fields: _Fields) -> None:
        if self.save_best_only:
            value = self.current(fields.logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        path = Path(_fill(self.filepath, fields))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.model.save(path, include_optimizer=not self.save_weights_only)
        if self.verbose:
            print(f"Epoch {fields['epoch']}: saved {path}")

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best, "batches": self._frequency.batches}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]
        self._frequency.batches = state["batches"]


class _Fields(Mapping[str, Any]):
    """What a file name may hold; a number of the logs is read only if it is looked up."""

    def __init__(self, logs: Logs, counts: Mapping[str, int]) -> None:
        self.logs = logs
        self._counts = counts

    def __getitem__(self, name: str) -> Any:
        return self._counts[name] if name in self._counts else self.logs[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._counts, *self.logs))

    def __len__(self) -> int:
        return len(self._counts) + len(self.logs)


def _check_template(template: str) -> None:
    """Check what can be checked of a file name before there are logs."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InvalidArgumentError(
            f"the fields of filepath must be written as {{epoch:02d}} ({error}). "
            f"Received: {template!r}"
        ) from error
    if not template or any(not name.isidentifier() for name in names):
        raise InvalidArgumentError(
            f"filepath must be a file name, in which fields have names, as {{epoch:02d}}. "
            f"Received: {template!r}"
        )


def _fill(template: str, fields: Mapping[str, Any]) -> str:
    try:
        return Formatter().vformat(template, (), fields)
    except KeyError as error:
        name = str(error.args[0])
        raise InvalidArgumentError(
            f"filepath has the field {name!r}; known are {', '.join(fields)}."
            f"{suggestion(name, fields)} Received: {template!r}"
        ) from error
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(
            f"a field of filepath cannot be written in its format ({error}). Received: {template!r}"
        ) from error
