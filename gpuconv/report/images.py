"""The images that a run was tested on, where they are on this machine; nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv import data
from gpuconv.errors import GpuconvError
from gpuconv.report.run import Run
from gpuconv.settings import cache_folder

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UnseenImages:
    """The test part of a data set.

    Attributes:
        x: images, (N, H, W, C).
        y: class numbers, (N,).
        names: of the classes; None: their numbers.
    """

    x: Numbers
    y: Numbers
    names: Sequence[str] | None = None

    def name(self, label: int) -> str:
        """What a label means."""
        inside = self.names is not None and label < len(self.names)
        return self.names[label] if inside else str(label)  # type: ignore[index]


@dataclass(frozen=True)
class _Official:
    """A data set of files: its folder in the cache, what reads it, and where its names are."""

    folder: str
    load: Callable[[Path], Any]
    names: Callable[[], Sequence[str]] | None = None


_OFFICIAL = {
    "mnist": _Official("mnist", lambda path: data.load_mnist(path)),
    "fashion_mnist": _Official(
        "fashion-mnist",
        lambda path: data.load_fashion_mnist(path),
        lambda: data.FASHION_MNIST_NAMES,
    ),
    "cifar10": _Official(
        "cifar-10", lambda path: data.load_cifar10(path), lambda: data.CIFAR10_NAMES
    ),
    "cifar100": _Official("cifar-100", lambda path: data.load_cifar100(path)),
}


def unseen_images(run: Run) -> UnseenImages | str:
    """Return the images that a run was tested on; or, in words, why they are not here.

    The digits come with the package. Other data sets are read from where the run had them: the
    ``data_path`` of its settings, or the cache.
    """
    if run.data == "digits":
        return UnseenImages(*data.load_digits()[1])
    if not run.data:
        return "The run does not say which data it learned from"
    official = _OFFICIAL.get(run.data)
    if official is None:
        return f"The data set {run.data!r} is not known here"
    given = run.settings.get("data_path")
    known = isinstance(given, str) and given != ""
    place = Path(str(given)) if known else cache_folder() / "data" / official.folder
    if not place.exists():
        return f"The files of the data set {run.data} are no longer on this machine ({place})"
    try:
        _, (x, y) = official.load(place)
    except (GpuconvError, OSError) as error:
        return f"The files of the data set {run.data} cannot be read ({error})"
    names = None if official.names is None else official.names()
    return UnseenImages(x if x.ndim == 4 else x[..., np.newaxis], y.reshape(-1), names)
