"""The picture of a network: a box for each layer, an arrow for each array between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuconv.models.model import Model
from gpuconv.viz.figures import INK_COLOR, MUTED_COLOR, PathLike, finish, new_figure
from gpuconv.viz.structure import Box, Structure, structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 2.7, 0.46
"""Inches of a box."""
_ACROSS, _DOWN = 3.0, 0.74
"""Inches from one box to the next."""
_LANE = 0.14
"""Inches between arrows that lead past boxes."""

_FILLS = (
    ("input", "#e5e7eb"),
    ("conv", "#dbeafe"),
    ("pool", "#dcfce7"),
    ("norm", "#f3e8ff"),
    ("dense", "#ffedd5"),
    ("drop", "#f3f4f6"),
    ("add", "#fee2e2"),
    ("concat", "#fee2e2"),
)
"""Colours by a part of the layer's class; others are white."""


def diagram(model: Model, path: PathLike | None = None, title: str | None = None) -> Figure:
    """Draw a network from top to bottom, its branches beside each other.

    Each box has the layer's name and class, the shape of its output, and its number of
    parameters. An arrow that skips boxes, as around a residual block, runs along their right.
    A model inside the model is one box.

    Args:
        model: a model that has seen an input shape.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.
        title: heading; None: the model's name and its number of parameters.

    Raises:
        InvalidArgumentError: not a model, or an unknown suffix.
        NotBuiltError: no input shape is known yet.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    network = structure(model)
    lanes = _lanes(network)
    rows = 1 + max(box.row for box in network.boxes)
    left = min(box.column for box in network.boxes) * _ACROSS - _WIDTH / 2 - 0.2
    right = max(box.column for box in network.boxes) * _ACROSS + _WIDTH / 2 + 0.2
    right += _LANE * (1 + max(lanes.values(), default=-1))
    top, bottom = 0.9, (rows - 1) * _DOWN + _HEIGHT / 2 + 0.15
    figure = new_figure(max(right - left, 3.6), top + bottom, path, constrained=False)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    spare = max(0.0, 3.6 - (right - left)) / 2
    axis.set_xlim(left - spare, right + spare)
    axis.set_ylim(bottom, -top)  # downwards, in inches
    for arrow in network.arrows:
        _draw_arrow(axis, network, arrow, lanes.get(arrow))
    for box in network.boxes:
        _draw_box(axis, box)
    heading = title or f"{model.name}: {model.count_params():,} parameters"
    axis.text((left + right) / 2, 0.4 - top, heading, ha="center", va="center", fontsize=11)
    return finish(figure, path)


def _lanes(network: Structure) -> dict[tuple[int, int], int]:
    """Give every arrow that leads past other boxes a lane on the right, the shortest innermost."""
    boxes = network.boxes
    taken: list[tuple[int, int, int]] = []
    lanes: dict[tuple[int, int], int] = {}
    past = [arrow for arrow in network.arrows if boxes[arrow[1]].row - boxes[arrow[0]].row > 1]
    for arrow in sorted(past, key=lambda a: boxes[a[1]].row - boxes[a[0]].row):
        first, last = (boxes[number].row for number in arrow)
        used = {lane for low, high, lane in taken if low < last and first < high}
        lanes[arrow] = next(lane for lane in range(len(taken) + 1) if lane not in used)
        taken.append((first, last, lanes[arrow]))
    return lanes


def _draw_box(axis: Axes, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = box.column * _ACROSS, box.row * _DOWN
    kind = box.kind.lower()
    fill = next((colour for word, colour in _FILLS if word in kind), "#ffffff")
    axis.add_patch(
        FancyBboxPatch(
            (x - _WIDTH / 2, y - _HEIGHT / 2),
            _WIDTH,
            _HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=MUTED_COLOR,
            linewidth=0.8,
        )
    )
    words = box.name if box.kind == "input" else f"{box.name} ({box.kind})"
    axis.text(x, y - 0.09, _cut(words, 44), ha="center", va="center", fontsize=8, color=INK_COLOR)
    numbers = f" · {box.parameters:,} parameters" if box.parameters else ""
    axis.text(
        x,
        y + 0.1,
        f"{shape_words(box.shape)}{numbers}",
        ha="center",
        va="center",
        fontsize=7,
        color=MUTED_COLOR,
    )


def shape_words(shape: Sequence[object]) -> str:
    """Return a sample's shape as people read it: ``28 x 28 x 1``; ``?`` for unknown extents."""
    return " x ".join("?" if extent is None else str(extent) for extent in shape[1:]) or "scalar"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _draw_arrow(axis: Axes, network: Structure, arrow: tuple[int, int], lane: int | None) -> None:
    start, end = (network.boxes[number] for number in arrow)
    x0, y0 = start.column * _ACROSS, start.row * _DOWN
    x1, y1 = end.column * _ACROSS, end.row * _DOWN
    style = {
        "arrowstyle": "-|>",
        "color": MUTED_COLOR,
        "linewidth": 0.9,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    if lane is None:
        axis.annotate("", (x1, y1 - _HEIGHT / 2), (x0, y0 + _HEIGHT / 2), arrowprops=style)
        return
    between = [b.column for b in network.boxes if start.row <= b.row <= end.row]
    out = max(between) * _ACROSS + _WIDTH / 2 + _LANE * (1 + lane)
    # Out of the lower half of one box, into the upper half of the other.
    leave, enter = y0 + 0.11, y1 - 0.11
    corners = [(x0 + _WIDTH / 2, leave), (out, leave), (out, enter), (x1 + _WIDTH / 2, enter)]
    axis.plot(*zip(*corners[:3], strict=True), color=MUTED_COLOR, linewidth=0.9)
    axis.annotate("", corners[3], corners[2], arrowprops=style)
