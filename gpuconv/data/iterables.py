"""Batches that an iterable or a generator of the user's makes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from gpuconv.data.batches import Batch
from gpuconv.data.checks import check_count, check_finite, check_lengths
from gpuconv.data.forms import BatchForm, each, leaves
from gpuconv.data.sources import read_rows
from gpuconv.errors import InvalidArgumentError


class IterableBatches:
    """Batches that an iterable or generator makes: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

    A re-iterable (a list, a data loader, an object whose ``__iter__`` starts anew) is iterated
    anew each epoch. With ``steps_per_epoch`` an epoch is that many batches: the next epoch goes
    on where the last one stopped, and a re-iterable starts again from its beginning when it
    ends. A one-shot generator without ``steps_per_epoch`` is one epoch. When a generator
    ends early, a warning says so and ``exhausted`` becomes True.

    Args:
        iterable: gives batches as tuples or lists; values may be anything that
            :class:`ArrayBatches` takes.
        steps_per_epoch: batches an epoch, or None for all of them.
        targets: whether each batch must come with ``y``.
        form: how many inputs and outputs there are, and their names.

    Raises:
        InvalidArgumentError: not an iterable, or an impossible ``steps_per_epoch``; while
            iterating: an item is no batch or holds NaN, or there is not a single batch.
        ShapeError, DTypeError: while iterating, as for :class:`ArrayBatches`.
    """

    samples: int | None = None

    def __init__(
        self,
        iterable: Iterable[Any],
        steps_per_epoch: int | None = None,
        targets: bool = True,
        form: BatchForm = BatchForm(),  # noqa: B008  # it is frozen
    ) -> None:
        if not is_iterable(iterable):
            raise InvalidArgumentError(
                f"expected an iterable of batches. Received: {type(iterable).__name__}"
            )
        self.iterable = iterable
        self.one_shot = hasattr(iterable, "__next__")
        self.targets = targets
        self.form = form
        self.exhausted = False
        self.steps_per_epoch = (
            None if steps_per_epoch is None else check_count(steps_per_epoch, "steps_per_epoch")
        )
        self.steps: int | None = self.steps_per_epoch or _length(iterable)
        self._current: Iterator[Any] | None = None
        self._seen = 0

    def check_epochs(self, epochs: int) -> None:
        """Refuse several epochs over a generator that can only be read once.

        Raises:
            InvalidArgumentError: it has no ``steps_per_epoch`` and ``epochs`` is above 1.
        """
        if self.one_shot and self.steps_per_epoch is None and epochs > 1:
            raise InvalidArgumentError(
                "a generator gives its batches only once, so without steps_per_epoch it is one "
                "epoch; give steps_per_epoch, or an iterable that starts anew each time. "
                f"Received: {type(self.iterable).__name__} for {epochs} epochs"
            )

    def skip_epochs(self, count: int) -> None:
        """Leave out epochs that an earlier run has seen, where the iterable counts them.

        A :class:`~gpuconv.data.Dataset` does: each of its epochs has an order of its own.
        """
        skip = getattr(self.iterable, "skip_epochs", None)
        if skip is not None and self.steps_per_epoch is None:
            skip(count)

    def epoch(self, permutation: np.ndarray[Any, Any] | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Raises:
            InvalidArgumentError: a permutation was given: the batches come in their own order.
        """
        if permutation is not None:
            raise InvalidArgumentError(
                "batches of an iterable come in its own order; shuffle inside it. "
                f"Received: a permutation of {len(permutation)}"
            )
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        if self._current is None or (self.steps_per_epoch is None and not self.one_shot):
            self._current = iter(self.iterable)
        given = 0
        for item in islice(self._current, self.steps_per_epoch):
            given += 1
            yield self._batch(item)
        while not self.one_shot and self.steps_per_epoch and given < self.steps_per_epoch:
            before = given
            self._current = iter(self.iterable)
            for item in islice(self._current, self.steps_per_epoch - given):
                given += 1
                yield self._batch(item)
            if given == before:  # a fresh start gave nothing
                break
        if self._seen == 0:
            raise InvalidArgumentError(
                "the iterable must give at least one batch. "
                f"Received: none from {type(self.iterable).__name__}"
            )
        if given < (self.steps_per_epoch or 1):
            self.exhausted = True
            expected = "" if self.steps_per_epoch is None else f" of {self.steps_per_epoch}"
            warnings.warn(
                f"the generator ran out of data after {self._seen} batches in all, {given}"
                f"{expected} in this epoch; training stops here. It should give at least "
                "steps_per_epoch * epochs batches.",
                stacklevel=3,
            )

    def _batch(self, item: Any) -> Batch:
        """Return one item as arrays, checked, with its number in every message."""
        name = f"batch {self._seen}"
        parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
        if not 1 <= len(parts) <= 3 or (self.targets and len(parts) < 2):
            wanted = "(x, y) or (x, y, sample_weight)"
            raise InvalidArgumentError(
                f"{name} must be {wanted if self.targets else f'x, {wanted}'}. "
                f"Received: {type(item).__name__} of {len(parts)}"
            )
        given_x, given_y, given_weight = (*parts, None, None)[:3]
        x, y, weight = self.form.sources(given_x, given_y, given_weight, f"{name}: ")
        if self.targets and y is None:
            raise InvalidArgumentError(f"{name} must come with y. Received: None")
        check_lengths(x, y, weight, f"{name}: ")
        arrays, targets, weights = (each(_whole, parts) for parts in (x, y, weight))
        for _, part in leaves((arrays, targets, weights), name):
            if isinstance(part, np.ndarray):  # looking at device memory would wait for it
                check_finite(part, name)
        self._seen += 1
        return arrays if len(arrays) > 1 else arrays[0], targets, weights


def is_iterable(value: Any) -> bool:
    """Whether ``value`` may give batches; strings and dicts do not."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping))


def _whole(source: Any) -> Any:
    return read_rows(source, 0, source.shape[0])


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:  # no length, or one that is not known
        return None
