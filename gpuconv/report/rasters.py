"""Arrays as PNG pictures: single images, and sheets of many small ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, Any]

_EXTENT = 640
"""Pixels, in width and height, that a sheet is enlarged to, at most."""
_LARGEST = 112
"""Pixels of an image in a sheet; larger ones are shrunk."""
_NEGATIVE, _POSITIVE = np.array([33, 102, 172]), np.array([178, 24, 43])
_DARK_TO_BRIGHT = np.array(
    [(38, 6, 74), (56, 76, 140), (32, 133, 141), (86, 190, 106), (250, 228, 50)]
)


def gray(levels: Pixels) -> Pixels:
    """Return levels from 0 to 1, (..., H, W) or (..., H, W, 3), as bytes of three colours."""
    values = np.round(np.clip(np.nan_to_num(levels), 0, 1) * 255).astype(np.uint8)
    if values.shape[-1] == 3 and values.ndim > 2:
        return values
    return np.repeat(values[..., None], 3, axis=-1)


def signed(values: Pixels, limit: float) -> Pixels:
    """Colour numbers (...): blue at ``-limit``, white at 0, red at ``limit``."""
    parts = np.clip(np.nan_to_num(values) / (limit or 1.0), -1, 1)[..., None]
    ends = np.where(parts < 0, _NEGATIVE, _POSITIVE)
    return np.asarray(np.round(255 + np.abs(parts) * (ends - 255)).astype(np.uint8))


def stretched(values: Pixels) -> Pixels:
    """Return one image (H, W, 3), its least value black and its largest white."""
    numbers = np.nan_to_num(np.asarray(values, np.float64))
    low, high = float(numbers.min()), float(numbers.max())
    return gray((numbers - low) / ((high - low) or 1.0))


def bright(values: Pixels) -> Pixels:
    """Colour one image: its least value dark, its largest bright."""
    numbers = np.nan_to_num(np.asarray(values, np.float64))
    low, high = float(numbers.min()), float(numbers.max())
    parts = (numbers - low) / ((high - low) or 1.0)
    places = np.linspace(0, 1, len(_DARK_TO_BRIGHT))
    colours = [np.interp(parts, places, _DARK_TO_BRIGHT[:, c]) for c in range(3)]
    return np.asarray(np.round(np.stack(colours, axis=-1)).astype(np.uint8))


def sheet(images: Sequence[Pixels], columns: int) -> tuple[bytes, tuple[int, int]]:
    """Join images (H, W, 3) of one size row by row; return the PNG, its width and height.

    Small images are enlarged by a whole factor, each pixel a square; gaps are transparent.
    """
    small = [_shrunk(image) for image in images]
    height, width = small[0].shape[:2]
    rows = -(-len(small) // columns)
    factor = max(1, min(32, _EXTENT // (columns * width), _EXTENT // (rows * height)))
    gap = max(2, factor // 2)
    whole = np.zeros(
        (rows * (height * factor + gap) - gap, columns * (width * factor + gap) - gap, 4), np.uint8
    )
    for number, image in enumerate(small):
        y = number // columns * (height * factor + gap)
        x = number % columns * (width * factor + gap)
        large = image.repeat(factor, axis=0).repeat(factor, axis=1)
        whole[y : y + height * factor, x : x + width * factor, :3] = large
        whole[y : y + height * factor, x : x + width * factor, 3] = 255
    return png(whole), (whole.shape[1], whole.shape[0])


def png(pixels: Pixels) -> bytes:
    """Return bytes (H, W, 3) or (H, W, 4) as the content of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shrunk(image: Pixels) -> Pixels:
    from PIL import Image

    if max(image.shape[:2]) <= _LARGEST:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(picture)
