"""Several inputs and outputs: what users give in lists and dicts, brought into one order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.data.sources import Source, as_source, is_several
from gpuconv.errors import InvalidArgumentError, shown, suggestion

Parts = Any
"""An array, or a tuple or dict of arrays (and None where there is none)."""


@dataclass(frozen=True)
class BatchForm:
    """What the batches of a model hold.

    Attributes:
        inputs: names of the inputs; empty: there is one, and it has no name.
        outputs: names of the outputs.
        many: whether targets are a tuple with an entry for each output, also where that is one.
        targeted: names of the outputs that need targets.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    many: bool = False
    targeted: tuple[str, ...] = ()

    def sources(
        self, x: Any, y: Any = None, sample_weight: Any = None, prefix: str = ""
    ) -> tuple[tuple[Source, ...], Parts, Parts]:
        """Return inputs (always a tuple), targets and weights as :func:`as_source` makes them.

        Args:
            x: an array, or for several inputs a list or tuple in their order or a dict by name.
            y: likewise for the outputs, or None. An output that needs no targets may be None in
                a list or left out.
            sample_weight: likewise, or one array for all outputs, or None. An output whose weights
                are None or left out of a dict has none.
            prefix: of the names in messages.

        Returns:
            The targets and weights as one array each, or where ``many`` as tuples in the order of
            the outputs, with None where there are none; one array of weights stays one.

        Raises:
            InvalidArgumentError: names that do not exist, or another number of parts.
            ShapeError, DTypeError: as :func:`as_source`.
        """
        return (
            self._inputs(x, f"{prefix}x"),
            None if y is None else self._targets(y, f"{prefix}y"),
            None if sample_weight is None else self._weights(sample_weight, prefix),
        )

    def _inputs(self, x: Any, name: str) -> tuple[Source, ...]:
        if isinstance(x, Mapping) and self.inputs:
            missing = [key for key in self.inputs if key not in x]
            if missing:
                raise InvalidArgumentError(
                    f"{name} must hold an array for each input, {_listed(self.inputs)}. "
                    f"Received: a dict without {_listed(missing)}, of {_listed(list(map(str, x)))}"
                )
            # What is too much stays out, as in Keras: one dict may serve several models.
            several = tuple(x[key] for key in self.inputs)
        elif len(self.inputs) > 1:
            several = _ordered(x, self.inputs, name, "input")
        elif is_several(x):
            several = tuple(x)
        else:
            return (as_source(x, name),)
        return tuple(as_source(part, f"{name}[{i}]") for i, part in enumerate(several))

    def _targets(self, y: Any, name: str) -> Parts:
        if not self.many and not (isinstance(y, Mapping) and self.outputs):
            return as_source(y, name)
        several = _ordered(y, self.outputs, name, "output", self.targeted)
        sources = _named_sources(several, self.outputs, name)
        return sources if self.many else sources[0]

    def _weights(self, given: Any, prefix: str) -> Parts:
        name = f"{prefix}sample_weight"
        several = isinstance(given, (list, tuple)) and not all(
            isinstance(part, (int, float, np.number)) for part in given
        )
        by_name = isinstance(given, Mapping) and self.outputs
        if not by_name and not (self.many and several):
            return as_source(given, name)  # for all outputs
        parts = _ordered(given, self.outputs, name, "output", self.targeted, optional=True)
        sources = _named_sources(parts, self.outputs, name)
        return sources if self.many else sources[0]


def each(function: Callable[[Any], Any], parts: Parts) -> Parts:
    """Return the same tuple or dict of what a function makes of the arrays; None stays None."""
    if parts is None:
        return None
    if isinstance(parts, tuple):
        return tuple(each(function, part) for part in parts)
    if isinstance(parts, dict):
        return {name: each(function, part) for name, part in parts.items()}
    return function(parts)


def leaves(parts: Parts, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays with their names for messages, such as ``y[1]`` or ``y['side']``."""
    if isinstance(parts, tuple):
        for number, part in enumerate(parts):
            yield from leaves(part, f"{name}[{number}]")
    elif isinstance(parts, dict):
        for key, part in parts.items():
            yield from leaves(part, f"{name}[{key!r}]")
    elif parts is not None:
        yield name, parts


def as_parts(value: Any, name: str) -> Parts:
    """Return a list or tuple of arrays as a tuple of sources, a dict as a dict, else one source.

    Raises:
        ShapeError, DTypeError, InvalidArgumentError: as :func:`as_source`.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        if not value:
            raise InvalidArgumentError(f"{name} must have at least one array. Received: {value!r}")
        return {key: as_source(part, f"{name}[{key!r}]") for key, part in value.items()}
    if not is_several(value):
        return as_source(value, name)
    parts = tuple(as_source(part, f"{name}[{i}]") for i, part in enumerate(value))
    return parts if len(parts) > 1 else parts[0]


def _named_sources(
    parts: Sequence[Any], names: Sequence[str], name: str
) -> tuple[Source | None, ...]:
    return tuple(
        None if part is None else as_source(part, f"{name}[{key!r}]")
        for key, part in zip(names, parts, strict=True)
    )


def _ordered(
    given: Any,
    names: Sequence[str],
    what: str,
    kind: str,
    needed: Sequence[str] | None = None,
    optional: bool = False,
) -> tuple[Any, ...]:
    """The parts of a dict or a list in the order of the names; None where nothing is needed.

    Raises:
        InvalidArgumentError: unknown or missing names, or another number of parts.
    """
    needed = names if needed is None else needed
    if isinstance(given, Mapping):
        _refuse_unknown(given, names, what, kind)
        parts = tuple(given.get(name) for name in names)
    else:
        several = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if len(several) == len(names):
            parts = several
        elif len(several) == len(needed):
            by_name = dict(zip(needed, several, strict=True))
            parts = tuple(by_name.get(name) for name in names)
        else:
            count = f"{len(several)} in a {type(given).__name__}"
            raise InvalidArgumentError(
                f"{what} must hold an array for each {kind}, {_listed(needed or names)}, in a list "
                f"or in a dict by name. "
                f"Received: {count if isinstance(given, (list, tuple)) else shown(given)}"
            )
    missing = [n for n, part in zip(names, parts, strict=True) if part is None and n in needed]
    if missing and not optional:
        raise InvalidArgumentError(
            f"{what} must hold an array for each {kind}, {_listed(needed)}. "
            f"Received: none for {_listed(missing)}"
        )
    return parts


def _refuse_unknown(given: Mapping[Any, Any], names: Sequence[str], what: str, kind: str) -> None:
    for key in given:
        if key not in names:
            raise InvalidArgumentError(
                f"{what} in a dict goes by the names of the {kind}s, {_listed(names) or 'none'}."
                f"{suggestion(str(key), names)} Received: {key!r}"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
