"""The weights of convolutions as small images; arrays only, no pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.errors import InvalidArgumentError, NotBuiltError, shown
from gpuconv.layers.base import Layer
from gpuconv.layers.convolution import ConvND
from gpuconv.layers.depthwise import DepthwiseBase, DepthwiseConvND
from gpuconv.layers.separable import SeparableConvND
from gpuconv.layers.transposed import ConvTransposeND
from gpuconv.tapping import find_layer, paths_of

WITH_FILTERS = (ConvND, DepthwiseBase, ConvTransposeND)
"""The layers whose weights are filters."""


def layer_with_filters(model: Layer, layer: Layer | str | None = None) -> Layer:
    """Return the layer that is meant: ``layer`` inside a model, or a convolution itself.

    Args:
        model: a model, or a layer.
        layer: inside the model: itself, its name or its path; None: the first convolution.

    Raises:
        InvalidArgumentError: no layer, or none with filters of one or two spatial dimensions.
        NotBuiltError: it has no weights yet.
    """
    if not isinstance(model, Layer):
        raise InvalidArgumentError(f"expected a model or a layer. Received: {shown(model)}")
    if layer is not None:
        chosen = find_layer(model, layer)
    elif model.sublayers:
        inside = [each for each in paths_of(model).values() if _has_filters(each)]
        if not inside:
            raise InvalidArgumentError(
                f"expected a model with a convolution. Received: {model.name}, with "
                f"{', '.join(paths_of(model))}"
            )
        chosen = inside[0]
    else:
        chosen = model
    if not _has_filters(chosen):
        raise InvalidArgumentError(
            f"expected a convolution of one or two spatial dimensions. "
            f"Received: {chosen.name}, a {type(chosen).__name__}"
        )
    if not chosen.built:
        raise NotBuiltError(f"{chosen.name} has no weights yet: call it or build it first")
    return chosen


def filter_images(layer: Layer) -> np.ndarray[Any, Any]:
    """Return a convolution's weights as (F, C, kh, kw): for each filter an image a channel.

    Args:
        layer: from :func:`layer_with_filters`. Filters of one dimension have a height of 1;
            depthwise ones (also the first step of a separable layer) have one channel each.
    """
    if isinstance(layer, SeparableConvND):
        kernel = layer.depthwise_kernel.numpy()
    else:
        assert isinstance(layer, (ConvND, DepthwiseConvND, ConvTransposeND))
        kernel = np.array(to_numpy(layer.kernel.value))
    if kernel.ndim == 3:
        kernel = kernel[None]
    if isinstance(layer, DepthwiseBase):  # (kh, kw, C, m): output channel c*m + i
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    elif isinstance(layer, ConvTransposeND):  # (kh, kw, F, C)
        kernel = kernel.swapaxes(2, 3)
    return kernel.transpose(3, 2, 0, 1)


def _has_filters(layer: Layer) -> bool:
    return isinstance(layer, WITH_FILTERS) and layer.rank in (1, 2)
