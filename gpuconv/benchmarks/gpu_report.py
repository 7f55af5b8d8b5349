"""What the GPU benchmark found, in tables: rates, ratios to cuDNN, first calls, memory, goals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from gpuconv.benchmarks.candidates import OK, WRONG

Record = dict[str, Any]
WIDTH = 156
"""Columns of the tables."""


def key(row: Record) -> tuple[str, str, str, int]:
    """Return what tells the records of rows apart, as ``Row.key``."""
    return (row["part"], row["layer"], row["operation"], row["batch"])


def timed(row: Record, name: str) -> Record | None:
    """Return a candidate's record if it was timed."""
    record: Record | None = row["candidates"].get(name)
    return record if record is not None and record["state"] == OK and "ms" in record else None


def rival(row: Record, tf32: bool = False) -> Record | None:
    """Return PyTorch's record in the better memory format, with its ``name``."""
    found = [
        {**record, "name": name}
        for name in row["candidates"]
        if name.startswith("torch") and name.endswith(" tf32") == tf32
        if (record := timed(row, name)) is not None
    ]
    return min(found, key=lambda record: record["ms"], default=None)


def ratio(row: Record, name: str) -> float | None:
    """Return a candidate's time by PyTorch's without TF32."""
    ours, theirs = timed(row, name), rival(row)
    return None if ours is None or theirs is None else float(ours["ms"] / theirs["ms"])


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are there, or None without any."""
    known = [math.log(v) for v in values if v is not None]
    return math.exp(sum(known) / len(known)) if known else None


def of_rate(result: Record, row: Record, name: str, rate: str) -> float | None:
    """Return a candidate's rate by one of the device's: ``"copy"``, ``"gemm"``, ``"fma"``."""
    record = timed(row, name)
    work = row["moved"] if rate == "copy" else row["flops"]
    if record is None or not work or not result.get("rates"):
        return None
    return float(work / (record["ms"] / 1e3) / result["rates"][rate])


# --- sentences ----------------------------------------------------------------------------------


def line(row: Record) -> str:
    """Return one line about a row that has just been done."""
    parts = []
    for name, record in row["candidates"].items():
        parts.append(
            f"{name} {record['ms']:.3f} ms" if "ms" in record else f"{name} {state(record)}"
        )
    return f"{row['layer']}, {row['operation']}, batch {row['batch']}: " + "; ".join(parts)


def state(record: Record) -> str:
    """Return why a candidate was not timed."""
    return f"{record['state']} ({record.get('reason', 'interrupted')})"


def summary(result: Record) -> list[str]:
    """Return the figures that the goals are about, a sentence each."""
    rows, choice = result["rows"], result["backend"]
    counted = [r for row in rows for r in row["candidates"].values()]
    wrong = sum(record["state"] == WRONG for record in counted)
    said = [f"{len(counted)} results checked against the CPU engine, {wrong} wrong"]
    for part in dict.fromkeys(row["part"] for row in rows):
        for operation in dict.fromkeys(r["operation"] for r in rows if r["part"] == part):
            chosen = [r for r in rows if (r["part"], r["operation"]) == (part, operation)]
            means = []
            for name in result["engines"]:
                mean = geometric_mean(ratio(r, name) for r in chosen)
                if mean is not None:
                    means.append(f"{name}{' (choice)' * (name == choice)} {mean:.2f}")
            if means:
                said.append(
                    f"{part}, {operation}: time by PyTorch's better format, TF32 off, geometric "
                    f"means over {len(chosen)}: {', '.join(means)}"
                )
    for operation in dict.fromkeys(r["operation"] for r in rows if r["part"] == "resnet50"):
        for name in result["engines"]:
            shares = [
                share
                for row in rows
                if (row["part"], row["operation"]) == ("resnet50", operation)
                and row["layer"].startswith("3x3")
                and (share := of_rate(result, row, name, "fma")) is not None
            ]
            if shares:
                said.append(
                    f"ResNet-50's 3x3 layers, {operation}, {name}: "
                    f"{geometric_mean(shares):.0%} of the measured FFMA rate (geometric mean; "
                    f"from {min(shares):.0%} to {max(shares):.0%})"
                )
    return said


# --- tables -------------------------------------------------------------------------------------


def write(result: Record, file: TextIO) -> None:
    """Print where it was measured, the tables and the summary."""
    from rich.console import Console

    # Wider than some terminals: a line that wraps is better than numbers that are cut.
    console = Console(file=file, width=WIDTH, highlight=False)
    for text in header(result):
        console.print(text, markup=False)
    for table in tables(result):
        console.print()
        console.print(table)
    console.print()
    for text in summary(result):
        console.print(text, markup=False)
    for row in result["rows"]:
        for name, record in row["candidates"].items():
            if "ms" not in record:
                where = f"{row['layer']}, {row['operation']}, {name}"
                console.print(f"not timed: {where}: {state(record)}", markup=False)
    if result["not_reached"]:
        console.print(f"not reached: {result['not_reached']} rows", markup=False)


def header(result: Record) -> list[str]:
    """Return where it was measured."""
    found = result["device"]
    versions = ", ".join(f"{n} {v}" for n, v in result["versions"].items() if v is not None)
    lines = [
        ", ".join(f"{name}: {value}" for name, value in found.items()),
        versions,
        f"commit {result['commit']}, {result['date']}, {'; '.join(result['commands'])}",
    ]
    if result.get("rates"):
        copy, gemm, fma = (result["rates"][name] for name in ("copy", "gemm", "fma"))
        lines.append(
            f"measured: copy {copy / 1e9:,.0f} GB/s, cuBLAS float32 {gemm / 1e12:.1f} TFLOP/s, "
            f"multiply-adds in registers {fma / 1e12:.1f} TFLOP/s"
        )
    return lines


def tables(result: Record) -> list[Any]:
    """Return the tables as rich renderables: convolution, pooling, training, first calls."""
    rows = result["rows"]
    made = []
    for title, kind, columns in (
        ("Convolution", "conv", _conv_columns(result)),
        ("Pooling", "pooling", _pool_columns(result)),
        ("Training step", "training", _training_columns(result)),
    ):
        chosen = [row for row in rows if _kind(row) == kind]
        if chosen:
            made.append(_table(f"{title}: medians in ms", chosen, columns))
    if rows:
        made.append(
            _table(
                "First call in ms / host of a later call in us / memory beyond operands in MiB",
                rows,
                _cold_columns(result),
            )
        )
    return made


Column = tuple[str, Callable[[Record], str]]


def _kind(row: Record) -> str:
    return row["part"] if row["part"] in ("pooling", "training") else "conv"


def _table(title: str, rows: Sequence[Record], columns: Sequence[Column]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "operation"):
        table.add_column(name, no_wrap=True)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [cell(row) for _, cell in columns]
        where = f"{row['layer']}, b{row['batch']}"
        styles = ["bold red" if WRONG in text else "" for text in cells]
        table.add_row(Text(where), row["operation"], *map(Text, cells, styles))
    return table


def _ms(name: str) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        record = row["candidates"].get(name)
        if record is None:
            return "-"
        return f"{record['ms']:.3f}" if "ms" in record else record["state"]

    return cell


def _rival_ms(tf32: bool) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        found = rival(row, tf32)
        if found is None:
            return "-"
        return f"{found['ms']:.3f} {'last' if 'channels_last' in found['name'] else 'first'}"

    return cell


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _short(name: str) -> str:
    return name.partition(":")[2] or name


def _common(result: Record) -> list[Column]:
    choice = result["backend"]

    def spread(row: Record) -> str:
        record = timed(row, choice)
        if record is None:
            return "-"
        return f"{(record['p75_ms'] - record['p25_ms']) / record['ms']:.0%}"

    def by(row: Record) -> str:
        record = row["candidates"].get(choice, {})
        return _short(record.get("engine", "-"))

    columns: list[Column] = [(_short(n), _ms(n)) for n in result["engines"] if n != choice]
    if choice in result["engines"]:
        columns += [("choice", _ms(choice)), ("by", by), ("spread", spread)]
    return columns


def _rivals(result: Record, tf32: bool = True) -> list[Column]:
    choice = result["backend"]

    def by_rival(row: Record) -> str:
        value = ratio(row, choice)
        return "-" if value is None else f"{value:.2f}"

    columns: list[Column] = [("torch", _rival_ms(False)), ("ratio", by_rival)]
    return [*columns, ("torch tf32", _rival_ms(True))] if tf32 else columns


def _conv_columns(result: Record) -> list[Column]:
    choice = result["backend"]

    def tflops(row: Record) -> str:
        record = timed(row, choice)
        return "-" if record is None else f"{row['flops'] / record['ms'] / 1e9:.1f}"

    return [
        *_common(result),
        *_rivals(result),
        ("TFLOP/s", tflops),
        ("of FFMA", lambda row: _percent(of_rate(result, row, choice, "fma"))),
        ("of GEMM", lambda row: _percent(of_rate(result, row, choice, "gemm"))),
        ("of copy", lambda row: _percent(of_rate(result, row, choice, "copy"))),
    ]


def _pool_columns(result: Record) -> list[Column]:
    return [
        *_common(result),
        *_rivals(result, tf32=False),
        ("of copy", lambda row: _percent(of_rate(result, row, result["backend"], "copy"))),
    ]


def _training_columns(result: Record) -> list[Column]:
    return [*_common(result), *_rivals(result)]


def _cold_columns(result: Record) -> list[Column]:
    def cell_of(name: str) -> Callable[[Record], str]:
        def cell(row: Record) -> str:
            record = rival(row) if name == "torch" else timed(row, name)
            if record is None:
                return "-"
            return f"{record['cold_ms']:.0f} / {record['host_us']:.0f} / {record['extra_mib']:.1f}"

        return cell

    return [(name, cell_of(name)) for name in (*result["engines"], "torch")]
