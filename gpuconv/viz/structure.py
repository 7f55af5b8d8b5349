"""A network as boxes and arrows, and where they stand; no picture yet."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from gpuconv.errors import InvalidArgumentError, NotBuiltError, shown
from gpuconv.models.graph import Plan
from gpuconv.models.model import Model


@dataclass(frozen=True)
class Box:
    """One layer in a network.

    Attributes:
        name: of the layer.
        kind: its class; "input" where data enters.
        shape: of its output, the batch None.
        parameters: how many numbers it holds; a layer used several times has them the first time.
        row: 0 for inputs; every arrow leads to a later row.
        column: position in the row, in the width of a box; 0 is the middle.
    """

    name: str
    kind: str
    shape: tuple[Any, ...]
    parameters: int
    row: int = 0
    column: float = 0.0


@dataclass(frozen=True)
class Structure:
    """The boxes of a network, inputs first, and its arrows as pairs of their numbers."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]


def structure(model: Model) -> Structure:
    """Return the boxes and arrows of a model; models inside it are one box each.

    Raises:
        InvalidArgumentError: not a model of layers.
        NotBuiltError: no input shape is known yet.
    """
    if not isinstance(model, Model):
        raise InvalidArgumentError(f"expected a model. Received: {shown(model)}")
    if not model.built:
        raise NotBuiltError(
            f"{model.name} has no shapes yet: give the first layer an input_shape, or call the "
            f"model on data first"
        )
    plan = getattr(model, "plan", None)
    if not isinstance(plan, Plan):
        raise InvalidArgumentError(
            f"expected a Sequential or the model of a graph. Received: a {type(model).__name__}"
        )
    shapes = plan.shapes(model.built_shape)
    names = [layer.name for layer in getattr(model, "input_layers", ())] or ["input"]
    boxes = [
        Box(name, "input", tuple(shapes[slot]), 0)
        for name, slot in zip(names, plan.inputs, strict=True)
    ]
    makers = {slot: number for number, slot in enumerate(plan.inputs)}
    arrows: list[tuple[int, int]] = []
    counted: set[int] = set()
    for step in plan.steps:
        layer, number = step.layer, len(boxes)
        count = 0 if id(layer) in counted else layer.count_params()
        counted.add(id(layer))
        boxes.append(Box(layer.name, type(layer).__name__, tuple(shapes[step.outputs[0]]), count))
        arrows += [(makers[slot], number) for slot in dict.fromkeys(step.inputs)]
        makers.update(dict.fromkeys(step.outputs, number))
    return _placed(boxes, list(dict.fromkeys(arrows)))


def _placed(boxes: list[Box], arrows: list[tuple[int, int]]) -> Structure:
    """Put each box below all that it needs, and the boxes of a row beside each other."""
    before: dict[int, list[int]] = defaultdict(list)
    for start, end in arrows:
        before[end].append(start)
    rows: list[int] = []
    for number in range(len(boxes)):  # the order is one in which nothing comes too early
        rows.append(max((rows[other] + 1 for other in before[number]), default=0))
    members: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        members[row].append(number)
    columns = [0.0] * len(boxes)
    for row in sorted(members):
        inside = members[row]
        # Each stands as nearly as possible below what it needs.
        inside.sort(key=lambda n: sum(columns[o] for o in before[n]) / max(len(before[n]), 1))
        for place, number in enumerate(inside):
            columns[number] = place - (len(inside) - 1) / 2
    placed = tuple(
        Box(b.name, b.kind, b.shape, b.parameters, rows[n], columns[n]) for n, b in enumerate(boxes)
    )
    return Structure(placed, tuple(arrows))
