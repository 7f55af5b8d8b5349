"""What all figures share: how they are made, how images look in them, how they are written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.errors import InvalidArgumentError, MissingDependencyError
from gpuconv.io.atomic import atomic_path
from gpuconv.viz.canvas import INK, MUTED, PALETTE, Color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]


def hexadecimal(color: Color) -> str:
    """Return a colour as matplotlib takes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


COLORS = tuple(hexadecimal(color) for color in PALETTE)
INK_COLOR, MUTED_COLOR = hexadecimal(INK), hexadecimal(MUTED)


def new_figure(
    width: float, height: float, path: PathLike | None = None, constrained: bool = True
) -> Figure:
    """Return an empty figure that belongs to no window and no global state.

    Args:
        width, height: inches, of 100 pixels each.
        path: where it is to be written in the end; its suffix is checked here.
        constrained: whether matplotlib arranges what is in it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InvalidArgumentError: a suffix that matplotlib does not write.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'this picture needs matplotlib: python -m pip install "gpuconv[plot]". '
            f"Received: {error}"
        ) from error
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained" if constrained else None)
    canvas = FigureCanvasAgg(figure)
    if path is not None:
        suffix, known = Path(path).suffix[1:].lower(), canvas.get_supported_filetypes()
        if suffix not in known:
            raise InvalidArgumentError(
                f"path must end in a format that can be written: {', '.join(sorted(known))}. "
                f"Received: {path}"
            )
    return figure


def finish(figure: Figure, path: PathLike | None) -> Figure:
    """Write the figure, atomically, if there is a path; return it.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if path is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, facecolor="white")
    return figure


def grid_of_axes(figure: Figure, count: int, columns: int) -> list[Axes]:
    """Return ``count`` bare axes for images, row by row."""
    rows = -(-count // columns)
    axes = list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel())
    for axis in axes:
        axis.set_axis_off()
    for axis in axes[count:]:
        axis.remove()
    return axes[:count]


def columns_for(count: int, most: int = 8) -> int:
    """Return how many columns make a grid somewhat wider than high."""
    return max(1, min(most, count, int(np.ceil(np.sqrt(1.6 * count)))))


def as_pictures(images: Any) -> np.ndarray[Any, Any]:
    """Return images (N, H, W) or (N, H, W, C) as matplotlib shows them: each (H, W) or (H, W, 3).

    In colour uint8 keeps 0 to 255, and values between 0 and 1 stay. All others, and images of one
    channel, are stretched from the least of all values (black) to the largest (white). Of other
    numbers of channels the mean is shown.
    """
    array = np.asarray(images)
    levels = array.astype(np.float64)
    if levels.ndim == 4 and levels.shape[3] != 3:
        levels = levels.mean(axis=3)
    finite = levels[np.isfinite(levels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if levels.ndim == 4 and array.dtype == np.uint8:
        low, high = 0.0, 255.0
    elif levels.ndim == 4 and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    levels = np.nan_to_num((levels - low) / ((high - low) or 1.0))
    return np.asarray(np.clip(levels, 0, 1))


def show_picture(axis: Axes, picture: np.ndarray[Any, Any]) -> Any:
    """Draw one of :func:`as_pictures`, black to white if it has one channel."""
    if picture.ndim == 2:
        return axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    return axis.imshow(picture)


def class_name(label: int, classes: Sequence[str] | None) -> str:
    """Return what a class is called: its name, or its number."""
    return str(label) if classes is None or label >= len(classes) else str(classes[label])


def open_box(axis: Axes) -> None:
    """Take away the frame's upper and right side and draw a pale grid behind the data."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e5e7eb")
    axis.set_axisbelow(True)
