"""EarlyStopping and ReduceLROnPlateau against sequences that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from callback_driver import FakeModel, drive

from gpuconv import metrics
from gpuconv.callbacks import EarlyStopping, History, ReduceLROnPlateau
from gpuconv.callbacks.base import LazyLogs
from gpuconv.errors import InvalidArgumentError
from gpuconv.optimizers.schedules import ExponentialDecay

NAN = math.nan


def epochs_run(stopping: EarlyStopping, values: list[float], name: str = "val_loss") -> int:
    history = History()
    drive([stopping, history], [{name: value} for value in values])
    return len(history.epoch)


# --- which direction is better --------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "higher"),
    [
        ("loss", False),
        ("val_loss", False),
        ("val_accuracy", True),
        ("acc", True),
        ("val_acc", True),
        ("val_top_5_acc_2", True),
        ("sparse_categorical_accuracy", True),
        ("auc", True),
        ("auc_1", True),
        ("val_precision", True),
        ("recall_2", True),
        ("mae", False),
        ("val_vaccine_error", False),
        ("accumulated", False),
    ],
)
def test_auto_mode_goes_by_the_name(monitor: str, higher: bool) -> None:
    stopping = EarlyStopping(monitor)
    stopping.model = FakeModel()  # type: ignore[assignment]
    assert stopping.improves(2.0, 1.0) is higher
    assert stopping.improves(1.0, 2.0) is not higher


def test_auto_mode_goes_by_the_metric_class() -> None:
    model = FakeModel()
    model.metrics = [metrics.Precision(name="hits"), metrics.MeanSquaredError(name="misses")]
    for monitor, higher in [("val_hits", True), ("hits", True), ("val_misses", False)]:
        stopping = EarlyStopping(monitor)
        stopping.model = model  # type: ignore[assignment]
        assert stopping.improves(2.0, 1.0) is higher


def test_a_mode_that_is_given_decides() -> None:
    assert epochs_run(EarlyStopping("accuracy", mode="min"), [0.5, 0.4, 0.3], "accuracy") == 3
    assert epochs_run(EarlyStopping("loss", mode="max"), [0.5, 0.4, 0.3], "loss") == 2


# --- EarlyStopping ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (0, [1.0, 0.9, 0.8, 0.8, 0.7], 4),  # equal is not better
        (0, [1.0, 2.0, 3.0], 2),
        (1, [1.0, 2.0, 3.0], 2),  # wait rises before it is compared: 1 is as 0
        (2, [1.0, 2.0, 3.0, 4.0], 3),
        (2, [1.0, 2.0, 0.9, 2.0, 2.0, 2.0], 5),
        (3, [1.0, 2.0, 3.0, 4.0, 5.0], 4),
        (2, [1.0, 2.0], 2),  # ends by itself
    ],
)
def test_patience(patience: int, values: list[float], epochs: int) -> None:
    assert epochs_run(EarlyStopping(patience=patience), values) == epochs


def test_the_stopped_epoch_counts_from_zero() -> None:
    stopping = EarlyStopping(patience=1)
    epochs_run(stopping, [1.0, 0.5, 0.7, 0.1])
    assert (stopping.stopped_epoch, stopping.best, stopping.best_epoch) == (2, 0.5, 1)


def test_never_stops_in_the_first_epoch() -> None:
    # With a baseline the first value may fail to count, but epoch 0 is never the last.
    assert epochs_run(EarlyStopping(baseline=0.0), [5.0, 6.0, 7.0]) == 2


def test_min_delta_must_be_exceeded_in_either_direction() -> None:
    # Differences of 0.25 are exact in binary: a change of exactly min_delta does not count.
    assert epochs_run(EarlyStopping(min_delta=0.25), [1.0, 0.5, 0.25, 0.0]) == 3
    assert epochs_run(EarlyStopping(min_delta=-0.25), [1.0, 0.5, 0.25, 0.0]) == 3
    rising = EarlyStopping("accuracy", min_delta=0.25)
    assert epochs_run(rising, [0.0, 0.5, 0.75, 1.5], "accuracy") == 3
    assert epochs_run(EarlyStopping(), [1.0, 0.5, 0.25, 0.0]) == 4


def test_small_steps_add_up_against_the_best() -> None:
    # Each step is within min_delta, two of them are not: the reference is the best, not the last.
    values = [1.0, 0.875, 0.75, 0.625, 0.5]
    assert epochs_run(EarlyStopping(min_delta=0.125, patience=2), values) == 5
    assert epochs_run(EarlyStopping(min_delta=0.5, patience=2), values) == 3


def test_baseline() -> None:
    # 0.9 and 0.8 are improvements, but not on the baseline: wait goes on rising.
    stopping = EarlyStopping(patience=2, baseline=0.5)
    assert epochs_run(stopping, [1.0, 0.9, 0.8, 0.85, 0.2]) == 4
    assert stopping.best == 0.8
    assert epochs_run(EarlyStopping(patience=2, baseline=0.5), [1.0, 0.4, 0.3, 0.9, 0.8]) == 5


def test_start_from_epoch() -> None:
    # Epochs 0 and 1 are not looked at: 9.0 becomes the first best one.
    stopping = EarlyStopping(patience=1, start_from_epoch=2)
    assert epochs_run(stopping, [1.0, 2.0, 9.0, 8.0, 8.5, 1.0]) == 5
    assert stopping.best == 8.0


def test_restores_the_best_weights_when_stopped() -> None:
    stopping = EarlyStopping(patience=2, restore_best_weights=True)
    model = drive(stopping, [{"val_loss": v} for v in [1.0, 0.5, 0.7, 0.6, 0.1]])
    assert model.weight[0] == 1.0
    kept = EarlyStopping(patience=2)
    assert drive(kept, [{"val_loss": v} for v in [1.0, 0.5, 0.7, 0.6, 0.1]]).weight[0] == 3.0
    assert kept.best_weights is None


def test_restores_the_best_weights_when_all_epochs_were_run() -> None:
    stopping = EarlyStopping(patience=9, restore_best_weights=True)
    assert drive(stopping, [{"val_loss": v} for v in [1.0, 0.5, 0.7]]).weight[0] == 1.0


def test_restores_the_best_of_epochs_that_miss_the_baseline() -> None:
    stopping = EarlyStopping(patience=3, baseline=0.1, restore_best_weights=True)
    model = drive(stopping, [{"val_loss": v} for v in [1.0, 0.5, 0.7, 0.6, 0.05]])
    assert model.weight[0] == 1.0


def test_nan_is_never_the_best() -> None:
    stopping = EarlyStopping(patience=2)
    assert epochs_run(stopping, [NAN, 1.0, NAN, NAN, 0.5]) == 4
    assert stopping.best == 1.0


def test_an_object_can_be_used_again() -> None:
    stopping = EarlyStopping(patience=1, restore_best_weights=True)
    drive(stopping, [{"val_loss": v} for v in [0.1, 0.2]])
    assert epochs_run(stopping, [3.0, 2.0, 1.0]) == 3
    assert stopping.best == 1.0


def test_says_what_it_does_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    drive(
        EarlyStopping(patience=1, restore_best_weights=True, verbose=1),
        [{"val_loss": v} for v in [0.5, 0.7, 0.1]],
    )
    assert capsys.readouterr().out == (
        "Epoch 2: stopped, val_loss no longer improves\n"
        "The weights are those after epoch 1, the best one\n"
    )


def test_a_missing_number_warns_with_those_that_are_there() -> None:
    stopping = EarlyStopping("val_accuracy")
    with pytest.warns(UserWarning, match=r"'val_accuracy'.*\(loss, accuracy\).*never stops early"):
        drive(stopping, [{"loss": 1.0, "accuracy": 0.5}])
    assert stopping.best is None


def test_state_goes_on() -> None:
    first = EarlyStopping(patience=3, restore_best_weights=True)
    drive(first, [{"val_loss": v} for v in [0.5, 0.7]])
    second = EarlyStopping(patience=3, restore_best_weights=True)
    second.set_state(first.get_state())
    assert (second.wait, second.best, second.best_epoch) == (1, 0.5, 0)
    assert second.best_weights is not None
    np.testing.assert_array_equal(second.best_weights[0], [0.0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": -1},
        {"patience": 1.5},
        {"mode": "up"},
        {"monitor": ""},
        {"monitor": 3},
        {"min_delta": "small"},
        {"min_delta": NAN},
        {"baseline": "low"},
        {"start_from_epoch": -1},
    ],
)
def test_early_stopping_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="Received: "):
        EarlyStopping(**arguments)


def test_only_single_numbers_can_be_watched() -> None:
    with pytest.raises(InvalidArgumentError, match=r"single number.*Received: confusion of shape"):
        drive(EarlyStopping("confusion"), [{"confusion": np.zeros((2, 2))}])


# --- ReduceLROnPlateau ------------------------------------------------------------------------


def rates(reducing: ReduceLROnPlateau, values: list[float], start: float = 1.0) -> list[float]:
    """The learning rate of each epoch, and that of the next."""
    history, model = History(), FakeModel(start)
    drive([reducing, history], [{"val_loss": value} for value in values], model)
    return [*history.history["learning_rate"], model.optimizer.learning_rate]


def test_reduces_after_patience_and_counts_anew() -> None:
    reducing = ReduceLROnPlateau(factor=0.5, patience=2)
    assert rates(reducing, [1, 2, 2, 2, 2, 2]) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_an_improvement_sets_the_count_back() -> None:
    reducing = ReduceLROnPlateau(factor=0.5, patience=2)
    assert rates(reducing, [1, 2, 0.5, 2, 2]) == [1, 1, 1, 1, 1, 0.5]


def test_patience_one_and_zero_are_the_same() -> None:
    for patience in (0, 1):
        reducing = ReduceLROnPlateau(factor=0.5, patience=patience)
        assert rates(reducing, [1, 1, 1]) == [1, 1, 0.5, 0.25]


def test_cooldown() -> None:
    # Reduced after epochs 1 and 4: in the cooldown of 2, epoch 2 is not counted, and epoch 3,
    # which ends it, counts as the first.
    reducing = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=2)
    assert rates(reducing, [1, 1, 1, 1, 1, 1]) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_min_delta_is_1e_4_by_default() -> None:
    reducing = ReduceLROnPlateau(factor=0.5, patience=1)
    assert rates(reducing, [1.0, 0.99995, 0.9]) == [1, 1, 0.5, 0.5]
    reducing = ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0)
    assert rates(reducing, [1.0, 0.99995, 0.9]) == [1, 1, 1, 1]


def test_min_lr_is_a_floor() -> None:
    reducing = ReduceLROnPlateau(factor=0.1, patience=1, min_lr=0.05)
    assert rates(reducing, [1, 1, 1, 1]) == [1, 1, 0.1, 0.05, 0.05]


def test_a_rate_below_the_floor_stays() -> None:
    reducing = ReduceLROnPlateau(factor=0.1, patience=1, min_lr=0.5)
    assert rates(reducing, [1, 1, 1], start=0.25) == [0.25, 0.25, 0.25, 0.25]


def test_reducing_says_so_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    rates(ReduceLROnPlateau(factor=0.5, patience=1, verbose=1), [1, 1])
    assert capsys.readouterr().out == "Epoch 2: learning rate 1 -> 0.5\n"


def test_reducing_goes_on_from_its_state() -> None:
    first = ReduceLROnPlateau(factor=0.5, patience=3, cooldown=4)
    rates(first, [1, 1, 1])
    assert first.get_state() == {"best": 1.0, "wait": 2, "cooldown_counter": 0}
    second = ReduceLROnPlateau(factor=0.5, patience=3, cooldown=4)
    second.set_state(first.get_state())
    assert second.get_state() == first.get_state()


def test_a_missing_number_leaves_the_rate() -> None:
    model = FakeModel(1.0)
    with pytest.warns(UserWarning, match="leaves the learning rate as it is"):
        drive(ReduceLROnPlateau(patience=0), [{"loss": 1.0}] * 3, model)
    assert model.optimizer.learning_rate == 1.0


def test_a_schedule_is_refused_before_the_first_epoch() -> None:
    model = FakeModel(ExponentialDecay(1.0, 10, 0.5))
    with pytest.raises(InvalidArgumentError, match=r"ReduceLROnPlateau needs .* Received: "):
        drive(ReduceLROnPlateau(), [{"val_loss": 1.0}], model)
    assert model.weight[0] == -1.0


@pytest.mark.parametrize(
    "arguments",
    [{"factor": 1.0}, {"factor": 2}, {"factor": -0.5}, {"patience": -1}, {"cooldown": -1},
     {"min_lr": -1.0}, {"mode": "best"}, {"min_delta": None}],
)  # fmt: skip
def test_reducing_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="Received: "):
        ReduceLROnPlateau(**arguments)


def test_batch_logs_are_read_only_where_looked_at() -> None:
    read: list[str] = []

    def reader(name: str) -> Any:
        def look_up() -> float:
            read.append(name)
            return 1.0

        return look_up

    stopping = EarlyStopping("loss")
    assert stopping.current(LazyLogs({"loss": reader("loss"), "costly": reader("costly")})) == 1.0
    assert read == ["loss"]
