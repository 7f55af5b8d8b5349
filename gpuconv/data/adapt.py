"""From what a user gives ``fit``, ``evaluate`` or ``predict`` to batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuconv.backends.arrays import is_array
from gpuconv.data.batches import ArrayBatches, Batch
from gpuconv.data.checks import check_lengths
from gpuconv.data.dataset import Dataset
from gpuconv.data.forms import BatchForm, each
from gpuconv.data.iterables import IterableBatches, is_iterable
from gpuconv.data.sources import is_several, slice_rows
from gpuconv.errors import InvalidArgumentError


def make_batches(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    targets: bool = True,
    form: BatchForm = BatchForm(),  # noqa: B008  # it is frozen
) -> ArrayBatches | IterableBatches:
    """Return the batches of whatever a user gave as data.

    Args:
        x: anything that :class:`ArrayBatches` or :class:`IterableBatches` takes, a
            :class:`Dataset` among it. A list of tuples that start with an array is an iterable of
            batches.
        y, sample_weight, batch_size, steps_per_epoch: as there; an iterable brings its own
            targets, weights and batch size.
        targets: whether ``y`` is required.
        form: how many inputs and outputs there are, and their names.

    Raises:
        InvalidArgumentError: targets are missing, or were given beside an iterable.
        ShapeError, DTypeError: as for :class:`ArrayBatches`.
    """
    if _gives_batches(x):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise InvalidArgumentError(
                    f"an iterable brings its own {name}, in tuples (x, y) or "
                    f"(x, y, sample_weight). Received: {type(value).__name__} as {name}"
                )
        batches = IterableBatches(x, steps_per_epoch, targets, form)
        if isinstance(x, Dataset) and steps_per_epoch is None:
            batches.samples = x.samples
        return batches
    if targets and y is None:
        raise InvalidArgumentError(
            f"y, the targets, must be given with arrays. Received: {type(x).__name__} and no y"
        )
    return ArrayBatches(x, y, sample_weight, batch_size, steps_per_epoch, form)


def split_validation(
    x: Any,
    y: Any,
    sample_weight: Any,
    fraction: float,
    form: BatchForm = BatchForm(),  # noqa: B008  # it is frozen
) -> tuple[Batch, Batch]:
    """Part data into training and validation, which is the LAST samples, without copying.

    The training part has ``floor(n * (1 - fraction))`` samples, as in Keras.

    Args:
        x, y, sample_weight: as for :class:`ArrayBatches`.
        fraction: between 0 and 1, both excluded.
        form: as for :class:`ArrayBatches`.

    Returns:
        ``(x, y, sample_weight)`` of the training part, then of the validation part.

    Raises:
        InvalidArgumentError: ``fraction`` is out of range, one part would be empty, or the data
            is an iterable.
    """
    number = isinstance(fraction, (float, int, np.floating)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction < 1:
        raise InvalidArgumentError(
            f"validation_split must be a number between 0 and 1. Received: {fraction!r}"
        )
    if _gives_batches(x):
        raise InvalidArgumentError(
            "validation_split needs arrays; give validation_data beside an iterable. "
            f"Received: {type(x).__name__}"
        )
    inputs, targets, weights = form.sources(x, y, sample_weight)
    samples = check_lengths(inputs, targets, weights)
    first = int(samples * (1.0 - fraction))
    if first in (0, samples):
        raise InvalidArgumentError(
            f"validation_split={fraction} leaves {first} of {samples} samples for training and "
            f"{samples - first} for validation; both need at least one. Received: {fraction}"
        )

    def part(start: int, stop: int) -> Batch:
        cut = functools.partial(slice_rows, start=start, stop=stop)
        parts = each(cut, inputs)
        return parts if len(parts) > 1 else parts[0], each(cut, targets), each(cut, weights)

    return part(0, first), part(first, samples)


def _gives_batches(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(map(_is_batch, x))
    return is_iterable(x) and not is_array(x) and not hasattr(x, "shape")


def _is_batch(item: Any) -> bool:
    """Whether an item of a list is ``(x, y)`` or ``(x, y, sample_weight)`` with arrays as x."""
    if not isinstance(item, (list, tuple)) or len(item) not in (2, 3):
        return False
    return is_several(item[:1]) or is_several(item[0]) or isinstance(item[0], Mapping)
