"""UpSampling1D, UpSampling2D, UpSampling3D: one N-dimensional layer under three names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gpuconv.backends.base import Array
from gpuconv.errors import one_of
from gpuconv.geometry import Extents, as_tuple
from gpuconv.layers.base import Backward
from gpuconv.layers.spatial import Spatial
from gpuconv.ops import resampling as ops


class UpSamplingND(Spatial):
    """Nearest-neighbour upsampling of ``rank`` dimensions; see :class:`UpSampling2D`."""

    rank: ClassVar[int]

    def __init__(
        self, size: int | Sequence[int] = 2, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.size = as_tuple(size, self.rank, "size", 1)

    def output_extents(self, extents: Extents, channels: int) -> Extents:
        pairs = zip(extents, self.size, strict=True)
        return (*(None if i is None else i * f for i, f in pairs), channels)

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        size = self.size

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return ops.upsample_nearest_backward(dy, size) if input_gradient else None

        return ops.upsample_nearest(x, size), backward


class UpSampling1D(UpSamplingND):
    """Every step repeated ``size`` times (default 2), as Keras's UpSampling1D.

    It takes ``data_format`` as its siblings do, which Keras's does not.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    rank = 1


class UpSampling2D(UpSamplingND):
    """Images enlarged by whole factors, as Keras's UpSampling2D.

    Args:
        size: factors, an int or one a dimension; default 2.
        data_format: ``"channels_last"`` (default) or ``"channels_first"``.
        interpolation: ``"nearest"`` (default: every pixel repeated) or ``"bilinear"`` (pixels are
            areas, as PyTorch's ``align_corners=False``). Keras's others do not exist here.

    Input ``(N, H, W, C)`` or ``(N, C, H, W)``, output ``H*size[0]``, ``W*size[1]``.

    Raises:
        InvalidArgumentError: an impossible argument.
        ShapeError: an input of another rank.
    """

    rank = 2

    def __init__(
        self,
        size: int | Sequence[int] = 2,
        data_format: str | None = None,
        interpolation: str = "nearest",
        **kwargs: Any,
    ) -> None:
        super().__init__(size, data_format, **kwargs)
        word = interpolation.lower() if isinstance(interpolation, str) else interpolation
        self.interpolation = one_of(word, ("nearest", "bilinear"), "interpolation")

    def run_channels_last(self, x: Array, training: bool) -> tuple[Array, Backward]:
        if self.interpolation == "nearest":
            return super().run_channels_last(x, training)
        size = self.size

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return ops.upsample_bilinear_backward(dy, size) if input_gradient else None

        return ops.upsample_bilinear(x, size), backward


class UpSampling3D(UpSamplingND):
    """3-D nearest-neighbour upsampling; see :class:`UpSampling2D`."""

    rank = 3
