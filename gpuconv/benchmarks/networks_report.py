"""What the benchmark of whole networks found, in words: lines for the screen, Markdown to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpuconv.benchmarks import cpu_report, networks_goals
from gpuconv.benchmarks.candidates import OK, WRONG
from gpuconv.benchmarks.networks_workload import OURS
from gpuconv.benchmarks.pytorch import FORMATS

Record = dict[str, Any]
HEADS = (
    "work", "operation", "batch", "gpuconv", "beside it", "PyTorch contiguous",
    "PyTorch channels_last", "ratio to contiguous", "ratio to the better",
)  # fmt: skip
_WIDTHS = (22, 26, 6, 10, 20, 19, 22, 20, 19)
NOTES = (
    "Times are minima of turns that were taken one after the other in one process, with the same "
    "weights on both sides; ratios are gpuconv's by PyTorch's, below 1 is faster, or less.",
    "Inference is of `model.optimize_for_inference()`, beside it the model as trained; PyTorch's "
    "is in `eval` and `inference_mode`. Steps are forward, cross-entropy, backward and update: SGD "
    "with momentum, LeNet-5 with Adam.",
    "Peak memory is that of a process of its own for each side, above what it had when network and "
    "optimizer were there; all code was loaded before by a step on small images.",
    "Start-up is the least of several processes. Compiling is what `gpuconv train --epochs 1` "
    "takes longer with empty caches than right after that.",
    "Of a goal, `must` has to be reached and `aim` would be good; `reached` is the better of them.",
)


def title() -> str:
    """Return the heads of the columns."""
    return _aligned(HEADS)


def line(result: Record, row: Record) -> str:
    """Return a row for the screen."""
    return _aligned(_cells(result, row))


def _aligned(cells: Sequence[str]) -> str:
    padded = (
        f"{cell:<{width}}" if number < 2 else f"{cell:>{width}}"
        for number, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return " ".join(padded).rstrip()


def _cells(result: Record, row: Record) -> list[str]:
    figure, candidates = networks_goals.figure(row), row["candidates"]

    def cell(name: str) -> str:
        record = candidates.get(name)
        if record is None:
            return "-"
        return _amount(record[figure], figure) if record["state"] == OK else str(record["state"])

    beside = [
        f"{cell(name)}, {name.removeprefix(OURS).strip()}"
        for name in candidates
        if name != OURS and not name.startswith("torch ")
    ]
    ratios = (networks_goals.ratio(result, row, formats) for formats in (FORMATS[:1], FORMATS))
    return [
        row["layer"], row["operation"], str(row["batch"]), cell(OURS), "; ".join(beside) or "-",
        *(cell(f"torch {memory}") for memory in FORMATS),
        *("-" if value is None else f"{value:.2f}" for value in ratios),
    ]  # fmt: skip


def _amount(value: float, figure: str) -> str:
    if figure == "above_mib":
        return f"{value:.0f} MiB"
    if value >= 1000:
        return f"{value / 1e3:.2f} s"
    return f"{value:.{1 if value >= 10 else 2}f} ms"


# --- Markdown -----------------------------------------------------------------------------------


def markdown(result: Record) -> Iterator[str]:
    """Yield the lines of the whole report."""
    yield "# Whole networks on the CPU"
    yield ""
    for text in header(result):
        yield f"- {text}"
    yield ""
    yield from _table(HEADS, [_cells(result, row) for row in result["rows"]])
    yield ""
    yield from summary(result)
    yield ""
    for note in NOTES:
        yield f"- {note}"


def header(result: Record) -> list[str]:
    """Return where it was measured, and who took part."""
    threads = result["torch_threads"]
    rival = f"PyTorch: {threads} threads" if threads else f"PyTorch: {result['without_torch']}"
    return [*cpu_report.header(result), f"gpuconv's engine: {result['engines'][0]}; {rival}"]


def summary(result: Record) -> Iterator[str]:
    """Yield the table of goals, and what could not be timed."""
    heads = ("goal", "found", "must", "aim", "reached")
    yield from _table(heads, [_goal(goal) for goal in result["goals"]], words=1)
    yield ""
    counted = [record for row in result["rows"] for record in row["candidates"].values()]
    wrong = sum(record["state"] == WRONG for record in counted)
    yield f"{len(counted)} results checked, {wrong} wrong."
    for text in cpu_report.untimed(result):
        yield f"- {text}"


def _goal(goal: Record) -> list[str]:
    bounds = [cpu_report.bound(goal[name], goal["unit"]) for name in ("must", "aim")]
    if "value" not in goal:
        return [goal["goal"], "-", *bounds, "not measured"]
    return [
        goal["goal"], cpu_report.figure(goal["value"], goal["unit"]), *bounds, goal["reached"],
    ]  # fmt: skip


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], words: int = 2) -> Iterator[str]:
    """Yield a table of Markdown that can be read as it is; ``words`` columns begin on the left."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for cells in (heads, None, *lines):
        parts = []
        for column, width in enumerate(widths):
            left = column < words
            if cells is None:
                parts.append("-" * width if left else "-" * (width - 1) + ":")
            else:
                parts.append(f"{cells[column]:{'<' if left else '>'}{width}}")
        yield f"| {' | '.join(parts)} |"
