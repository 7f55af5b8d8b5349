"""The table that ``model.summary()`` prints, in two styles, at any width."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.errors import NotBuiltError
from gpuconv.layers.base import Layer

if TYPE_CHECKING:
    from gpuconv.models.model import Model

Row = tuple[str, ...]
"""Label, shape, number of parameters, and in graphs with branches the layers before."""


def summary_text(model: Model, line_length: int | None, style: str) -> str:
    """Return the summary as text; see ``Model.summary``.

    Raises:
        NotBuiltError: the model has not seen an input shape.
    """
    if not model.built:
        raise NotBuiltError(
            f"{model.name} has no shapes yet: give the first layer an input_shape, call "
            f"build((None, ...)), or call the model on data first"
        )
    described = model.rows()
    rows = _rows(described)
    totals = _totals(model)
    terminal = shutil.get_terminal_size((80, 24)).columns
    if style == "classic":
        return _classic(model, rows, totals, line_length or min(65, terminal))
    frozen = [_frozen(layer) for layer, _, _ in described]
    return _table(model, rows, frozen, totals, line_length or terminal)


def _rows(described: list[tuple[Layer, Any, list[str]]]) -> list[Row]:
    branches = any(sources for _, _, sources in described)
    rows: list[Row] = []
    for layer, shape, sources in described:
        label = f"{layer.name} ({type(layer).__name__})"
        several = shape if isinstance(shape, list) else [shape]
        words = ", ".join(str(tuple(one)) for one in several)
        row = (label, words, f"{layer.count_params():,}")
        rows.append((*row, ", ".join(sources)) if branches else row)
    return rows


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
    rows: list[Row],
    frozen: list[bool],
    totals: list[tuple[str, int, int]],
    width: int,
) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SQUARE, show_lines=False, expand=False)
    table.add_column("Layer (type)", overflow="fold")
    table.add_column("Output shape", overflow="fold")
    table.add_column("Params", justify="right", overflow="fold")
    if len(rows[0]) > 3:
        table.add_column("Connected to", overflow="fold")
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


def _classic(model: Model, rows: list[Row], totals: list[tuple[str, int, int]], width: int) -> str:
    """Keras 2's lines: columns end at 45 %, 85 % and 100 % of the width, if numbers have room."""
    digits = max(len(row[2].replace(",", "")) for row in [*rows, ("", "", "Param #")])
    branches = len(rows[0]) > 3
    last = min(int(width * 0.85), max(width - digits - 1, 10))
    ends: tuple[int, ...] = (last * 9 // 17, last, width)
    if branches:  # Keras 2's columns where there are four
        ends = (width * 33 // 100, width * 55 // 100, width * 67 // 100, width)

    def line(cells: Row) -> str:
        # A cell that is too long goes on in the next line instead of being cut.
        starts = (0, *ends[:-1])
        widths = [max(e - s - 1, 4) for s, e in zip(starts, ends, strict=True)]
        pieces = [
            [cell[i : i + w] for i in range(0, len(cell), w)] or [""]
            for cell, w in zip(cells, widths, strict=True)
        ]
        lines = []
        for number in range(max(map(len, pieces))):
            text = ""
            for start, piece in zip(starts, pieces, strict=True):
                text = text.ljust(start) + (piece[number] if number < len(piece) else "")
            lines.append(text.rstrip())
        return "\n".join(lines)

    body = [f'Model: "{model.name}"', "_" * width]
    head = ("Layer (type)", "Output Shape", "Param #", "Connected to")
    body += [line(head if branches else head[:3]), "=" * width]
    for number, (label, shape, count, *sources) in enumerate(rows):
        body.append(line((label, shape, count.replace(",", ""), *sources)))
        body.append(("=" if number == len(rows) - 1 else " ") * width)
    body = [text.rstrip() for text in body]
    return "\n".join([*body, *_total_lines(totals, width), "_" * width])
