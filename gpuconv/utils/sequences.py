"""Batches that a user's class makes by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class PyDataset:
    """Base of data sets that make each batch by its number, as ``keras.utils.PyDataset``.

    A subclass defines ``__len__``, the number of batches, and ``__getitem__(index)``, which
    returns ``(x, y)`` or ``(x, y, sample_weight)``; and ``on_epoch_end``, if it shuffles. ``fit``,
    ``evaluate`` and ``predict`` take it and make one batch after another; for batches made in the
    background see ``gpuconv.data.Dataset``.
    """

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__, the number of batches")

    def __getitem__(self, index: int) -> Any:
        raise TypeError(f"{type(self).__name__} must define __getitem__, which makes a batch")

    def on_epoch_end(self) -> None:
        """After each pass over all batches; does nothing by default."""

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]
        self.on_epoch_end()
