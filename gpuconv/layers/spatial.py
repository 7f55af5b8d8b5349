"""What layers over spatial dimensions share: the data format and the padding argument.

``channels_first`` is a strided view: the layer looks at its input as channels-last, computes, and
hands out a channels-first view of a channels-last result, so no data is transposed in between.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError, one_of
from gpuconv.geometry import Extents, resolve_padding
from gpuconv.layers.backwards import SpatialBackward
from gpuconv.layers.base import Backward, Layer, Shape
from gpuconv.ops.layouts import (
    channels_last,
    from_channels_last,
    shape_from_last,
    shape_last,
)

DATA_FORMATS = ("channels_last", "channels_first")


class Spatial(Layer):
    """A layer over ``rank`` spatial dimensions; subclasses see channels-last arrays only.

    They write ``output_extents`` and ``run_channels_last``.
    """

    rank: ClassVar[int]

    def __init__(self, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = (
            "channels_last"
            if data_format is None
            else one_of(data_format, DATA_FORMATS, "data_format")
        )

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        """Return ``(*out, channels of the output)``.

        Args:
            extents: of the input; None where one is not known, and so is then the output's,
                unless it is the same for every input.
            channels: of the input.

        Raises:
            ShapeError: the input is too small.
        """
        raise TypeError(f"{type(self).__name__} must define output_extents")

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        """Compute ``(y, backward)`` for ``x`` (N, *in, C)."""
        raise TypeError(f"{type(self).__name__} must define run_channels_last")

    def infer_channels_last(self, x: Array) -> Array:
        """Compute ``y`` alone."""
        return self.run_channels_last(x, training=False)[0]

    @property
    def channels_first(self) -> bool:
        return self.data_format == "channels_first"

    def channels_of(self, input_shape: Shape) -> int:
        """Number of channels of a shape in the layer's data format."""
        return int(input_shape[1] if self.channels_first else input_shape[-1])

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        expected = "(N, C, ...)" if self.channels_first else "(N, ..., C)"
        if len(shape) != self.rank + 2:
            raise ShapeError(
                f"{self.name}: expected an input of {self.rank + 2} dimensions, "
                f"{expected} with {self.rank} spatial. Received: shape {tuple(shape)}"
            )
        if shape[1 if self.channels_first else -1] is None:
            raise ShapeError(
                f"{self.name}: the number of channels must be known ({self.data_format}: "
                f"{expected}). Received: shape {tuple(shape)}"
            )
        if self.built and self.built_shape is not None:
            channels = self.channels_of(self.built_shape)  # type: ignore[arg-type]
            if self.channels_of(shape) != channels:
                raise ShapeError(
                    f"{self.name}: expected {channels} channels ({self.data_format}). "
                    f"Received: shape {tuple(shape)}"
                )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        batch, *extents, channels = shape_last(tuple(input_shape), self.channels_first)
        out = self.output_extents(tuple(extents), channels)
        return shape_from_last((batch, *out), self.channels_first)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        first = self.channels_first
        y, backward = self.run_channels_last(channels_last(x, first), training)
        return from_channels_last(y, first), SpatialBackward(backward, first)

    def infer(self, x: Array) -> Array:
        first = self.channels_first
        return from_channels_last(self.infer_channels_last(channels_last(x, first)), first)

    def check_padding(self, padding: Any, kernel: tuple[int, ...], causal: bool = False) -> Any:
        """Check a padding argument before any input is known; return it, words in lower case.

        Raises:
            InvalidArgumentError: an unknown word, a negative pad, or the wrong number of entries.
        """
        ones = (1,) * self.rank
        resolve_padding(padding, kernel, kernel, ones, ones, allow_causal=causal)
        return padding.lower() if isinstance(padding, str) else padding
