"""The one way in which times are taken here: interleaved, warmed up, minimum and median.

On a shared machine the speed drifts, so what is compared runs in turns, A B C A B C ..., in one
process; the minimum of each is what the machine can do, the median what it did. Quote ratios.

Before each timed call there is a short rest: the idle threads of OpenBLAS and of OpenMP spin for
some 30 ms after their work, and would take a core from whoever comes next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one candidate over all rounds."""

    minimum: float
    median: float
    rounds: int


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    warmup: int = 2,
    budget: float = 3.0,
    rest: float = 0.04,
) -> dict[str, Timing]:
    """Time several callables in turns.

    Args:
        candidates: name -> function without arguments.
        rounds: how often each is timed, at most.
        warmup: untimed calls before.
        budget: seconds for all of it; at least three rounds are run.
        rest: seconds of sleep before each timed call.
    """
    for _ in range(warmup):
        for function in candidates.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + budget
    for number in range(rounds):
        if number >= 3 and time.perf_counter() > end:
            break
        for name, function in candidates.items():
            time.sleep(rest)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {
        name: Timing(min(taken), statistics.median(taken), len(taken))
        for name, taken in times.items()
    }
