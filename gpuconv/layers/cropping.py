"""Cropping1D, Cropping2D, Cropping3D: one N-dimensional layer under three names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError
from gpuconv.geometry import as_tuple
from gpuconv.geometry.padding import Pads, explicit_pads
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial


class CroppingND(Spatial):
    """Edges of ``rank`` spatial dimensions cut off; see :class:`Cropping2D`."""

    rank: ClassVar[int]

    def __init__(self, cropping: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.cropping: Any = self.cuts_of(cropping)

    def cuts_of(self, cropping: Any) -> Any:
        """Return ``(lo, hi)`` a dimension from an int, or from an int or a pair a dimension.

        Raises:
            InvalidArgumentError: negative numbers, or the wrong number of them.
        """
        entries = cropping
        if isinstance(cropping, Sequence) and not isinstance(cropping, str):
            entries = [e if isinstance(e, Sequence) else (e, e) for e in cropping]
        return explicit_pads(entries, self.rank)

    @property
    def cuts(self) -> Pads:
        """``(lo, hi)`` a dimension."""
        return tuple(self.cropping)

    def output_extents(self, extents: Any, channels: int) -> Any:
        pairs = zip(extents, self.cuts, strict=True)
        out = tuple(None if n is None else n - lo - hi for n, (lo, hi) in pairs)
        if any(n is not None and n < 1 for n in out):
            raise ShapeError(
                f"{self.name}: nothing would be left of the input. "
                f"Received: input {tuple(extents)}, cropping {self.cropping}"
            )
        return (*out, channels)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        shape, dtype = x.shape, x.dtype
        extents = shape[1:-1]
        window = (
            slice(None),
            *(slice(lo, n - hi) for n, (lo, hi) in zip(extents, self.cuts, strict=True)),
        )

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            if not input_gradient:
                return None
            dx = xp.zeros(shape, dtype)
            dx[window] = dy
            return dx

        return xp.array(x[window], order="C"), backward


class Cropping1D(CroppingND):
    """Both ends of a sequence cut off, as Keras's Cropping1D.

    Args:
        cropping: an int for both ends, or ``(lo, hi)``; default 1.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank, or of which nothing would be left.
    """

    rank = 1

    def cuts_of(self, cropping: Any) -> tuple[int, ...]:
        return as_tuple(cropping, 2, "cropping", 0)

    @property
    def cuts(self) -> Pads:
        lo, hi = self.cropping
        return ((lo, hi),)


class Cropping2D(CroppingND):
    """The edges of images cut off, as Keras's Cropping2D.

    Args:
        cropping: an int, one int a dimension, or ``((top, bottom), (left, right))``; default 0.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank, or of which nothing would be left.
    """

    rank = 2

    def __init__(self, cropping: Any = 0, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(cropping, data_format=data_format, **kwargs)


class Cropping3D(CroppingND):
    """3-D cropping, default 1; see :class:`Cropping2D`."""

    rank = 3
