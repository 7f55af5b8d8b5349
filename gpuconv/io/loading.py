"""Weights of another program for a model: what fits, what does not, and then all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv.backends.arrays import overwrite
from gpuconv.backends.base import Array
from gpuconv.errors import DTypeError, FileFormatError, NotBuiltError
from gpuconv.layers.base import Layer

Shape = tuple[int, ...]
Assignment = tuple[Array, np.ndarray[Any, Any]]
"""An array of the model, and what it is to hold."""


@dataclass
class LoadReport:
    """What became of a load of weights, by name.

    Attributes:
        loaded: the model's arrays that were set.
        missing: arrays of the model that the source lacks, with their shapes there.
        unexpected: tensors of the source that the model has no place for, with their shapes.
        mismatched: tensors of the wrong shape: the shape found and the one expected.
    """

    loaded: list[str] = field(default_factory=list)
    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything found its place, on both sides."""
        return not (self.missing or self.unexpected or self.mismatched)

    def lines(self) -> list[str]:
        """One line for each array that was left."""
        return [
            *(f"{name} {shape} is missing" for name, shape in self.missing.items()),
            *(
                f"{name} {shape} has no place in the model"
                for name, shape in self.unexpected.items()
            ),
            *(
                f"{name} has the shape {found}, the model needs {expected}"
                for name, (found, expected) in self.mismatched.items()
            ),
        ]

    def __str__(self) -> str:
        head = f"{len(self.loaded)} arrays loaded, {len(self.lines())} left"
        return "\n".join([head, *(f"  {line}" for line in self.lines())])


def finish(
    report: LoadReport,
    assignments: Sequence[Assignment],
    partial: bool,
    hint: str,
    source: str,
) -> LoadReport:
    """Set the model's arrays, unless something is left and ``partial`` is False.

    Raises:
        FileFormatError: something is left; all of it is listed, and nothing is changed.
    """
    if not partial and not report.complete:
        raise FileFormatError(
            "the weights do not fit this model, and nothing was changed:\n  "
            + "\n  ".join(report.lines())
            + f"\n{hint} partial=True loads what fits. Received: {source}"
        )
    for target, value in assignments:
        overwrite(target, value)
    return report


def check_kind(name: str, array: np.ndarray[Any, Any], path: str, target: Array) -> None:
    """Check that an array of a file holds the kind of numbers that the model keeps there.

    Raises:
        DTypeError: integers for floating-point numbers, or the other way round.
    """
    kind = np.dtype(target.dtype).kind
    if array.dtype.kind != kind:
        words = "floating-point numbers" if kind == "f" else "integers"
        raise DTypeError(f"{name}: expected {words} for {path}. Received: {array.dtype.name}")


def own_state(layer: Layer) -> dict[str, Array]:
    """The arrays of a layer itself, without those of layers inside it."""
    return {name: array for name, array in layer.state().items() if "/" not in name}


def leaves(layer: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the layers that hold arrays themselves, with their paths: ``"block/conv2d"``.

    The path of ``layer`` itself is empty. A layer that stands in several places comes each time.

    Raises:
        NotBuiltError: a layer has no weights yet.
    """
    require_built(layer)
    if own_state(layer):
        yield path, layer
    for inner in layer.sublayers:
        yield from leaves(inner, f"{path}/{inner.name}" if path else inner.name)


def require_built(layer: Layer) -> None:
    """Check that a layer has what arrays it will have.

    Raises:
        NotBuiltError: it has none yet.
    """
    if not layer.built and not layer.sublayers and _has_arrays(layer):
        raise NotBuiltError(
            f"{layer.name} has no weights yet: build the model, or call it on some data, first"
        )


def _has_arrays(layer: Layer) -> bool:
    return type(layer).add_parameters is not Layer.add_parameters
