"""The sections of what the network has learnt to look for, and of what it sees in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from gpuconv.layers.base import Layer
from gpuconv.models import Model
from gpuconv.report import rasters
from gpuconv.report.page import Html, Section, heading, paragraph, picture
from gpuconv.report.results import Tested
from gpuconv.tapping import paths_of, recorded
from gpuconv.viz import activations
from gpuconv.viz.figures import as_pictures
from gpuconv.viz.kernels import WITH_FILTERS, filter_images
from gpuconv.viz.outputs import image_batch

_MOST_LAYERS = 4
_MOST_FILTERS, _MOST_MAPS = 64, 32
_MOST_ROWS, _MOST_COLUMNS = 16, 16
"""Filters and channels of the pictures where each filter has a row."""

_T = TypeVar("_T")


def filters_section(model: Model) -> Section:
    """Return the weights of a few convolutions as pictures."""
    all_layers = [
        (path, layer)
        for path, layer in paths_of(model).items()
        if isinstance(layer, WITH_FILTERS) and layer.rank in (1, 2) and layer.built
    ]
    if not all_layers:
        content = [paragraph("The network has no convolutions of one or two dimensions.", "note")]
        return Section("filters", "Filters", content)
    shown = _spread(all_layers)
    content = [
        paragraph(
            "The weights of the convolutions: blue is negative, white zero, red positive; those "
            "over three channels are shown in colour, each from its least value to its largest. "
            + _which(len(shown), len(all_layers), "convolution")
        )
    ]
    for path, layer in shown:
        content += _filters(path, layer)
    return Section("filters", "Filters", content)


def maps_section(model: Model, found: Tested | str) -> Section:
    """Return what a few layers give for the first test image."""
    if isinstance(found, str):
        content = [paragraph(f"{found}; so there is no image to look at.", "note")]
        return Section("maps", "Feature maps", content)
    image = found.images.x[0]
    pixels = rasters.gray(as_pictures(image[None])[0])
    png, size = rasters.sheet([pixels], 5)
    true, taken = (found.images.name(n) for n in (found.images.y[0], found.predicted[0]))
    caption = f"The first test image: {true}, seen as {taken} ({found.scores[0].max():.2f})"
    content = [
        paragraph("What layers give for one image; bright is much, each map by its own measure."),
        picture(png, f"The first test image, {true}", size, caption),
    ]
    layers = _layers_with_maps(model, image)
    shown = _spread(layers)
    if not layers:
        content.append(paragraph("No layer of the network gives maps.", "note"))
    for path, layer in shown:
        content += _maps(model, image, path, layer)
    if len(shown) < len(layers):
        words = _which(len(shown), len(layers), "layer with maps", "layers with maps")
        content.append(paragraph(words, "note"))
    return Section("maps", "Feature maps", content)


def _filters(path: str, layer: Layer) -> list[Html]:
    images = filter_images(layer)
    total, channels, height, width = images.shape
    limit = float(np.abs(images[np.isfinite(images)]).max(initial=0)) or 1.0
    words = f"{total} filters of {height} x {width} over {channels} channel{'s' * (channels > 1)}"
    if channels in (1, 3):
        some = images[:_MOST_FILTERS]
        columns = min(8, len(some))
        if channels == 1:
            coloured = list(rasters.signed(some[:, 0], limit))
        else:
            coloured = [rasters.stretched(one.transpose(1, 2, 0)) for one in some]
        words += "" if len(some) == total else f"; the first {len(some)}"
    else:
        some = images[:_MOST_ROWS, :_MOST_COLUMNS]
        columns = some.shape[1]
        coloured = [rasters.signed(one, limit) for each in some for one in each]
        words += "; a row is a filter, a column an input channel"
        if some.shape != images.shape:
            words += f"; the first {len(some)} filters and {columns} channels"
    png, size = rasters.sheet(coloured, columns)
    scale = "Colours are those of the channels" if channels == 3 else f"Full colour is {limit:.3g}"
    caption = f"{words}. {scale}."
    alt = f"Filters of {path}: {words}"
    return [heading(_named(path, layer)), picture(png, alt, size, caption, "weights")]


def _layers_with_maps(model: Model, image: object) -> list[tuple[str, Layer]]:
    """The layers whose output has extents, but for those that only hand on what they get."""
    paths = {path: layer for path, layer in paths_of(model).items() if not layer.sublayers}
    with model.computing(), recorded(paths.values()) as calls:
        model.run(image_batch(model, image), training=False)
    mapping = {
        id(call.layer)
        for call in calls
        if getattr(call.y, "ndim", 0) == 4 and call.y.size > max(call.y.shape[1:])
    }
    # Layers with filters and those that shrink maps; batch norm and the like change little.
    kinds = ("Conv", "Pool", "Add", "Concatenate")
    return [
        (path, layer)
        for path, layer in paths.items()
        if id(layer) in mapping and any(kind in type(layer).__name__ for kind in kinds)
    ]


def _maps(model: Model, image: object, path: str, layer: Layer) -> list[Html]:
    values = activations(model, image, path)
    height, width, channels = values.shape
    some = [rasters.bright(values[..., n]) for n in range(min(channels, _MOST_MAPS))]
    words = f"{channels} map{'s' * (channels > 1)} of {height} x {width}"
    if len(some) < channels:
        words += f"; the first {len(some)}"
    png, size = rasters.sheet(some, min(8, len(some)))
    return [
        heading(_named(path, layer)),
        picture(png, f"What {path} gives for the image: {words}", size, words),
    ]


def _spread(entries: Sequence[_T]) -> list[_T]:
    """Return a few, evenly from the first to the last."""
    if len(entries) <= _MOST_LAYERS:
        return list(entries)
    places = np.linspace(0, len(entries) - 1, _MOST_LAYERS).round().astype(int)
    return [entries[place] for place in places]


def _which(shown: int, total: int, word: str, words: str | None = None) -> str:
    several = words or f"{word}s"
    if shown == total:
        return f"All {total} {several} are shown." if total > 1 else f"There is one {word}."
    return f"{shown} of {total} {several} are shown."


def _named(path: str, layer: Layer) -> str:
    return f"{path} ({type(layer).__name__})"
