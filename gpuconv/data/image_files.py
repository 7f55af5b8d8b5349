"""Pictures in folders, one folder for each class, read when they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpuconv.data.batches import Batch
from gpuconv.data.dataset import Dataset
from gpuconv.errors import FileFormatError, InvalidArgumentError, shown

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES: Final = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of the files that are read, in small or capital letters; others are passed over."""

_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


def image_folder(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    channels: int = 3,
    crop_to_aspect_ratio: bool = False,
    skip_broken: bool = False,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int | None = None,
    prefetch: int = 2,
    drop_remainder: bool = False,
) -> Dataset:
    """Return the pictures below a folder as a data set that reads them batch by batch.

    The folders directly in ``path`` are the classes, in the order of their names (sorted by
    code point); pictures may lie deeper within them. Batches are uint8 of shape (N, *size,
    channels) with labels int64 of shape (N,). All in memory: ``image_folder(...).arrays()``.

    Pictures are resized by Pillow's bilinear filter, which averages when it makes them
    smaller. Of an animation the first picture is read; the orientation in EXIF data is not
    applied, as in Keras and torchvision.

    Args:
        path: the folder. Names that begin with a dot, and files of other kinds, are passed over.
        size: height and width in pixels.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
        crop_to_aspect_ratio: whether to cut off what is too wide or too high, instead of
            stretching the picture.
        skip_broken: whether to leave out pictures that cannot be read, each time they come up;
            their paths are collected in the data set's ``broken``, and batches are shorter.
        batch_size, shuffle, seed, prefetch, drop_remainder: as for :class:`Dataset`.

    Returns:
        A :class:`Dataset` with ``class_names``, a list; ``files``, the paths in their order; and
        ``broken``, the paths of the pictures that could not be read so far.

    Raises:
        InvalidArgumentError: no such folder, no folders or pictures in it, an impossible size or
            number of channels.
        FileFormatError: while iterating: a picture cannot be read; the message names it.
    """
    rows = ImageRows(Path(path), size, channels, crop_to_aspect_ratio, skip_broken)
    dataset = Dataset.from_rows(
        rows,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        prefetch=prefetch,
        drop_remainder=drop_remainder,
    )
    dataset.class_names = rows.class_names
    dataset.files = rows.files
    dataset.broken = rows.broken
    return dataset


class ImageRows:
    """The pictures of a folder by their numbers; arguments and errors as :func:`image_folder`."""

    on_device = False

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        channels: int,
        crop_to_aspect_ratio: bool,
        skip_broken: bool,
    ) -> None:
        self.height, self.width = _checked_size(size)
        if isinstance(channels, bool) or channels not in _MODES:
            raise InvalidArgumentError(
                f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA). Received: {shown(channels)}"
            )
        self.channels = int(channels)
        self.crop = bool(crop_to_aspect_ratio)
        self.skip_broken = bool(skip_broken)
        if not folder.is_dir():
            raise InvalidArgumentError(f"path must be a folder. Received: {str(folder)!r}")
        classes = sorted(
            entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
        )
        self.class_names = [entry.name for entry in classes]
        self.files: list[Path] = []
        labels: list[int] = []
        for label, entry in enumerate(classes):
            pictures = _pictures(entry)
            self.files += pictures
            labels += [label] * len(pictures)
        if not self.files:
            found = f"{len(classes)} folders and no picture" if classes else "no folder"
            raise InvalidArgumentError(
                f"{folder} should hold a folder of pictures for each class. Received: {found} in it"
            )
        self.labels = np.array(labels, np.int64)
        self.samples = len(self.files)
        self.broken: list[Path] = []

    def read(self, first: int, last: int, numbers: np.ndarray[Any, Any] | None) -> Batch | None:
        """Read pictures ``first`` to ``last`` of an order; None if all of them are broken."""
        chosen = np.arange(first, last) if numbers is None else np.asarray(numbers[first:last])
        images = np.empty((len(chosen), self.height, self.width, self.channels), np.uint8)
        good: list[int] = []
        for number in chosen.tolist():
            file = self.files[number]
            try:
                images[len(good)] = self.read_file(file)
            except FileFormatError:
                if not self.skip_broken:
                    raise
                if file not in self.broken:
                    self.broken.append(file)
            else:
                good.append(number)
        return (images[: len(good)], self.labels[good], None) if good else None

    def read_file(self, file: Path) -> np.ndarray[Any, Any]:
        """Return one picture, (height, width, channels)."""
        from PIL import Image

        try:
            with Image.open(file) as image:
                picture = _converted(image, _MODES[self.channels])
                box = self._box(*picture.size) if self.crop else None
                resized = picture.resize(
                    (self.width, self.height), Image.Resampling.BILINEAR, box=box
                )
        except MemoryError:
            raise
        # Pillow's readers raise what they please on damaged files; SyntaxError is one of it.
        except Exception as error:
            raise FileFormatError(
                f"{file} cannot be read as a picture; skip_broken=True leaves out such files. "
                f"Received: {type(error).__name__}: {error}"
            ) from error
        return np.asarray(resized).reshape(self.height, self.width, self.channels)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The largest part in the middle that has the wanted ratio of width to height."""
        scale = min(width / self.width, height / self.height)
        left = (width - scale * self.width) / 2
        top = (height - scale * self.height) / 2
        return left, top, width - left, height - top


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would cut these numbers off at 255
        from PIL import Image as module

        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return module.fromarray(grey).convert(mode)
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert(mode)
    return image.convert(mode)


def _pictures(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [
            Path(parent, name)
            for name in names
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _checked_size(size: Any) -> tuple[int, int]:
    if isinstance(size, (tuple, list)) and len(size) == 2:
        whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in size)
        if whole and min(size) >= 1:
            return int(size[0]), int(size[1])
    raise InvalidArgumentError(
        f"size must be (height, width) in pixels, two integers of at least 1. "
        f"Received: {shown(size)}"
    )
