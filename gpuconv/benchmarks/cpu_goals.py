"""What the CPU engines aim at, and how far a run has got: time ratios to PyTorch, ``fit``, memory.

Times are minima. Layers are compared with PyTorch's better memory format for that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpuconv.benchmarks.candidates import OK
from gpuconv.benchmarks.cpu_workload import (
    LARGE,
    MAPS,
    MIDDLE,
    NETWORKS,
    SMALL,
    TRAINING_BATCHES,
    batch_of_goals,
)
from gpuconv.benchmarks.gpu_report import geometric_mean
from gpuconv.benchmarks.pytorch import FORMATS
from gpuconv.benchmarks.shapes import POOLS, VGG16
from gpuconv.benchmarks.workload import CONV_OPERATIONS

Record = dict[str, Any]
Part = tuple[float, Record]
"""A number and the row that it is of."""


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals.

    Attributes:
        work: what it is about.
        must, aim: what has to be reached, and what would be good; None: no more than that.
        figure: how the parts become one: ``"mean"`` (geometric), ``"worst"`` or ``"sum"``.
        parts: finds the numbers in a result.
        of: how many there are when everything was measured; None: all that there are.
        unit: of the figure: ``"ratio"`` of times, ``"share"`` of something, or ``"seconds"``.
    """

    work: str
    must: float
    aim: float | None
    figure: str
    parts: Callable[[Record], Iterable[Part]]
    of: int | None = None
    unit: str = "ratio"


# --- times --------------------------------------------------------------------------------------


def judged(result: Record, row: Record) -> str:
    """Return the candidate that a row is judged by: the dispatcher's choice, or what was named."""
    name: str = result["judged"]
    return name if name in row["candidates"] else str(row.get("chosen"))


def least(row: Record, name: str, figure: str = "min_ms") -> float | None:
    """Return a candidate's least time in ms, or another figure, if it is there."""
    record = row["candidates"].get(name)
    known = record is not None and record["state"] == OK and figure in record
    return float(record[figure]) if known else None


def ours(result: Record, row: Record, figure: str = "min_ms") -> float | None:
    """Return the least time in ms of the candidate that a row is judged by, or another figure."""
    return least(row, judged(result, row), figure)


def rival(row: Record, formats: Iterable[str] = FORMATS, figure: str = "min_ms") -> float | None:
    """Return PyTorch's least time in ms, or figure, in the better of some memory formats."""
    found = [ms for name in formats if (ms := least(row, f"torch {name}", figure)) is not None]
    return min(found, default=None)


def ratio(
    result: Record, row: Record, formats: Iterable[str] = FORMATS, figure: str = "min_ms"
) -> float | None:
    """Return our time, or another figure, by PyTorch's."""
    mine, theirs = ours(result, row, figure), rival(row, formats, figure)
    return None if mine is None or theirs is None else mine / theirs


def extra_memory(result: Record, row: Record) -> float | None:
    """Return what a convolution holds at its worst beyond operands and result, by those."""
    record = row["candidates"].get(judged(result, row), {})
    if "extra_mib" not in record or row["part"] not in NETWORKS:
        return None
    beyond = record["extra_mib"] - record["result_mib"]
    return float(max(0.0, beyond) * 1024**2 / row["moved"])


# --- which rows ---------------------------------------------------------------------------------


def _ratios(
    chosen: Callable[[Record], bool], formats: Iterable[str] = FORMATS
) -> Callable[[Record], Iterator[Part]]:
    def parts(result: Record) -> Iterator[Part]:
        for row in result["rows"]:
            if chosen(row) and (value := ratio(result, row, formats)) is not None:
                yield value, row

    return parts


def _layers(networks: Iterable[str], operations: Iterable[str], name: str = "") -> Any:
    def chosen(row: Record) -> bool:
        return (
            row["part"] in networks
            and row["operation"] in operations
            and row["layer"].startswith(name)
            and row["batch"] == batch_of_goals(row["part"])
        )

    return chosen


def _count(networks: Iterable[str], name: str = "") -> int:
    return sum(shape.name.startswith(name) for part in networks for shape in NETWORKS[part])


def _summed(operations: Iterable[str]) -> Callable[[Record], Iterator[Part]]:
    """Yield our times and PyTorch's as the weights of a sum: each row with its share of both."""
    often = {shape.name: shape.often for shape in VGG16}
    chosen = _layers(("vgg16",), operations)

    def parts(result: Record) -> Iterator[Part]:
        for row in result["rows"]:
            value = ratio(result, row)
            if chosen(row) and value is not None:
                yield value, {**row, "weight": often.get(row["layer"], 1) * (rival(row) or 0.0)}

    return parts


def _beyond(batch: int) -> Callable[[Record], Iterator[Part]]:
    def parts(result: Record) -> Iterator[Part]:
        for row in result["rows"]:
            if (row["part"], row["batch"]) != ("fit", batch):
                continue
            for record in row["candidates"].values():
                if "beyond_steps" in record:
                    yield float(record["beyond_steps"]), row

    return parts


def _memory(small: bool) -> Callable[[Record], Iterator[Part]]:
    def parts(result: Record) -> Iterator[Part]:
        for row in result["rows"]:
            value = extra_memory(result, row)
            if value is not None and (row["batch"] == SMALL) == small:
                yield value, row

    return parts


def _named(part: str, *names: str) -> Callable[[Record], bool]:
    def chosen(row: Record) -> bool:
        return row["part"] == part and row["layer"].startswith(names) and row["batch"] == LARGE

    return chosen


def _goals() -> Iterator[Goal]:
    both = ("resnet50", "vgg16")
    for operation in CONV_OPERATIONS:
        one = (operation,)
        yield Goal(
            f"ResNet-50's convolutions, {operation}", 1.0, 0.8, "mean",
            _ratios(_layers(("resnet50",), one)), _count(("resnet50",)),
        )  # fmt: skip
    yield Goal(
        "the worst of those", 1.5, 1.15, "worst",
        _ratios(_layers(("resnet50",), CONV_OPERATIONS)), 3 * _count(("resnet50",)),
    )  # fmt: skip
    for operation, must, aim in zip(
        CONV_OPERATIONS, (0.65, 0.65, 0.8), (0.45, 0.45, 0.55), strict=True
    ):
        yield Goal(
            f"3x3 stride 1 of ResNet-50 and VGG-16, {operation}", must, aim, "mean",
            _ratios(_layers(both, (operation,), "3x3 ")), _count(both, "3x3 "),
        )  # fmt: skip
    for name, operations in (("forward", CONV_OPERATIONS[:1]), ("backward", CONV_OPERATIONS[1:])):
        yield Goal(
            f"VGG-16's 13 convolutions summed, batch {MIDDLE}, {name}", 0.7, 0.5, "sum",
            _summed(operations), len(operations) * _count(("vgg16",)),
        )  # fmt: skip
    for operation in CONV_OPERATIONS:
        yield Goal(
            f"MobileNet-V2's depthwise layers, {operation}", 1.0, 0.7, "mean",
            _ratios(_layers(("mobilenetv2",), (operation,))), _count(("mobilenetv2",)),
        )  # fmt: skip
    for name, part in (("DeepBench's square layers", "deepbench"), ("odd layers", "odd")):
        for operation in CONV_OPERATIONS:
            yield Goal(
                f"{name}, {operation}", 1.0, 0.8, "mean",
                _ratios(_layers((part,), (operation,))), _count((part,)),
            )  # fmt: skip
    for name, part, start, of in (
        ("max pooling", "pooling", "max", 2 * sum(pool.kind == "max" for pool in POOLS)),
        ("average pooling", "pooling", "avg", 2 * sum(pool.kind == "avg" for pool in POOLS)),
        ("BatchNorm", "elementwise", "BatchNorm", 2 * len(MAPS)),
        ("ReLU backward", "elementwise", "ReLU", len(MAPS)),
        ("Adam step", "elementwise", "Adam", 2),
    ):
        yield Goal(name, 1.0, 0.7, "mean", _ratios(_named(part, start)), of)
    for memory, must, aim in (("contiguous", 0.6, 0.4), ("channels_last", 0.85, 0.6)):
        for batch in TRAINING_BATCHES:
            yield Goal(
                f"seed network, training step, batch {batch}, PyTorch {memory}", must, aim, "mean",
                _ratios(_step(batch), (memory,)), 1,
            )  # fmt: skip
    for batch in TRAINING_BATCHES:
        yield Goal(
            f"fit, time beyond its steps, batch {batch}", 0.1, 0.03, "worst",
            _beyond(batch), 1, unit="share",
        )  # fmt: skip
    for words, small in (("", False), (f", batch {SMALL}", True)):
        work = f"extra memory of a convolution by its arrays{words}"
        yield Goal(work, 0.25, 0.1, "worst", _memory(small), unit="share")


def _step(batch: int) -> Callable[[Record], bool]:
    return lambda row: (row["part"], row["batch"]) == ("training", batch)


GOALS = tuple(_goals())


# --- what was reached ---------------------------------------------------------------------------


def reached(result: Record, goals: Iterable[Goal] = GOALS) -> list[Record]:
    """Return for each goal what was found.

    Each has ``goal``, ``must``, ``aim``, ``figure``, ``unit``, and in ``measured`` and ``of``
    numbers of rows. Where something was measured there are also ``value``, ``worst``, ``where``
    that is, and ``reached``: "aim", "must" or "no".
    """
    return [_reached(goal, list(goal.parts(result))) for goal in goals]


def _reached(goal: Goal, parts: list[Part]) -> Record:
    found: Record = {
        "goal": goal.work,
        "must": goal.must,
        "aim": goal.aim,
        "figure": goal.figure,
        "unit": goal.unit,
        "measured": len(parts),
        "of": goal.of if goal.of is not None else len(parts),
    }
    if not parts:
        return found
    worst, row = max(parts, key=lambda part: part[0])
    if goal.figure == "mean":
        value = geometric_mean(number for number, _ in parts)
    elif goal.figure == "sum":
        weights = [of["weight"] for _, of in parts]
        value = sum(n * w for (n, _), w in zip(parts, weights, strict=True)) / sum(weights)
    else:
        value = worst
    assert value is not None  # there are parts
    where = f"{row['layer']}, {row['operation']}, batch {row['batch']}"
    verdict = "must" if value <= goal.must else "no"
    if goal.aim is not None and value <= goal.aim:
        verdict = "aim"
    return {**found, "value": value, "worst": worst, "where": where, "reached": verdict}
