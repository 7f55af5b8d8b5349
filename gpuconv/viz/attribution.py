"""Which parts of an image speak for a class: Grad-CAM and saliency; arrays only, no pictures.

Both send the gradient of one class's score back through the network's closures: Grad-CAM as far
as a convolution, saliency as far as the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, to_numpy
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.layers.base import Layer
from gpuconv.layers.input import InputLayer
from gpuconv.layers.pooling import PoolingND
from gpuconv.layers.regularization import Dropout
from gpuconv.models.model import Model
from gpuconv.ops.layouts import channels_last
from gpuconv.tapping import Call, find_layer, parameters_at_rest, paths_of, recorded
from gpuconv.viz.outputs import Numbers, image_batch, is_channels_first


@dataclass(frozen=True)
class ClassActivation:
    """Where a layer sees a class; see :func:`class_activation`.

    Attributes:
        map: (h, w) of the layer's extents, not negative.
        weights: (C,) of the layer's channels: mean gradient of the score.
        layer: name of the layer.
        label: class that is explained.
        score: its score: the logit, or the output where the network has no softmax.
    """

    map: Numbers
    weights: Numbers
    layer: str
    label: int
    score: float


@dataclass(frozen=True)
class InputGradient:
    """How a class's score depends on each pixel; see :func:`input_gradient`.

    Attributes:
        gradient: of the score with respect to the image, (H, W, C).
        label: class that is explained.
        score: its score: the logit, or the output where the network has no softmax.
    """

    gradient: Numbers
    label: int
    score: float

    @property
    def saliency(self) -> Numbers:
        """(H, W): the largest absolute gradient of a pixel's channels."""
        return np.asarray(np.abs(self.gradient).max(axis=-1))


def class_activation(
    model: Model, image: Any, layer: Layer | str | None = None, label: int | None = None
) -> ClassActivation:
    """Compute Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) for one image.

    With ``A`` (h, w, C) the layer's output and ``s`` the score of the class, the map is
    ``relu(sum_c weights[c] * A[..., c])``, and ``weights[c]`` the mean of ``ds/dA[..., c]`` over
    all positions. The network runs in inference; no parameter's gradient is touched.

    Args:
        model: a network with one input and one score for each class.
        image: (H, W, C), or the model's shape; see :func:`gpuconv.viz.activations`.
        layer: which layer to look at: itself, its name, or its path. None: the last one with
            spatial extents that is neither pooling nor dropout.
        label: class to explain; None: the one with the highest score. For a network with one
            output, 1 (or None) explains the output and 0 its negative.

    Raises:
        InvalidArgumentError: no such layer or class, no layer with spatial extents, or a network
            with several inputs or outputs.
        ShapeError: the image does not fit, or the layer's output is not (N, h, w, C).
    """
    x = image_batch(model, image)
    chosen = None if layer is None else find_layer(model, layer)
    watched = [chosen] if chosen is not None else list(paths_of(model).values())
    calls, number, score, _ = _backwards(model, x, label, watched)
    call = _with_maps(calls, chosen)
    if call.dy is None:
        raise InvalidArgumentError(
            f"the scores must depend on the layer. Received: {call.layer.name}"
        )
    first = is_channels_first(model, call.layer)
    maps = to_numpy(channels_last(call.y, first))[0].astype(np.float64)
    gradients = to_numpy(channels_last(call.dy, first))[0].astype(np.float64)
    weights = gradients.mean(axis=(0, 1))
    return ClassActivation(np.maximum(maps @ weights, 0), weights, call.layer.name, number, score)


def input_gradient(model: Model, image: Any, label: int | None = None) -> InputGradient:
    """Compute the gradient of a class's score with respect to the image.

    Its absolute values are the saliency of Simonyan, Vedaldi and Zisserman 2014
    (arXiv:1312.6034). The network runs in inference; no parameter's gradient is touched.

    Args:
        model, image, label: as in :func:`class_activation`.

    Raises:
        InvalidArgumentError: no such class, or a network with several inputs or outputs.
        ShapeError: the image does not fit, or is not one.
    """
    x = image_batch(model, image)
    if x.ndim != 4:
        raise ShapeError(
            f"expected a model of images, (H, W, C). Received: inputs of shape {tuple(x.shape[1:])}"
        )
    _, number, score, gradient = _backwards(model, x, label, ())
    last = channels_last(gradient, is_channels_first(model))
    return InputGradient(np.array(to_numpy(last)[0]), number, score)


def _backwards(
    model: Model, x: Any, label: int | None, watched: Iterable[Layer]
) -> tuple[list[Call], int, float, Any]:
    """Run forwards and the score of one class backwards; return calls, class, score, gradient."""
    network = model.without_softmax() or model  # before layers are tapped
    with model.computing(), parameters_at_rest(network), recorded(watched) as calls:
        y, backward = network.run(x, training=False)
        if isinstance(y, (list, tuple)) or y.ndim != 2:
            shapes = [tuple(part.shape) for part in y] if isinstance(y, (list, tuple)) else y.shape
            raise InvalidArgumentError(
                f"{model.name}: expected scores of shape (1, classes). Received: {shapes}"
            )
        scores = to_numpy(y)[0]
        number, sign = _label(label, scores)
        column = 0 if len(scores) == 1 else number
        dy = array_module(y).zeros_like(y)
        dy[0, column] = sign
        gradient = backward(dy, input_gradient=True)
    return calls, number, float(scores[column]), gradient


def _label(label: int | None, scores: Numbers) -> tuple[int, float]:
    """Return the class to explain, and the sign with which its score counts."""
    classes = max(len(scores), 2)
    if label is None:
        return (1 if len(scores) == 1 else int(scores.argmax())), 1.0
    number = as_int(label, "label", 0)
    if number >= classes:
        raise InvalidArgumentError(
            f"label must be a class from 0 to {classes - 1}. Received: {number}"
        )
    return number, (-1.0 if len(scores) == 1 and number == 0 else 1.0)


def _with_maps(calls: list[Call], chosen: Layer | None) -> Call:
    if chosen is not None:
        if not calls:
            raise InvalidArgumentError(
                f"expected a layer below the scores that is run by itself. Received: {chosen.name}"
            )
        if calls[-1].y.ndim != 4:
            raise ShapeError(
                f"expected a layer with an output of shape (N, h, w, channels). "
                f"Received: {chosen.name}, {tuple(calls[-1].y.shape)}"
            )
        return calls[-1]
    passing_on = (PoolingND, Dropout, InputLayer)
    for call in reversed(calls):
        alone = not isinstance(call.layer, passing_on) and not call.layer.sublayers
        if alone and call.dy is not None and _has_extents(call.y):
            return call
    names = ", ".join(dict.fromkeys(call.layer.name for call in calls))
    raise InvalidArgumentError(
        f"expected a network with a layer that gives (N, h, w, channels). Received: {names}"
    )


def _has_extents(y: Any) -> bool:
    """Whether it is (N, h, w, C) with more than one position."""
    return getattr(y, "ndim", 0) == 4 and y.size > y.shape[0] * max(y.shape[1:])
