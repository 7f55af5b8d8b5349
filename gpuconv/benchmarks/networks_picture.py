"""The picture of a benchmark of whole networks: bars of ratios to PyTorch, and of goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpuconv.benchmarks import cpu_report, networks_goals
from gpuconv.benchmarks.pytorch import FORMATS
from gpuconv.io import atomic_path

Record = dict[str, Any]
COLOURS = {"contiguous": "#1b6ca8", "channels_last": "#d1762b"}
VERDICTS = {"aim": "#2e6b34", "must": "#6fa873", "no": "#b5483a"}


def draw(result: Record, path: Path) -> bool:
    """Draw our times by PyTorch's, and beside that what was found by each goal.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if networks_goals.ratio(result, row) is not None]
    goals = [goal for goal in result["goals"] if "value" in goal]
    if not rows and not goals:
        return False
    tall = max(0.62 * len(rows), 0.55 * len(goals)) + 1.9
    panels = bool(rows) + bool(goals)
    figure, axes = pyplot.subplots(
        1, panels, figsize=(7.6 * panels, tall), squeeze=False, layout="constrained"
    )
    if rows:
        _draw_ratios(axes[0][0], result, rows)
    if goals:
        _draw_goals(axes[0][-1], goals)
    figure.suptitle(
        f"{result['device']['device']}, {result['device']['cores']} cores, float32; "
        f"commit {result['commit']}",
        fontsize=11,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    return True


def _draw_ratios(axis: Any, result: Record, rows: list[Record]) -> None:
    for number, memory in enumerate(FORMATS):
        found = [
            (place, ratio)
            for place, row in enumerate(rows)
            if (ratio := networks_goals.ratio(result, row, (memory,))) is not None
        ]
        if found:
            bars = axis.barh(
                [place + 0.38 * (number - 0.5) for place, _ in found],
                [ratio for _, ratio in found],
                0.36, color=COLOURS[memory], label=f"PyTorch {memory}",
            )  # fmt: skip
            _label(axis, bars, [f"{ratio:.2f}" for _, ratio in found])
    names = [f"{row['layer']}, batch {row['batch']}\n{row['operation']}" for row in rows]
    _finish(axis, names, "gpuconv's time, or memory, by PyTorch's (left of 1 is better)")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)


def _draw_goals(axis: Any, goals: list[Record]) -> None:
    values = [goal["value"] / goal["must"] for goal in goals]
    colours = [VERDICTS[goal["reached"]] for goal in goals]
    bars = axis.barh(range(len(goals)), values, 0.5, color=colours)
    words = [
        f"{cpu_report.figure(goal['value'], goal['unit'])} of "
        f"{cpu_report.bound(goal['must'], goal['unit'])}"
        for goal in goals
    ]
    _label(axis, bars, words)
    names = [goal["goal"].replace(", ", ",\n", 1).replace(" by ", "\nby ", 1) for goal in goals]
    _finish(axis, names, "what was found by the goal (left of 1 is reached)")


def _label(axis: Any, bars: Any, words: list[str]) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axis.bar_label(bars, words, padding=4, fontsize=8, bbox=box)


def _finish(axis: Any, names: list[str], label: str) -> None:
    axis.axvline(1, color="#333333", linewidth=1)
    axis.set_xlim(0, 1.22 * max(1.0, axis.get_xlim()[1]))
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xlabel(label)
    axis.grid(color="#e4e4e4", axis="x")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
