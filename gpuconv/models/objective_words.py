"""What ``compile`` takes for losses, their weights and metrics, as one entry for each output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuconv import losses, metrics
from gpuconv.errors import InvalidArgumentError, shown, suggestion


def as_losses(given: Any, names: Sequence[str]) -> list[losses.Loss | None]:
    """Return a loss for each output, None for those that are not trained.

    Args:
        given: one for all outputs, a list with an entry for each, a dict with all their names, or
            None. Entries are names, objects or configurations; or None.
        names: of the outputs.

    Raises:
        InvalidArgumentError: an unknown loss or output, or another number of them.
    """
    if _by_name(given):
        _check_names(given, names, "loss")
        missing = [name for name in names if name not in given]
        if missing:
            raise InvalidArgumentError(
                f"loss must name every output; give None for one that is not trained. "
                f"Received: no {', '.join(missing)}"
            )
        given = [given[name] for name in names]
    elif not isinstance(given, (list, tuple)):
        given = [given] * len(names)
    _check_count(given, names, "loss")
    return [None if one is None else losses.get(one) for one in given]


def as_weights(given: Any, names: Sequence[str]) -> list[float | None]:
    """Return the weight of each output's loss in the total, None for 1.

    Args:
        given: a list with a number for each output, a dict by name (an output that is left out
            weighs 1), for one output a number, or None.
        names: of the outputs.

    Raises:
        InvalidArgumentError: not finite numbers, unknown outputs, or another number of them.
    """
    if given is None:
        return [None] * len(names)
    if _by_name(given):
        _check_names(given, names, "loss_weights")
        given = [given.get(name) for name in names]
    elif not isinstance(given, (list, tuple)):
        given = [given]
    _check_count(given, names, "loss_weights")
    return [None if one is None or _number(one) == 1.0 else _number(one) for one in given]


def as_metrics(given: Any, names: Sequence[str]) -> list[tuple[metrics.Metric, ...]]:
    """Return the metrics of each output.

    Args:
        given: for one output a metric or a list of them; for several a list with an entry for
            each, which is a metric, a list of them or None, or a dict of such entries by name.
        names: of the outputs.

    Raises:
        InvalidArgumentError: an unknown metric or output, another number of entries, or two
            metrics of an output with one name.
    """
    if given is None:
        return [()] * len(names)
    if _by_name(given):
        _check_names(given, names, "metrics")
        given = [given.get(name) for name in names]
    elif len(names) == 1:
        given = [given]
    elif not isinstance(given, (list, tuple)):
        given = [given]  # which is one too few
    if len(given) != len(names):
        raise InvalidArgumentError(
            f"metrics of several outputs must be a list with an entry for each of "
            f"{', '.join(names)}, such as ['accuracy', ['mae', 'mse']], or a dict by name. "
            f"Received: {shown(given)}"
        )
    return [_metrics_of(entry) for entry in given]


def _metrics_of(entry: Any) -> tuple[metrics.Metric, ...]:
    made = tuple(metrics.get(one) for one in _flat(entry))
    names = [metric.name for metric in made]
    for name in names:
        if name == "loss" or names.count(name) > 1:
            raise InvalidArgumentError(
                f"metrics must have different names, and none 'loss'. Received: {names}"
            )
    return made


def _flat(entry: Any) -> list[Any]:
    if entry is None:
        return []
    if not isinstance(entry, (list, tuple)):
        return [entry]
    return [one for part in entry for one in _flat(part)]


def _by_name(given: Any) -> bool:
    """Whether a dict has the names of outputs, and is not the configuration of one object."""
    return isinstance(given, Mapping) and "class_name" not in given


def _check_names(given: Mapping[Any, Any], names: Sequence[str], what: str) -> None:
    for key in given:
        if key not in names:
            raise InvalidArgumentError(
                f"{what} in a dict goes by the names of the outputs, {', '.join(names)}."
                f"{suggestion(str(key), names)} Received: {key!r}"
            )


def _check_count(given: Sequence[Any], names: Sequence[str], what: str) -> None:
    if len(given) != len(names):
        raise InvalidArgumentError(
            f"{what} must have an entry for each of the outputs {', '.join(names)}. "
            f"Received: {len(given)} in {shown(given)}"
        )


def _number(value: Any) -> float:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise InvalidArgumentError(f"loss_weights must be finite numbers. Received: {shown(value)}")
    return float(value)
