"""How the GPU benchmark checks and times candidates, on a device with a clock of its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gpuconv.benchmarks import candidates
from gpuconv.benchmarks.candidates import Candidate, DeviceLostError
from gpuconv.errors import UnsupportedError
from gpuconv.testing.host_device import HostDevice, OutOfMemoryError


class Counted:
    """A call that is counted and takes time on the device."""

    def __init__(self, on: HostDevice, device: float = 1e-3, host: float = 1e-4) -> None:
        self.on, self.times, self.calls = on, (device, host), 0

    def __call__(self) -> str:
        self.calls += 1
        self.on.work(*self.times)
        return "result"


def exact(result: Any) -> tuple[float, float]:
    return 0.0, 0.0


def test_candidates_are_timed_in_turns_in_a_full_queue() -> None:
    device = HostDevice()
    fast, slow = Counted(device, device=1e-3), Counted(device, device=3e-3)
    records = candidates.run(
        device,
        {
            "fast": lambda: Candidate("fast", [fast], exact, details={"engine": "x"}),
            "slow": lambda: Candidate("slow", [slow], exact),
        },
        seconds=0.2,
        clock=device.clock,
    )
    for name, ms in (("fast", 1.0), ("slow", 3.0)):
        record = records[name]
        assert record["state"] == "ok"
        for figure in ("ms", "min_ms", "p25_ms", "p75_ms"):
            assert record[figure] == pytest.approx(ms)
        assert record["host_us"] == pytest.approx(100)
        assert record["extra_mib"] == 3.0
        assert record["samples"] >= 10
    assert records["fast"]["engine"] == "x"
    # First the guess, then one and a half times what the host needs for the calls of a turn.
    assert device.held[0] == pytest.approx(1.5 * 3 * 5e-4)
    assert device.held[2] == pytest.approx(1.5 * 20 * 1e-4)
    assert device.clock() < 1.0


def test_the_first_call_is_reported_apart() -> None:
    device = HostDevice()
    durations = itertools.chain([0.5], itertools.repeat(1e-3))
    records = candidates.run(
        device,
        {"a": lambda: Candidate("a", [lambda: device.work(next(durations))], exact)},
        seconds=0.1,
        clock=device.clock,
    )
    assert records["a"]["cold_ms"] == pytest.approx(500.1)
    assert records["a"]["ms"] == pytest.approx(1.0)


def test_a_queue_that_runs_dry_does_not_count() -> None:
    """A host slower than the device: the first turn has gaps, the others are held long enough."""
    device = HostDevice()
    slow_host = Counted(device, device=1e-4, host=2e-3)
    records = candidates.run(
        device, {"a": lambda: Candidate("a", [slow_host], exact)}, 0.5, device.clock
    )
    assert records["a"]["ms"] == pytest.approx(0.1)
    assert records["a"]["host_us"] == pytest.approx(2000)


def test_a_chain_counts_the_host_too() -> None:
    device = HostDevice()
    step = Counted(device, device=1e-4, host=2e-3)
    records = candidates.run(
        device, {"a": lambda: Candidate("a", [step], exact, chain=10)}, 0.2, device.clock
    )
    assert records["a"]["ms"] == pytest.approx(2.01)
    assert device.held == []


@pytest.mark.parametrize("error", [2e-3, math.nan, math.inf])
def test_a_wrong_result_is_never_timed(error: float) -> None:
    device = HostDevice()
    wrong, right = Counted(device), Counted(device)
    records = candidates.run(
        device,
        {
            "wrong": lambda: Candidate("wrong", [wrong], lambda result: (error, 1e-3)),
            "right": lambda: Candidate("right", [right], lambda result: (1e-3, 1e-3)),
        },
        0.1,
        device.clock,
    )
    assert wrong.calls == 1
    assert records["wrong"]["state"] == "WRONG"
    assert records["wrong"]["reason"] == f"differs by {error:.1e}, 1.0e-03 is allowed"
    assert "ms" not in records["wrong"]
    assert records["right"]["state"] == "ok"


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UnsupportedError("no engine can: too wide"), "refused", "no engine can: too wide"),
        (OutOfMemoryError("1 GiB\nmore"), "out of memory", "OutOfMemoryError: 1 GiB"),
        (ValueError("bad"), "failed", "ValueError: bad"),
        (AssertionError(), "failed", "AssertionError: "),
    ],
)
@pytest.mark.parametrize("call", [0, 1, 5])
def test_a_failure_ends_one_candidate(error: Exception, state: str, reason: str, call: int) -> None:
    """Whether it is made, called first, or timed when it fails."""
    device = HostDevice()
    calls = itertools.count(1)

    def failing() -> None:
        device.work()
        if next(calls) == call:
            raise error

    def make() -> Candidate:
        if call == 0:
            raise error
        return Candidate("a", [failing], exact)

    records = candidates.run(
        device, {"a": make, "b": lambda: Candidate("b", [device.work], exact)}, 0.05, device.clock
    )
    assert (records["a"]["state"], records["a"]["reason"]) == (state, reason)
    assert "ms" not in records["a"]
    assert records["b"]["samples"] > 0


def test_a_device_that_is_lost_ends_the_run() -> None:
    device = HostDevice()

    def crash() -> None:
        device.lost = True
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(DeviceLostError, match="illegal memory access"):
        candidates.run(device, {"a": lambda: Candidate("a", [crash], exact)}, 0.05, device.clock)


def test_operands_are_copied_until_they_exceed_the_cache() -> None:
    device = HostDevice()
    sets = candidates.copies(device, [np.ones(5000, "float32"), np.ones(1250, "float32")])
    assert len(sets) == 8  # 25 kB each, the cache holds 100
    assert len({id(array) for arrays in sets for array in arrays}) == 16
    assert len(candidates.copies(device, [np.ones(10**6, "float32")])) == 1
    assert len(candidates.copies(device, [np.ones(2, "float32")])) == 64
    used: list[int] = []
    calls = [lambda i=i: (used.append(i), device.work()) for i in range(3)]
    candidates.run(device, {"a": lambda: Candidate("a", calls, exact)}, 0.0, device.clock)
    assert used[2:8] == [0, 1, 2, 0, 1, 2]  # after the check and the memory
