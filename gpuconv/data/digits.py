"""The handwritten digits that come with the package."""

from __future__ import annotations

import hashlib
import io
from typing import Any, Final

import numpy as np

from gpuconv.errors import FileFormatError

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

DIGITS_SHA256: Final = "aa64e930663d6e9271e1566601d65e70236553f73ec6cb041a4ab37167cf1d04"
"""Checksum of ``files/digits.npz``."""

_SPLIT_KEY = 1998


def load_digits() -> tuple[Arrays, Arrays]:
    """Return 1,797 real handwritten digits as ``(x_train, y_train), (x_test, y_test)``.

    Images are uint8 of shape (N, 8, 8, 1) with values 0 (paper) to 16 (ink), labels int64 of
    shape (N,) from 0 to 9; 1,438 for training and 359 for testing. The arrays are the
    caller's own: they may be changed.

    The split is the same on every machine. The images are put into the order that sorts the
    first 1,797 raw 64-bit words of the Philox bit generator with key 1998, and the last fifth
    of every class (rounded to the nearest integer) is held out. The same people wrote both
    parts, so test accuracy here is higher than it would be on the writing of strangers.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0; the file
    ``NOTICE-digits.txt`` beside the data says what was changed.

    Raises:
        FileFormatError: the installed data file is missing or damaged.
    """
    images, labels = _read()
    train, test = _split(labels)
    return (images[train], labels[train]), (images[test], labels[test])


def digits_notice() -> str:
    """Return the attribution and licence of the bundled digits, to be shown where they are."""
    return _resource("NOTICE-digits.txt").decode("utf-8")


def _resource(name: str) -> bytes:
    from importlib.resources import files

    try:
        return (files("gpuconv.data") / "files" / name).read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"the package should contain gpuconv/data/files/{name}; install gpuconv again. "
            f"Received: {error}"
        ) from error


def _read() -> Arrays:
    content = _resource("digits.npz")
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != DIGITS_SHA256:
        raise FileFormatError(
            "the bundled digits (gpuconv/data/files/digits.npz) are damaged: expected the SHA-256 "
            f"checksum {DIGITS_SHA256}; install gpuconv again. "
            f"Received: {len(content)} bytes with checksum {checksum}"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["images"][..., None], arrays["labels"].astype(np.int64)


def _split(labels: np.ndarray[Any, Any]) -> Arrays:
    # Raw words of a bit generator stay the same in all NumPy versions; shuffles need not.
    words = np.random.Philox(key=_SPLIT_KEY).random_raw(len(labels))
    order = np.argsort(words, kind="stable")
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(labels[order] == label)
        held_out[members[len(members) - round(len(members) / 5) :]] = True
    return order[~held_out], order[held_out]
