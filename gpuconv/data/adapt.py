"""From what a user gives ``fit``, ``evaluate`` or ``predict`` to batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.arrays import is_array
from gpuconv.data.batches import ArrayBatches, Batch
from gpuconv.data.checks import check_lengths
from gpuconv.data.dataset import Dataset
from gpuconv.data.iterables import IterableBatches, is_iterable
from gpuconv.data.sources import as_sources, is_several, slice_rows
from gpuconv.errors import InvalidArgumentError


def make_batches(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    targets: bool = True,
) -> ArrayBatches | IterableBatches:
    """Return the batches of whatever a user gave as data.

    Args:
        x: anything that :class:`ArrayBatches` or :class:`IterableBatches` takes, a
            :class:`Dataset` among it. A list of tuples that start with an array is an iterable of
            batches.
        y, sample_weight, batch_size, steps_per_epoch: as there; an iterable brings its own
            targets, weights and batch size.
        targets: whether ``y`` is required.

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
        batches = IterableBatches(x, steps_per_epoch, targets)
        if isinstance(x, Dataset) and steps_per_epoch is None:
            batches.samples = x.samples
        return batches
    if targets and y is None:
        raise InvalidArgumentError(
            f"y, the targets, must be given with arrays. Received: {type(x).__name__} and no y"
        )
    return ArrayBatches(x, y, sample_weight, batch_size, steps_per_epoch)


def split_validation(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[Batch, Batch]:
    """Part data into training and validation, which is the LAST samples, without copying.

    The training part has ``floor(n * (1 - fraction))`` samples, as in Keras.

    Args:
        x, y, sample_weight: as for :class:`ArrayBatches`.
        fraction: between 0 and 1, both excluded.

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
    inputs, targets, weights = as_sources(x, y, sample_weight)
    samples = check_lengths(inputs, targets, weights)
    first = int(samples * (1.0 - fraction))
    if first in (0, samples):
        raise InvalidArgumentError(
            f"validation_split={fraction} leaves {first} of {samples} samples for training and "
            f"{samples - first} for validation; both need at least one. Received: {fraction}"
        )

    def part(start: int, stop: int) -> Batch:
        cut = tuple(slice_rows(source, start, stop) for source in inputs)
        return (
            cut if len(cut) > 1 else cut[0],
            None if targets is None else slice_rows(targets, start, stop),
            None if weights is None else slice_rows(weights, start, stop),
        )

    return part(0, first), part(first, samples)


def _gives_batches(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(
            isinstance(item, (list, tuple)) and len(item) in (2, 3) and is_several(item[:1])
            for item in x
        )
    return is_iterable(x) and not is_array(x) and not hasattr(x, "shape")
