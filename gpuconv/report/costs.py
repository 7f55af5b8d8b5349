"""The sections of layers, of the dispatcher's decisions, and of the time that layers take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuconv.backends.units import in_bytes, in_seconds
from gpuconv.errors import ShapeError
from gpuconv.layers.base import Layer
from gpuconv.losses import SparseCategoricalCrossentropy
from gpuconv.models import Model
from gpuconv.profiling import LayerProfile, Profile, profile
from gpuconv.report.made_up import made_up_inputs
from gpuconv.report.page import Html, Section, escaped, paragraph, table
from gpuconv.report.results import Tested
from gpuconv.report.run import Run

_LARGEST_BATCH = 1024
_DEFAULT_BATCH = 32


def layers_section(run: Run) -> Section:
    """Return the table of the layers."""
    described = list(_rows(run.model))
    branches = any(sources for *_, sources in described)
    rows = []
    for path, layer, shape, sources in described:
        several = shape if isinstance(shape, list) else [shape]
        row: list[object] = [
            path,
            type(layer).__name__,
            ", ".join(str(tuple(one)) for one in several),
            f"{layer.count_params():,}",
        ]
        rows.append([*row, ", ".join(sources)] if branches else row)
    header = ["layer", "type", "output shape", "parameters"] + ["connected to"] * branches
    total = run.model.count_params()
    learnt = sum(parameter.size for parameter in run.model.trainable_parameters)
    words = f"{total:,} parameters, of which {learnt:,} are learnt."
    caption = "In the order in which they are run"
    return Section("layers", "Layers", [paragraph(words), table(caption, header, rows, [3])])


def _rows(model: Model, prefix: str = "") -> Iterator[tuple[str, Layer, Any, list[str]]]:
    """Path, layer, shape and sources of all layers; those of a model inside come after it."""
    for layer, shape, sources in model.rows():
        path = prefix + layer.name
        yield path, layer, shape, [prefix + name for name in sources]
        if isinstance(layer, Model):
            yield from _rows(layer, f"{path}/")


def measured(run: Run, found: Tested | str) -> Profile | str:
    """Time the layers on a batch as the run had them; or return, in words, why that cannot be."""
    batch = run.settings.get("batch_size")
    if type(batch) is not int or not 1 <= batch <= _LARGEST_BATCH:
        batch = _DEFAULT_BATCH
    if isinstance(found, Tested):
        targets = isinstance(run.model.loss, SparseCategoricalCrossentropy)
        return profile(
            run.model, found.images.x[:batch], found.images.y[:batch] if targets else None
        )
    try:
        x = made_up_inputs(run.model, batch)
    except ShapeError as error:
        return str(error)
    return profile(run.model, x)


def decisions_section(found: Profile | str) -> Section:
    """Return which engine computes what, by which algorithm, and why."""
    title = "Who computes what, and why"
    if isinstance(found, str):
        return Section("decisions", title, [_left_out(found)])
    rows = [
        [
            row.name,
            operation,
            decision.engine,
            decision.algorithm,
            in_bytes(decision.workspace_bytes) if decision.workspace_bytes else "none",
            "measured" if decision.is_measured else "rules",
            Html(f'<td class="words">{escaped(decision.reason)}</td>'),
        ]
        for row in found.rows
        for operation, decision in row.decisions.items()
    ]
    header = ["layer", "operation", "engine", "algorithm", "workspace", "decided by", "reason"]
    if not rows:
        return Section("decisions", title, [paragraph("No layer leaves a choice.", "note")])
    caption = f"What the dispatcher decides for a batch of {found.batch} on {found.device}"
    words = paragraph(
        "For convolutions and poolings there are several engines and algorithms. These are the "
        "decisions on the machine that wrote this page."
    )
    return Section("decisions", title, [words, table(caption, header, rows)])


def timings_section(found: Profile | str) -> Section:
    """Return the time of each layer, forwards and backwards."""
    if isinstance(found, str):
        return Section("timings", "Time of each layer", [_left_out(found)])
    total = sum(_whole(row) for row in found.rows) or 1.0
    rows: list[list[object]] = [
        [
            row.name,
            row.kind,
            in_seconds(row.forward_ms / 1e3),
            "not run" if row.backward_ms is None else in_seconds(row.backward_ms / 1e3),
            _rate(row.forward_gflops),
            _rate(row.backward_gflops),
            in_bytes(row.output_bytes),
            row.engine,
            _share(_whole(row) / total),
        ]
        for row in found.rows
    ]
    header = ["layer", "type", "forward", "backward", "GFLOP/s forward", "GFLOP/s backward"]
    header += ["output", "engine", "share of the time"]
    words = paragraph(
        f"One training step on {found.batch} images: {in_seconds(found.forward_ms / 1e3)} forwards "
        f"and {in_seconds(found.backward_ms / 1e3)} backwards, without loss and optimizer. "
        f"Measured while this page was written, on {found.device}; the least of {found.repeats} "
        "turns counts. Rates are given where there are multiply-adds to count."
    )
    caption = f"Time of the layers, batch of {found.batch}"
    return Section(
        "timings", "Time of each layer", [words, table(caption, header, rows, range(2, 7))]
    )


def _left_out(why: str) -> Html:
    return paragraph(f"There is no batch to run: {why}", "note")


def _whole(row: LayerProfile) -> float:
    return row.forward_ms + (row.backward_ms or 0.0)


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"


def _share(part: float) -> Html:
    bar = f'<span style="width:{part:.1%}" aria-hidden="true"></span>'
    return Html(f'<td class="share">{part:.1%}{bar}</td>')
