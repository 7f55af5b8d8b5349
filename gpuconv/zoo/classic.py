"""Networks that are a stack of layers: LeNet-5, AlexNet and VGG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gpuconv.layers import (
    AdaptiveAveragePooling2D,
    AveragePooling2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPooling2D,
    ReLU,
)
from gpuconv.models import Sequential
from gpuconv.zoo.common import ImageShape, conv, head, image_shape, norm, pooled, with_weights

Weights = str | os.PathLike[str] | None


def lenet5(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    activation: Any = "tanh",
    classifier_activation: Any = "softmax",
    backend: str | None = None,
) -> Sequential:
    """Return LeNet-5 (LeCun et al. 1998): 61,706 parameters for 28x28 pixels.

    Args:
        weights: file with PyTorch's names (``conv1.weight`` ... ``fc3.bias``), or None.
        include_top: False ends with the 120 features of ``fc1``.
        input_shape: (height, width, channels); at 28x28 the first convolution is padded by 2, as
            the digits were.
        classes: number of outputs.
        activation: of the hidden layers, default ``"tanh"``, as in the paper.
        classifier_activation: of the last layer; None gives logits.
        backend: device or engine; None: what is in force.

    Raises:
        InvalidArgumentError: images that are too small.
        FileNotFoundError, FileFormatError, ShapeError: the weights' file.
    """
    shape = image_shape(input_shape, 28, any_size=False)
    padding = 2 if shape[0] < 32 else 0
    layers: list[Layer] = [
        Conv2D(6, 5, padding=padding, activation=activation, input_shape=shape, name="conv1"),
        AveragePooling2D(2, name="pool1"),
        Conv2D(16, 5, activation=activation, name="conv2"),
        AveragePooling2D(2, name="pool2"),
        Flatten(),
        Dense(120, activation=activation, name="fc1"),
    ]
    if include_top:
        layers += [
            Dense(84, activation=activation, name="fc2"),
            Dense(classes, activation=classifier_activation, name="fc3"),
        ]
    model = Sequential(layers, backend=backend, name="lenet5")
    with_weights(model, weights, include_top)
    return model


def alexnet(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    backend: str | None = None,
) -> Sequential:
    """Return AlexNet as torchvision has it (Krizhevsky 2014): 61,100,840 parameters.

    Args:
        weights: file with torchvision's names, or None.
        include_top: False leaves out the three dense layers.
        input_shape: (height, width, channels), at least 63 pixels; None for a height or width
            that may vary.
        classes: number of outputs, which are logits.
        pooling: without the top: ``"avg"`` (default) or ``"max"`` over all pixels, or None for
            the feature maps.
        classifier_activation: of the last layer; default None: logits, as torchvision.
        backend: device or engine; None: what is in force.

    Raises:
        InvalidArgumentError: images that are too small.
        FileNotFoundError, FileFormatError, ShapeError: the weights' file.
    """
    shape = image_shape(input_shape, 63)
    layers: list[Layer] = [
        Conv2D(
            64, 11, strides=4, padding=2, activation="relu", input_shape=shape, name="features.0"
        ),
        MaxPooling2D(3, strides=2, name="features.2"),
        Conv2D(192, 5, padding=2, activation="relu", name="features.3"),
        MaxPooling2D(3, strides=2, name="features.5"),
        Conv2D(384, 3, padding=1, activation="relu", name="features.6"),
        Conv2D(256, 3, padding=1, activation="relu", name="features.8"),
        Conv2D(256, 3, padding=1, activation="relu", name="features.10"),
        MaxPooling2D(3, strides=2, name="features.12"),
    ]
    if include_top:
        layers += [
            AdaptiveAveragePooling2D(6, name="avgpool"),
            Flatten(),
            Dropout(0.5, name="classifier.0"),
            Dense(4096, activation="relu", name="classifier.1"),
            Dropout(0.5, name="classifier.3"),
            Dense(4096, activation="relu", name="classifier.4"),
            Dense(classes, activation=classifier_activation, name="classifier.6"),
        ]
    else:
        layers += pooled(pooling)
    model = Sequential(layers, backend=backend, name="alexnet")
    with_weights(model, weights, include_top)
    return model


_VGG: dict[str, tuple[int | str, ...]] = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
        *(512, 512, 512, "M", 512, 512, 512, "M"),
    ),
}


def vgg11(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    batch_norm: bool = False,
    backend: str | None = None,
) -> Sequential:
    """Return VGG's configuration A (Simonyan and Zisserman 2015): 132,863,336 parameters.

    Args and errors: as :func:`vgg16`.
    """
    return _vgg(
        "vgg11", weights, include_top, input_shape, classes, pooling, classifier_activation,
        batch_norm, backend,
    )  # fmt: skip


def vgg16(
    weights: Weights = None,
    include_top: bool = True,
    input_shape: ImageShape = (224, 224, 3),
    classes: int = 1000,
    pooling: str | None = "avg",
    classifier_activation: Any = None,
    batch_norm: bool = False,
    backend: str | None = None,
) -> Sequential:
    """Return VGG's configuration D (Simonyan and Zisserman 2015): 138,357,544 parameters.

    Args:
        weights: file with torchvision's names, or None.
        include_top: False leaves out the three dense layers.
        input_shape: (height, width, channels), at least 32 pixels; None for a height or width
            that may vary.
        classes: number of outputs.
        pooling: without the top: ``"avg"`` (default) or ``"max"`` over all pixels, or None for
            the feature maps.
        classifier_activation: of the last layer; default None: logits, as torchvision.
        batch_norm: whether a BatchNormalization follows every convolution, as in ``vgg16_bn``.
        backend: device or engine; None: what is in force.

    Raises:
        InvalidArgumentError: images that are too small.
        FileNotFoundError, FileFormatError, ShapeError: the weights' file.
    """
    return _vgg(
        "vgg16", weights, include_top, input_shape, classes, pooling, classifier_activation,
        batch_norm, backend,
    )  # fmt: skip


def _vgg(
    kind: str,
    weights: Weights,
    include_top: bool,
    input_shape: ImageShape,
    classes: int,
    pooling: str | None,
    classifier_activation: Any,
    batch_norm: bool,
    backend: str | None,
) -> Sequential:
    shape = image_shape(input_shape, 32)
    layers: list[Layer] = []
    number = 0  # torchvision counts ReLUs too
    for entry in _VGG[kind]:
        first = {} if layers else {"input_shape": shape}
        if entry == "M":
            layers.append(MaxPooling2D(2, name=f"features.{number}"))
            number += 1
            continue
        activation = None if batch_norm else "relu"
        name = f"features.{number}"
        layers.append(conv(name, int(entry), 3, 1, True, activation=activation, **first))
        if batch_norm:
            layers += [norm(f"features.{number + 1}"), ReLU(name=f"features.{number + 2}")]
        number += 3 if batch_norm else 2
    if include_top:
        layers += [
            AdaptiveAveragePooling2D(7, name="avgpool"),
            Flatten(),
            head("classifier.0", 4096, "relu"),
            Dropout(0.5, name="classifier.2"),
            head("classifier.3", 4096, "relu"),
            Dropout(0.5, name="classifier.5"),
            head("classifier.6", classes, classifier_activation),
        ]
    else:
        layers += pooled(pooling)
    model = Sequential(layers, backend=backend, name=f"{kind}_bn" if batch_norm else kind)
    with_weights(model, weights, include_top)
    return model
