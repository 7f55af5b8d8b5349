"""The classic data sets of images, from their publishers' files.

Formats: the IDX files of http://yann.lecun.com/exdb/mnist/, and the "binary version" of
https://www.cs.toronto.edu/~kriz/cifar.html; never the pickled one, which could run code.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from gpuconv.data.official import fetch
from gpuconv.data.user_files import Limit, read_files
from gpuconv.errors import FileFormatError, one_of

Array = np.ndarray[Any, Any]
Arrays = tuple[Array, Array]
Progress = Callable[[int, "int | None"], None] | bool | None
Path = str | os.PathLike[str]

_MOST: Final = 60_000
"""Images in an IDX file."""
_SIDE: Final = 28
_PIXELS: Final = 3 * 32 * 32
_UBYTE: Final = 0x08
"""The type of the elements in an IDX file, its third byte."""

FASHION_MNIST_NAMES: Final = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
"""What the labels of :func:`load_fashion_mnist` mean."""

CIFAR10_NAMES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""What the labels of :func:`load_cifar10` mean."""


def load_mnist(path: Path | None = None, progress: Progress = None) -> tuple[Arrays, Arrays]:
    """Return 70,000 handwritten digits as ``(x_train, y_train), (x_test, y_test)``.

    Images are uint8 of shape (60000, 28, 28) and (10000, 28, 28) with values 0 (paper) to 255
    (ink), labels uint8 of shape (N,) from 0 to 9, as in Keras. A Conv2D wants a channel axis:
    ``x_train[..., None]``.

    Args:
        path: a folder or archive (``.zip``, ``.tar``, ``.tar.gz``) with the four official
            files, plain or ``.gz``. Default: they are fetched once and kept in the cache folder
            (``GPUCONV_CACHE``).
        progress: as for :func:`gpuconv.data.fetch_file`.

    Raises:
        DownloadError: the files could not be fetched.
        FileFormatError: a file is missing, damaged, or not in the format; the message names it.
        InvalidArgumentError: there is nothing at ``path``.
    """
    return _load_idx("mnist", path, progress)


def load_fashion_mnist(
    path: Path | None = None, progress: Progress = None
) -> tuple[Arrays, Arrays]:
    """Return 70,000 pictures of clothes; shapes, arguments and errors as :func:`load_mnist`.

    What the labels mean is in ``FASHION_MNIST_NAMES``.
    """
    return _load_idx("fashion-mnist", path, progress)


def load_cifar10(path: Path | None = None, progress: Progress = None) -> tuple[Arrays, Arrays]:
    """Return 60,000 small photographs as ``(x_train, y_train), (x_test, y_test)``.

    Images are uint8 of shape (50000, 32, 32, 3) and (10000, 32, 32, 3), labels uint8 of shape
    (N, 1) from 0 to 9, as in Keras. What they mean is in ``CIFAR10_NAMES``.

    Args:
        path: ``cifar-10-binary.tar.gz``, another archive (``.zip``, ``.tar``), or a folder with
            it or with its files ``data_batch_1.bin`` to ``data_batch_5.bin`` and
            ``test_batch.bin``, plain or ``.gz``. Default: fetched once, and kept in the cache.
        progress: as for :func:`gpuconv.data.fetch_file`.

    Raises:
        DownloadError: the file could not be fetched.
        FileFormatError: a file is missing, damaged, or not in the format; the message names it.
        InvalidArgumentError: there is nothing at ``path``.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    wanted: dict[str, Limit] = dict.fromkeys([*names, "test_batch.bin"], _records(1, 10_000))
    if path is None:
        (path,) = fetch("cifar-10", progress)
    files = read_files(path, wanted, "cifar-10-binary.tar.gz")
    parts = [_cifar(*files[name], classes=(10,), most=10_000) for name in names]
    counts = [len(x) for x, _ in parts]
    if len(set(counts)) > 1:  # one that was cut between two images
        raise FileFormatError(
            f"the five files of {path} should hold equally many images. "
            f"Received: {', '.join(f'{name} {n}' for name, n in zip(names, counts, strict=True))}"
        )
    x_test, y_test = _cifar(*files["test_batch.bin"], classes=(10,), most=10_000)
    x_train = np.concatenate([x for x, _ in parts])
    return (x_train, np.concatenate([y for _, y in parts])), (x_test, y_test)


def load_cifar100(
    path: Path | None = None, label_mode: str = "fine", progress: Progress = None
) -> tuple[Arrays, Arrays]:
    """Return 60,000 small photographs of 100 classes; shapes as :func:`load_cifar10`.

    Args:
        path: ``cifar-100-binary.tar.gz``, another archive, or a folder with it or with its files
            ``train.bin`` and ``test.bin``. Default: fetched once, and kept in the cache.
        label_mode: ``"fine"`` for the 100 classes, ``"coarse"`` for the 20 groups of them.
        progress: as for :func:`gpuconv.data.fetch_file`.

    Raises:
        DownloadError, FileFormatError: as :func:`load_cifar10`.
        InvalidArgumentError: another ``label_mode``, or there is nothing at ``path``.
    """
    column = ("coarse", "fine").index(one_of(label_mode, ("fine", "coarse"), "label_mode"))
    wanted: dict[str, Limit] = {"train.bin": _records(2, 50_000), "test.bin": _records(2, 10_000)}
    if path is None:
        (path,) = fetch("cifar-100", progress)
    files = read_files(path, wanted, "cifar-100-binary.tar.gz")
    read = partial(_cifar, classes=(20, 100), column=column)
    return read(*files["train.bin"], most=50_000), read(*files["test.bin"], most=10_000)


# --- IDX --------------------------------------------------------------------------------------


def _load_idx(name: str, path: Path | None, progress: Progress) -> tuple[Arrays, Arrays]:
    wanted: dict[str, Limit] = {}
    for part in ("train", "t10k"):
        wanted[f"{part}-images-idx3-ubyte"] = partial(_idx_length, axes=3)
        wanted[f"{part}-labels-idx1-ubyte"] = partial(_idx_length, axes=1)
    if path is None:
        path = fetch(name, progress)[0].parent
    files = read_files(path, wanted)
    train, test = (
        _idx_pair(files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"])
        for part in ("train", "t10k")
    )
    return train, test


def _idx_shape(head: bytes, title: str, axes: int) -> tuple[int, ...]:
    """The shape that the first bytes of an IDX file tell, if it can be true."""
    start = bytes([0, 0, _UBYTE, axes])
    length = 4 + 4 * axes
    if head[:4] != start or len(head) < length:
        raise FileFormatError(
            f"{title} should be an IDX file of bytes with {axes} axes, and begin with "
            f"{start.hex(' ')} and {axes} numbers. Received: {head[:length].hex(' ') or 'nothing'}"
        )
    shape = struct.unpack(f">{axes}I", head[4:length])
    if not 1 <= shape[0] <= _MOST or shape[1:] != (_SIDE, _SIDE)[: axes - 1]:
        expected = ", ".join([f"1 to {_MOST}", *[str(_SIDE)] * (axes - 1)])
        raise FileFormatError(f"{title} should have the shape ({expected}). Received: {shape}")
    return shape


def _idx_length(head: bytes, title: str, axes: int) -> int:
    return 4 + 4 * axes + int(np.prod(_idx_shape(head, title, axes)))


def _idx(content: bytearray, title: str, axes: int) -> Array:
    head = bytes(content[:16])
    shape = _idx_shape(head, title, axes)
    expected = _idx_length(head, title, axes)
    if len(content) != expected:
        raise FileFormatError(
            f"{title} should have {expected} bytes for the shape {shape} that it tells. "
            f"Received: {_bytes(content, expected)}"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _idx_pair(images: tuple[bytearray, str], labels: tuple[bytearray, str]) -> Arrays:
    x, y = _idx(*images, axes=3), _idx(*labels, axes=1)
    if len(x) != len(y):
        raise FileFormatError(
            f"{labels[1]} should have one label for each image of {images[1]}. "
            f"Received: {len(y)} labels for {len(x)} images"
        )
    _check_labels(y, 10, labels[1])
    return x, y


# --- CIFAR ------------------------------------------------------------------------------------


def _records(labels: int, most: int) -> Limit:
    """A limit for files of records: ``labels`` bytes, then the pixels of one image."""

    def limit(head: bytes, title: str) -> int:
        return most * (labels + _PIXELS)

    return limit


def _cifar(
    content: bytearray, title: str, classes: Sequence[int], most: int, column: int = 0
) -> Arrays:
    """Images (N, 32, 32, 3) and one of the label columns, (N, 1)."""
    size = len(classes) + _PIXELS
    count, rest = divmod(len(content), size)
    if rest or not 1 <= count <= most:
        raise FileFormatError(
            f"{title} should have 1 to {most} records of {size} bytes. "
            f"Received: {_bytes(content, most * size)}"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    for number, several in enumerate(classes):
        _check_labels(records[:, number], several, title)
    planes = records[:, len(classes) :].reshape(count, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, records[:, column : column + 1].copy()


def _check_labels(labels: Array, classes: int, title: str) -> None:
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise FileFormatError(
            f"{title} should have labels from 0 to {classes - 1}. "
            f"Received: {int(labels[wrong[0]])} at image {int(wrong[0])}"
        )


def _bytes(content: bytearray, most: int) -> str:
    return f"more than {most} bytes" if len(content) > most else f"{len(content)} bytes"
