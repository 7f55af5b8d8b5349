"""What a training loop iterates over, and batches that are cut from arrays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpuconv.data.checks import check_count, check_finite, check_lengths
from gpuconv.data.forms import BatchForm, each, leaves
from gpuconv.data.sources import Source, gather_rows, read_rows
from gpuconv.errors import InvalidArgumentError

if TYPE_CHECKING:
    from gpuconv.backends.base import Array

Batch = tuple[Any, Any, Any]
"""``(x, y, sample_weight)`` in the user's dtype. ``x`` is an array, or a tuple of arrays for
several inputs; the other two are an array or None, or for several outputs a tuple of these."""


class Batches(Protocol):
    """What ``fit``, ``evaluate`` and ``predict`` need of their data.

    Attributes:
        samples: number of samples an epoch, None if unknown until they have been seen.
        steps: number of batches an epoch, None if unknown.
        exhausted: True once the data has run out; there will be no further batches.
    """

    samples: int | None
    steps: int | None
    exhausted: bool

    def epoch(self, permutation: np.ndarray[Any, Any] | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch."""


class ArrayBatches:
    """Batches cut from arrays, which stay where they are and in the user's dtype.

    Args:
        x: samples along the first axis: a NumPy or CuPy array, an array-like with ``shape``,
            ``dtype`` and slicing (``numpy.memmap``, an HDF5 data set), a Tensor, nested lists;
            or a list or tuple of arrays for several inputs.
        y: targets, likewise, or None.
        sample_weight: one number a sample, shape (N,), or None.
        form: how many inputs and outputs there are, and their names.
        batch_size: samples a batch; the last batch of an epoch may be shorter.
        steps_per_epoch: batches an epoch, at most those that there are (None: all).

    Raises:
        ShapeError: lengths differ, or a value is ragged or a scalar.
        DTypeError: the elements are not booleans, integers or floats.
        InvalidArgumentError: no samples, parts or names that ``form`` has not, or an impossible
            ``batch_size`` or ``steps_per_epoch``.
    """

    exhausted = False

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        batch_size: int = 32,
        steps_per_epoch: int | None = None,
        form: BatchForm = BatchForm(),  # noqa: B008  # it is frozen
    ) -> None:
        self.batch_size = check_count(batch_size, "batch_size")
        self.x, self.y, self.sample_weight = form.sources(x, y, sample_weight)
        self.samples: int | None = check_lengths(self.x, self.y, self.sample_weight)
        available = -(-self.samples // self.batch_size)
        self.steps: int | None = available
        if steps_per_epoch is not None:
            self.steps = check_count(steps_per_epoch, "steps_per_epoch")
            if self.steps > available:
                raise InvalidArgumentError(
                    f"steps_per_epoch must be at most {available}, the number of batches of "
                    f"{self.batch_size} in {self.samples} samples. Received: {steps_per_epoch}"
                )

    def __len__(self) -> int:
        return self.steps or 0

    def epoch(
        self, permutation: np.ndarray[Any, Any] | None = None, first: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Args:
            permutation: all sample numbers in the order to be used. None keeps the order, and
                batches of NumPy and CuPy arrays are then views; else they are copies.
            first: number of the batch to begin with; after the last one comes batch 0.

        Raises:
            InvalidArgumentError: the permutation has a wrong length.
        """
        samples = self.samples or 0
        if permutation is not None and np.shape(permutation) != (samples,):
            raise InvalidArgumentError(
                f"permutation must have shape ({samples},). Received: {np.shape(permutation)}"
            )
        return self._batches(samples, permutation, first)

    def check_finite(self) -> None:
        """Look for NaN and infinity in inputs, targets and weights.

        Raises:
            InvalidArgumentError: a value is not finite; the message says where it is.
        """
        check_finite(self.x if len(self.x) > 1 else self.x[0], "x")
        for name, part in (*leaves(self.y, "y"), *leaves(self.sample_weight, "sample_weight")):
            check_finite(part, name)

    def _batches(
        self, samples: int, permutation: np.ndarray[Any, Any] | None, first: int
    ) -> Iterator[Batch]:
        available = -(-samples // self.batch_size)
        for number in range(first, first + len(self)):
            start = number % available * self.batch_size
            stop = min(start + self.batch_size, samples)
            chosen = None if permutation is None else np.asarray(permutation[start:stop])
            cut = functools.partial(_cut, start=start, stop=stop, chosen=chosen)
            parts = each(cut, self.x)
            yield (
                parts if len(parts) > 1 else parts[0],
                each(cut, self.y),
                each(cut, self.sample_weight),
            )


def _cut(source: Source, start: int, stop: int, chosen: np.ndarray[Any, Any] | None) -> Array:
    return read_rows(source, start, stop) if chosen is None else gather_rows(source, chosen)
