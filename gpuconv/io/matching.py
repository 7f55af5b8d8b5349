"""Which of PyTorch's modules belongs to which layer where names do not tell: by position."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuconv.errors import InvalidArgumentError
from gpuconv.io.model_file import Tensors
from gpuconv.io.torch_layout import TorchModule
from gpuconv.layers.base import Layer

_COUNTER = "num_batches_tracked"

Signature = frozenset[Any]
"""The words and shapes of a module's arrays."""


def is_chain(layer: Layer) -> bool:
    """Whether a model's layers follow one another, models inside it included."""
    plan = getattr(layer, "plan", None)
    if plan is None:
        return True
    position = plan.inputs
    for step in plan.steps:
        if tuple(step.inputs) != tuple(position) or not is_chain(step.layer):
            return False
        position = step.outputs
    return tuple(position) == tuple(plan.outputs) and len(plan.inputs) == 1


def by_position(
    modules: Sequence[TorchModule], given: Mapping[str, Tensors], ordered: bool
) -> dict[str, str | None]:
    """Return the layer's name for each of PyTorch's; those without a partner keep their own.

    The first layer gets the first module whose arrays have its shapes, and so on: what lies
    between, such as modules of other shapes, does not matter.

    Args:
        modules: the model's.
        given: the source's arrays by module and word.
        ordered: whether ``given`` is in the order of the network.

    Raises:
        InvalidArgumentError: without order, modules of the same shapes whose names do not tell
            which comes first.
    """
    names = list(given) if ordered else sorted(given, key=_natural)
    waiting: dict[Signature, list[str]] = {}
    for name in names:
        waiting.setdefault(_shapes(given[name]), []).append(name)
    wanted: dict[str, str | None] = {name: name for name in given}
    left = []
    for module in modules:
        candidates = waiting.get(_signature(module), [])
        if not ordered and len({_stem(name) for name in candidates}) > 1:
            raise InvalidArgumentError(
                f"the source keeps no order, and several of its modules have the shapes of "
                f"{module.name}: say with rename={{...}} which is which. "
                f"Received: {', '.join(candidates)}"
            )
        if candidates:
            wanted[candidates.pop(0)] = module.name
        else:
            left.append(module)
    # What fits nobody is paired in order, so that the report can show both shapes.
    rest = [name for name in names if name in waiting.get(_shapes(given[name]), [])]
    for module in left:
        words = set(module.slots) - {_COUNTER}
        partner = next((name for name in rest if set(given[name]) - {_COUNTER} == words), None)
        if partner is not None:
            rest.remove(partner)
            wanted[partner] = module.name
    return wanted


def _signature(module: TorchModule) -> Signature:
    return frozenset((key, slot.shape) for key, slot in module.slots.items() if key != _COUNTER)


def _shapes(arrays: Tensors) -> Signature:
    return frozenset((key, tuple(a.shape)) for key, a in arrays.items() if key != _COUNTER)


def _stem(name: str) -> str:
    """A name without its numbers: equal for modules that are counted through."""
    return re.sub(r"\d+", "0", name)


def _natural(name: str) -> list[Any]:
    """Sort numbers in names by value: ``"conv2"`` before ``"conv10"``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
