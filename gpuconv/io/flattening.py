"""Which features come in another order than in PyTorch, because channels-last data was flattened.

A picture (h, w, c) that is flattened gives its numbers in another order than (c, h, w), the same
picture in PyTorch. The layers behind, up to the first Dense, have weights for each number, so these
have to change places when they are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.layers.base import Layer
from gpuconv.layers.batch_norm import BatchNormalization
from gpuconv.layers.dense import Dense
from gpuconv.layers.layer_norm import LayerNormalization
from gpuconv.layers.merging import Concatenate
from gpuconv.layers.reshaping import Flatten, Permute, Reshape
from gpuconv.layers.spatial import Spatial

Order = np.ndarray[Any, Any]
"""For each of our features its place in PyTorch's."""


@dataclass(frozen=True)
class _Seen:
    """What is known of an array between layers.

    Attributes:
        channels: ``"first"``, ``"last"``, ``"other"``, or None where no layer told.
        order: of its features, where they differ from PyTorch's.
    """

    channels: str | None = None
    order: Order | None = None


def feature_orders(model: Layer) -> dict[int, Order]:
    """Return the orders of the features that layers see, by ``id(layer)``; where they differ.

    A Reshape that does not flatten is not followed: behind it they count as PyTorch's.
    """
    found: dict[int, Order] = {}
    _follow(model, [_Seen()], found)
    return found


def _follow(layer: Layer, given: Sequence[_Seen], found: dict[int, Order]) -> list[_Seen]:
    plan = getattr(layer, "plan", None)
    if plan is None:
        return [_behind(layer, given, found)]
    several = len(plan.inputs) == len(given)
    slots = dict(zip(plan.inputs, given if several else [_Seen()] * len(plan.inputs), strict=True))
    for step in plan.steps:
        results = _follow(step.layer, [slots[slot] for slot in step.inputs], found)
        if len(results) != len(step.outputs):
            results = [_Seen()] * len(step.outputs)
        slots.update(zip(step.outputs, results, strict=True))
    return [slots[slot] for slot in plan.outputs]


def _behind(layer: Layer, given: Sequence[_Seen], found: dict[int, Order]) -> _Seen:
    seen = given[0] if given else _Seen()
    if isinstance(layer, Spatial):
        return _Seen("first" if layer.channels_first else "last")
    if isinstance(layer, Flatten):
        if (layer.start_dim, layer.end_dim) != (1, -1):
            return _Seen()
        return _flattened(layer.built_shape, seen, layer.data_format == "channels_first")
    if isinstance(layer, Permute):
        return _permuted(layer, seen)
    if isinstance(layer, Reshape):
        flat = len(layer.target_shape) == 1
        return _flattened(layer.built_shape, seen) if flat else _Seen("other")
    if isinstance(layer, Concatenate):
        return _concatenated(layer, given)
    if seen.order is not None and isinstance(
        layer, (Dense, BatchNormalization, LayerNormalization)
    ):
        found.setdefault(id(layer), seen.order)
    if isinstance(layer, Dense):
        return _Seen(seen.channels)
    if layer.several_inputs and not all(_same(one.order, seen.order) for one in given):
        return _Seen(seen.channels)
    return seen


def _same(a: Order | None, b: Order | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _flattened(shape: Any, seen: _Seen, turned: bool = False) -> _Seen:
    """What becomes of an array that is flattened, after its channels were put last if turned."""
    sample = () if shape is None else tuple(shape)[1:]
    if len(sample) < 2:
        return seen  # flat already
    if None in sample:
        return _Seen()
    if turned:
        return _Seen(None, channels_last_order((*sample[1:], sample[0])))
    channels = seen.channels or _guessed(sample)
    return _Seen(None, channels_last_order(sample) if channels == "last" else None)


def channels_last_order(extents: tuple[int, ...]) -> Order:
    """For each number of an array (*spatial, c) in row-major order its place in (c, *spatial)."""
    *spatial, channels = extents
    places = np.arange(math.prod(extents)).reshape(channels, *spatial)
    return np.moveaxis(places, 0, -1).reshape(-1)


def _guessed(sample: tuple[int, ...]) -> str:
    """Where raw data has its channels: there are fewer of them than pixels in a row."""
    if len(sample) < 3:
        return "other"
    return "first" if sample[0] < sample[-1] else "last"


def _permuted(layer: Permute, seen: _Seen) -> _Seen:
    rank = len(layer.dims)
    sample: Any = (0,) if layer.built_shape is None else tuple(layer.built_shape)[1:]
    channels = seen.channels or _guessed(sample)
    if channels == "other":
        return _Seen("other")
    place = layer.dims.index(1 if channels == "first" else rank)
    return _Seen({0: "first", rank - 1: "last"}.get(place, "other"))


def _concatenated(layer: Concatenate, given: Sequence[_Seen]) -> _Seen:
    channels = {seen.channels for seen in given}
    together = _Seen(channels.pop() if len(channels) == 1 else None)
    shapes: Any = layer.built_shape
    if all(seen.order is None for seen in given) or shapes is None:
        return together
    if any(len(shape) != 2 for shape in shapes):
        return together
    parts, start = [], 0
    for seen, (_, count) in zip(given, shapes, strict=True):
        parts.append(start + (np.arange(count) if seen.order is None else seen.order))
        start += count
    return _Seen(None, np.concatenate(parts))
