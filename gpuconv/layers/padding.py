"""ZeroPadding1D, ZeroPadding2D, ZeroPadding3D: one N-dimensional layer under three names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.geometry import Extents, as_tuple, where_known
from gpuconv.geometry.padding import Pads, explicit_pads
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial


class ZeroPaddingND(Spatial):
    """Zeros around ``rank`` spatial dimensions; see :class:`ZeroPadding2D`."""

    rank: ClassVar[int]

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.padding: Any = self.pads_of(padding)

    def pads_of(self, padding: Any) -> Any:
        """Return ``(lo, hi)`` a dimension from an int, or from an int or a pair a dimension.

        Raises:
            InvalidArgumentError: negative numbers, or the wrong number of them.
        """
        entries = padding
        if isinstance(padding, Sequence) and not isinstance(padding, str):
            entries = [e if isinstance(e, Sequence) else (e, e) for e in padding]
        return explicit_pads(entries, self.rank)

    @property
    def pads(self) -> Pads:
        """``(lo, hi)`` a dimension."""
        return tuple(self.padding)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        return (*where_known(extents, self._padded), channels)

    def _padded(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        out = tuple(i + lo + hi for i, (lo, hi) in zip(extents, self.pads, strict=True))
        if min(out) < 1:
            raise ShapeError(
                f"{self.name}: nothing to pad. Received: input {extents}, padding {self.padding}"
            )
        return out

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        pads = self.pads

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return engine_for(dy).pad_backward(dy, pads, "zeros") if input_gradient else None

        return engine_for(x).pad(x, pads, "zeros"), backward


class ZeroPadding1D(ZeroPaddingND):
    """Zeros at both ends of a sequence, as Keras's ZeroPadding1D.

    Args:
        padding: an int for both ends, or ``(lo, hi)``; default 1.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    rank = 1

    def pads_of(self, padding: Any) -> tuple[int, ...]:
        return as_tuple(padding, 2, "padding", 0)

    @property
    def pads(self) -> Pads:
        lo, hi = self.padding
        return ((lo, hi),)


class ZeroPadding2D(ZeroPaddingND):
    """Zeros around images, as Keras's ZeroPadding2D.

    Args:
        padding: an int, one int a dimension, or ``((top, bottom), (left, right))``; default 1.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    rank = 2


class ZeroPadding3D(ZeroPaddingND):
    """3-D zero padding; see :class:`ZeroPadding2D`."""

    rank = 3
