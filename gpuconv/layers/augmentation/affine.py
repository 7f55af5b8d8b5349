"""RandomRotation, RandomTranslation and RandomZoom: images seen through an affine map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuconv.backends.arrays import device_of, to_device
from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.layers.arguments import as_number
from gpuconv.layers.augmentation.base import Augmentation, Factor, Numbers, as_factor, spread
from gpuconv.layers.augmentation.sampling import (
    FILL_MODES,
    INTERPOLATIONS,
    resample,
    resample_backward,
)
from gpuconv.layers.base import Backward


class RandomAffine(Augmentation):
    """What the three share: how an image is read between its pixels and beyond its edges.

    A subclass writes ``maps``.
    """

    def __init__(
        self,
        *,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        fill_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fill_mode = one_of(fill_mode, FILL_MODES, "fill_mode")
        self.interpolation = one_of(interpolation, INTERPOLATIONS, "interpolation")
        self.fill_value = as_number(fill_value, "fill_value")

    def maps(self, uniform: Numbers, height: int, width: int) -> Numbers:
        """Return (N, 2, 3): where pixels of the outputs lie in the inputs, row and column."""
        raise TypeError(f"{type(self).__name__} must define maps")

    def augment(self, x: Array, uniform: Numbers) -> tuple[Array, Backward]:
        extents = (x.shape[1], x.shape[2])
        maps = to_device(self.maps(uniform, *extents), device_of(x))
        how = (self.fill_mode, self.interpolation)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return resample_backward(dy, maps, extents, *how) if input_gradient else None

        return resample(x, maps, extents, *how, self.fill_value), backward


class RandomRotation(RandomAffine):
    """In training, turns every image about its centre, as Keras's RandomRotation.

    Args:
        factor: the largest angle as a fraction of a full turn: 0.1 draws from -36 to 36 degrees,
            evenly; or a pair of bounds. Positive turns counter-clockwise. From -1 to 1.
        fill_mode: what lies beyond the edges: ``"reflect"`` (default; d c b a | a b c d |
            d c b a), ``"wrap"`` (the other side), ``"nearest"`` (the pixel at the edge) or
            ``"constant"`` (``fill_value``).
        interpolation: ``"bilinear"`` (default) or ``"nearest"``.
        seed: makes the angles reproducible; None takes a seed from ``gpuconv.random``.
        fill_value: for ``fill_mode="constant"``; default 0.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 1

    def __init__(
        self,
        factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            fill_mode=fill_mode,
            interpolation=interpolation,
            seed=seed,
            fill_value=fill_value,
            data_format=data_format,
            **kwargs,
        )
        self.factor = as_factor(factor, "factor", -1.0, 1.0)

    def maps(self, uniform: Numbers, height: int, width: int) -> Numbers:
        angle = 2 * math.pi * spread(self.factor, uniform[:, 0])
        cos, sin = np.cos(angle), np.sin(angle)
        return _about_the_centre(cos, sin, -sin, cos, height, width)


class RandomTranslation(RandomAffine):
    """In training, shifts every image, as Keras's RandomTranslation.

    Args:
        height_factor: the largest shift as a fraction of the height: 0.2 draws from -20 % to
            20 %, evenly; or a pair of bounds. Positive shifts down. From -1 to 1.
        width_factor: likewise of the width; positive shifts to the right.
        fill_mode: what lies beyond the edges: ``"reflect"`` (default; d c b a | a b c d |
            d c b a), ``"wrap"`` (the other side), ``"nearest"`` (the pixel at the edge) or
            ``"constant"`` (``fill_value``).
        interpolation: ``"bilinear"`` (default) or ``"nearest"``.
        seed: makes the shifts reproducible; None takes a seed from ``gpuconv.random``.
        fill_value: for ``fill_mode="constant"``; default 0.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 2

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            fill_mode=fill_mode,
            interpolation=interpolation,
            seed=seed,
            fill_value=fill_value,
            data_format=data_format,
            **kwargs,
        )
        self.height_factor = as_factor(height_factor, "height_factor", -1.0, 1.0)
        self.width_factor = as_factor(width_factor, "width_factor", -1.0, 1.0)

    def maps(self, uniform: Numbers, height: int, width: int) -> Numbers:
        maps = np.zeros((len(uniform), 2, 3))
        maps[:, 0, 0] = maps[:, 1, 1] = 1.0
        maps[:, 0, 2] = -height * spread(self.height_factor, uniform[:, 0])
        maps[:, 1, 2] = -width * spread(self.width_factor, uniform[:, 1])
        return maps


class RandomZoom(RandomAffine):
    """In training, enlarges or shrinks every image about its centre, as Keras's RandomZoom.

    Args:
        height_factor: the largest change: 0.2 draws from -20 % to 20 %, evenly; or a pair of
            bounds. Negative zooms in (-0.5 shows half the height), positive zooms out. Above -1,
            at most 1.
        width_factor: likewise for the width; None (default) takes the height's number.
        fill_mode: what lies beyond the edges: ``"reflect"`` (default; d c b a | a b c d |
            d c b a), ``"wrap"`` (the other side), ``"nearest"`` (the pixel at the edge) or
            ``"constant"`` (``fill_value``).
        interpolation: ``"bilinear"`` (default) or ``"nearest"``.
        seed: makes the zooms reproducible; None takes a seed from ``gpuconv.random``.
        fill_value: for ``fill_mode="constant"``; default 0.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Images (N, H, W, C) or (N, C, H, W); the output has the same shape.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    draws = 2

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor | None = None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            fill_mode=fill_mode,
            interpolation=interpolation,
            seed=seed,
            fill_value=fill_value,
            data_format=data_format,
            **kwargs,
        )
        self.height_factor = _zoom_factor(height_factor, "height_factor")
        self.width_factor = (
            None if width_factor is None else _zoom_factor(width_factor, "width_factor")
        )

    def maps(self, uniform: Numbers, height: int, width: int) -> Numbers:
        tall = wide = 1.0 + spread(self.height_factor, uniform[:, 0])
        if self.width_factor is not None:
            wide = 1.0 + spread(self.width_factor, uniform[:, 1])
        none = np.zeros_like(tall)
        return _about_the_centre(tall, none, none, wide, height, width)


def _zoom_factor(value: Any, name: str) -> Factor:
    """Return a factor above -1: at -1 a single point would fill the image.

    Raises:
        InvalidArgumentError: out of (-1, 1].
    """
    factor = as_factor(value, name, -1.0, 1.0)
    if min(factor if isinstance(factor, tuple) else (factor,)) == -1.0:
        raise InvalidArgumentError(f"{name} must be above -1. Received: {value!r}")
    return factor


def _about_the_centre(
    a: Numbers, b: Numbers, c: Numbers, d: Numbers, height: int, width: int
) -> Numbers:
    """Maps with the matrices ``[[a, b], [c, d]]``, (N,) each, that keep the centre in place."""
    row, column = (height - 1) / 2, (width - 1) / 2
    maps = np.empty((len(a), 2, 3))
    maps[:, 0] = np.stack([a, b, row - a * row - b * column], axis=1)
    maps[:, 1] = np.stack([c, d, column - c * row - d * column], axis=1)
    return maps
