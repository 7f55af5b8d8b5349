"""Data sets of images by name: how the command line, and the page of a run, find them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gpuconv import data

Split = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Images:
    """A data set: images (N, H, W, C) and labels (N,).

    Attributes:
        train, test: images and labels.
        largest: value of full ink or light.
        names: of the classes; None: their numbers.
    """

    train: Split
    test: Split
    largest: float
    names: Sequence[str] | None = None

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.train[1].max()) + 1

    def name(self, label: int) -> str:
        """What a label means; its number where no name is known."""
        if self.names is None or label >= len(self.names):
            return str(label)
        return self.names[label]


@dataclass(frozen=True)
class Official:
    """A data set of files that somebody publishes.

    Attributes:
        folder: its folder in the cache.
        load: reads it, as ``gpuconv.data.load_mnist`` does.
        names: gives what the labels mean.
    """

    folder: str
    load: Callable[[str | os.PathLike[str] | None], tuple[Split, Split]]
    names: Callable[[], Sequence[str]] | None = None

    def images(self, path: str | os.PathLike[str] | None) -> Images:
        """Read the data set from a folder or an archive; None: from the cache, or a download."""
        train, test = (
            (x if x.ndim == 4 else x[..., np.newaxis], y.reshape(-1)) for x, y in self.load(path)
        )
        return Images(train, test, 255.0, None if self.names is None else self.names())


# What reads files is loaded when it is first used.
OFFICIAL: Final[dict[str, Official]] = {
    "mnist": Official("mnist", lambda path: data.load_mnist(path)),
    "fashion_mnist": Official(
        "fashion-mnist",
        lambda path: data.load_fashion_mnist(path),
        lambda: data.FASHION_MNIST_NAMES,
    ),
    "cifar10": Official(
        "cifar-10", lambda path: data.load_cifar10(path), lambda: data.CIFAR10_NAMES
    ),
    "cifar100": Official("cifar-100", lambda path: data.load_cifar100(path)),
}
"""By the name that ``gpuconv train`` gives them."""


def digits() -> Images:
    """Return the digits that come with the package."""
    return Images(*data.load_digits(), largest=16.0)
