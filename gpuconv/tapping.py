"""Listening to the layers of a network while it runs.

A tapped layer runs as ever; whoever taps it sees what goes in and what comes out, and the
gradient that comes back. So the inside of any network can be looked at, however it is put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gpuconv.errors import InvalidArgumentError, shown, suggestion
from gpuconv.layers.base import Backward, Layer

Run = Callable[[Any, bool], tuple[Any, Backward]]
"""``run(x, training) -> (y, backward)``, as layers have it."""


@dataclass
class Call:
    """One run of a layer.

    Attributes:
        layer: which layer.
        y: its output, the batch first.
        dy: gradient of the output; None until the backward pass has come by.
    """

    layer: Layer
    y: Any
    dy: Any = None


@contextmanager
def tapped(layers: Iterable[Layer], tap: Callable[[Layer, Run], Run]) -> Iterator[None]:
    """Let ``tap(layer, run)`` stand in for the ``run`` of each layer within the block.

    Twins of layers, such as ``without_softmax`` makes, are to be made before.
    """
    chosen = list(dict.fromkeys(layers))
    before = [vars(layer).get("run") for layer in chosen]
    try:
        for layer in chosen:
            vars(layer)["run"] = tap(layer, layer.run)
        yield
    finally:
        for layer, run in zip(chosen, before, strict=True):
            vars(layer).pop("run", None)
            if run is not None:
                vars(layer)["run"] = run


@contextmanager
def recorded(layers: Iterable[Layer]) -> Iterator[list[Call]]:
    """Yield a list that receives every run of these layers within the block, in their order."""
    calls: list[Call] = []

    def tap(layer: Layer, run: Run) -> Run:
        def recording(x: Any, training: bool) -> tuple[Any, Backward]:
            y, backward = run(x, training)
            call = Call(layer, y)
            calls.append(call)

            def listening(dy: Any, input_gradient: bool = True) -> Any:
                call.dy = dy
                return backward(dy, input_gradient)

            return y, listening

        return recording

    with tapped(layers, tap):
        yield calls


@contextmanager
def parameters_at_rest(network: Layer) -> Iterator[None]:
    """Let no parameter receive a gradient within the block."""
    before = [(parameter, parameter.trainable) for parameter in network.parameters]
    try:
        for parameter, _ in before:
            parameter.trainable = False
        yield
    finally:
        for parameter, trainable in before:
            parameter.trainable = trainable


def paths_of(network: Layer) -> dict[str, Layer]:
    """All layers inside a network by path: ``"conv2d"``, and ``"block/conv2d"`` in a model inside.

    A layer that stands in several places has the first one's path.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()

    def collect(parent: Layer, prefix: str) -> None:
        for layer in _inside(parent):
            if id(layer) not in seen:
                seen.add(id(layer))
                found[prefix + layer.name] = layer
                collect(layer, f"{prefix}{layer.name}/")

    collect(network, "")
    return found


def _inside(parent: Layer) -> list[Layer]:
    """The layers that a layer runs: those of its plan, which in a twin may differ from its own."""
    plan = getattr(parent, "plan", None)
    if plan is None:
        return list(parent.sublayers)
    entrances = getattr(parent, "input_layers", ())
    return list(dict.fromkeys([*entrances, *(step.layer for step in plan.steps)]))


def find_layer(network: Layer, layer: Layer | str) -> Layer:
    """Return a layer of a network.

    Args:
        network: a model.
        layer: the layer itself; its path; or its name, if only one layer inside has it.

    Raises:
        InvalidArgumentError: there is no such layer, or there are several; the message lists all.
    """
    paths = paths_of(network)
    if isinstance(layer, Layer):
        if any(other is layer for other in paths.values()):
            return layer
        named = [layer]
    else:
        if layer in paths:
            return paths[layer]
        named = [other for path, other in paths.items() if path.rpartition("/")[2] == layer]
        if len(named) == 1:
            return named[0]
    many = len(named) > 1
    what = "has several layers of that name; give the path" if many else "has no such layer"
    hint = "" if many or not isinstance(layer, str) else suggestion(layer, paths)
    received = layer.name if isinstance(layer, Layer) else shown(layer)
    raise InvalidArgumentError(
        f"{network.name} {what}. Its layers are {', '.join(paths) or 'none'}.{hint} "
        f"Received: {received}"
    )
