"""What whole networks aim at on the CPU, and how far a run has got."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpuconv.benchmarks import cpu_goals
from gpuconv.benchmarks.cpu_goals import Goal, Part
from gpuconv.benchmarks.networks_workload import FULL_STEP, OURS, RESNET18, RESNET50
from gpuconv.benchmarks.pytorch import FORMATS

Record = dict[str, Any]
_Figure = Callable[[Record, Record], float | None]


def figure(row: Record) -> str:
    """Return what a row is about: a field of its records."""
    return "above_mib" if row["part"] == "memory" else "min_ms"


def ratio(result: Record, row: Record, formats: Iterable[str] = FORMATS) -> float | None:
    """Return our time, or memory, by PyTorch's."""
    return cpu_goals.ratio(result, row, formats, figure(row))


def _by(*formats: str) -> _Figure:
    return lambda result, row: ratio(result, row, formats)


def _of_full_step(result: Record, row: Record) -> float | None:
    head, full = (cpu_goals.least(row, name) for name in (OURS, FULL_STEP))
    return None if head is None or full is None else head / full


def _seconds(result: Record, row: Record) -> float | None:
    ms = cpu_goals.least(row, OURS)
    return None if ms is None else ms / 1e3


def _goal(
    work: str, must: float, aim: float | None, key: tuple[str, str, int], found: _Figure,
    unit: str = "ratio",
) -> Goal:  # fmt: skip
    """A goal about one row, which part, beginning and batch tell."""

    def parts(result: Record) -> Iterator[Part]:
        for row in result["rows"]:
            if (row["part"], row["batch"]) == (key[0], key[2]) and _name(row).startswith(key[1]):
                value = found(result, row)
                if value is not None:
                    yield value, row

    return Goal(work, must, aim, "worst", parts, 1, unit)


def _name(row: Record) -> str:
    return f"{row['layer']}, {row['operation']}"


_EIGHTEEN, _FIFTY = RESNET18.title, RESNET50.title
GOALS = (
    _goal(f"{_EIGHTEEN}, training step by PyTorch's, contiguous", 1.0, 0.8,
          ("training", _EIGHTEEN, 8), _by("contiguous")),
    _goal("its peak memory by PyTorch's, contiguous", 1.0, None,
          ("memory", _EIGHTEEN, 8), _by("contiguous")),
    _goal("its step with all but the head frozen by the full one", 0.45, None,
          ("transfer", _EIGHTEEN, 8), _of_full_step, "share"),
    _goal(f"{_FIFTY}, inference of one image by PyTorch's, the better layout", 1.2, None,
          ("inference", _FIFTY, 1), _by(*FORMATS)),
    _goal("from import to the first convolution's answer, cache warm", 1.0, None,
          ("start-up", "3x3", 1), _seconds, "seconds"),
    _goal("compiling in a gpuconv train that finds no cache", 30.0, None,
          ("start-up", "gpuconv train", 32), _seconds, "seconds"),
)  # fmt: skip


def reached(result: Record) -> list[Record]:
    """Return for each goal what was found, as ``cpu_goals.reached``."""
    return cpu_goals.reached(result, GOALS)
