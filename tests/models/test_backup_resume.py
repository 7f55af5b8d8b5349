"""A run that was interrupted and goes on gives what an uninterrupted one gives, bit for bit."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    StopOnInterrupt,
)
from gpuconv.callbacks.history import History
from gpuconv.errors import FileFormatError, InvalidArgumentError
from gpuconv.optimizers import SGD, Adam
from gpuconv.optimizers.schedules import ExponentialDecay


class Killed(Exception):
    """Stands for the end of the process."""


def data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 50)
    x = rng.normal(size=(50, 6, 6, 1)) + y[:, None, None, None]
    return x.astype("float32"), y


X, Y = data()


def network(seed: int, optimizer: Any = None) -> gc.Sequential:
    """A model with everything that keeps state: dropout, moving statistics, Adam."""
    gc.set_seed(seed)
    model = gc.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(6, 6, 1)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer or Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def fit(
    model: gc.Sequential, callbacks: list[Callback], epochs: int = 6, **options: Any
) -> History:
    arguments = {"validation_split": 0.2, "batch_size": 8, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **arguments)


def killing(epoch: int, batch: int) -> LambdaCallback:
    """End the run after this batch, both from 0."""
    reached = [0]

    def begin(number: int, logs: Any) -> None:
        reached[0] = number

    def end(number: int, logs: Any) -> None:
        if (reached[0], number) == (epoch, batch):
            raise Killed

    return LambdaCallback(on_epoch_begin=begin, on_train_batch_end=end)


def slots(model: gc.Sequential) -> dict[str, Any]:
    """The optimizer's state by names without that of the model."""
    assert model.optimizer is not None
    state = model.optimizer.state_dict(model.parameters)
    return {name.removeprefix(f"{model.name}/"): array for name, array in state.items()}


def assert_same_weights(ours: gc.Sequential, theirs: gc.Sequential) -> None:
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.optimizer is not None
    assert theirs.optimizer is not None
    assert ours.optimizer.iterations == theirs.optimizer.iterations
    assert ours.optimizer.learning_rate == theirs.optimizer.learning_rate
    states = [slots(model) for model in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_three_epochs_and_three_are_six(tmp_path: Path) -> None:
    whole = network(1)
    history = fit(whole, [])
    with pytest.raises(Killed):
        fit(network(1), [BackupAndRestore(tmp_path), killing(3, 2)])
    going_on = network(99)  # other initial weights and random streams, which the backup replaces
    resumed = fit(going_on, [BackupAndRestore(tmp_path)])
    assert_same_weights(going_on, whole)
    assert resumed.history == history.history
    assert resumed.epoch == history.epoch == [0, 1, 2, 3, 4, 5]
    assert len(resumed.history["val_accuracy"]) == 6


def test_other_callbacks_go_on_too(tmp_path: Path) -> None:
    # The rate falls after epochs 3, 6 and 8; epoch 4 is the best one, and 8 the last.
    told = [1.0, 0.9, 0.95, 0.96, 0.5, 0.6, 0.7, 0.8, 0.9, 0.1]

    def callbacks(name: str) -> list[Callback]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return [
            # First in the list, but called last: it must see what the others did.
            BackupAndRestore(folder / "backup"),
            LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(told=told[epoch])),
            ReduceLROnPlateau("told", factor=0.5, patience=2, cooldown=1),
            EarlyStopping("told", patience=4, restore_best_weights=True),
            CSVLogger(folder / "log.csv"),
            ModelCheckpoint(folder / "{epoch}.st", "told", save_best_only=True),
        ]

    def compiled(seed: int) -> gc.Sequential:
        return network(seed, SGD(0.1, momentum=0.9))

    whole = compiled(2)
    history = fit(whole, callbacks("whole"), 10)
    for epoch in (3, 6, 8):
        with pytest.raises(Killed):
            fit(compiled(2), [*callbacks("parts"), killing(epoch, 1)], 10)
    going_on = compiled(98)
    resumed = fit(going_on, callbacks("parts"), 10)
    assert_same_weights(going_on, whole)
    assert resumed.history == history.history
    rates = [0.1] * 4 + [0.05] * 3 + [0.025] * 2
    np.testing.assert_allclose(history.history["learning_rate"], rates, rtol=1e-12)
    for name in ("whole", "parts"):
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        assert files == ["1.st", "2.st", "5.st", "log.csv"]
    tables = [(tmp_path / name / "log.csv").read_bytes() for name in ("whole", "parts")]
    assert tables[0] == tables[1]
    best = gc.load_model(tmp_path / "parts" / "5.st")
    for ours, theirs in zip(best.get_weights(), going_on.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("killed", "saved"), [((1, 1), (1, 1)), ((1, 3), (1, 3)), ((2, 0), (2, 0)), ((2, 4), (2, 4))]
)
def test_within_an_epoch(tmp_path: Path, killed: tuple[int, int], saved: tuple[int, int]) -> None:
    # 5 batches an epoch; saved is the number of whole epochs, and of batches done in the next.
    def callbacks() -> list[Callback]:
        halving = LearningRateScheduler(lambda epoch, rate: rate * 0.75 if epoch else rate)
        return [BackupAndRestore(tmp_path, save_freq=2), halving]

    whole = network(3)
    history = fit(whole, [LearningRateScheduler(lambda e, rate: rate * 0.75 if e else rate)], 4)
    with pytest.raises(Killed):
        fit(network(3), [*callbacks(), killing(*killed)], 4)
    progress = network(97).restore(tmp_path / "backup.safetensors")
    assert (progress["epoch"], progress["batch"]) == saved
    going_on = network(97)
    resumed = fit(going_on, callbacks(), 4)
    assert_same_weights(going_on, whole)
    for name in ("val_loss", "val_accuracy", "learning_rate"):
        assert resumed.history[name] == history.history[name]
    assert resumed.history["loss"][-1] == history.history["loss"][-1]


def test_a_backup_that_is_due_after_the_last_batch_is_of_the_next_epoch(tmp_path: Path) -> None:
    # 5 batches an epoch: a save after 5 coincides with its end, and none of its batches is left.
    with pytest.raises(Killed):
        fit(network(4), [BackupAndRestore(tmp_path, save_freq=5), killing(1, 1)], 2)
    model = network(4)
    progress = model.restore(tmp_path / "backup.safetensors")
    assert (progress["epoch"], progress["batch"]) == (1, 0)
    history = fit(model, [BackupAndRestore(tmp_path, save_freq=5)], 2)
    assert history.epoch == [0, 1]


def test_without_shuffling_and_from_an_iterable(tmp_path: Path) -> None:
    batches = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 50, 10)]
    arguments: dict[str, Any] = {"epochs": 3, "verbose": 0}
    whole = network(5)
    whole.fit(batches, **arguments)
    backup = BackupAndRestore(tmp_path, save_freq=3)
    with pytest.raises(Killed):
        network(5).fit(batches, callbacks=[backup, killing(1, 4)], **arguments)
    going_on = network(96)
    going_on.fit(batches, callbacks=BackupAndRestore(tmp_path, save_freq=3), **arguments)
    assert_same_weights(going_on, whole)


def test_a_learning_rate_schedule_goes_on(tmp_path: Path) -> None:
    schedule = ExponentialDecay(0.05, 5, 0.5)
    whole = network(6, Adam(schedule))
    fit(whole, [], 4)
    with pytest.raises(Killed):
        fit(network(6, Adam(schedule)), [BackupAndRestore(tmp_path), killing(2, 0)], 4)
    going_on = network(95, Adam(schedule))
    fit(going_on, [BackupAndRestore(tmp_path)], 4)
    assert_same_weights(going_on, whole)


def test_a_history_with_nan_is_kept(tmp_path: Path) -> None:
    def spoil(epoch: int, logs: dict[str, Any]) -> None:
        logs["odd"] = math.nan if epoch else np.arange(3.0)

    spoiling = LambdaCallback(on_epoch_end=spoil)
    with pytest.raises(Killed):
        fit(network(7), [spoiling, BackupAndRestore(tmp_path), killing(2, 0)], 3)
    history = fit(network(7), [BackupAndRestore(tmp_path), spoiling], 3).history
    np.testing.assert_array_equal(history["odd"][0], [0.0, 1.0, 2.0])
    assert math.isnan(history["odd"][1])


def test_a_complete_run_deletes_its_backup(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    fit(network(8), [BackupAndRestore(folder)], 2)
    assert not folder.exists()
    fit(network(8), [BackupAndRestore(folder), EarlyStopping("loss", baseline=-1.0)], 9)
    assert not folder.exists()


def test_the_backup_can_be_kept_and_other_files_are(tmp_path: Path) -> None:
    fit(network(8), [BackupAndRestore(tmp_path, delete_checkpoint=False)], 2)
    assert (tmp_path / "backup.safetensors").exists()
    # All epochs are done: nothing is left to do, but the history is there.
    model = network(8)
    history = fit(model, [BackupAndRestore(tmp_path, delete_checkpoint=False)], 2)
    assert history.epoch == [0, 1]
    (tmp_path / "notes.txt").write_text("mine")
    history = fit(model, [BackupAndRestore(tmp_path)], 3)
    assert history.epoch == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_ctrl_c_keeps_the_backup(tmp_path: Path) -> None:
    whole = network(9)
    history = fit(whole, [], 4)
    press = LambdaCallback(on_train_batch_end=lambda batch, logs: press_in(1, 2, batch))
    stop, epochs = StopOnInterrupt(), History()

    def press_in(epoch: int, at: int, batch: int) -> None:
        if (len(epochs.epoch), batch) == (epoch, at):
            signal.raise_signal(signal.SIGINT)

    fit(network(9), [BackupAndRestore(tmp_path), stop, epochs, press], 4)
    assert stop.interrupted
    assert epochs.epoch == [0]
    going_on = network(94)
    resumed = fit(going_on, [BackupAndRestore(tmp_path)], 4)
    assert_same_weights(going_on, whole)
    assert resumed.epoch == history.epoch
    for name, values in history.history.items():
        for epoch in (0, 2, 3):  # the means of epoch 1 are those of the batches after Ctrl-C
            assert resumed.history[name][epoch] == values[epoch]


def test_a_backup_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(network(10), [BackupAndRestore(tmp_path, delete_checkpoint=False)], 1)
    other = gc.Sequential([layers.Flatten(input_shape=(6, 6, 1)), layers.Dense(3)])
    other.compile("sgd", "mse")
    before = other.get_weights()
    with pytest.raises(FileFormatError, match=r"delete .* to start anew.*Received: "):
        other.fit(X, np.zeros((50, 3)), callbacks=BackupAndRestore(tmp_path), verbose=0)
    for ours, theirs in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (tmp_path / "backup.safetensors").exists()


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backup.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(FileFormatError, match=r"delete .* to start anew"):
        fit(network(10), [BackupAndRestore(tmp_path)], 1)


def test_a_saved_model_is_no_backup(tmp_path: Path) -> None:
    model = network(10)
    model.save(tmp_path / "backup.safetensors")
    with pytest.raises(FileFormatError, match="expected a backup of a run"):
        fit(model, [BackupAndRestore(tmp_path)], 1)


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="save_freq must be"):
        BackupAndRestore(tmp_path, save_freq="batch")
    with pytest.raises(InvalidArgumentError, match="backup_dir must be"):
        BackupAndRestore("")


def test_a_checkpoint_of_weights_only_can_be_restored(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    model = network(11)
    fit(model, [ModelCheckpoint(path, save_weights_only=True)], 1)
    other = network(93)
    other.restore(path)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert other.optimizer is not None
    assert other.optimizer.iterations == 0
    assert gc.load_model(path).optimizer is None
