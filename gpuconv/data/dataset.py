"""Data sets that shuffle, change and prefetch their batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.data.batches import Batch
from gpuconv.data.feeds import ArrayRows, RowFeed, Rows, StreamFeed, as_batch
from gpuconv.data.prefetching import prefetched
from gpuconv.data.sources import is_several
from gpuconv.errors import InvalidArgumentError
from gpuconv.random import check_seed, next_seed


class Dataset:
    """Batches for ``fit``, ``evaluate`` and ``predict``, made in the background.

    It is iterated anew in each epoch and gives ``(x, y, sample_weight)``, without those that are
    missing. The order and what random functions do are the same for the same seed and epoch, and
    others in the next one. ``fit``'s own ``shuffle`` and ``batch_size`` do not matter.
    ``predict`` gives its outputs in the data set's order: that of a data set that shuffles changes.

    Args:
        x: samples along the first axis: an array, an array-like that is read by slices
            (``numpy.memmap``, an HDF5 data set), nested lists, or for several inputs a list or
            tuple of arrays or a dict of them by name. Other sources: :meth:`from_generator`,
            :func:`gpuconv.data.image_folder`.
        y: targets, likewise for several outputs, or None.
        sample_weight: one number a sample, shape (N,); several likewise; or None.
        batch_size: samples a batch.
        shuffle: whether each epoch has an order of its own.
        seed: integer in [0, 2**63); None takes the next one of :func:`gpuconv.set_seed`.
        prefetch: batches that a background thread keeps ready; 0 makes each when it is asked
            for. Arrays on a device are never prefetched.
        drop_remainder: whether to leave out a last batch that is shorter.

    Attributes:
        samples: number of samples an epoch, None if unknown.
        steps: number of batches an epoch, None if unknown.
        exhausted: always False: there is a next epoch.
        class_names: of an image folder: what the labels mean; else None.
        files: of an image folder: the path of each sample; else None.
        broken: of an image folder: paths of pictures that were skipped so far; else empty.

    Raises:
        ShapeError: lengths differ, or a value is ragged or a scalar.
        DTypeError: the elements are not booleans, integers or floats.
        InvalidArgumentError: no samples, or an impossible number.
    """

    exhausted = False

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        prefetch: int = 2,
        drop_remainder: bool = False,
    ) -> None:
        feed = RowFeed(ArrayRows(x, y, sample_weight), batch_size, drop_remainder)
        self._start(feed, shuffle, seed, prefetch)

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
        prefetch: int = 2,
        drop_remainder: bool = False,
    ) -> Dataset:
        """Return a data set of samples that an object reads by their numbers.

        Args:
            rows: has ``samples``, ``on_device`` and ``read`` as
                :class:`gpuconv.data.feeds.Rows` tells; ``read`` is called in the thread.
            batch_size, shuffle, seed, prefetch, drop_remainder: as for :class:`Dataset`.

        Raises:
            InvalidArgumentError: an impossible number.
        """
        dataset = cls.__new__(cls)
        dataset._start(RowFeed(rows, batch_size, drop_remainder), shuffle, seed, prefetch)
        return dataset

    @classmethod
    def from_generator(
        cls,
        function: Callable[[], Iterable[Any]],
        *,
        batch_size: int | None = 32,
        steps: int | None = None,
        prefetch: int = 2,
        drop_remainder: bool = False,
    ) -> Dataset:
        """Return a data set of what a generator function yields.

        Args:
            function: called without arguments at the start of each epoch, in the thread; it
                returns an iterator of samples ``x``, ``(x, y)`` or ``(x, y, sample_weight)``,
                which must be tuples. A tuple of arrays as ``x`` stands for several inputs, one
                as ``y`` for several outputs; so do dicts by name.
            batch_size: samples that are stacked to a batch; None if batches are yielded.
            steps: batches an epoch, if known; what comes after them is not read.
            prefetch, drop_remainder: as for :class:`Dataset`.

        Raises:
            InvalidArgumentError: not a function, or an impossible number; while iterating: an item
                is no sample.
            ShapeError: while iterating: the samples of a batch have different shapes.
        """
        dataset = cls.__new__(cls)
        feed = StreamFeed(function, batch_size, drop_remainder, steps)
        dataset._start(feed, False, None, prefetch)
        return dataset

    def _start(
        self, feed: RowFeed | StreamFeed, shuffle: bool, seed: int | None, prefetch: int
    ) -> None:
        whole = isinstance(prefetch, (int, np.integer)) and not isinstance(prefetch, bool)
        if not whole or prefetch < 0:
            raise InvalidArgumentError(
                f"prefetch must be a number of batches, 0 or more. Received: {prefetch!r}"
            )
        self._feed = feed
        self._shuffle = bool(shuffle)
        self._seed = None if seed is None else check_seed(seed)
        if self._shuffle and self._seed is None:
            self._seed = next_seed()
        self._prefetch = int(prefetch)
        self._functions: tuple[tuple[Callable[..., Any], bool], ...] = ()
        self._epochs = 0
        self.class_names: list[str] | None = None
        self.files: list[Path] | None = None
        self.broken: list[Path] = []

    @property
    def samples(self) -> int | None:
        """Number of samples an epoch, None if unknown."""
        return self._feed.samples

    @property
    def steps(self) -> int | None:
        """Number of batches an epoch, None if unknown."""
        return self._feed.steps

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("the length of a data set from a generator without steps is unknown")
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        """Iterate one epoch: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``."""
        return map(_trimmed, self.epoch())

    def map(self, function: Callable[..., Any], random: bool = False) -> Dataset:
        """Return a data set whose batches a function has changed, in the background thread.

        Such as mixup, which is given a seed for each batch::

            def blended(generator, x, y):
                return mixup(x, y, num_classes=10, seed=int(generator.integers(2**62)))

            data = data.map(blended, random=True)

        Args:
            function: called with a batch as separate arguments, ``x``, ``x, y`` or ``x, y,
                sample_weight``; returns the same, or with other parts. It must not change the
                arrays that it is given: they may be the user's own.
            random: whether its first argument is a ``numpy.random.Generator``, which is the same
                for the same seed, epoch and batch, in whatever order batches are made.

        Raises:
            InvalidArgumentError: not a function.
        """
        if not callable(function):
            raise InvalidArgumentError(
                f"expected a function of a batch. Received: {type(function).__name__}"
            )
        changed = copy.copy(self)
        if random and changed._seed is None:
            changed._seed = next_seed()
        changed._functions = (*self._functions, (function, bool(random)))
        return changed

    def epoch(self, permutation: np.ndarray[Any, Any] | None = None) -> Iterator[Batch]:
        """Yield ``(x, y, sample_weight)`` of one epoch, with None for what is missing.

        Args:
            permutation: all sample numbers in the order to be used, instead of its own.

        Raises:
            InvalidArgumentError: a permutation of a wrong length, or for a generator.
        """
        # All samples of the source: those that are dropped at the end are others each time.
        samples = self._feed.rows.samples if isinstance(self._feed, RowFeed) else None
        if permutation is not None and (samples is None or np.shape(permutation) != (samples,)):
            raise InvalidArgumentError(
                f"permutation must have one number for each of the {samples} samples. "
                f"Received: shape {np.shape(permutation)}"
            )
        number = self._epochs
        self._epochs += 1
        if permutation is None and self._shuffle and samples is not None:
            permutation = self._generator(number).permutation(samples)
        depth = 0 if self._feed.on_device else self._prefetch
        return prefetched(self._made(number, permutation), depth)

    def skip_epochs(self, count: int) -> None:
        """Go on as if ``count`` epochs had been iterated, as a run does that was interrupted.

        Raises:
            InvalidArgumentError: not an integer of at least 0.
        """
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
            raise InvalidArgumentError(f"expected a number of epochs. Received: {count!r}")
        self._epochs += int(count)

    def arrays(self) -> Any:
        """Return everything in memory: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

        In the order of the source, never shuffled; the functions of :meth:`map` are applied as
        in the first epoch. The next epoch is what it would have been.

        Raises:
            InvalidArgumentError: there is not a single batch.
        """
        batches = list(self._made(0, None))
        if not batches:
            raise InvalidArgumentError("the data set should give a batch. Received: none")

        return _trimmed(_joined(batches))

    def _made(self, epoch: int, order: np.ndarray[Any, Any] | None) -> Iterator[Batch]:
        for number, batch in self._feed.batches(order):
            for place, (function, random) in enumerate(self._functions, 1):
                generator = [self._generator(epoch, number, place)] if random else []
                parts = _trimmed(batch)
                arguments = parts if isinstance(parts, tuple) else (parts,)
                batch = as_batch(function(*generator, *arguments), f"batch {number} from map")
                x, y, weights = (tuple(p) if is_several(p) else p for p in batch)
                batch = x, y, weights
            yield batch

    def _generator(self, epoch: int, batch: int = 0, place: int = 0) -> np.random.Generator:
        # Counters that differ in an upper word never meet.
        return np.random.Generator(
            np.random.Philox(key=self._seed or 0, counter=[0, place, batch, epoch])
        )


def _joined(parts: Sequence[Any]) -> Any:
    """Return what batches hold as one: arrays, or tuples and dicts of arrays."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        return tuple(_joined(several) for several in zip(*parts, strict=True))
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    return np.concatenate([np.asarray(part) for part in parts])


def _trimmed(batch: Batch) -> Any:
    """Return ``(x, y, sample_weight)`` without what is missing at the end; a lone x as it is."""
    x, y, sample_weight = batch
    if sample_weight is not None:
        return (x, y, sample_weight)
    if y is not None:
        return (x, y)
    return (x,) if isinstance(x, tuple) else x
