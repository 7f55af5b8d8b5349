"""What is shown during a run, as text: plain lines, and a bar at several widths."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import numpy as np
import pytest
from callback_driver import FakeModel

from gpuconv.callbacks import Callback, ProgressBar, ProgressLines, progress, progress_bar
from gpuconv.callbacks.base import CallbackList, LazyLogs
from gpuconv.callbacks.progress import number, progress_callback, seconds
from gpuconv.callbacks.progress_bar import BarLine, broken_line
from gpuconv.errors import InvalidArgumentError

Console = pytest.importorskip("rich.console").Console

LOGS = {"loss": 0.123456, "accuracy": 0.98765}
VALIDATED = {**LOGS, "val_loss": 0.25, "val_accuracy": 0.875}


class Clock:
    """Stands in for time.perf_counter; every reading is ``step`` later."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(0.0)
    monkeypatch.setattr(progress.time, "perf_counter", made)
    return made


class Output(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def begin(callback: Callback, steps: int | None = 3, epochs: int = 2) -> CallbackList:
    params = {"epochs": epochs, "steps": steps}
    return CallbackList([callback], FakeModel(), params)  # type: ignore[arg-type]


def epoch(listeners: CallbackList, steps: int = 3, number: int = 0, validate: bool = True) -> None:
    listeners.call("on_epoch_begin", number, {})
    for batch in range(steps):
        listeners.call("on_train_batch_begin", batch, {})
        listeners.call("on_train_batch_end", batch, LOGS)
    if validate:
        listeners.call("on_test_begin", {})
        listeners.call("on_test_batch_end", 0, LOGS)
        listeners.call("on_test_end", LOGS)
    listeners.call("on_epoch_end", number, VALIDATED if validate else LOGS)


def text_of(output: str) -> str:
    """Without the codes that move the cursor and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)


# --- which one --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["fit", "evaluate", "predict"])
def test_a_number_chooses(what: str) -> None:
    assert progress_callback(0, what) == []
    assert progress_callback(False, what) == []
    assert [type(c) for c in progress_callback(1, what)] == [ProgressBar]
    assert [type(c) for c in progress_callback(True, what)] == [ProgressBar]
    assert [type(c) for c in progress_callback(np.int64(2), what)] == [ProgressLines]


@pytest.mark.parametrize(
    ("what", "piped"), [("fit", [ProgressLines]), ("evaluate", [ProgressLines]), ("predict", [])]
)
def test_auto_goes_by_the_terminal(
    what: str, piped: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Output(terminal=True))
    assert [type(c) for c in progress_callback("auto", what)] == [ProgressBar]
    monkeypatch.setattr(sys, "stdout", Output(terminal=False))
    assert [type(c) for c in progress_callback("auto", what)] == piped


@pytest.mark.parametrize("verbose", [3, -1, "1", "Auto", None, 1.0, [1], "loud"])
def test_other_values_are_refused(verbose: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"verbose must be .*Received: "):
        progress_callback(verbose, "fit")


# --- plain lines ------------------------------------------------------------------------------


def test_one_line_an_epoch(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    clock.step = 0.6
    listeners = begin(ProgressLines("fit"))
    listeners.call("on_train_begin", {})
    epoch(listeners)
    epoch(listeners, number=1, validate=False)
    listeners.finish("on_train_end", LOGS)
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1/2 - 0.6s - 3 steps - loss: 0.1235 - accuracy: 0.9877 - val_loss: 0.2500"
        " - val_accuracy: 0.8750",
        "Epoch 2/2 - 0.6s - 3 steps - loss: 0.1235 - accuracy: 0.9877",
    ]


def test_a_line_for_an_epoch_that_was_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    for steps, words in [(45, "1 of 45 steps"), (None, "1 step")]:
        listeners = begin(ProgressLines("fit"), steps)
        listeners.call("on_train_begin", {})
        listeners.call("on_epoch_begin", 1, {})
        listeners.call("on_train_batch_end", 0, LOGS)
        listeners.finish("on_train_end", {})
        assert capsys.readouterr().out == f"Epoch 2/2 - 0.0s - cut short after {words}\n"


def test_one_line_for_evaluate_and_predict(capsys: pytest.CaptureFixture[str]) -> None:
    listeners = begin(ProgressLines("evaluate"), 1)
    listeners.call("on_test_begin", {})
    listeners.call("on_test_batch_end", 0, LOGS)
    listeners.finish("on_test_end", LOGS)
    listeners = begin(ProgressLines("predict"), 1)
    listeners.call("on_predict_begin", {})
    listeners.call("on_predict_batch_end", 0, {})
    listeners.finish("on_predict_end", {})
    assert capsys.readouterr().out.splitlines() == [
        "Evaluate - 0.0s - 1 step - loss: 0.1235 - accuracy: 0.9877",
        "Predict - 0.0s - 1 step",
    ]


def test_evaluate_and_predict_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    listeners = begin(ProgressLines("evaluate"), 3)
    listeners.call("on_test_begin", {})
    listeners.call("on_test_batch_end", 0, LOGS)
    listeners.finish("on_test_end", {})
    listeners = begin(ProgressLines("predict"), 3)
    listeners.call("on_predict_begin", {})
    listeners.finish("on_predict_end", {})
    assert capsys.readouterr().out.splitlines() == [
        "Evaluate - 0.0s - cut short after 1 of 3 steps",
        "Predict - 0.0s - cut short after 0 of 3 steps",
    ]


def test_arrays_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listeners = begin(ProgressLines("fit"))
    listeners.call("on_epoch_begin", 0, {})
    listeners.call("on_epoch_end", 0, {"loss": 1.0, "confusion": np.eye(2), "f": np.float32(2)})
    assert capsys.readouterr().out == "Epoch 1/2 - 0.0s - 0 steps - loss: 1.0000 - f: 2.0000\n"


def test_how_numbers_are_written() -> None:
    values = [0.0, 1.0, 0.00123, 0.000999, -0.5, 123456.0, 2e6, float("nan"), float("inf"), 1e-9]
    assert [number(value) for value in values] == [
        "0.0000", "1.0000", "0.0012", "9.9900e-04", "-0.5000", "123456.0000", "2.0000e+06",
        "nan", "inf", "1.0000e-09",
    ]  # fmt: skip


def test_how_durations_are_written() -> None:
    values = [0.04, 1.25, 59.94, 59.96, 61.0, 754.6, 3599.6, 7620.0, 360000.0]
    assert [seconds(value) for value in values] == [
        "0.0s", "1.2s", "59.9s", "1m 00s", "1m 01s", "12m 35s", "1h 00m", "2h 07m", "100h 00m",
    ]  # fmt: skip


# --- the bar ----------------------------------------------------------------------------------


def drawn(line: BarLine, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    return ["".join(s.text for s in row) for row in console.render_lines(line, pad=False)]


def test_the_line_at_width_100() -> None:
    line = BarLine("Epoch 3/10", 45)
    line.steps, line.items = 15, ["loss: 0.1234", "accuracy: 0.9876"]
    (row,) = drawn(line, 100)
    assert row == f"Epoch 3/10 {'━' * 10}{' ' * 20} 15/45 - loss: 0.1234 - accuracy: 0.9876"


def test_the_bar_shrinks_and_the_last_metrics_give_way() -> None:
    line = BarLine("Epoch 3/10", 45)
    line.steps, line.items = 45, ["loss: 0.1234", "accuracy: 0.9876"]
    wide, narrow = "loss: 0.1234 - accuracy: 0.9876", "loss: 0.1234"
    assert drawn(line, 81) == [f"Epoch 3/10 {'━' * 30} 45/45 - {wide}"]
    assert drawn(line, 60) == [f"Epoch 3/10 {'━' * 9} 45/45 - {wide}"]
    assert drawn(line, 59) == [f"Epoch 3/10 {'━' * 8} 45/45 - {wide}"]
    assert drawn(line, 58) == [f"Epoch 3/10 {'━' * 26} 45/45 - {narrow}"]
    assert drawn(line, 45) == [f"Epoch 3/10 {'━' * 13} 45/45 - loss: 0.1234"]
    assert drawn(line, 30) == [f"Epoch 3/10 {'━' * 13} 45/45"]
    assert drawn(line, 20) == ["Epoch 3/10 45/45"]
    assert drawn(line, 12) == ["Epoch 3/10 …"]
    line.steps = 9
    assert drawn(line, 30) == [f"Epoch 3/10 {'━' * 2}╸{' ' * 10}  9/45"]


@pytest.mark.parametrize("total", [None, 7, 100_000])
@pytest.mark.parametrize("items", [[], ["loss: 0.1234"], ["损失: 0.1234"] * 9])
def test_one_line_at_every_width(total: int | None, items: list[str]) -> None:
    from rich.cells import cell_len

    line = BarLine("Epoch 10/100", total)
    line.steps, line.items = 5, items
    for width in range(10, 140):
        rows = drawn(line, width)
        assert len(rows) == 1
        assert cell_len(rows[0]) <= width


def test_an_unknown_number_of_steps() -> None:
    line = BarLine("Epoch 1/1")
    line.steps, line.items = 12, ["loss: 0.5000"]
    (row,) = drawn(line, 80)
    assert row.startswith("Epoch 1/1 ")
    assert row.endswith(" 12 steps - loss: 0.5000")
    assert "/" not in row[10:]


@pytest.mark.parametrize("width", [60, 100])
def test_a_whole_run_with_the_bar(width: int, clock: Clock) -> None:
    from rich.cells import cell_len

    clock.step = 0.2
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True)
    listeners = begin(ProgressBar("fit", console))
    listeners.call("on_train_begin", {})
    epoch(listeners)
    epoch(listeners, number=1)
    listeners.finish("on_train_end", VALIDATED)
    raw = out.getvalue()
    assert raw.count("\x1b[?25l") == raw.count("\x1b[?25h") == 2  # the cursor is back
    rows = [row for row in re.split(r"[\r\n]", text_of(raw)) if row]
    assert all(cell_len(row) <= width for row in rows)
    bars = [row for row in rows if "━" in row or "╸" in row]
    assert any("Epoch 1/2" in row and "2/3 - loss: 0.1235" in row for row in bars)
    assert any("validating, step 1" in row for row in bars)
    permanent = [row for row in rows if row not in bars and "0/3" not in row]
    if width == 60:
        assert re.fullmatch(
            r"Epoch 1/2 - \d\.\ds - loss: 0\.1235 - accuracy: 0\.9877", permanent[0]
        )
        assert permanent[1] == "    val_loss: 0.2500 - val_accuracy: 0.8750"
    else:
        assert re.fullmatch(
            r"Epoch 1/2 - \d\.\ds - loss: 0\.1235 - accuracy: 0\.9877 - val_loss: 0\.2500"
            r" - val_accuracy: 0\.8750",
            permanent[0],
        )
    assert len(permanent) == (4 if width == 60 else 2)


def test_numbers_are_read_at_most_ten_times_a_second(clock: Clock) -> None:
    reads: list[float] = []

    def read() -> float:
        reads.append(clock.now)
        return 0.5

    bar = ProgressBar("fit", Console(file=io.StringIO(), width=80, force_terminal=True))
    listeners = begin(bar, steps=1000)
    clock.step = 0.0
    listeners.call("on_epoch_begin", 0, {})
    for batch in range(1000):
        clock.now = 1.0 + 0.001 * batch  # a thousand batches within a second
        listeners.call("on_train_batch_end", batch, LazyLogs({"loss": read}))
    listeners.finish("on_train_end", {})
    assert 9 <= len(reads) <= 10


def test_the_bar_is_closed_by_an_error() -> None:
    out = io.StringIO()
    listeners = begin(ProgressBar("fit", Console(file=out, width=60, force_terminal=True)))
    listeners.call("on_train_begin", {})
    listeners.call("on_epoch_begin", 0, {})
    listeners.call("on_train_batch_end", 0, LOGS)
    assert out.getvalue().count("\x1b[?25h") == 0
    listeners.finish("on_train_end", {})  # what fit does in any case
    assert out.getvalue().count("\x1b[?25h") == 1
    assert text_of(out.getvalue()).rstrip().endswith("cut short after 1 of 3 steps")


def test_other_output_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Output(terminal=True)
    monkeypatch.setattr(sys, "stdout", out)
    listeners = begin(ProgressBar("fit", Console(file=out, width=60, force_terminal=True)))
    listeners.call("on_epoch_begin", 0, {})
    print("a message")
    listeners.call("on_epoch_end", 0, LOGS)
    assert sys.stdout is out
    assert "a message\n" in text_of(out.getvalue())


def test_a_bar_that_is_piped_leaves_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Output(terminal=False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    listeners = begin(ProgressBar("fit"))
    listeners.call("on_train_begin", {})
    epoch(listeners, validate=False)
    listeners.finish("on_train_end", LOGS)
    assert out.getvalue() == "Epoch 1/2 - 0.0s - loss: 0.1235 - accuracy: 0.9877\n"


def test_the_bar_of_evaluate_and_predict() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    listeners = begin(ProgressBar("evaluate", console), 1)
    listeners.call("on_test_begin", {})
    listeners.call("on_test_batch_end", 0, LOGS)
    listeners.finish("on_test_end", LOGS)
    listeners = begin(ProgressBar("predict", console), 1)
    listeners.call("on_predict_begin", {})
    listeners.call("on_predict_batch_end", 0, {})
    listeners.finish("on_predict_end", {})
    text = text_of(out.getvalue())
    assert "Evaluate - 0.0s - loss: 0.1235 - accuracy: 0.9877\n" in text
    assert "Predict - 0.0s\n" in text


def test_the_time_that_is_left(clock: Clock) -> None:
    bar = ProgressBar("fit", Console(file=io.StringIO(), width=80, force_terminal=True))
    listeners = begin(bar, steps=100)
    listeners.call("on_epoch_begin", 0, {})
    for batch, now, expected in [(1, 1.0, []), (9, 10.0, ["1m 30s left"]), (99, 99.0, [])]:
        clock.now = now
        listeners.call("on_train_batch_end", batch, {"loss": 0.5})
        assert bar._line.items == [*expected, "loss: 0.5000"]
    listeners.finish("on_train_end", {})


def test_long_lines_are_broken_between_items() -> None:
    assert broken_line("Epoch 1/1", ["1.0s", "loss: 0.5000"], 40) == [
        "Epoch 1/1 - 1.0s - loss: 0.5000"
    ]
    assert broken_line("Epoch 1/1", ["1.0s", "loss: 0.5000", "mae: 0.2500"], 20) == [
        "Epoch 1/1 - 1.0s",
        "    loss: 0.5000",
        "    mae: 0.2500",
    ]


def test_rich_is_imported_only_for_a_bar() -> None:
    assert "rich" not in vars(progress)
    assert "rich" not in vars(progress_bar)
