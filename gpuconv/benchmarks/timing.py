"""How times are taken on the CPU: in turns, rested, by the minimum.

On a shared machine the speed drifts, so what is compared runs in turns, A B C A B C ..., in one
process; the minimum of each is what the machine can do, the median what it did. Quote ratios.

Before each turn there is a short rest: the idle threads of OpenBLAS and of OpenMP spin for some
30 ms after their work, and would take a core from whoever comes next. A turn is as many calls as
fit into a few milliseconds, so that small operations are not measured by their first call alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from gpuconv.benchmarks.candidates import Candidate, Taken, spread
from gpuconv.benchmarks.devices import Device

REST = 0.04
"""Seconds of sleep before each turn."""
_A_TURN = 0.015
_CALLS = 50
_MOST_SAMPLES = 1000
_FAR = 1.5


class RestedTurns:
    """The samples of one candidate on the CPU, where a call has finished when it returns."""

    def __init__(self, device: Device, candidate: Candidate, clock: Callable[[], float]) -> None:
        self.candidate, self.clock = candidate, clock
        self.samples: list[float] = []
        self._calls: Iterator[Callable[[], Any]] = itertools.cycle(candidate.calls)

    @property
    def finished(self) -> bool:
        """Whether there are enough samples."""
        return len(self.samples) >= _MOST_SAMPLES

    def take(self) -> None:
        """Rest, then call until the turn is over."""
        time.sleep(REST)
        with self.candidate.context():
            begun = now = self.clock()
            for _ in range(_CALLS):
                start = now
                next(self._calls)()
                now = self.clock()
                self.samples.append((now - start) * 1e3)
                if now - begun >= _A_TURN:
                    return

    def summary(self) -> dict[str, Any]:
        """Return the spread of the samples."""
        return spread(self.samples) | self.candidate.after()


def far_behind(
    sides: Mapping[str, str], kept: Collection[str | None] = ()
) -> Callable[[Taken], Collection[str]]:
    """Return what names candidates that are so slow that more turns would be wasted on them.

    Args:
        sides: name -> side. One that takes half as long again as another of its side is out.
        kept: names that stay, however slow.
    """

    def settled(taken: Taken) -> Collection[str]:
        best: dict[str, float] = {}
        for name, turns in taken.items():
            side = sides[name]
            best[side] = min(best.get(side, float("inf")), min(turns.samples))
        return [
            name
            for name, turns in taken.items()
            if name not in kept and min(turns.samples) > _FAR * best[sides[name]]
        ]

    return settled


def seconds_of(function: Callable[[], Any], times: int = 5) -> float:
    """Return the least of some calls, rested, after one that is not timed."""
    function()
    taken = []
    for _ in range(times):
        time.sleep(REST)
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
