"""The picture of a CPU benchmark: rooflines of the convolutions, and time ratios to PyTorch.

The roofline is that of Williams, Waterman and Patterson 2009, "Roofline: An Insightful Visual
Performance Model for Multicore Architectures".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuconv.benchmarks import cpu_goals
from gpuconv.benchmarks.cpu_workload import NETWORKS, SMALL, batch_of_goals
from gpuconv.benchmarks.workload import CONV_OPERATIONS
from gpuconv.io import atomic_path

Record = dict[str, Any]
COLOURS = {"cpu:jit": "#1b6ca8", "cpu:numpy": "#4f8a52", "PyTorch": "#d1762b"}
_OTHERS = ("#7a4fa3", "#a33d4f", "#555555")
MARKERS = {
    "resnet50": "o",
    "vgg16": "s",
    "mobilenetv2": "^",
    "seed": "D",
    "deepbench": "v",
    "odd": "X",
}
OPERATIONS = {
    "forward": ("#1b6ca8", "o"),
    "backward_input": ("#d1762b", "o"),
    "backward_weight": ("#4f8a52", "o"),
    "backward": ("#d1762b", "s"),
    "step": ("#111111", "D"),
    "predict": ("#1b6ca8", "D"),
}
"""Of the ratios: colour and marker."""
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)


def draw(result: Record, path: Path) -> bool:
    """Draw a roofline for each operation, and beside them the ratios of all layers.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [op for op in CONV_OPERATIONS if any(_points(result, op))]
    compared = _compared(result)
    if not found and not compared:
        return False
    names = list(dict.fromkeys(_name(row) for row in compared))
    height = max(3.6 * len(found), 0.19 * len(names) + 1.2, 3.0) + 0.8
    figure = pyplot.figure(figsize=(7.2 * bool(found) + 6.4 * bool(compared), height))
    figure.set_layout_engine("constrained")
    sides = iter(figure.subfigures(1, bool(found) + bool(compared), squeeze=False)[0])
    if found:
        _draw_rooflines(next(sides), result, found)
    if compared:
        _draw_ratios(next(sides), result, compared, names)
    figure.suptitle(
        f"{result['device']['device']}, {result['device']['cores']} cores, float32; "
        f"commit {result['commit']}",
        fontsize=11,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
    return True


# --- rooflines ----------------------------------------------------------------------------------


def _points(result: Record, operation: str) -> Iterator[tuple[str, Record, float, float]]:
    """Yield who, the row, operations a byte and GFLOP/s."""
    for row in result["rows"]:
        if row["part"] not in NETWORKS or row["operation"] != operation:
            continue
        times = {name: cpu_goals.least(row, name) for name in result["engines"]}
        times["PyTorch"] = cpu_goals.rival(row)
        for who, ms in times.items():
            if ms is not None:
                yield who, row, row["flops"] / row["moved"], row["flops"] / ms / 1e6


def _draw_rooflines(figure: Any, result: Record, operations: list[str]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots(len(operations), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    shown = [p for op in operations for p in _points(result, op)]
    left = min(x for _, _, x, _ in shown) / 4
    right = max(x for _, _, x, _ in shown) * 1.5
    whose = dict.fromkeys(who for who, _, _, _ in shown)
    spare = iter(_OTHERS * len(whose))
    colours = {who: COLOURS.get(who) or next(spare) for who in whose}
    for axis, operation in zip(axes, operations, strict=True):
        _draw_roof(axis, result["rates"], left, right)
        for who, row, x, y in _points(result, operation):
            colour = colours[who]
            axis.plot(
                x, y, MARKERS[row["part"]], color=colour, markersize=4.5, markeredgewidth=0.8,
                markerfacecolor="none" if row["batch"] == SMALL else colour, alpha=0.8,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
            scale.set_major_formatter(lambda value, _: f"{value:g}")
            scale.set_minor_locator(NullLocator())
        axis.tick_params(labelsize=8)
        axis.set_xlim(left, right)
        axis.set_title(operation, fontsize=10)
        axis.set_ylabel("GFLOP/s")
        axis.grid(color="#e4e4e4", which="major")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("operations a byte of input, weights and output")
    parts = [part for part in MARKERS if any(row["part"] == part for _, row, _, _ in shown)]
    _legend(figure, colours, parts, any(row["batch"] == SMALL for _, row, _, _ in shown))


def _draw_roof(axis: Any, rates: Record, left: float, right: float) -> None:
    fma, copy, gemm = (rates[name] / 1e9 for name in ("fma", "copy", "gemm"))
    line = {"color": "#333333", "linewidth": 1.2, "zorder": 1}
    thin = {"color": "#777777", "linewidth": 0.8, "zorder": 1}
    # On the left, where no layer is: nothing there can reach them.
    text = {"fontsize": 7, "color": "#333333", "textcoords": "offset points"}
    end = right
    if fma:
        end = min(max(fma / copy, left), right)
        axis.plot([end, right], [fma, fma], **line)
        axis.axhline(fma, linestyle=":", **thin)
        axis.annotate(f"multiply-adds, {fma:.0f}", (left, fma), xytext=(6, 3), **text)
    axis.plot([left, end], [copy * left, copy * end], **line)
    axis.annotate(f"copy, {copy:.1f} GB/s", (left, copy * left), xytext=(6, 0), va="top", **text)
    axis.axhline(gemm, linestyle="--", **thin)
    axis.annotate(f"BLAS, {gemm:.0f}", (left, gemm), xytext=(6, -9), **text)


def _legend(figure: Any, colours: dict[str, str], parts: list[str], small: bool) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Any:
        return Line2D([], [], linestyle="none", markersize=6, label=label, **style)

    entries = [entry(who, marker="o", color=colour) for who, colour in colours.items()]
    entries += [entry(part, marker=MARKERS[part], color="#555555") for part in parts]
    if small:
        hollow = {"marker": "o", "color": "#555555", "markerfacecolor": "none"}
        entries.append(entry(f"batch {SMALL}", **hollow))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


# --- ratios -------------------------------------------------------------------------------------


def _compared(result: Record) -> list[Record]:
    """The rows that have a ratio, of a network's layers those of one batch: that of its goals."""
    found = [
        row
        for row in result["rows"]
        if row["operation"] in OPERATIONS and cpu_goals.ratio(result, row) is not None
    ]
    batches: dict[str, set[int]] = {}
    for row in found:
        batches.setdefault(row["part"], set()).add(row["batch"])
    shown = {
        part: batch_of_goals(part) if batch_of_goals(part) in measured else max(measured)
        for part, measured in batches.items()
    }
    return [r for r in found if r["part"] not in NETWORKS or r["batch"] == shown[r["part"]]]


def _name(row: Record) -> str:
    return f"{row['layer']}, b{row['batch']}"


def _draw_ratios(figure: Any, result: Record, rows: list[Record], names: list[str]) -> None:
    axis = figure.subplots()
    place: Callable[[Record], int] = lambda row: names.index(_name(row))  # noqa: E731
    for operation, (colour, marker) in OPERATIONS.items():
        chosen = [row for row in rows if row["operation"] == operation]
        if chosen:
            values = [cpu_goals.ratio(result, row) for row in chosen]
            axis.plot(
                values, [place(row) for row in chosen], marker, color=colour, markersize=4.5,
                label=operation, alpha=0.85,
            )  # fmt: skip
    axis.axvline(1, color="#333333", linewidth=1)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    ticks = [t for t in _TICKS if low <= t <= high] or [1]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(color="#e4e4e4")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("time by PyTorch's in its better format (left of 1 is faster)")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
