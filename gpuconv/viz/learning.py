"""The learning curves of a training run, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.viz.figures import COLORS, PathLike, finish, new_figure, open_box
from gpuconv.viz.history import LOG_RATIO, curves_of, panels_of, series_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(
    history: Any, path: PathLike | None = None, title: str = "Learning curves"
) -> Figure:
    """Draw the losses, metrics and learning rates of a training run over its epochs.

    Losses, metrics between 0 and 1, other metrics and the learning rate have axes of their own.
    Curves of training are dashed where there is one of validation too. Losses that span more
    than a factor of 50 get a logarithmic axis. NaN and infinity leave gaps.

    Args:
        history: what ``fit`` returned, or its ``history``: a list of numbers a name; names of
            validation begin with ``val_``.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.
        title: heading.

    Raises:
        InvalidArgumentError: not a history, one without epochs, or an unknown suffix.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    record = history if isinstance(history, Mapping) else getattr(history, "history", None)
    if not isinstance(record, Mapping):
        raise InvalidArgumentError(
            f"history must be what fit returned, or a dict of lists. Received: {shown(history)}"
        )
    series, epochs = series_of(record)
    panels = panels_of(series)
    across, rows = min(2, len(panels)), -(-len(panels) // 2)
    figure = new_figure(5.6 * across, 0.5 + 3.6 * rows, path)
    from matplotlib.ticker import MaxNLocator

    figure.suptitle(title)
    axes = figure.subplots(rows, across, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (heading, names) in zip(axes, panels, strict=False):
        curves = curves_of({name: series[name] for name in names}, epochs)
        both = len({curve.validation for curve in curves}) == 2
        for number, curve in enumerate(curves):
            places: list[float] = []
            values: list[float] = []
            for run in curve.runs:  # a NaN between the runs leaves the gap
                places += [*(epoch for epoch, _ in run), run[-1][0]]
                values += [*(value for _, value in run), float("nan")]
            axis.plot(
                places,
                values,
                "--" if both and not curve.validation else "-",
                color=COLORS[number % len(COLORS)],
                marker="o" if len(curve.values) == 1 else None,
                label=_label(curve),
            )
        shown_values = [value for curve in curves for value in curve.values]
        if heading.endswith("loss") and _spans(shown_values):
            axis.set_yscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(heading)
        axis.set_xlabel("epoch")
        axis.legend(frameon=False)
        open_box(axis)
    return finish(figure, path)


def _label(curve: Any) -> str:
    name = curve.name or "learning rate"
    return f"{name}: {curve.values[-1]:.4g}" if curve.values else f"{name}: none finite"


def _spans(values: list[float]) -> bool:
    return min(values, default=0) > 0 and max(values) > LOG_RATIO * min(values)
