"""ModelCheckpoint and CSVLogger: which files there are, and what they hold."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callback_driver import FakeModel, drive

from gpuconv.callbacks import CSVLogger, ModelCheckpoint
from gpuconv.callbacks.base import LazyLogs
from gpuconv.errors import InvalidArgumentError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


LOSSES = [{"loss": 0.5, "val_loss": v} for v in [1.0, 0.75, 0.9, 0.25, 0.25]]

# --- ModelCheckpoint --------------------------------------------------------------------------


def test_file_names_hold_the_epoch_from_one_and_the_logs(tmp_path: Path) -> None:
    drive(ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}.st"), LOSSES[:3])
    assert names(tmp_path) == ["01-1.00.st", "02-0.75.st", "03-0.90.st"]
    assert (tmp_path / "02-0.75.st").read_text() == "1.0"  # the weights after epoch 1, from 0


def test_one_name_keeps_the_last(tmp_path: Path) -> None:
    drive(ModelCheckpoint(str(tmp_path / "model.st")), LOSSES[:3])
    assert names(tmp_path) == ["model.st"]
    assert (tmp_path / "model.st").read_text() == "2.0"


def test_save_best_only(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.st", save_best_only=True)
    drive(checkpoint, LOSSES)
    assert names(tmp_path) == ["1.st", "2.st", "4.st"]  # an equal value is not better
    assert checkpoint.best == 0.25


def test_save_best_only_of_an_accuracy(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.st", "val_accuracy", save_best_only=True)
    drive(checkpoint, [{"val_accuracy": v} for v in [0.5, 0.4, 0.6]])
    assert names(tmp_path) == ["1.st", "3.st"]


def test_the_first_save_may_have_a_threshold(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}.st", save_best_only=True, initial_value_threshold=0.8
    )
    drive(checkpoint, LOSSES)
    assert names(tmp_path) == ["2.st", "4.st"]


def test_best_only_without_its_number_warns_and_saves_nothing(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'val_loss'.*\(loss\).*saves nothing"):
        drive(ModelCheckpoint(tmp_path / "a.st", save_best_only=True), [{"loss": 1.0}])
    assert names(tmp_path) == []


def test_weights_only_leaves_out_the_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "a.st"
    assert drive(ModelCheckpoint(path), LOSSES[:1]).saved == [(str(path), True)]
    model = drive(ModelCheckpoint(path, save_weights_only=True), LOSSES[:1])
    assert model.saved == [(str(path), False)]


def test_a_number_of_batches_counts_across_epochs(tmp_path: Path) -> None:
    # 3 epochs of 5 batches, every 4th one: the 4th of epoch 1, 3rd of epoch 2, 2nd of epoch 3.
    drive(ModelCheckpoint(tmp_path / "{epoch}-{batch}.st", save_freq=4), LOSSES[:3], steps=5)
    assert names(tmp_path) == ["1-4.st", "2-3.st", "3-2.st"]


def test_a_number_of_batches_with_best_only(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}.st", "val_loss", save_best_only=True, save_freq=3
    )
    drive(checkpoint, LOSSES, steps=3)
    assert names(tmp_path) == ["1.st", "2.st", "4.st"]


def test_folders_are_created(tmp_path: Path) -> None:
    drive(ModelCheckpoint(tmp_path / "runs" / "{epoch}" / "model.st"), LOSSES[:2])
    assert names(tmp_path / "runs") == ["1", "2"]


def test_only_the_numbers_in_the_name_are_read(tmp_path: Path) -> None:
    def costly() -> float:
        raise AssertionError("read")

    checkpoint = ModelCheckpoint(tmp_path / "{loss:.1f}.st", save_freq=1)
    checkpoint.model = FakeModel()  # type: ignore[assignment]
    checkpoint.on_train_batch_end(0, LazyLogs({"loss": lambda: 0.5, "costly": costly}))
    assert names(tmp_path) == ["0.5.st"]


def test_an_unknown_field_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgumentError,
        match=r"field 'val_los'; known are epoch, loss, val_loss\. Did you mean 'val_loss'\? "
        r"Received: '.*\{val_los:.2f\}'",
    ):
        drive(ModelCheckpoint(str(tmp_path / "{val_los:.2f}")), LOSSES[:1])
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "template", ["", "{epoch", "epoch}", "{}", "{0}", "{epoch.real}", "{logs[loss]}", "{a b}"]
)
def test_a_malformed_name_is_refused_at_once(template: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"filepath .*Received: "):
        ModelCheckpoint(template)


def test_a_format_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be written in its format"):
        drive(ModelCheckpoint(tmp_path / "{loss:d}"), LOSSES[:1])


@pytest.mark.parametrize("save_freq", ["batch", 0, -3, 2.5, True, None])
def test_save_freq_is_checked(save_freq: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"save_freq must be .*Received: "):
        ModelCheckpoint("a", save_freq=save_freq)


def test_a_checkpoint_goes_on_from_its_state(tmp_path: Path) -> None:
    first = ModelCheckpoint(tmp_path / "{epoch}-{batch}.st", save_freq=4, save_best_only=True)
    drive(first, LOSSES[:2])
    assert first.get_state() == {"best": 0.75, "batches": 2}
    second = ModelCheckpoint(tmp_path / "{epoch}-{batch}.st", save_freq=4, save_best_only=True)
    second.set_state(first.get_state())
    drive(second, LOSSES[2:4], initial_epoch=2)
    assert names(tmp_path) == ["2-1.st", "4-3.st"]  # the second is the 12th batch
    assert second.best == 0.25


# --- CSVLogger --------------------------------------------------------------------------------


def test_epoch_from_zero_then_the_logs_sorted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    logs = [
        {"loss": 0.1, "accuracy": np.float64(0.5), "val_loss": 1e-7},
        {"loss": 1 / 3, "accuracy": 1.0, "val_loss": float("nan")},
    ]
    drive(CSVLogger(path), logs)
    assert path.read_bytes() == (
        b"epoch,accuracy,loss,val_loss\n0,0.5,0.1,1e-07\n1,1.0,0.3333333333333333,nan\n"
    )


def test_another_separator(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    drive(CSVLogger(str(path), separator=";"), [{"loss": 0.5}])
    assert path.read_text() == "epoch;loss\n0;0.5\n"


def test_a_file_is_replaced_unless_appending(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("old\n")
    drive(CSVLogger(path), [{"loss": 0.5}])
    drive(CSVLogger(path, append=True), [{"loss": 0.25}], initial_epoch=1)
    assert path.read_text() == "epoch,loss\n0,0.5\n1,0.25\n"


def test_appending_to_nothing_and_to_an_empty_file(tmp_path: Path) -> None:
    for name in ("new.csv", "empty.csv"):
        path = tmp_path / name
        if name == "empty.csv":
            path.touch()
        drive(CSVLogger(path, append=True), [{"loss": 0.5}])
        assert path.read_text() == "epoch,loss\n0,0.5\n"


def test_appending_keeps_the_columns_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,accuracy\n0,0.5,0.1")  # its last line has no end
    drive(CSVLogger(path, append=True), [{"accuracy": 0.2, "loss": 0.4}], initial_epoch=1)
    assert path.read_text() == "epoch,loss,accuracy\n0,0.5,0.1\n1,0.4,0.2\n"


def test_what_a_row_lacks_is_na_and_late_names_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    drive(
        CSVLogger(path),
        [{"loss": 4.0}, {"loss": 3.0, "val_loss": 5.0}, {"loss": 2.0}],
    )
    assert path.read_text() == "epoch,loss,val_loss\n0,4.0,NA\n1,3.0,5.0\n2,2.0,NA\n"


def test_arrays_and_odd_names_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    drive(CSVLogger(path), [{"a,b": 1.0, "counts": np.array([[1, 2], [3, 4]])}])
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["epoch", "a,b", "counts"],
            ["0", "1.0", "[[1, 2], [3, 4]]"],
        ]


def test_each_row_is_there_when_its_epoch_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    logger = CSVLogger(path)
    logger.on_train_begin({})
    for epoch in range(3):
        logger.on_epoch_begin(epoch, {})
        logger.on_epoch_end(epoch, {"loss": 0.5})
        assert path.read_text().count("\n") == epoch + 2


def test_a_run_that_goes_on_repeats_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    first = CSVLogger(path)
    drive(first, [{"loss": 3.0}, {"loss": 2.0}])
    state = first.get_state()
    # The first run got one epoch further than its backup before it was killed.
    drive(CSVLogger(path, append=True), [{"loss": 9.0}], initial_epoch=2)
    second = CSVLogger(path)
    second.on_train_begin({})
    second.set_state(state)
    second.on_epoch_begin(2, {})
    second.on_epoch_end(2, {"loss": 1.0})
    assert path.read_text() == "epoch,loss\n0,3.0\n1,2.0\n2,1.0\n"


def test_a_bad_path_is_refused_before_the_first_epoch(tmp_path: Path) -> None:
    for path, error in [
        (tmp_path / "none" / "log.csv", FileNotFoundError),
        (tmp_path, IsADirectoryError),
    ]:
        model = FakeModel()
        with pytest.raises(error, match="Received: "):
            drive(CSVLogger(path), [{"loss": 1.0}], model)
        assert model.weight[0] == -1.0


@pytest.mark.parametrize("separator", ["", ", ", '"', "\n", None])
def test_separators_are_checked(separator: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="separator must be one character"):
        CSVLogger("log.csv", separator=separator)


def test_a_killed_process_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    program = textwrap.dedent(
        """
        import itertools, sys
        from gpuconv.callbacks import CSVLogger
        logger = CSVLogger(sys.argv[1])
        logger.on_train_begin({})
        for epoch in itertools.count():
            logger.on_epoch_begin(epoch, {})
            logger.on_epoch_end(epoch, {f"metric_{i}": epoch / 3 for i in range(40)})
            if epoch == 50:
                print("ready", flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait(timeout=30)
    process.stdout.close()
    content = path.read_text()
    assert content.endswith("\n")
    lengths = {len(line.split(",")) for line in content.splitlines()}
    assert lengths == {41}
