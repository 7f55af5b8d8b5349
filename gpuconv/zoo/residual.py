"""Residual networks (He et al. 2016), as torchvision builds them."""

from __future__ import annotations

import os
from typing import Any

from gpuconv.layers import Add, Dense, GlobalAveragePooling2D, Input, MaxPooling2D, ReLU
from gpuconv.layers.symbolic import SymbolicTensor
from gpuconv.models import Model
from gpuconv.zoo.common import ImageShape, conv, image_shape, norm, pooled, with_weights

Weights = str | os.PathLike[str] | None


def resnet18(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    backend: str | None = None,
) -> Model:
    """Return ResNet-18: 11,689,512 parameters.

    Args:
        weights: file with torchvision's names, or None.
        include_top: False leaves out the last dense layer.
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
    return _resnet(
        "resnet18", (2, 2, 2, 2), False, weights, include_top, input_shape, classes, pooling,
        classifier_activation, backend,
    )  # fmt: skip


def resnet34(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    backend: str | None = None,
) -> Model:
    """Return ResNet-34: 21,797,672 parameters. Args and errors: as :func:`resnet18`."""
    return _resnet(
        "resnet34", (3, 4, 6, 3), False, weights, include_top, input_shape, classes, pooling,
        classifier_activation, backend,
    )  # fmt: skip


def resnet50(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    backend: str | None = None,
) -> Model:
    """Return ResNet-50: 25,557,032 parameters; blocks stride in their 3x3 convolution, as
    torchvision's "v1.5". Args and errors: as :func:`resnet18`.
    """
    return _resnet(
        "resnet50", (3, 4, 6, 3), True, weights, include_top, input_shape, classes, pooling,
        classifier_activation, backend,
    )  # fmt: skip


def _resnet(
    kind: str,
    blocks: tuple[int, ...],
    bottleneck: bool,
    weights: Weights,
    include_top: bool,
    input_shape: ImageShape,
    classes: int,
    pooling: str | None,
    classifier_activation: Any,
    backend: str | None,
) -> Model:
    inputs = Input(image_shape(input_shape, 32))
    x: Any = conv("conv1", 64, 7, 2)(inputs)
    x = ReLU(name="relu")(norm("bn1")(x))
    x = MaxPooling2D(3, strides=2, padding=1, name="maxpool")(x)
    for stage, count in enumerate(blocks, start=1):
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            block = _bottleneck if bottleneck else _basic
            x = block(x, f"layer{stage}.{number}", 64 * 2 ** (stage - 1), stride)
    if include_top:
        x = GlobalAveragePooling2D(name="avgpool")(x)
        x = Dense(classes, activation=classifier_activation, name="fc")(x)
    else:
        for layer in pooled(pooling):
            x = layer(x)
    return with_weights(Model(inputs, x, name=kind, backend=backend), weights, include_top)


def _basic(x: SymbolicTensor, name: str, filters: int, stride: int) -> Any:
    """Two 3x3 convolutions beside a shortcut."""
    y = ReLU(name=f"{name}.relu1")(_conv_norm(x, name, 1, filters, 3, stride))
    y = _conv_norm(y, name, 2, filters, 3, 1)
    return ReLU(name=f"{name}.relu")(
        Add(name=f"{name}.add")([y, _shortcut(x, name, filters, stride)])
    )


def _bottleneck(x: SymbolicTensor, name: str, filters: int, stride: int) -> Any:
    """1x1, 3x3 and 1x1 beside a shortcut; four times as many filters come out."""
    y = ReLU(name=f"{name}.relu1")(_conv_norm(x, name, 1, filters, 1, 1))
    y = ReLU(name=f"{name}.relu2")(_conv_norm(y, name, 2, filters, 3, stride))
    y = _conv_norm(y, name, 3, 4 * filters, 1, 1)
    shortcut = _shortcut(x, name, 4 * filters, stride)
    return ReLU(name=f"{name}.relu")(Add(name=f"{name}.add")([y, shortcut]))


def _conv_norm(
    x: SymbolicTensor, name: str, number: int, filters: int, size: int, stride: int
) -> SymbolicTensor:
    y = conv(f"{name}.conv{number}", filters, size, stride)(x)
    result: SymbolicTensor = norm(f"{name}.bn{number}")(y)
    return result


def _shortcut(x: SymbolicTensor, name: str, filters: int, stride: int) -> SymbolicTensor:
    """The input itself, or its projection where the block changes its shape."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    y = conv(f"{name}.downsample.0", filters, 1, stride)(x)
    result: SymbolicTensor = norm(f"{name}.downsample.1")(y)
    return result
