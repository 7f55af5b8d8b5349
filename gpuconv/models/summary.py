"""The table that ``model.summary()`` prints, in two styles, at any width."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.errors import NotBuiltError
from gpuconv.layers.base import Layer
from gpuconv.models.model import Model

Row = tuple[str, ...]
"""The cells of a line."""


@dataclass(frozen=True)
class _Entry:
    """What a line says of a call of a layer.

    Attributes:
        layer: which one.
        shape: of its output, or a list of them.
        sources: names of the layers before, where they are not simply the line above.
        level: in how many models it lies inside the one described.
    """

    layer: Layer
    shape: Any
    sources: list[str]
    level: int


def summary_text(
    model: Model,
    line_length: int | None,
    style: str,
    expand_nested: bool = False,
    show_trainable: bool = False,
) -> str:
    """Return the summary as text; see ``Model.summary``.

    Raises:
        NotBuiltError: the model has not seen an input shape.
    """
    if not model.built:
        raise NotBuiltError(
            f"{model.name} has no shapes yet: give the first layer an input_shape, call "
            f"build((None, ...)), or call the model on data first"
        )
    entries = list(_entries(model, expand_nested))
    titles, rows = _cells(entries, style, show_trainable)
    totals = _totals(model)
    terminal = shutil.get_terminal_size((80, 24)).columns
    if style == "classic":
        return _classic(model, titles, entries, rows, totals, line_length or min(65, terminal))
    frozen = [_frozen(entry.layer) for entry in entries]
    return _table(model, titles, rows, frozen, totals, line_length or terminal)


def _entries(model: Model, expand: bool) -> Iterator[_Entry]:
    """The calls of a model's layers; behind the first call of each model inside, its own."""
    expanded: set[int] = set()

    def inside(outer: Model, level: int) -> Iterator[_Entry]:
        for layer, shape, sources in outer.rows():
            yield _Entry(layer, shape, sources, level)
            if expand and isinstance(layer, Model) and id(layer) not in expanded:
                expanded.add(id(layer))
                yield from inside(layer, level + 1)

    return inside(model, 0)


def _cells(entries: Sequence[_Entry], style: str, show_trainable: bool) -> tuple[Row, list[Row]]:
    """The titles of the columns, and the cells of each line."""
    titles = {
        "table": ("Layer (type)", "Output shape", "Params", "Connected to", "Trainable"),
        "classic": ("Layer (type)", "Output Shape", "Param #", "Connected to", "Trainable"),
    }[style]
    shown = [True, True, True, any(entry.sources for entry in entries), show_trainable]
    rows: list[Row] = []
    for entry in entries:
        layer = entry.layer
        prefix = "   " * entry.level + "└ " if entry.level and style == "table" else ""
        several = entry.shape if isinstance(entry.shape, list) else [entry.shape]
        count = layer.count_params()
        cells = (
            f"{prefix}{layer.name} ({type(layer).__name__})",
            ", ".join(str(tuple(one)) for one in several),
            str(count) if style == "classic" else f"{count:,}",
            ", ".join(entry.sources),
            ("Y" if layer.trainable else "N") if layer.state() else "-",
        )
        rows.append(tuple(cell for cell, is_shown in zip(cells, shown, strict=True) if is_shown))
    return tuple(title for title, s in zip(titles, shown, strict=True) if s), rows


def _totals(model: Model) -> list[tuple[str, int, int]]:
    """(name, numbers, bytes) of all, trainable and other arrays."""
    trainable = {id(p.value): p.value for p in model.trainable_parameters}
    everything = {id(a): a for a in model.state().values()}
    counts = [
        (sum(int(np.prod(a.shape)) for a in arrays), sum(int(a.nbytes) for a in arrays))
        for arrays in (everything.values(), trainable.values())
    ]
    (total, total_bytes), (learnt, learnt_bytes) = counts
    return [
        ("Total params", total, total_bytes),
        ("Trainable params", learnt, learnt_bytes),
        ("Non-trainable params", total - learnt, total_bytes - learnt_bytes),
    ]


def size_words(count: int) -> str:
    """Return bytes as Keras writes them: ``478.79 KB``."""
    if count < 1024:
        return f"{count:.2f} B"
    value = float(count)
    for unit in ("KB", "MB", "GB", "TB"):
        value /= 1024
        if value < 1024 or unit == "TB":
            break
    return f"{value:.2f} {unit}"


def _total_lines(totals: list[tuple[str, int, int]], width: int) -> list[str]:
    lines = []
    for name, numbers, size in totals:
        count, memory = f"{name}: {numbers:,}", f"({size_words(size)})"
        fits = len(count) + 1 + len(memory) <= width
        lines += [f"{count} {memory}"] if fits else [count, f"  {memory}"]
    return lines


def _table(
    model: Model,
    titles: Row,
    rows: list[Row],
    frozen: list[bool],
    totals: list[tuple[str, int, int]],
    width: int,
) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SQUARE, show_lines=False, expand=False)
    sides: Any = {"Params": "right", "Trainable": "center"}
    for title in titles:
        table.add_column(title, justify=sides.get(title, "left"), overflow="fold")
    for row, at_rest in zip(rows, frozen, strict=True):
        table.add_row(*map(_escape, row), style="dim" if at_rest else None)
    out = io.StringIO()
    console = Console(file=out, width=max(width, 24), color_system=None, highlight=False)
    console.print(f'Model: "{model.name}"')
    console.print(table)
    for text in _total_lines(totals, console.width - 1):
        console.print(f" {text}")
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def _escape(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _frozen(layer: Layer) -> bool:
    return bool(layer.parameters) and not layer.has_trainable


def _classic(
    model: Model,
    titles: Row,
    entries: Sequence[_Entry],
    rows: list[Row],
    totals: list[tuple[str, int, int]],
    width: int,
) -> str:
    """Keras 2's lines, with models inside in boxes of bars.

    Columns end at 45 %, 85 % and 100 % of the width, if numbers have room.
    """
    ends = _ends(titles, rows, width - max(entry.level for entry in entries))

    def line(cells: Row, level: int = 0) -> str:
        # A cell that is too long goes on in the next line instead of being cut.
        bars = "|" * level + " " if level else ""
        starts = (len(bars), *ends[:-1])
        widths = [max(e - s - 1, 4) for s, e in zip(starts, ends, strict=True)]
        pieces = [
            [cell[i : i + w] for i in range(0, len(cell), w)] or [""]
            for cell, w in zip(cells, widths, strict=True)
        ]
        lines = []
        for number in range(max(map(len, pieces))):
            text = bars
            for start, piece in zip(starts, pieces, strict=True):
                text = text.ljust(start) + (piece[number] if number < len(piece) else "")
            lines.append((text.ljust(width - level) + "|" * level).rstrip())
        return "\n".join(lines)

    def rule(mark: str, level: int) -> str:
        return "|" * level + mark * (width - 2 * level) + "|" * level

    body = [f'Model: "{model.name}"', "_" * width, line(titles), "=" * width]
    for number, (entry, row) in enumerate(zip(entries, rows, strict=True), start=1):
        body.append(line(row, entry.level))
        at_end = number == len(entries)
        level = 0 if at_end else entries[number].level  # of the next line
        if level > entry.level:
            body.append(rule("¯", level))
        body += [rule("¯", n) for n in range(entry.level - 1, level - 1, -1)]  # boxes that end
        if level <= entry.level and not at_end:
            body.append(rule(" ", level))
    body = [text.rstrip() for text in [*body, "=" * width]]
    return "\n".join([*body, *_total_lines(totals, width), "_" * width])


def _ends(titles: Row, rows: list[Row], width: int) -> tuple[int, ...]:
    """Where the columns end; the last one with the width."""
    digits = max(len(cell) for cell in ("Param #", *(row[2] for row in rows)))
    if "Connected to" in titles:  # Keras 2's columns where there are four
        shapes = width * 55 // 100
        numbers = min(max(width * 67 // 100, shapes + digits + 1), max(width - 10, shapes + 5))
        ends = [width * 33 // 100, shapes, numbers]
        if "Trainable" in titles:
            ends.append(max(width * 86 // 100, numbers + 5))
        return (*ends, width)
    whole = width - len("Trainable ") if "Trainable" in titles else width
    last = min(int(whole * 0.85), max(whole - digits - 1, 10))
    ends = [last * 9 // 17, last]
    if "Trainable" in titles:
        ends.append(whole)
    return (*ends, width)
