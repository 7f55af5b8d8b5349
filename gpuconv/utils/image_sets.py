"""A folder of pictures as data sets for training and validation, in Keras's words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.data.batches import Batch
from gpuconv.data.dataset import Dataset
from gpuconv.data.image_files import ImageRows
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.random import check_seed, generator_for

_CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}


def image_dataset_from_directory(
    directory: str | os.PathLike[str],
    label_mode: str | None = "int",
    color_mode: str = "rgb",
    batch_size: int = 32,
    image_size: tuple[int, int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    crop_to_aspect_ratio: bool = False,
) -> Any:
    """Return the pictures below a folder as a data set, as Keras's function of this name.

    Batches are uint8 (N, *image_size, channels), where Keras's are float32; layers convert them.
    Pictures are read while training runs; see :func:`gpuconv.data.image_folder`.

    Args:
        directory: a folder for each class in it, in the order of their names.
        label_mode: ``"int"``: class numbers (N,); ``"categorical"``: one-hot rows;
            ``"binary"``: 0 or 1 of two classes, as float32 (N, 1); None: no labels.
        color_mode: ``"rgb"``, ``"rgba"`` or ``"grayscale"``.
        batch_size: pictures a batch.
        image_size: ``(height, width)`` in pixels.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of the split; needed for a split.
        validation_split: fraction that is held out, between 0 and 1, chosen at random by the
            seed; None holds out none.
        subset: ``"training"``, ``"validation"``, or ``"both"`` for a pair of them; with a split.
        crop_to_aspect_ratio: whether to cut instead of stretching.

    Returns:
        A :class:`gpuconv.data.Dataset` with ``class_names`` and ``files``, or two of them.

    Raises:
        InvalidArgumentError: an impossible argument, no pictures, a split without seed or subset,
            or one that leaves a part empty.
        FileFormatError: while iterating: a picture cannot be read.
    """
    channels = _CHANNELS[one_of(color_mode, tuple(_CHANNELS), "color_mode")]
    if label_mode is not None:
        one_of(label_mode, ("int", "categorical", "binary"), "label_mode")
    if (validation_split is None) != (subset is None):
        raise InvalidArgumentError(
            f"validation_split and subset go together. "
            f"Received: validation_split={validation_split!r}, subset={subset!r}"
        )
    rows = ImageRows(Path(directory), image_size, channels, crop_to_aspect_ratio, False)
    if label_mode == "binary" and len(rows.class_names) != 2:
        raise InvalidArgumentError(
            f"label_mode='binary' needs two classes. Received: {len(rows.class_names)} folders"
        )
    order = np.arange(rows.samples)

    def dataset(numbers: np.ndarray[Any, Any]) -> Dataset:
        part = _Part(rows, numbers, label_mode)
        made = Dataset.from_rows(part, batch_size=batch_size, shuffle=shuffle, seed=seed)
        made.class_names = rows.class_names
        made.files = [rows.files[number] for number in numbers]
        return made

    if validation_split is None:
        return dataset(order)
    one_of(subset, ("training", "validation", "both"), "subset")
    held_out, learned = _parts(order, validation_split, seed)
    if subset == "both":
        return dataset(learned), dataset(held_out)
    return dataset(learned if subset == "training" else held_out)


class _Part:
    """Some of the rows of a folder, with labels in another form."""

    on_device = False

    def __init__(
        self, rows: ImageRows, numbers: np.ndarray[Any, Any], label_mode: str | None
    ) -> None:
        self.rows = rows
        self.numbers = numbers
        self.label_mode = label_mode
        self.samples = len(numbers)

    def read(self, first: int, last: int, numbers: np.ndarray[Any, Any] | None) -> Batch | None:
        """Read pictures ``first`` to ``last`` of an order."""
        chosen = np.arange(first, last) if numbers is None else np.asarray(numbers[first:last])
        batch = self.rows.read(0, len(chosen), self.numbers[chosen])
        if batch is None:
            return None
        images, labels, weight = batch
        if self.label_mode is None:
            return images, None, weight
        if self.label_mode == "categorical":
            labels = np.eye(len(self.rows.class_names), dtype=np.float32)[labels]
        elif self.label_mode == "binary":
            labels = labels.astype(np.float32)[:, None]
        return images, labels, weight


def _parts(
    order: np.ndarray[Any, Any], fraction: Any, seed: int | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The pictures that are held out, and the others, each in rising order."""
    number = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction < 1:
        raise InvalidArgumentError(
            f"validation_split must be a number between 0 and 1. Received: {fraction!r}"
        )
    if seed is None:
        raise InvalidArgumentError(
            "a split needs a seed, so that training and validation do not overlap. Received: None"
        )
    count = int(len(order) * fraction)
    if count in (0, len(order)):
        raise InvalidArgumentError(
            f"validation_split={fraction} leaves one part of {len(order)} pictures empty. "
            f"Received: {fraction}"
        )
    shuffled = generator_for((check_seed(seed), 0)).permutation(order)
    return np.sort(shuffled[:count]), np.sort(shuffled[count:])
