"""One candidate of a comparison: checked first, then timed in turns with the others."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpuconv.benchmarks.devices import Array, Device
from gpuconv.errors import UnsupportedError

OK, WRONG, REFUSED, NO_MEMORY, FAILED = "ok", "WRONG", "refused", "out of memory", "failed"
_MOST_SAMPLES = 400
_A_TURN = 0.02
"""Seconds that a turn should take on the device, in 3 to 20 calls."""
_LONGEST_HOLD = 0.25


class DeviceLostError(RuntimeError):
    """The device does not answer any more; what was measured before stands."""


@dataclass
class Candidate:
    """Something that computes one row of the table.

    Attributes:
        name: ``"cuda:numba"``, ``"cuda"`` (the dispatcher's choice), ``"torch channels_last"``.
        calls: the same computation on several copies of the operands, used in turn so that none
            is found in the cache; each returns the result.
        check: given a result, returns its error and what is allowed. A result that exceeds it is
            never timed.
        context: what must be in force during the calls.
        details: facts for the record: engine, algorithm, workspace.
        chain: calls between two time stamps. 1: each call is stamped in a full queue, which gives
            the device's time. More: the time of a call in a row of them, the host's part included.
        memory: whether the device can say what it needs; else that is not asked.
        after: more for the record, which is known when it was timed.
    """

    name: str
    calls: Sequence[Callable[[], Any]]
    check: Callable[[Any], tuple[float, float]]
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    details: dict[str, Any] = field(default_factory=dict)
    chain: int = 1
    memory: bool = True
    after: Callable[[], dict[str, Any]] = dict


class Turns(Protocol):
    """How samples of one candidate are taken: made of a device, a candidate and a clock.

    Attributes:
        samples: milliseconds, so far.
        finished: whether there are enough.
    """

    samples: list[float]

    @property
    def finished(self) -> bool:
        """Whether there are enough samples."""

    def take(self) -> None:
        """Take some samples."""

    def summary(self) -> dict[str, Any]:
        """Return what they say, for the record."""


Taken = Mapping[str, Turns]


def run(
    device: Device,
    makers: dict[str, Callable[[], Candidate]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    turns_of: Callable[[Device, Candidate, Callable[[], float]], Turns] | None = None,
    settled: Callable[[Taken], Collection[str]] = lambda taken: (),
) -> dict[str, dict[str, Any]]:
    """Check and time candidates.

    Args:
        device: where they compute.
        makers: name -> what makes the candidate; a failure to make it is part of the record.
        seconds: for the timing of all of them together, beyond three turns each.
        clock: of the host.
        turns_of: how samples are taken; default: by time stamps in a queue that is kept full.
        settled: given the turns so far, names those for whom three were enough.

    Returns:
        Name -> record. ``state`` is "ok", "WRONG", "refused", "out of memory" or "failed", with a
        ``reason``. Checked ones have ``error`` and ``allowed``, timed ones ``ms`` (median),
        ``min_ms``, ``p25_ms``, ``p75_ms``, ``samples``, ``host_us`` (what a call costs the host),
        ``cold_ms`` (the first call, compilation included), ``result_mib`` and ``extra_mib`` (memory
        at its worst, the result included).

    Raises:
        DeviceLostError: the device failed in a way that ends its use in this process.
    """
    records: dict[str, dict[str, Any]] = {}
    timed: dict[str, Turns] = {}
    for name, make in makers.items():
        record, candidate = _checked(device, make, clock)
        records[name] = record
        if candidate is not None:
            timed[name] = (turns_of or _QueuedTurns)(device, candidate, clock)
    end = clock() + seconds
    turn = 0
    while timed and (turn < 3 or clock() < end):
        turn += 1
        over = {}
        for name, turns in list(timed.items()):
            try:
                turns.take()
            except Exception as error:
                records[name].update(_failure(device, error))
                del timed[name]
            else:
                if turns.finished:
                    over[name] = turns
        if turn >= 3:
            over.update((name, timed[name]) for name in settled(timed))
        for name, turns in over.items():
            records[name].update(turns.summary())
            del timed[name]
    for name, turns in timed.items():
        records[name].update(turns.summary())
    return records


def _checked(
    device: Device, make: Callable[[], Candidate], clock: Callable[[], float]
) -> tuple[dict[str, Any], Candidate | None]:
    """Make a candidate, call it for the first time, judge the result, measure its memory."""
    try:
        candidate = make()
        record: dict[str, Any] = {"state": OK, **candidate.details}
        with candidate.context():
            device.synchronize()
            start = clock()
            result = candidate.calls[0]()
            device.synchronize()
            record["cold_ms"] = (clock() - start) * 1e3
            record["result_mib"] = getattr(result, "nbytes", 0) / 1024**2
            error, allowed = (float(value) for value in candidate.check(result))
            del result
            record["error"] = error if math.isfinite(error) else None  # JSON has no NaN
            record["allowed"] = allowed
            if not error <= allowed:  # NaN too
                record["state"] = WRONG
                record["reason"] = f"differs by {error:.1e}, {allowed:.1e} is allowed"
                return record, None
            if candidate.memory:
                record["extra_mib"] = device.peak_bytes(candidate.calls[0]) / 1024**2
        return record, candidate
    except Exception as error:  # of any library; it is recorded, and the others go on
        return _failure(device, error), None


def _failure(device: Device, error: Exception) -> dict[str, Any]:
    text = str(error).strip()
    reason = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    if isinstance(error, UnsupportedError):
        return {"state": REFUSED, "reason": text}
    try:
        device.synchronize()
        device.release()
    except Exception as lost:
        raise DeviceLostError(reason) from lost
    if "OutOfMemory" in type(error).__name__:  # CuPy's and PyTorch's have no common base
        return {"state": NO_MEMORY, "reason": reason}
    return {"state": FAILED, "reason": reason}


class _QueuedTurns:
    """The samples of one candidate on a device that works off a queue."""

    def __init__(self, device: Device, candidate: Candidate, clock: Callable[[], float]) -> None:
        self.device, self.candidate, self.clock = device, candidate, clock
        self.samples: list[float] = []
        self.host: list[float] = []
        self._calls: Iterator[Callable[[], Any]] = itertools.cycle(candidate.calls)
        self._number = 3

    @property
    def finished(self) -> bool:
        """Whether there are enough samples."""
        return len(self.samples) >= _MOST_SAMPLES

    def take(self) -> None:
        """Take some samples; the first turn also finds out how many a turn should have."""
        with self.candidate.context():
            next(self._calls)()
            self.device.synchronize()
            if self.candidate.chain > 1:
                self._take_chain()
            else:
                self._take_calls()

    def _take_calls(self) -> None:
        device, number = self.device, self._number
        held = min(1.5 * number * min(self.host, default=5e-4), _LONGEST_HOLD)
        device.hold(held)
        stamps = [device.event()]
        start = self.clock()
        for _ in range(number):
            next(self._calls)()
            stamps.append(device.event())
        host = (self.clock() - start) / number
        device.synchronize()
        taken = [device.milliseconds(a, b) for a, b in itertools.pairwise(stamps)]
        first = not self.host
        self.host.append(host)
        if first:  # the host's time was a guess, so the queue may have run dry
            typical = max(statistics.median(taken), 1e-3)
            self._number = max(3, min(20, round(_A_TURN * 1e3 / typical)))
            return
        self.samples += taken

    def _take_chain(self) -> None:
        device, number = self.device, self.candidate.chain
        start, first = self.clock(), device.event()
        for _ in range(number):
            next(self._calls)()
        self.host.append((self.clock() - start) / number)
        last = device.event()
        device.synchronize()
        self.samples.append(device.milliseconds(first, last) / number)

    def summary(self) -> dict[str, Any]:
        """Return the spread of the samples, and what a call costs the host."""
        more = {"host_us": min(self.host) * 1e6}
        return spread(self.samples) | more | self.candidate.after()


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, minimum, quartiles and number of some milliseconds, for the record."""
    ordered = sorted(samples)
    quarter = statistics.quantiles(ordered, n=4, method="inclusive")
    return {
        "ms": statistics.median(ordered),
        "min_ms": ordered[0],
        "p25_ms": quarter[0],
        "p75_ms": quarter[2],
        "samples": len(ordered),
    }


def copies(device: Device, operands: Sequence[Array], most: int = 64) -> list[list[Array]]:
    """Put operands onto the device so often that together they are twice its cache."""
    size = sum(array.nbytes for array in operands)
    number = max(1, min(most, -(-2 * device.cache_bytes // max(size, 1))))
    return [[device.put(array) for array in operands] for _ in range(number)]
