"""Pictures of what a network has learnt to look for, and of what it sees in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.geometry import as_int
from gpuconv.layers.base import Layer
from gpuconv.models.model import Model
from gpuconv.tapping import find_layer
from gpuconv.viz.figures import (
    COLORS,
    PathLike,
    columns_for,
    finish,
    grid_of_axes,
    new_figure,
    open_box,
)
from gpuconv.viz.kernels import filter_images, layer_with_filters
from gpuconv.viz.outputs import activations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CHANNELS = 32


def filters(
    model: Layer,
    layer: Layer | str | None = None,
    count: int = 64,
    path: PathLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the weights of a convolution.

    Filters over three channels are shown in colour, each stretched from its least value (black)
    to its largest; filters of one channel each in blue (negative) and red (positive), white
    being zero. Filters over other numbers of channels make a table: a filter a row, a channel
    a column, at most 32 of them.

    Args:
        model: a model, or a convolution of one or two spatial dimensions.
        layer: which layer of the model: itself, its name or its path; None: the first convolution.
        count: show at most so many filters, the first ones.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.
        title: heading; None: the layer's name, and how many filters there are.

    Raises:
        InvalidArgumentError: no such layer, not a convolution, or an unknown suffix.
        NotBuiltError: the layer has no weights yet.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    chosen = layer_with_filters(model, layer)
    images = filter_images(chosen)
    total, channels, height, width = images.shape
    shown = images[: as_int(count, "count", 1)]
    if title is None:
        title = f"{chosen.name}: {_some(len(shown), total, 'filter')} of {height} x {width}"
        title += f" over {channels} channel{'s' * (channels > 1)}"
    limit = float(np.abs(images).max()) or 1.0
    if channels in (1, 3):
        columns = columns_for(len(shown), 12)
        figure = new_figure(max(4.0, 0.75 * columns), 0.9 + 0.85 * -(-len(shown) // columns), path)
        for number, axis in enumerate(grid_of_axes(figure, len(shown), columns)):
            if channels == 3:
                axis.imshow(_stretched(shown[number].transpose(1, 2, 0)))
            else:
                axis.imshow(shown[number, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(str(number), fontsize=7, pad=2)
    else:
        seen = shown[:, :_MOST_CHANNELS]
        figure = new_figure(
            min(16.0, 2.8 + 0.07 * seen.shape[1] * (width + 1)),
            min(24.0, 1.4 + 0.07 * len(seen) * (height + 1)),
            path,
        )
        axis = figure.subplots()
        colours = axis.imshow(_table(seen), cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(colours, ax=axis, shrink=0.6, label="weight")
        axis.set_xticks(*_ticks(seen.shape[1], width))
        axis.set_yticks(*_ticks(len(seen), height))
        axis.set_xlabel(f"input channel ({_some(seen.shape[1], channels, 'channel')})")
        axis.set_ylabel("filter")
        axis.set_facecolor("#d1d5db")  # of the gaps
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.suptitle(title, fontsize=10)
    return finish(figure, path)


def feature_maps(
    model: Model,
    image: Any,
    layer: Layer | str,
    count: int = 32,
    path: PathLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what a layer gives for one image.

    A layer with spatial extents has a picture for each channel, each stretched from its least
    value (dark) to its largest (bright), with that largest value above; one with a single extent
    gives lines, and a dense layer bars.

    Args:
        model: a network with one input.
        image: shape of one sample; see :func:`gpuconv.viz.activations`.
        layer: the layer, its name, or its path (``"block/conv2d"``).
        count: show at most so many channels, the first ones.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.
        title: heading; None: the layer's name, and how many channels there are.

    Raises:
        InvalidArgumentError: no such layer, or an unknown suffix.
        ShapeError: the image does not fit.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    values = activations(model, image, layer)
    name = find_layer(model, layer).name
    most = as_int(count, "count", 1)
    channels = values.shape[-1] if values.ndim else 1
    extents = " x ".join(str(extent) for extent in values.shape[:-1])
    if values.ndim == 3:
        shown = min(most, channels)
        columns = columns_for(shown)
        figure = new_figure(1.35 * columns + 0.4, 0.6 + 1.5 * -(-shown // columns), path)
        for number, axis in enumerate(grid_of_axes(figure, shown, columns)):
            axis.imshow(values[..., number], cmap="viridis")
            axis.set_title(f"{number}: {values[..., number].max():.3g}", fontsize=8, pad=2)
    else:
        figure = new_figure(8, 3.6, path)
        axis = figure.subplots()
        if values.ndim <= 1:
            shown = channels
            axis.bar(range(values.size), values.reshape(-1), color=COLORS[0])
            axis.set_xlabel("unit")
        else:
            lines = values.reshape(-1, channels)
            shown = min(most, channels)
            for number in range(shown):
                axis.plot(lines[:, number], color=COLORS[number % len(COLORS)], linewidth=1)
            axis.set_xlabel("position")
        axis.set_ylabel("output")
        open_box(axis)
    if title is None:
        what = "channel" if values.ndim > 1 else "unit"
        title = f"{name}: {_some(shown, channels, what)}" + (f" of {extents}" if extents else "")
    figure.suptitle(title, fontsize=10)
    return finish(figure, path)


def _some(count: int, total: int, word: str) -> str:
    words = f"{word}{'s' * (total > 1)}"
    return f"{total} {words}" if count == total else f"{count} of {total} {words}"


def _stretched(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = float(image.min()), float(image.max())
    return np.asarray((image - low) / ((high - low) or 1.0))


def _table(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Join (F, C, h, w) into one image, filters below each other, with gaps of NaN."""
    total, channels, height, width = images.shape
    whole = np.full((total, height + 1, channels, width + 1), np.nan)
    whole[:, :height, :, :width] = images.transpose(0, 2, 1, 3)
    return whole.reshape(total * (height + 1), channels * (width + 1))[:-1, :-1]


def _ticks(count: int, extent: int) -> tuple[list[float], list[str]]:
    """Places and words of every fourth or so image in the table."""
    step = 1 if count <= 8 else 4 if count <= 32 else 8
    numbers = range(0, count, step)
    return [n * (extent + 1) + (extent - 1) / 2 for n in numbers], [str(n) for n in numbers]
