"""Many small images with captions on one sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.viz.canvas import GRID, INK, MUTED, Canvas, fit_text, text_width

_SMALLEST, _LARGEST = 112, 224
_GAP, _MARGIN, _TOP, _CAPTION = 18, 28, 68, 30
_TEXT, _TITLE = 15, 22
_WIDEST_CAPTION = 220


def draw_images(
    images: Any,
    captions: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "Misclassified images",
    columns: int | None = None,
) -> None:
    """Draw a sheet of images with captions and write it as a PNG file, atomically.

    Images below 112 pixels are enlarged by a whole factor, each pixel a square; images above
    224 pixels are shrunk. Images of one channel are stretched from the lowest value of the
    sheet (black) to the highest (white). Images of three channels keep 0 to 255 if they are
    uint8 and 0 to 1 if all values lie there; else they are stretched too.

    Args:
        images: shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), or a list of such images;
            booleans, integers or floats of any range. None at all gives a sheet that says
            "none misclassified".
        captions: one text an image, such as ``"5 -> 6 (0.71)"``.
        path: the file to write.
        title: heading of the sheet.
        columns: images a row; None chooses a sheet somewhat wider than high.

    Raises:
        ShapeError: an image has another shape.
        InvalidArgumentError: the number of captions differs, or ``columns`` is below 1.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    arrays = [_check_image(np.asarray(image)) for image in images]
    if len(arrays) != len(captions):
        raise InvalidArgumentError(
            "captions must have one text an image. "
            f"Received: {len(arrays)} images, {len(captions)} captions"
        )
    if columns is not None and columns < 1:
        raise InvalidArgumentError(f"columns must be at least 1. Received: {columns}")
    if arrays:
        canvas = _sheet(arrays, captions, title, columns)
    else:
        canvas = Canvas(640, 200, oversampling=1)
        canvas.text((320, 120), "none misclassified", _TITLE, MUTED, "mm")
    canvas.text((_MARGIN, 44), fit_text(title, _TITLE, canvas.width - 2 * _MARGIN), _TITLE, INK)
    canvas.save(path)


def _check_image(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the image as (H, W) or (H, W, 3)."""
    plane = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    colored = plane.ndim == 3 and plane.shape[2] == 3
    if not (plane.ndim == 2 or colored) or plane.size == 0 or plane.dtype.kind not in "biuf":
        raise ShapeError(
            "an image must have shape (H, W), (H, W, 1) or (H, W, 3) and hold numbers. "
            f"Received: {image.shape} of dtype {image.dtype}"
        )
    return plane


def _sheet(
    arrays: Sequence[np.ndarray[Any, Any]],
    captions: Sequence[str],
    title: str,
    columns: int | None,
) -> Canvas:
    low, high = _levels(arrays)
    pictures = [_picture(array, low, high) for array in arrays]
    across = min(columns or math.ceil(1.3 * math.sqrt(len(pictures))), len(pictures))
    rows = -(-len(pictures) // across)
    widest = min(max(text_width(caption, _TEXT) for caption in captions), _WIDEST_CAPTION)
    cell_width = max(*(picture.width for picture in pictures), math.ceil(widest))
    image_height = max(picture.height for picture in pictures)
    cell_height = image_height + _CAPTION
    across_width = across * cell_width + (across - 1) * _GAP
    heading_width = math.ceil(min(text_width(title, _TITLE), 900))
    canvas = Canvas(
        max(across_width, heading_width) + 2 * _MARGIN,
        _TOP + rows * cell_height + (rows - 1) * _GAP + _MARGIN,
        oversampling=1,
    )
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = _MARGIN + (i % across) * (cell_width + _GAP)
        y = _TOP + (i // across) * (cell_height + _GAP)
        inset = ((cell_width - picture.width) // 2, image_height - picture.height)
        canvas.image(picture, (x + inset[0], y + inset[1]))
        text = fit_text(caption, _TEXT, cell_width)
        canvas.text((x + cell_width / 2, y + image_height + 20), text, _TEXT, INK, "ms")
    return canvas


def _levels(arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[float, float]:
    """Return the values that are shown as black and as white on the whole sheet."""
    finite = [array[np.isfinite(array)] for array in arrays]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=1.0)
    if any(array.ndim == 3 for array in arrays):
        if all(array.dtype == np.uint8 for array in arrays):
            return 0.0, 255.0
        if low >= 0 and high <= 1:
            return 0.0, 1.0
    return low, high if high > low else low + 1.0


def _picture(array: np.ndarray[Any, Any], low: float, high: float) -> Any:
    """Return a Pillow image, enlarged or shrunk to a size that can be looked at, with a rim."""
    from PIL import Image, ImageOps

    numbers = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
    levels = np.clip((numbers - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    picture = Image.fromarray(levels).convert("RGB")
    longest = max(picture.size)
    if longest < _SMALLEST:
        factor = _SMALLEST // longest
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    elif longest > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return ImageOps.expand(picture, border=1, fill=GRID)
