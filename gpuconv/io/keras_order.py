"""The order in which Keras counts the layers of a model, and the names that come of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gpuconv.configurable import snake_case
from gpuconv.layers.base import Layer


def names_of(layers: Sequence[Layer]) -> dict[int, str]:
    """Return Keras's names in files by ``id(layer)``: the class, numbered from the second on."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in layers:
        stem = snake_case(type(layer).__name__)
        names[id(layer)] = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
    return names


def is_automatic(layer: Layer) -> bool:
    """Whether a layer has a name that counts its class, of which both libraries give their own."""
    stem = snake_case(type(layer).__name__)
    return re.fullmatch(rf"{stem}(_\d+)?", layer.name) is not None


def in_keras_order(layer: Layer) -> list[Layer]:
    """Return the layers in a model as Keras's functional models list them, each once.

    Those farthest from the outputs come first; those equally far in the order in which a search
    from the outputs, depth first, meets them.
    """
    plan = getattr(layer, "plan", None)
    if plan is None:
        return list(layer.sublayers)
    met, finished = _search(plan)
    distances = [0] * len(plan.steps)
    farthest: dict[int, int] = {}
    makers = _makers(plan)
    for number in reversed(finished):
        step = plan.steps[number]
        distance = max(distances[number], farthest.get(id(step.layer), 0))
        distances[number] = farthest[id(step.layer)] = distance
        for slot in step.inputs:
            if slot in makers:
                below = makers[slot]
                distances[below] = max(distances[below], distance + 1)
    layers = {id(plan.steps[number].layer): plan.steps[number].layer for number in met}
    order = sorted(layers, key=lambda one: -farthest[one])  # sorting keeps the order of equals
    return [layers[one] for one in order]


def _makers(plan: Any) -> dict[int, int]:
    """The step that fills each slot."""
    return {slot: number for number, step in enumerate(plan.steps) for slot in step.outputs}


def _search(plan: Any) -> tuple[list[int], list[int]]:
    """Return the steps in the order in which they are met, and in which they are left."""
    makers = _makers(plan)
    met: list[int] = []
    finished: list[int] = []
    known: set[int] = set()
    waiting: list[tuple[int, bool]] = [
        (makers[slot], False) for slot in reversed(plan.outputs) if slot in makers
    ]
    while waiting:
        number, ready = waiting.pop()
        if ready:
            finished.append(number)
            continue
        if number in known:
            continue
        known.add(number)
        met.append(number)
        waiting.append((number, True))
        waiting.extend(
            (makers[slot], False) for slot in reversed(plan.steps[number].inputs) if slot in makers
        )
    return met, finished
