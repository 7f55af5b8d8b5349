"""Dropout (Srivastava et al. 2014) of elements, and of whole channels (Tompson et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.geometry import Extents, as_open_shape
from gpuconv.layers.arguments import as_number
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.seeded import Seeded
from gpuconv.layers.spatial import Spatial


class Dropping(Seeded):
    """What Dropout and SpatialDropout share: the rate, and the masks."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = as_number(rate, "rate", 0.0, 1.0)

    def drop(self, x: Array, mask_shape: tuple[int, ...], training: bool) -> tuple[Array, Backward]:
        """Multiply ``x`` by a mask of a shape that broadcasts to it; the identity in inference."""
        if not training or self.rate == 0.0:
            return x, _identity_backward
        xp = array_module(x)
        if self.rate == 1.0:
            mask = xp.zeros(mask_shape, x.dtype)
        else:
            key = self.seed_stream.next_key()
            mask = engine_for(x).dropout_mask(mask_shape, self.rate, key, x.dtype.name)

        def masked(array: Array) -> Array:
            # In the memory order of the array: channels-first views stay what they are.
            return xp.multiply(array, mask, out=xp.empty_like(array))

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return masked(dy) if input_gradient else None

        return masked(x), backward


def _identity_backward(dy: Array, input_gradient: bool = True) -> Array | None:
    return dy if input_gradient else None


class Dropout(Dropping):
    """In training, sets elements to 0 with probability ``rate`` and scales the rest by 1/(1-rate).

    Args:
        rate: from 0 (the identity) to 1 (all zeros).
        noise_shape: shape of the mask, which is broadcast to the input; None entries take the
            input's extent. ``(None, 1, None)`` drops the same features at all times. Default
            None: every element on its own.
        seed: makes the masks reproducible; None takes a seed from ``gpuconv.random``.

    In inference, and with rate 0, the output is the input. Freezing changes nothing.

    Raises:
        InvalidArgumentError: the rate is out of range, or an impossible noise shape or seed.
        ShapeError: the noise shape does not broadcast to the input.
    """

    def __init__(
        self,
        rate: float,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, **kwargs)
        self.noise_shape = (
            None if noise_shape is None else as_open_shape(noise_shape, "noise_shape", 1)
        )

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        if self.noise_shape is not None:
            self._mask_shape(shape)

    def _mask_shape(self, shape: Shape) -> tuple[Any, ...]:
        if self.noise_shape is None:
            return tuple(shape)
        fits = len(self.noise_shape) == len(shape) and all(
            n in (None, 1, extent) or extent is None
            for n, extent in zip(self.noise_shape, shape, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"{self.name}: expected an input to which noise_shape={self.noise_shape} "
                f"broadcasts. Received: shape {tuple(shape)}"
            )
        pairs = zip(self.noise_shape, shape, strict=True)
        return tuple(extent if n is None else n for n, extent in pairs)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return self.drop(x, self._mask_shape(x.shape), training)


class SpatialDropout(Spatial, Dropping):
    """Dropout of whole channels over ``rank`` spatial dimensions; see :class:`SpatialDropout2D`."""

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate=rate, data_format=data_format, seed=seed, **kwargs)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return (*extents, channels)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return self.drop(x, (x.shape[0], *(1,) * self.rank, x.shape[-1]), training)


class SpatialDropout1D(SpatialDropout):
    """Dropout of whole channels of (N, W, C); see :class:`SpatialDropout2D`."""

    rank = 1


class SpatialDropout2D(SpatialDropout):
    """In training, sets whole channels of a sample to 0 and scales the rest by 1/(1-rate).

    Args:
        rate: probability of a channel to be dropped, from 0 to 1.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        seed: makes the masks reproducible; None takes a seed from ``gpuconv.random``.

    Input (N, H, W, C) or (N, C, H, W); the output has the same shape.

    Raises:
        InvalidArgumentError: the rate is out of range, an impossible seed or data format.
        ShapeError: an input of another rank.
    """

    rank = 2


class SpatialDropout3D(SpatialDropout):
    """Dropout of whole channels of (N, D, H, W, C); see :class:`SpatialDropout2D`."""

    rank = 3
