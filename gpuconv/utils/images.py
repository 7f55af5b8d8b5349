"""Single pictures: from files to arrays and back, with Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.errors import DTypeError, FileFormatError, ShapeError, one_of, shown
from gpuconv.io import atomic_path

if TYPE_CHECKING:
    from PIL import Image

_MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}


def load_img(
    path: str | os.PathLike[str],
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
) -> Image.Image:
    """Read a picture, as ``keras.utils.load_img``.

    Args:
        path: the file.
        color_mode: ``"rgb"``, ``"rgba"`` or ``"grayscale"``.
        target_size: ``(height, width)`` in pixels, or None for the picture's own.
        interpolation: of resizing: ``"nearest"`` (default, as in Keras), ``"bilinear"``,
            ``"bicubic"``, ``"box"``, ``"hamming"`` or ``"lanczos"``.

    Returns:
        A Pillow image; :func:`img_to_array` makes an array of it.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it cannot be read as a picture.
        InvalidArgumentError: an unknown mode or interpolation, or an impossible size.
    """
    from PIL import Image

    from gpuconv.geometry import as_tuple

    mode = _MODES[one_of(color_mode, tuple(_MODES), "color_mode")]
    filters = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
    filter_name = one_of(interpolation, filters, "interpolation")
    size = None if target_size is None else as_tuple(target_size, 2, "target_size", 1)
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no such picture. Received: {path}")
    try:
        with Image.open(path) as image:
            picture = image.convert(mode)
    except MemoryError:
        raise
    # Pillow's readers raise what they please on damaged files; SyntaxError is one of it.
    except Exception as error:
        raise FileFormatError(
            f"{path} cannot be read as a picture. Received: {type(error).__name__}: {error}"
        ) from error
    if size is None or picture.size == (size[1], size[0]):
        return picture
    return picture.resize((size[1], size[0]), Image.Resampling[filter_name.upper()])


def img_to_array(img: Any, dtype: str = "float32") -> np.ndarray[Any, Any]:
    """Return a picture as an array (H, W, C), values 0 to 255, as ``keras.utils.img_to_array``.

    Args:
        img: a Pillow image, or an array (H, W) or (H, W, C).
        dtype: of the result.

    Raises:
        ShapeError: an array of another rank.
    """
    array = np.asarray(img)
    if array.ndim not in (2, 3):
        raise ShapeError(f"expected a picture (H, W) or (H, W, C). Received: {array.shape}")
    return array.reshape(*array.shape[:2], -1).astype(dtype)


def array_to_img(x: Any, scale: bool = True) -> Image.Image:
    """Return an array (H, W, C) as a Pillow image, as ``keras.utils.array_to_img``.

    Args:
        x: one, three or four channels of real numbers.
        scale: whether the values are stretched to 0 to 255; else they must lie there.

    Raises:
        ShapeError: another shape.
        DTypeError: not real numbers.
    """
    from PIL import Image

    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"expected real numbers. Received: {shown(x)}")
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ShapeError(f"expected (H, W, 1), (H, W, 3) or (H, W, 4). Received: {array.shape}")
    values = array.astype(np.float64)
    if scale:
        values = values - values.min()
        largest = values.max()
        values = values * (255.0 / largest) if largest else values
    pixels = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_img(path: str | os.PathLike[str], x: Any, scale: bool = True) -> None:
    """Write an array (H, W, C) as a picture, as ``keras.utils.save_img``; atomically.

    Args:
        path: file; its ending says the format.
        x, scale: as for :func:`array_to_img`.

    Raises:
        ShapeError, DTypeError: as :func:`array_to_img`.
        ValueError: an unknown ending.
        FileNotFoundError: the folder does not exist.
    """
    from PIL import Image

    image = array_to_img(x, scale)
    suffix = Path(path).suffix.lower()
    if suffix not in Image.registered_extensions():
        raise ValueError(f"expected the ending of a format of pictures. Received: {path}")
    with atomic_path(path) as temporary:
        image.save(temporary, format=Image.registered_extensions()[suffix])
