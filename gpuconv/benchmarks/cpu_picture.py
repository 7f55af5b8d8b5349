"""The picture of a CPU benchmark: rates by layer, and time ratios to PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"forward": "#1b6ca8", "backward_input": "#d1762b", "backward_weight": "#4f8a52"}


def draw_layers(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one row a layer: rate against BLAS, and gpuconv's time by PyTorch's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["layer"] for row in results))
    compared = all("ratio" in row for row in results)
    figure, axes = pyplot.subplots(
        1, 2 if compared else 1, figsize=(12 if compared else 7, 0.32 * len(names) + 1.8),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    panels = [("of_blas", "rate by that of a square matrix product (BLAS)", 1.0)]
    if compared:
        panels.append(("ratio", "time by PyTorch's better format (left of 1 is faster)", 1.0))
    for axis, (key, label, line) in zip(axes[0], panels, strict=True):
        for number, (operation, colour) in enumerate(COLOURS.items()):
            values = [r[key] for r in results if r["operation"] == operation]
            heights = [i + (number - 1) * 0.22 for i in range(len(names))]
            axis.plot(values, heights, "o", markersize=5, color=colour, label=operation)
        axis.axvline(line, color="#555555", linewidth=1)
        axis.set_xlabel(label)
        axis.grid(axis="x", color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    if compared:
        axes[0][1].set_xscale("log")
        ticks = [0.5, 1, 2, 4, 8]
        axes[0][1].set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes[0][1].minorticks_off()
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].set_ylim(len(names) - 0.4, -0.6)
    axes[0][0].set_xlim(left=0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
