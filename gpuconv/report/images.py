"""The images that a run was tested on, where they are on this machine; nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.data.named import OFFICIAL, Images, digits
from gpuconv.errors import GpuconvError
from gpuconv.report.run import Run
from gpuconv.settings import cache_folder

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UnseenImages:
    """The test part of a data set.

    Attributes:
        of: the data set.
    """

    of: Images

    @property
    def x(self) -> Numbers:
        """Images, (N, H, W, C)."""
        return self.of.test[0]

    @property
    def y(self) -> Numbers:
        """Class numbers, (N,)."""
        return self.of.test[1]

    def name(self, label: int) -> str:
        """What a label means."""
        return self.of.name(label)


def unseen_images(run: Run) -> UnseenImages | str:
    """Return the images that a run was tested on; or, in words, why they are not here.

    The digits come with the package. Other data sets are read from where the run had them: the
    ``data_path`` of its settings, or the cache.
    """
    if run.data == "digits":
        return UnseenImages(digits())
    if not run.data:
        return "The run does not say which data it learned from"
    official = OFFICIAL.get(run.data)
    if official is None:
        return f"The data set {run.data!r} is not known here"
    given = run.settings.get("data_path")
    known = isinstance(given, str) and given != ""
    place = Path(str(given)) if known else cache_folder() / "data" / official.folder
    if not place.exists():
        return f"The files of the data set {run.data} are no longer on this machine ({place})"
    try:
        return UnseenImages(official.images(place))
    except (GpuconvError, OSError) as error:
        return f"The files of the data set {run.data} cannot be read ({error})"
