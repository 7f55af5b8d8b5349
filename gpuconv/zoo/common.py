"""What the networks of the zoo have in common: layers as torchvision builds them, and their top.

Layers have torchvision's names, so that its files of weights fit without a table of names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gpuconv.errors import FileFormatError, InvalidArgumentError, one_of
from gpuconv.geometry import as_open_shape
from gpuconv.initializers import RandomNormal, VarianceScaling
from gpuconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Layer,
)
from gpuconv.models import Model


def conv(
    name: str, filters: int, size: int, stride: int = 1, bias: bool = False, **more: Any
) -> Conv2D:
    """A convolution padded by half its kernel, initialised as torchvision's ResNets (He 2015)."""
    return Conv2D(
        filters,
        size,
        strides=stride,
        padding=more.pop("padding", size // 2),
        use_bias=bias,
        kernel_initializer=VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
        **more,
    )


def norm(name: str) -> BatchNormalization:
    """Batch normalisation with PyTorch's constants."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, unbiased_moving_variance=True, name=name)


def head(name: str, units: int, activation: Any = None) -> Dense:
    """A dense layer, initialised as torchvision's."""
    return Dense(
        units, activation=activation, kernel_initializer=RandomNormal(0.0, 0.01), name=name
    )


def pooled(pooling: str | None) -> list[Layer]:
    """What stands on the features if the top is left out."""
    if pooling is None:
        return []
    chosen = one_of(pooling, ("avg", "max"), "pooling")
    return [GlobalAveragePooling2D() if chosen == "avg" else GlobalMaxPooling2D()]


ImageShape = Sequence[int | None]
"""(height, width, channels); height and width may be None: images of any size."""


def image_shape(input_shape: ImageShape, least: int, any_size: bool = True) -> tuple[Any, ...]:
    """Check (height, width, channels).

    Args:
        input_shape: as the user wrote it.
        least: pixels below which the network has no output.
        any_size: whether height and width may be None.

    Raises:
        InvalidArgumentError: not three extents, images below ``least`` pixels, or an unknown
            extent where it has to be known.
    """
    shape = as_open_shape(input_shape, "input_shape", 1)
    if (
        len(shape) != 3
        or shape[2] is None
        or min((extent for extent in shape[:2] if extent is not None), default=least) < least
        or (None in shape and not any_size)
    ):
        form = ", height and width None for images of any size" if any_size else ""
        raise InvalidArgumentError(
            f"input_shape must be (height, width, channels), of at least {least} x {least} pixels"
            f"{form}. Received: {input_shape!r}"
        )
    return shape


def with_weights(model: Model, weights: str | os.PathLike[str] | None, include_top: bool) -> Model:
    """Load a file with PyTorch's names into a network; without its top, what belongs to that waits.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError, ShapeError: it does not fit; every difference is named.
    """
    if weights is not None:
        from gpuconv.io import load_torch_state

        report = load_torch_state(model, weights, partial=not include_top)
        if report.missing or report.mismatched:
            raise FileFormatError(
                f"the file does not hold the weights of {model.name}: {report}. "
                f"Received: {os.fspath(weights)}"
            )
    return model
