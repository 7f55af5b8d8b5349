"""Measured choice: what is timed, when, how often, what is kept, and that it never fails."""

from __future__ import annotations

import dataclasses
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from devices import square
from noted_engines import (
    CONV,
    Clock,
    First,
    Noted,
    Second,
    Third,
    calls,
    chosen,
    engines,
    explained,
    forget,
    restart,
    tuned,
    with_batch,
)

import gpuconv as gc
from gpuconv import dispatch
from gpuconv.backends import registry
from gpuconv.backends.base import Plan, Refusal
from gpuconv.backends.selection import use_backend
from gpuconv.dispatch import tuning
from gpuconv.dispatch.operands import Operands
from gpuconv.dispatch.tuning import time_in_turns
from gpuconv.geometry import PoolGeometry
from gpuconv.settings import config

POOL = PoolGeometry(4, 3, (8, 8), (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))
OPS = ("conv_forward", "conv_backward_input", "conv_backward_weight")
POOL_OPS = ("max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward")


@pytest.fixture
def clock():
    return Clock(first=5e-3, second=3e-3, third=4e-3)


@pytest.fixture(autouse=True)
def _tuner(tmp_path, clock):
    with tuned(clock, tmp_path / "cache"):
        yield


# --- timing -----------------------------------------------------------------------------------


def test_rounds_take_turns_after_warming_up_and_the_least_counts():
    times = {"a": iter([9, 8, 5, 4, 6]), "b": iter([1, 1, 7, 3, 9])}
    order = []

    def timer(run, repeats):
        run()
        return next(times[order[-1]])

    runs = {name: lambda name=name: order.append(name) for name in times}
    seconds, dropped = time_in_turns(runs, timer, rounds=3)
    assert order == ["a", "b"] * 5
    assert (seconds, dropped) == ({"a": 4, "b": 3}, {})


def test_short_runs_are_repeated_within_a_round():
    asked = {"short": [], "long": [], "tiny": []}
    taken = {"short": 2e-4, "long": 0.5, "tiny": 1e-7}

    def timer(run, repeats):
        name = run()
        asked[name].append(repeats)
        return taken[name]

    time_in_turns({name: lambda name=name: name for name in asked}, timer, rounds=2)
    assert asked == {"short": [1, 5, 5, 5], "long": [1, 1, 1, 1], "tiny": [1, 20, 20, 20]}


def test_the_clock_counts_one_run():
    done = []
    assert 0 <= tuning.clock_timer(lambda: done.append(1), 4) < 1
    assert len(done) == 4
    assert tuning.timer_for("cpu") is tuning.clock_timer


def test_events_time_the_current_stream(monkeypatch):
    log = []

    class Event:
        def record(self, stream):
            log.append(("record", stream))

        def synchronize(self):
            log.append("wait")

    cuda = SimpleNamespace(
        Event=Event,
        get_current_stream=lambda: "a stream",
        get_elapsed_time=lambda start, stop: 6.0,  # milliseconds
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    assert tuning.timer_for("cuda")(lambda: log.append("run"), 3) == pytest.approx(0.002)
    marks = ("record", "a stream")
    assert log == [marks, "run", "run", "run", marks, "wait"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("op", "geometry"), [*((op, CONV) for op in OPS), *((op, POOL) for op in POOL_OPS)]
)
def test_every_operation_can_be_run(op, geometry, dtype):
    assert Operands.can_make(op)
    operands = Operands(op, geometry, dtype, "cpu")
    result = operands.run(registry.engine("cpu:first"), 2**20)()
    result = result[0] if op == "max_pool" else result
    shape = {
        "conv_backward_input": "x_shape",
        "conv_backward_weight": "w_shape",
        "max_pool_backward": "x_shape",
        "avg_pool_backward": "x_shape",
    }.get(op, "y_shape")
    assert result.shape == getattr(geometry, shape)
    assert result.dtype == dtype
    assert np.isfinite(result).all()
    assert np.unique(result).size > result.size // 8  # not zeros, which would flatter


def test_operands_may_be_larger_than_the_pattern():
    geometry = square(3, 7, 5, 70, 1)
    operands = Operands("conv_forward", geometry, "float32", "cpu")
    x = operands._arrays["x"]
    assert x.shape == geometry.x_shape
    assert np.ptp(x.reshape(-1)[-1000:]) > 1.5  # the rest after the last whole pattern is filled
    assert np.abs(x).max() <= 1


# --- choosing ---------------------------------------------------------------------------------


def test_the_measured_engine_wins_over_the_predicted_one(clock):
    assert explained().engine == "cpu:first"
    assert chosen() == "cpu:second"
    assert set(clock.timed) == {"cpu:first", "cpu:second"}
    decision = explained()
    assert decision.engine == "cpu:second"
    assert decision.is_measured
    assert [c.measured for c in decision.candidates] == [5e-3, 3e-3]
    assert decision.reason == (
        "cpu:second was measured to be the fastest: 3.00 ms with no workspace, against cpu:first "
        "(first): 5.00 ms with no workspace; made for it"
    )
    lines = [line.split() for line in str(decision).splitlines()]
    assert ["->", "cpu:second", "noted", "2.00", "ms", "3.00", "ms", "none"] in lines


def test_each_geometry_is_timed_once(clock):
    for _ in range(3):
        chosen()
    count = len(clock.timed)
    assert count == 2 * 7  # two warm-ups and five rounds of two engines
    chosen(dataclasses.replace(CONV, batch=5))
    assert len(clock.timed) == 2 * count
    forget()
    chosen()
    assert len(clock.timed) == 2 * count


def test_without_the_setting_nothing_is_timed_or_used(clock):
    chosen()
    clock.timed.clear()
    config.autotune = False
    assert chosen() == "cpu:first"
    assert not clock.timed
    assert not explained().is_measured


def test_looking_never_measures(clock):
    with use_backend("cpu"):
        gc.explain("conv2d", CONV.x_shape, CONV.w_shape, padding=1)
    explained()
    assert not clock.timed
    assert not calls


@pytest.mark.parametrize("case", ["forced", "alone", "refused", "empty"])
def test_no_choice_no_timing(case, clock, monkeypatch):
    geometry = CONV
    if case == "forced":
        with use_backend("cpu:first"):
            assert chosen() == "cpu:first"
    elif case == "empty":
        geometry = dataclasses.replace(CONV, batch=0)
        assert chosen(geometry) == "cpu:first"
    else:
        if case == "alone":
            engines(monkeypatch, First)
        else:
            monkeypatch.setattr(Second, "answer", Refusal("not today"))
        assert chosen() == "cpu:first"
    assert not clock.timed


def test_the_simulator_is_never_timed():
    found = tuning.tuner.measured("conv_forward", CONV, "float32", "cuda-sim", ["a", "b"], 1)
    assert found is None


# --- batches that come once -------------------------------------------------------------------


def test_a_short_batch_takes_what_was_measured_for_a_full_one(clock):
    chosen(with_batch(32))
    clock.timed.clear()
    with dispatch.without_tuning():
        assert chosen(with_batch(7)) == "cpu:second"
        decision = explained(with_batch(7))
    assert not clock.timed
    assert "was measured to be the fastest for a batch of 32: 3.00 ms" in decision.reason


def test_the_nearest_batch_counts(clock):
    chosen(with_batch(32))
    clock.seconds["cpu:first"] = 1e-3
    chosen(with_batch(4))
    with dispatch.without_tuning():
        assert chosen(with_batch(30)) == "cpu:second"
        assert chosen(with_batch(5)) == "cpu:first"
        assert chosen(with_batch(18)) == "cpu:first"  # as near to both: the smaller
        assert chosen(with_batch(32)) == "cpu:second"


def test_a_short_batch_of_an_unknown_geometry_is_predicted(clock):
    with dispatch.without_tuning():
        assert chosen(with_batch(7)) == "cpu:first"
        assert not clock.timed
    assert chosen(with_batch(32)) == "cpu:second"
    with dispatch.without_tuning():  # what has become known meanwhile is used
        assert chosen(with_batch(7)) == "cpu:second"
    assert chosen(with_batch(7)) == "cpu:second"
    assert clock.timed


def test_other_geometries_and_dtypes_lend_nothing(clock):
    chosen(with_batch(32))
    with dispatch.without_tuning():
        assert chosen(dataclasses.replace(CONV, batch=7, stride=(2, 2))) == "cpu:first"
        array = np.zeros(1, "float64")
        assert dispatch.select_engine("conv_forward", with_batch(7), array).name == "cpu:first"


def test_the_block_ends_also_after_an_error_and_nests():
    with pytest.raises(ZeroDivisionError), dispatch.without_tuning():
        _ = 1 / 0
    with dispatch.without_tuning():
        with dispatch.without_tuning():
            assert not tuning.may_measure()
        assert not tuning.may_measure()
    assert tuning.may_measure()


def test_threads_do_not_see_each_others_blocks():
    seen = []
    with dispatch.without_tuning():
        thread = threading.Thread(target=lambda: seen.append(tuning.may_measure()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_two_threads_time_once(clock):
    chosen_by = []
    threads = [threading.Thread(target=lambda: chosen_by.append(chosen())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chosen_by == ["cpu:second"] * 4
    assert len(clock.timed) == 14


# --- determinism and memory -------------------------------------------------------------------


def test_what_is_not_deterministic_is_not_even_timed(clock, monkeypatch):
    engines(monkeypatch, First, Second, Third)
    atomics = Plan("atomics", 0, "sums in any order", 1e-9, deterministic=False)
    monkeypatch.setattr(Second, "answer", atomics)
    assert chosen() == "cpu:third"
    assert set(clock.timed) == {"cpu:first", "cpu:third"}
    assert "does not give the same bits" in explained().candidates[1].note
    clock.timed.clear()
    config.deterministic = False
    assert chosen() == "cpu:second"
    assert set(clock.timed) == {"cpu:first", "cpu:second", "cpu:third"}
    config.deterministic = True
    assert chosen() == "cpu:third"


class OutOfMemoryError(Exception):
    """Named as CuPy's is, without being a MemoryError."""


class LibraryError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("9 GiB asked"),
        OutOfMemoryError("9 GiB asked\nand more"),
        LibraryError("CUBLAS_STATUS_ALLOC_FAILED: 9 GiB asked"),
        LibraryError("CUDA_ERROR_OUT_OF_MEMORY 9 GiB asked"),
    ],
)
def test_an_engine_without_memory_is_dropped_with_its_reason(error, clock, monkeypatch, tmp_path):
    monkeypatch.setattr(Second, "error", error)
    assert chosen() == "cpu:first"
    assert clock.timed == ["cpu:first"] * 7
    decision = explained()
    assert decision.candidates[1].note.startswith("ran out of memory when it was timed (")
    assert "9 GiB asked)" in decision.candidates[1].note
    assert decision.reason.startswith("cpu:second ran out of memory when it was timed (")
    assert "; cpu:first is left; " in decision.reason
    count = len(calls)
    forget()
    chosen()
    assert len(calls) == count  # nor tried again in this process
    monkeypatch.setattr(Second, "error", None)
    restart(monkeypatch, clock)
    assert chosen() == "cpu:second"  # but in the next, which may have more memory


def test_without_any_memory_the_prediction_counts(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(Noted, "error", MemoryError("none"))
    assert chosen() == "cpu:first"
    assert explained().reason.startswith("cpu:first is predicted to be the fastest")
    assert not (tmp_path / "cache").exists()


def test_no_memory_for_the_arrays(clock, monkeypatch):
    def full(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(Operands, "_filled", full)
    assert chosen() == "cpu:first"
    assert not clock.timed


def test_other_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(Second, "error", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        chosen()
