"""The frozen description of one pooling."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry.padding import Pads


@dataclass(frozen=True)
class PoolGeometry:
    """A max or average pooling in integers; hashable.

    Attributes:
        batch, channels: may be 0 and must be at least 1.
        input, window, stride, dilation: one int a spatial dimension.
        pads: ``(lo, hi)`` a dimension.
        ceil_mode: round the output extent up; the last window may then hang over, but it is
            dropped if it would start in the right padding (PyTorch's rule).
        count_include_pad: averages divide by the window's part inside the PADDED area; if
            False by its real elements (Keras).
        divisor_override: averages divide by this instead.

    Raises:
        InvalidArgumentError: sizes below 1.
        ShapeError: the window does not fit into the padded input.
    """

    batch: int
    channels: int
    input: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: Pads
    ceil_mode: bool = False
    count_include_pad: bool = False
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise InvalidArgumentError(
                    f"{name} must be at least 1 in each dimension. Received: {getattr(self, name)}"
                )
        if self.channels < 1:
            raise ShapeError(f"expected at least one channel. Received: {self.channels}")
        if min(self.output) < 1:
            raise ShapeError(
                f"the pooling window must fit into the padded input. Received: input {self.input}, "
                f"window {self.window}, dilation {self.dilation}, padding {self.pads}, which "
                f"would give the output {self.output}"
            )

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Once: caches ask for it several times in every operation.
        return hash(
            (
                *(self.batch, self.channels, self.ceil_mode, self.count_include_pad),
                *(self.input, self.window, self.stride, self.dilation, self.pads),
                self.divisor_override or 0,
            )
        )

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.window)

    @functools.cached_property
    def output(self) -> tuple[int, ...]:
        """Spatial extents of the result."""
        extents = []
        for i, k, s, d, (lo, hi) in zip(
            self.input, self.window, self.stride, self.dilation, self.pads, strict=True
        ):
            room = i + lo + hi - d * (k - 1) - 1
            if not self.ceil_mode:
                extents.append(room // s + 1)
                continue
            out = -(-room // s) + 1
            if (out - 1) * s >= i + lo:
                out -= 1
            extents.append(out)
        return tuple(extents)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.input, self.channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.output, self.channels)

    @property
    def taps(self) -> int:
        """Number of positions in a window."""
        return math.prod(self.window)

    @property
    def is_global(self) -> bool:
        """One window that covers the whole input, nothing else."""
        return (
            self.window == self.input
            and all(d == 1 for d in self.dilation)
            and all(p == (0, 0) for p in self.pads)
        )

    @functools.cached_property
    def divisors(self) -> tuple[tuple[int, ...], ...]:
        """For averages: the number of elements that each window counts, a tuple a dimension.

        The divisor of a window is the product over the dimensions, or ``divisor_override``.
        """
        counts = []
        for i, k, s, (lo, hi), o in zip(
            self.input, self.window, self.stride, self.pads, self.output, strict=True
        ):
            first, last = (-lo, i + hi) if self.count_include_pad else (0, i)
            counts.append(
                tuple(max(min(p * s - lo + k, last) - max(p * s - lo, first), 0) for p in range(o))
            )
        return tuple(counts)
