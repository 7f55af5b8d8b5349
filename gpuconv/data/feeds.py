"""Where the batches of a Dataset come from: numbered samples, or a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np

from gpuconv.backends.arrays import is_array
from gpuconv.data.batches import Batch
from gpuconv.data.checks import check_count, check_lengths
from gpuconv.data.forms import Parts, as_parts, each, leaves
from gpuconv.data.sources import gather_rows, read_rows
from gpuconv.errors import InvalidArgumentError, ShapeError


class Rows(Protocol):
    """Samples that can be read by their numbers.

    Attributes:
        samples: how many there are.
        on_device: whether they lie on a device, where there is nothing to prefetch.
    """

    samples: int
    on_device: bool

    def read(self, first: int, last: int, numbers: np.ndarray[Any, Any] | None) -> Batch | None:
        """Return samples ``first`` to ``last`` of an order; None if none of them can be used.

        Args:
            first, last: as of a slice.
            numbers: the samples in the order to be used; None for the one they have.
        """


class ArrayRows:
    """Samples along the first axis of arrays, or of tuples and dicts of arrays."""

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        self.parts = as_parts(x, "x"), as_parts(y, "y"), as_parts(sample_weight, "sample_weight")
        self.samples = check_lengths(*self.parts)
        self.on_device = any(
            is_array(part) and not isinstance(part, np.ndarray)
            for _, part in leaves(self.parts, "data")
        )

    def read(self, first: int, last: int, numbers: np.ndarray[Any, Any] | None) -> Batch:
        """Return views of arrays without ``numbers``, else copies."""

        def cut(source: Any) -> Any:
            if numbers is None:
                return read_rows(source, first, last)
            return gather_rows(source, numbers[first:last])

        x, y, sample_weight = (each(cut, parts) for parts in self.parts)
        return x, y, sample_weight


class RowFeed:
    """Batches of numbered samples."""

    def __init__(self, rows: Rows, batch_size: int, drop_remainder: bool) -> None:
        self.rows = rows
        self.batch_size = check_count(batch_size, "batch_size")
        self.samples: int | None = rows.samples
        self.steps: int | None = -(-rows.samples // self.batch_size)
        self.on_device = rows.on_device
        if drop_remainder:
            self.steps = rows.samples // self.batch_size
            self.samples = self.steps * self.batch_size
        if not self.steps:
            raise InvalidArgumentError(
                f"drop_remainder leaves no batch of {self.batch_size} in {rows.samples} samples. "
                f"Received: batch_size={batch_size}"
            )

    def batches(self, order: np.ndarray[Any, Any] | None) -> Iterator[tuple[int, Batch]]:
        """Yield the number of each batch and the batch."""
        samples = self.samples or 0
        for number, start in enumerate(range(0, samples, self.batch_size)):
            batch = self.rows.read(start, min(start + self.batch_size, samples), order)
            if batch is not None:
                yield number, batch


class StreamFeed:
    """Batches of what a function's iterator gives, sample by sample or batch by batch.

    Args:
        function: called at the start of each epoch; returns an iterable.
        batch_size: samples that become one batch; None if the iterable gives batches.
        drop_remainder: whether to leave out a last batch that is shorter.
        steps: number of batches, if it is known.
    """

    samples: int | None = None
    on_device = False

    def __init__(
        self,
        function: Callable[[], Iterable[Any]],
        batch_size: int | None,
        drop_remainder: bool,
        steps: int | None,
    ) -> None:
        if not callable(function):
            raise InvalidArgumentError(
                "expected a function that returns a new iterator in each epoch (for a generator "
                "function, itself and not what it returns). "
                f"Received: {type(function).__name__}"
            )
        if batch_size is None and drop_remainder:
            raise InvalidArgumentError(
                "drop_remainder needs a batch_size. Received: drop_remainder=True, batch_size=None"
            )
        self.function = function
        self.batch_size = None if batch_size is None else check_count(batch_size, "batch_size")
        self.drop_remainder = drop_remainder
        self.steps = None if steps is None else check_count(steps, "steps")

    def batches(self, order: np.ndarray[Any, Any] | None) -> Iterator[tuple[int, Batch]]:
        """Yield the number of each batch and the batch; at most ``steps`` of them."""
        items = self.function()
        if not isinstance(items, Iterable):
            raise InvalidArgumentError(
                f"the function should return an iterable. Received: {type(items).__name__}"
            )
        return islice(enumerate(self._batches(iter(items))), self.steps)

    def _batches(self, items: Iterator[Any]) -> Iterator[Batch]:
        if self.batch_size is None:
            for number, item in enumerate(items):
                yield as_batch(item, f"batch {number}")
            return
        first = 0
        while group := list(islice(items, self.batch_size)):
            if self.drop_remainder and len(group) < self.batch_size:
                return
            yield _stacked(group, first)
            first += len(group)


def as_batch(item: Any, name: str) -> Batch:
    """Return ``x``, ``(x, y)`` or ``(x, y, sample_weight)`` with None for what is missing.

    Raises:
        InvalidArgumentError: a tuple of another length.
    """
    parts = item if isinstance(item, tuple) else (item,)
    if not 1 <= len(parts) <= 3:
        raise InvalidArgumentError(
            f"{name} must be x, (x, y) or (x, y, sample_weight). Received: a tuple of {len(parts)}"
        )
    x, y, sample_weight = (*parts, None, None)[:3]
    return x, y, sample_weight


def _stacked(group: list[Any], first: int) -> Batch:
    """Return samples as one batch."""
    samples = [as_batch(item, f"sample {first + i}") for i, item in enumerate(group)]
    x = _stack_parts([sample[0] for sample in samples], first, "x", "inputs")
    y = _stack_parts([sample[1] for sample in samples], first, "y", "targets")
    weights = _stack_parts([s[2] for s in samples], first, "sample_weight", "weights")
    return x, y, weights


def _stack_parts(values: list[Any], first: int, name: str, kind: str) -> Parts:
    """Stack arrays, or those in the same place of tuples or dicts."""
    several = [_as_several(value, name) for value in values]
    if several[0] is None:
        return _stack(values, first, name)
    keys = list(several[0])
    for number, parts in enumerate(several):
        if parts is None or list(parts) != keys:
            found = [] if parts is None else list(parts)
            raise InvalidArgumentError(
                f"all samples must have {len(keys)} {kind}{_names(keys)}. "
                f"Received: {len(found)}{_names(found)} for sample {first + number}"
            )
    stacked = {
        key: _stack([parts[key] for parts in several if parts is not None], first, name)
        for key in keys
    }
    if isinstance(values[0], dict):
        return stacked
    return tuple(stacked.values()) if len(keys) > 1 else stacked[0]


def _as_several(value: Any, name: str) -> dict[Any, Any] | None:
    """The parts of a sample by name or number; None for one array.

    A tuple of plain numbers as ``y`` is one vector.
    """
    if isinstance(value, dict):
        return value
    parts = isinstance(value, tuple) and (
        name == "x" or any(hasattr(part, "shape") for part in value)
    )
    return dict(enumerate(value)) if parts else None


def _names(keys: list[Any]) -> str:
    words = [repr(key) for key in keys if isinstance(key, str)]
    return f" ({', '.join(words)})" if words else ""


def _stack(values: list[Any], first: int, name: str) -> np.ndarray[Any, Any] | None:
    missing = [value is None for value in values]
    if all(missing):
        return None
    if any(missing):
        raise InvalidArgumentError(
            f"all samples must have {name}, or none. "
            f"Received: none for sample {first + missing.index(True)}"
        )
    arrays = [np.asarray(value) for value in values]
    for number, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ShapeError(
                f"all samples of a batch must have {name} of one shape, {arrays[0].shape}. "
                f"Received: {array.shape} for sample {first + number}"
            )
    return np.stack(arrays)
