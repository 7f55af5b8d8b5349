"""MobileNet-V2 (Sandler et al. 2018), as torchvision builds it."""

from __future__ import annotations

import os
from typing import Any

from gpuconv.initializers import VarianceScaling
from gpuconv.layers import Add, DepthwiseConv2D, Dropout, GlobalAveragePooling2D, Input, ReLU
from gpuconv.models import Model
from gpuconv.zoo.common import ImageShape, conv, head, image_shape, norm, pooled, with_weights

_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, filters, how often, stride of the first."""


def mobilenet_v2(
    weights: str | os.PathLike[str] | None = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    backend: str | None = None,
) -> Model:
    """Return MobileNet-V2: 3,504,872 parameters.

    Args:
        weights: file with torchvision's names, or None.
        include_top: False leaves out dropout and the last dense layer.
        input_shape: (height, width, channels), at least 32 pixels; None for a height or width
            that may vary.
        classes: number of outputs.
        pooling: without the top: ``"avg"`` (default) or ``"max"`` over all pixels, or None for
            the feature maps.
        classifier_activation: of the last layer; default None: logits, as torchvision.
        backend: device or engine; None: what is in force.

    Raises:
        InvalidArgumentError: images that are too small.
        FileNotFoundError, FileFormatError, ShapeError: the weights' file.
    """
    inputs = Input(image_shape(input_shape, 32))
    x: Any = _conv_norm_relu(inputs, "features.0", conv("features.0.0", 32, 3, 2))
    number = 1
    for expansion, filters, count, stride in _BLOCKS:
        for repeat in range(count):
            x = _block(x, f"features.{number}", expansion, filters, stride if repeat == 0 else 1)
            number += 1
    x = _conv_norm_relu(x, f"features.{number}", conv(f"features.{number}.0", 1280, 1))
    if include_top:
        x = Dropout(0.2, name="classifier.0")(GlobalAveragePooling2D(name="avgpool")(x))
        x = head("classifier.1", classes, classifier_activation)(x)
    else:
        for layer in pooled(pooling):
            x = layer(x)
    model = Model(inputs, x, name="mobilenet_v2", backend=backend)
    return with_weights(model, weights, include_top)


def _conv_norm_relu(x: Any, name: str, convolution: Any) -> Any:
    return ReLU(max_value=6.0, name=f"{name}.2")(norm(f"{name}.1")(convolution(x)))


def _block(x: Any, name: str, expansion: int, filters: int, stride: int) -> Any:
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without an activation."""
    channels, y, part = x.shape[-1], x, 0
    if expansion > 1:
        wide = conv(f"{name}.conv.0.0", expansion * channels, 1)
        y, part = _conv_norm_relu(y, f"{name}.conv.0", wide), 1
    each = DepthwiseConv2D(
        3,
        strides=stride,
        padding=1,
        use_bias=False,
        depthwise_initializer=VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}.conv.{part}.0",
    )
    y = _conv_norm_relu(y, f"{name}.conv.{part}", each)
    y = norm(f"{name}.conv.{part + 2}")(conv(f"{name}.conv.{part + 1}", filters, 1)(y))
    return Add(name=f"{name}.add")([x, y]) if stride == 1 and channels == filters else y
