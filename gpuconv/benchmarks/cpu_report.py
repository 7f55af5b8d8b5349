"""What the CPU benchmark found, in words: the table of rows and the table of goals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from gpuconv.benchmarks import cpu_goals
from gpuconv.benchmarks.candidates import OK
from gpuconv.benchmarks.pytorch import FORMATS

Record = dict[str, Any]
_WIDTH = 140
NOTES = (
    "ms: the least of turns that were taken one after the other in one process. ratio: time of the "
    "engine that the dispatcher takes by PyTorch's in its better format; below 1 is faster.",
    "GFLOP/s: operations of the direct algorithm by time, so Winograd, which needs fewer, may "
    "exceed the peak. GB/s: inputs and outputs, each counted once (BatchNorm's inputs twice).",
    "extra: memory at its worst beyond operands and result, by those. Of NumPy's arrays: what "
    "compiled kernels allocate inside, or keep from earlier calls, is not seen, nor is PyTorch's.",
)


def header(result: Record) -> list[str]:
    """Return where it was measured, and what the machine can do."""
    versions = ", ".join(f"{n} {v}" for n, v in result["versions"].items() if v is not None)
    lines = [
        ", ".join(f"{name}: {value}" for name, value in result["device"].items()),
        versions,
        f"commit {result['commit']}, {result['date']}, {'; '.join(result['commands'])}",
    ]
    if result["rates"]:
        lines.append(rates(result))
    return lines


def rates(result: Record) -> str:
    """Return what the cores can do, in a sentence."""
    found = result["rates"]
    fma = f"{found['fma'] / 1e9:.0f} GFLOP/s" if found["fma"] else "not measured (needs Numba)"
    return (
        f"measured: multiply-adds in registers {fma}, BLAS {found['gemm'] / 1e9:.0f} GFLOP/s, "
        f"copy {found['copy'] / 1e9:.1f} GB/s; float32, all cores, the best of the run"
    )


# --- rows ---------------------------------------------------------------------------------------


def title(result: Record) -> str:
    """Return the heads of the columns."""
    engines = "".join(f"{_short(name):>10}" for name in result["engines"])
    torch = "".join(f"{word:>10}" for word in ("torch", "ch. last"))
    return (
        f"{'ms':<30}{'':<16}{engines}{torch}{'choice':>8}{'ratio':>7}{'GFLOP/s':>9}"
        f"{'of FMA':>8}{'GB/s':>7}{'of copy':>9}{'extra':>7}"
    )


def heading(row: Record) -> str:
    """Return the line above the rows of one part and batch."""
    return f"--- {row['part']}, batch {row['batch']} "


def line(result: Record, row: Record) -> str:
    """Return a row of the table."""
    candidates = row["candidates"]
    columns = [*result["engines"], *(f"torch {name}" for name in FORMATS)]
    cells = "".join(f"{_cell(candidates.get(name)):>10}" for name in columns)
    choice = _short(cpu_goals.judged(result, row)) if row.get("chosen") else ""
    ratio, memory = cpu_goals.ratio(result, row), cpu_goals.extra_memory(result, row)
    ms, found = cpu_goals.ours(result, row), result["rates"] or {}
    gflops = row["flops"] / ms / 1e6 if ms and row["flops"] else None
    gigabytes = row["moved"] / ms / 1e6 if ms and row["moved"] else None
    text = (
        f"{row['layer']:<30}{row['operation']:<16}{cells}{choice:>8}{_number(ratio, '.2f'):>7}"
        f"{_number(gflops, '.0f'):>9}{_share(gflops, found.get('fma')):>8}"
        f"{_number(gigabytes, '.1f'):>7}{_share(gigabytes, found.get('copy')):>9}"
        f"{_number(memory, '.0%'):>7}"
    )
    return "; ".join([text, *_more(row, columns)]).rstrip()


def _more(row: Record, columns: list[str]) -> Iterator[str]:
    """What has no column: other candidates, and what ``fit`` found."""
    for name, record in row["candidates"].items():
        if name not in columns:
            yield f"{name} {_cell(record)}"
        if "beyond_steps" in record:
            seconds = record["min_ms"] / 1e3
            yield (
                f"{record['images'] / seconds:,.0f} images/s, "
                f"{record['beyond_steps']:.1%} beyond its steps"
            )


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    if record["state"] != OK or "min_ms" not in record:
        return str(record["state"])
    return f"{record['min_ms']:.{3 if record['min_ms'] < 10 else 2}f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _share(giga: float | None, rate: float | None) -> str:
    return f"{giga * 1e9 / rate:.0%}" if giga is not None and rate else ""


def _short(name: str) -> str:
    return name.partition(":")[2] or name


def whole_table(result: Record) -> Iterator[str]:
    """Yield all rows, under their heads."""
    yield title(result)
    last = ""
    for row in result["rows"]:
        above = heading(row)
        if above != last:
            yield above
        last = above
        yield line(result, row)


# --- goals --------------------------------------------------------------------------------------


def summary(result: Record) -> Iterator[str]:
    """Yield the table of goals, what could not be timed, and what the columns mean."""
    judged = result["judged"]
    who = "the dispatcher's choice" if judged == result["backend"] else judged
    yield f"goals, of {who}: time by PyTorch's, or a share"
    heads = f"{'rows':>8}{'found':>8}{'must':>7}{'aim':>7}{'reached':>9}{'worst':>8}  where it is"
    yield f"{'':<62}{heads}"
    for goal in result["goals"]:
        yield _goal(goal)
    counted = [record for row in result["rows"] for record in row["candidates"].values()]
    wrong = sum(record["state"] == "WRONG" for record in counted)
    yield ""
    yield f"{len(counted)} results checked against the NumPy engine's, {wrong} wrong"
    yield from untimed(result)
    for note in NOTES:
        yield from textwrap.wrap(note, _WIDTH, subsequent_indent="  ")


def untimed(result: Record) -> Iterator[str]:
    """Yield what could not be timed, and why."""
    for row in result["rows"]:
        for name, record in row["candidates"].items():
            if record["state"] != OK:
                where = f"{row['layer']}, {row['operation']}, batch {row['batch']}, {name}"
                yield f"not timed: {where}: {record['state']} ({record['reason']})"
    if result["not_reached"]:
        yield f"not reached in the time: {result['not_reached']} rows; --resume goes on with them"


def _goal(goal: Record) -> str:
    start = f"{goal['goal']:<62}{goal['measured']:>4}/{goal['of']:<3}"
    bounds = "".join(f"{bound(goal[name], goal['unit']):>7}" for name in ("must", "aim"))
    if "value" not in goal:
        return f"{start}{'-':>8}{bounds}{'-':>9}"
    value, worst = (figure(goal[name], goal["unit"]) for name in ("value", "worst"))
    return f"{start}{value:>8}{bounds}{goal['reached']:>9}{worst:>8}  {goal['where']}"


def figure(value: float, unit: str) -> str:
    """Return what was found, in a goal's unit."""
    return {"ratio": "{:.2f}", "share": "{:.1%}", "seconds": "{:.2f} s"}[unit].format(value)


def bound(value: float | None, unit: str) -> str:
    """Return a goal, in its unit."""
    if value is None:
        return "-"
    return {"ratio": "{:.2f}", "share": "{:.0%}", "seconds": "{:g} s"}[unit].format(value)
