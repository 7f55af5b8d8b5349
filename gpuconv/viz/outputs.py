"""What a network computes inside, for one image; arrays only, no pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.backends.base import Array
from gpuconv.containers import unwrap
from gpuconv.errors import InvalidArgumentError, ShapeError, shown
from gpuconv.layers.base import Layer
from gpuconv.layers.spatial import Spatial
from gpuconv.models.model import Model
from gpuconv.ops.layouts import channels_last
from gpuconv.tapping import find_layer, paths_of, recorded

Numbers = np.ndarray[Any, Any]


def activations(model: Model, image: Any, layer: Layer | str) -> Numbers:
    """Return what a layer gives for one image, in inference, without the batch axis.

    Args:
        model: a network with one input.
        image: shape of one sample, such as (H, W, C); an axis for the batch, of extent 1, may be
            there, and the axis of a single channel may be missing.
        layer: the layer, its name, or its path (``"block/conv2d"``) inside a nested model.

    Returns:
        (H, W, C), also for layers that are channels-first; (units,) for a dense layer. Where a
        layer is used several times, what it gives the last time.

    Raises:
        InvalidArgumentError: not a model, no such layer, or one that is not run.
        ShapeError: the image does not fit.
    """
    x = image_batch(model, image)
    chosen = find_layer(model, layer)
    with model.computing(), recorded([chosen]) as calls:
        model.run(x, training=False)
    if not calls:
        raise InvalidArgumentError(
            f"{model.name} does not run this layer by itself. Received: {chosen.name}"
        )
    y = calls[-1].y
    return np.array(to_numpy(channels_last(y, y.ndim > 2 and is_channels_first(model, chosen)))[0])


def image_batch(model: Model, image: Any) -> Array:
    """Return an image as the model's input: a batch of one, on its device, in its dtype.

    Raises:
        InvalidArgumentError: not a model, or one with several inputs.
        ShapeError: the image does not fit.
    """
    if not isinstance(model, Model):
        raise InvalidArgumentError(f"expected a model. Received: {shown(model)}")
    if model.several_inputs:
        raise InvalidArgumentError(
            f"expected a model with one input, an image. Received: {model.name}, which has several"
        )
    array = unwrap(image)[0]
    shape, expected = tuple(array.shape), sample_shape(model)
    if expected is None or _fits(shape, expected):
        batch = array[None]
    elif _fits(shape, (1, *expected)):
        batch = array
    elif expected[-1] == 1 and _fits(shape, expected[:-1]):
        batch = array[None, ..., None]
    elif expected[0] == 1 and _fits(shape, expected[1:]):
        batch = array[None, None]
    else:
        raise ShapeError(
            f"{model.name}: expected one image of shape {expected}. Received: shape {shape}"
        )
    return model.prepare(batch)


def sample_shape(model: Model) -> tuple[Any, ...] | None:
    """Shape of one sample of a model with one input, None where it is not known yet."""
    if model.built_shape is not None:
        return tuple(model.built_shape[1:])
    return getattr(model, "first_input_shape", None)


def is_channels_first(model: Model, layer: Layer | None = None) -> bool:
    """Whether the output of a layer, or the model's input, has its channels before the extents.

    Layers that do not care have their channels where the nearest convolution or pooling before
    them has its own, or if there is none the first one after them.
    """
    answer = None
    for other in paths_of(model).values():
        if isinstance(other, Spatial):
            answer = other.channels_first
        if answer is not None and (layer is None or other is layer):
            return answer
        if other is layer:
            layer = None  # the next one that cares decides
    return bool(answer)


def _fits(shape: tuple[int, ...], expected: tuple[Any, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted is None or extent == wanted for extent, wanted in zip(shape, expected, strict=True)
    )
