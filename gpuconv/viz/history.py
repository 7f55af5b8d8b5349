"""The curves of a training run as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuconv.errors import InvalidArgumentError
from gpuconv.viz.canvas import (
    GRID,
    MUTED,
    PALETTE,
    Canvas,
    Color,
    Point,
    fit_text,
    text_width,
    tint,
)
from gpuconv.viz.ticks import Axis, epoch_axis, linear_axis, logarithmic_axis

_PANEL_WIDTH, _PANEL_HEIGHT, _HEADING, _MARGIN = 660, 430, 60, 28
_AXIS_TOP, _AXIS_BOTTOM = 40, 366
LOG_RATIO = 50.0
"""Losses that span more than this factor are drawn on a logarithmic axis."""
_LARGEST = 1e300  # beyond it the arithmetic of an axis overflows
_SMALL, _NORMAL, _LARGE, _TITLE = 13, 14, 17, 22


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its name, ``(epoch, value)`` in runs without gaps, and how it looks."""

    name: str
    runs: tuple[tuple[tuple[int, float], ...], ...]
    color: Color
    pale: bool
    validation: bool = False

    @property
    def values(self) -> list[float]:
        """The finite values, without their epochs."""
        return [value for run in self.runs for _, value in run]


def draw_history(
    history: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    title: str = "Training history",
) -> None:
    """Draw the curves of a training run and write them as a PNG file, atomically.

    The losses get one panel, the metrics that lie between 0 and 1 (accuracy, precision) a
    second, other metrics a third and the learning rate a fourth; empty panels are left out.
    A curve has its name and last value at its end. Where several metrics share a panel, each
    has a colour of its own, pale for training and strong for validation. Losses that span
    more than a factor of 50 are drawn on a logarithmic axis. NaN and infinity leave gaps, and
    a note counts them.

    Args:
        history: one list a key, one number an epoch, as ``History.history`` holds them; keys of
            validation start with ``val_``. A validation list with fewer entries than there are
            epochs (``validation_freq`` above 1) belongs to the multiples of
            ``epochs // entries``.
        path: the file to write.
        title: heading of the picture.

    Raises:
        InvalidArgumentError: the history is no dict, has no entries, or values that are not
            numbers.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    series, epochs = series_of(history)
    panels = panels_of(series)
    across, rows = min(2, len(panels)), -(-len(panels) // 2)
    canvas = Canvas(_PANEL_WIDTH * across + 20, _HEADING + _PANEL_HEIGHT * rows + 20)
    canvas.text((_MARGIN, 44), fit_text(title, _TITLE, canvas.width - 2 * _MARGIN), _TITLE)
    for number, (heading, names) in enumerate(panels):
        curves = curves_of({name: series[name] for name in names}, epochs)
        corner = (_PANEL_WIDTH * (number % 2), _HEADING + _PANEL_HEIGHT * (number // 2))
        _draw_panel(canvas, corner, heading, curves, epochs)
    gaps = sum(not _drawable(value) for values in series.values() for value in values)
    if gaps:
        words = "1 value is" if gaps == 1 else f"{gaps} values are"
        note = f"{words} not finite and left out"
        canvas.text((canvas.width - _MARGIN, canvas.height - 12), note, _SMALL, PALETTE[4], "rs")
    canvas.save(path)


def series_of(history: Mapping[str, Sequence[float]]) -> tuple[dict[str, list[float]], int]:
    """Return the lists of a history as numbers, NaN for None, and how many epochs there are.

    Raises:
        InvalidArgumentError: no dict, no entries, or values that are not numbers.
    """
    if not isinstance(history, Mapping):
        raise InvalidArgumentError(
            f"history must be a dict of lists, such as History.history. Received: {history!r}"
        )
    series = {name: _numbers(name, values) for name, values in history.items()}
    epochs = max((len(values) for values in series.values()), default=0)
    if epochs == 0:
        raise InvalidArgumentError(
            f"history must have at least one epoch. Received: {dict(history)!r}"
        )
    return series, epochs


def _numbers(name: str, values: Sequence[float]) -> list[float]:
    try:
        return [math.nan if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"history[{name!r}] must be a list of numbers. Received: {values!r}"
        ) from error


def _drawable(value: float) -> bool:
    return abs(value) < _LARGEST  # false for NaN, too


def _metric(name: str) -> str:
    return name.removeprefix("val_")


def panels_of(series: Mapping[str, Sequence[float]]) -> list[tuple[str, list[str]]]:
    """Return ``(heading, keys)`` of each panel that has anything to show."""
    groups: dict[str, list[str]] = {"loss": [], "proportions": [], "others": [], "rate": []}
    for metric in dict.fromkeys(_metric(name) for name in series):
        names = [name for name in (metric, f"val_{metric}") if name in series]
        values = [value for name in names for value in series[name] if _drawable(value)]
        if metric.endswith("loss"):
            group = "loss"
        elif metric == "learning_rate":
            group = "rate"
        else:
            group = "proportions" if all(0 <= value <= 1 for value in values) else "others"
        groups[group] += names
    return [(_heading(names), names) for names in groups.values() if names]


def _heading(names: Sequence[str]) -> str:
    metrics = list(dict.fromkeys(_metric(name) for name in names))
    return ", ".join(metrics).replace("_", " ")


def curves_of(series: Mapping[str, list[float]], epochs: int) -> list[Curve]:
    """Return the curves of one panel."""
    metrics = list(dict.fromkeys(_metric(name) for name in series))
    curves = []
    for name, values in series.items():
        metric = _metric(name)
        validation = name != metric
        both = metric in series and f"val_{metric}" in series
        # A panel of one metric has a colour each for validation and training, a panel of
        # several a colour for each metric.
        place = metrics.index(metric) if len(metrics) > 1 else int(both and not validation)
        word = "validation" if validation else "training"
        label = word if len(metrics) == 1 else f"{word} {metric.replace('_', ' ')}"
        if metric == "learning_rate":
            label = ""
        curves.append(
            Curve(
                name=label,
                runs=_runs(values, epochs),
                color=PALETTE[place % len(PALETTE)],
                pale=both and not validation and len(metrics) > 1,
                validation=validation,
            )
        )
    return curves


def _runs(values: Sequence[float], epochs: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Number the values by epoch and part them where they are not finite."""
    step = max(1, epochs // max(1, len(values)))
    runs: list[list[tuple[int, float]]] = [[]]
    for i, value in enumerate(values):
        if _drawable(value):
            runs[-1].append(((i + 1) * step, value))
        elif runs[-1]:
            runs.append([])
    return tuple(tuple(run) for run in runs if run)


def _draw_panel(
    canvas: Canvas,
    corner: tuple[int, int],
    heading: str,
    curves: Sequence[Curve],
    epochs: int,
) -> None:
    values = [value for curve in curves for value in curve.values]
    logarithmic = (
        heading.endswith("loss")
        and min(values, default=0) > 0
        and max(values) > LOG_RATIO * min(values)
    )
    y_axis = logarithmic_axis(values) if logarithmic else linear_axis(values or [0.0, 1.0])
    x_axis = epoch_axis(epochs)
    labels = {curve: _label(curve) for curve in curves if curve.values}
    tick_width = max((text_width(label, _SMALL) for _, label in y_axis.ticks), default=0.0)
    label_width = max((text_width(label, _NORMAL) for label in labels.values()), default=0.0)
    left, top = corner[0] + _MARGIN, corner[1]
    x0, x1 = left + tick_width + 14, corner[0] + _PANEL_WIDTH - 22 - label_width
    y0, y1 = float(top + _AXIS_BOTTOM), float(top + _AXIS_TOP)

    def place(epoch: float, value: float) -> Point:
        return (
            x0 + x_axis.fraction(epoch) * (x1 - x0),
            y0 + y_axis.fraction(value) * (y1 - y0),
        )

    scale = " (logarithmic)" if logarithmic else ""
    canvas.text((left, top + 22), fit_text(heading + scale, _LARGE, x1 - left), _LARGE)
    _draw_axes(canvas, x_axis, y_axis, (x0, x1), (y0, y1))
    if not values:
        canvas.text(((x0 + x1) / 2, (y0 + y1) / 2), "no finite values", _NORMAL, MUTED, "mm")
    for curve in curves:
        color = tint(curve.color, 0.5) if curve.pale else curve.color
        for run in curve.runs:
            points = [place(*point) for point in run]
            canvas.line(points, color, 2.4)
            if len(points) == 1 or run is curve.runs[-1]:
                canvas.dot(points[-1], 4.0, color)
    ends = [place(*curve.runs[-1][-1])[1] for curve in labels]
    for (curve, label), y in zip(labels.items(), _spread(ends, 20.0, (y1, y0)), strict=True):
        color = tint(curve.color, 0.25) if curve.pale else curve.color
        canvas.text((x1 + 12, y), label, _NORMAL, color, "lm")


def _label(curve: Curve) -> str:
    value = f"{curve.values[-1]:.4g}"
    name = fit_text(curve.name, _NORMAL, 210 - text_width(value, _NORMAL))
    return f"{name} {value}" if name else value


def _draw_axes(
    canvas: Canvas, x_axis: Axis, y_axis: Axis, x: tuple[float, float], y: tuple[float, float]
) -> None:
    for value, label in y_axis.ticks:
        at = y[0] + y_axis.fraction(value) * (y[1] - y[0])
        canvas.rule((x[0], at), (x[1], at), GRID)
        canvas.text((x[0] - 10, at), label, _SMALL, MUTED, "rm")
    canvas.rule((x[0], y[0]), (x[1], y[0]), MUTED)
    for value, label in x_axis.ticks:
        at = x[0] + x_axis.fraction(value) * (x[1] - x[0])
        canvas.rule((at, y[0]), (at, y[0] + 5), MUTED)
        canvas.text((at, y[0] + 10), label, _SMALL, MUTED, "ma")
    canvas.text(((x[0] + x[1]) / 2, y[0] + 32), "epoch", _SMALL, MUTED, "ma")


def _spread(positions: Sequence[float], gap: float, limits: tuple[float, float]) -> list[float]:
    """Move positions as little as needed for ``gap`` pixels between them, within the limits."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [positions[i] for i in order]
    for _ in range(100):
        for i in range(len(placed) - 1):
            overlap = gap - (placed[i + 1] - placed[i])
            if overlap > 0:
                placed[i] -= overlap / 2
                placed[i + 1] += overlap / 2
        placed = [min(max(position, limits[0]), limits[1]) for position in placed]
    result = [0.0] * len(placed)
    for i, position in zip(order, placed, strict=True):
        result[i] = position
    return result
