"""The picture of a GPU benchmark: rates of the layers, pooling by the copy rate, training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpuconv.benchmarks.gpu_report import Record, rival, timed
from gpuconv.io import atomic_path

# Ours in strong colours, PyTorch's in greys; the choice is a ring around the engine it took.
STYLES: dict[str, dict[str, Any]] = {
    "numba": {"color": "#1b6ca8", "marker": "o"},
    "cupy": {"color": "#d1762b", "marker": "s"},
    "other": {"color": "#4f8a52", "marker": "D"},
    "choice": {"color": "#111111", "marker": "o", "markerfacecolor": "none", "markersize": 10},
    "torch": {"color": "#777777", "marker": "^"},
    "torch tf32": {"color": "#bbbbbb", "marker": "v"},
}


def draw(result: Record, path: Path) -> bool:
    """Draw a panel for each convolution operation, one for pooling, one for training steps.

    PyTorch's TF32 results, which are coarser by a factor of 8192, are drawn for training only.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        panel
        for panel in (
            *(_conv_panel(result, op) for op in ("forward", "backward_input", "backward_weight")),
            _pool_panel(result),
            _training_panel(result),
        )
        if panel is not None
    ]
    if not panels:
        return False
    tallest = max(len(panel["names"]) for panel in panels)
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.9 * len(panels) + 1.5, 0.24 * tallest + 2.4),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    labels: dict[str, Any] = {}
    named: list[str] = []
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, points in panel["series"].items():
            style = {"linestyle": "none", "markersize": 5, **_style(label)}
            heights = [panel["names"].index(name) for name, _ in points]
            (drawn,) = axis.plot([value for _, value in points], heights, **style)
            labels.setdefault(label, drawn)
        for label, value, dashes in panel["lines"]:
            axis.axvline(value, color="#555555", linewidth=1, linestyle=dashes)
            axis.annotate(
                label, (value, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                xytext=(-3, -4), textcoords="offset points", ha="right", va="top", color="#555555",
            )  # fmt: skip
        axis.set_title(panel["title"], fontsize=10)
        axis.set_xlabel(panel["label"])
        # Side by side, the names of the same layers are needed once.
        names = [""] * len(named) if panel["names"] == named else panel["names"]
        named = panel["names"]
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_ylim(len(panel["names"]) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="#dddddd")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result['device']['device']}, float32; commit {result['commit']}", fontsize=11
    )
    figure.legend(
        labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels), frameon=False
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    return True


def _style(label: str) -> dict[str, Any]:
    for word in ("torch tf32", "torch", "choice", "numba", "cupy"):
        if word in label:
            return STYLES[word]
    return STYLES["other"]


def _series(result: Record, rows: list[Record], value: Any) -> dict[str, list[tuple[str, float]]]:
    """Return label -> (row's name, value) of every candidate that was timed."""
    series: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        found: list[tuple[str, Record | None]] = [
            ("the dispatcher's choice" if name == result["backend"] else name, timed(row, name))
            for name in result["engines"]
        ]
        found.append(("torch, TF32 off", rival(row)))
        if row["part"] == "training":
            found.append(("torch tf32", rival(row, tf32=True)))
        for label, record in found:
            if record is not None:
                series.setdefault(label, []).append((_name(row), value(row, record)))
    return series


def _name(row: Record) -> str:
    return f"{row['layer']}, b{row['batch']}" if row["part"] == "training" else row["layer"]


def _panel(result: Record, rows: list[Record], title: str, label: str, value: Any) -> Any:
    series = _series(result, rows, value)
    if not series:
        return None
    names = list(dict.fromkeys(_name(row) for row in rows))
    return {"title": title, "label": label, "names": names, "series": series, "lines": []}


def _conv_panel(result: Record, operation: str) -> Any:
    rows = [row for row in result["rows"] if row["flops"] and row["operation"] == operation]
    panel = _panel(
        result, rows, f"convolution, {operation}", "TFLOP/s",
        lambda row, record: row["flops"] / record["ms"] / 1e9,
    )  # fmt: skip
    if panel is not None and result["rates"]:
        fma, gemm = (result["rates"][name] / 1e12 for name in ("fma", "gemm"))
        panel["lines"] = [
            ("multiply-adds in registers", fma, "-"),
            ("cuBLAS 8192", gemm, "--"),
            ("60 %", 0.6 * fma, ":"),
        ]
    return panel


def _pool_panel(result: Record) -> Any:
    rows = [
        {**row, "layer": f"{row['layer']}, {row['operation']}"}
        for row in result["rows"]
        if row["part"] == "pooling"
    ]
    panel = _panel(
        result, rows, "pooling", "GB/s, each number counted once",
        lambda row, record: row["moved"] / record["ms"] / 1e6,
    )  # fmt: skip
    if panel is not None and result["rates"]:
        panel["lines"] = [("copy", result["rates"]["copy"] / 1e9, "-")]
    return panel


def _training_panel(result: Record) -> Any:
    rows = [row for row in result["rows"] if row["part"] == "training"]
    return _panel(result, rows, "training step", "ms", lambda row, record: record["ms"])
