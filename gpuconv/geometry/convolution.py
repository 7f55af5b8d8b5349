"""The frozen description of one convolution, and what follows from it.

Notation, here and in every engine: ``N`` batch, ``C`` input channels, ``F`` filters,
``g`` groups; for each spatial dimension ``i`` input extent, ``k`` kernel, ``s`` stride,
``d`` dilation, ``(lo, hi)`` pads, ``o`` output extent::

    o = floor((i + lo + hi - d*(k - 1) - 1) / s) + 1
    y[n, p, f] = sum over taps t and channels c of  x[n, p*s - lo + t*d, c] * w[t, c, f]

The kernel is not flipped (cross-correlation, as in Keras and PyTorch).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry.padding import Pads


@dataclass(frozen=True, slots=True)
class Phase:
    """One sub-pixel phase of backward_input: ``dx[offset::stride]`` as a convolution of ``dy``.

    Attributes:
        offset: first position of the phase in each dimension of ``dx``.
        taps: for each dimension the kernel taps that reach this phase, last to first.
        geometry: the stride-1 convolution of ``dy`` with those taps, its channels swapped;
            None where no tap reaches the phase and ``dx`` is zero there. Its pads may be
            negative (``dy`` is cropped).
    """

    offset: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    geometry: ConvGeometry | None


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution in integers; hashable, so it is the key of every cache.

    Attributes:
        batch: ``N``; may be 0.
        in_channels, out_channels: ``C`` and ``F``.
        input, kernel, stride, dilation: one int for each spatial dimension.
        pads: ``(lo, hi)`` a dimension.
        groups: ``g``, dividing both numbers of channels.

    Raises:
        InvalidArgumentError: zero or negative sizes, or groups that do not divide.
        ShapeError: the kernel does not fit into the padded input.
    """

    batch: int
    in_channels: int
    out_channels: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: Pads
    groups: int = 1

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise InvalidArgumentError(
                    f"{name} must be at least 1 in each dimension. Received: {getattr(self, name)}"
                )
        if self.groups < 1:
            raise InvalidArgumentError(f"groups must be at least 1. Received: {self.groups}")
        if self.in_channels < 1 or self.in_channels % self.groups:
            raise ShapeError(
                f"the number of input channels must be a positive multiple of groups "
                f"{self.groups}. Received: {self.in_channels}"
            )
        if self.out_channels < 1 or self.out_channels % self.groups:
            raise ShapeError(
                f"the number of output channels (filters) must be a positive multiple of groups "
                f"{self.groups}. Received: {self.out_channels}"
            )
        if min(self.output) < 1:
            raise ShapeError(
                f"the kernel must fit into the padded input. Received: input {self.input}, kernel "
                f"{self.kernel}, dilation {self.dilation}, padding {self.pads}, which would give "
                f"the output {self.output}"
            )

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Once: caches ask for it several times in every operation.
        return hash(
            (
                *(self.batch, self.in_channels, self.out_channels, self.groups),
                *(self.input, self.kernel, self.stride, self.dilation, self.pads),
            )
        )

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    @functools.cached_property
    def output(self) -> tuple[int, ...]:
        """Spatial extents of the result."""
        return tuple(
            (i + lo + hi - d * (k - 1) - 1) // s + 1
            for i, k, s, d, (lo, hi) in zip(
                self.input, self.kernel, self.stride, self.dilation, self.pads, strict=True
            )
        )

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.input, self.in_channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (*self.kernel, self.in_channels // self.groups, self.out_channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.output, self.out_channels)

    @property
    def taps(self) -> int:
        """Number of kernel positions."""
        return math.prod(self.kernel)

    @property
    def reduction(self) -> int:
        """Number of products summed for each output element: taps * C / g."""
        return self.taps * self.in_channels // self.groups

    @property
    def flops(self) -> int:
        """Multiplications and additions of any of the three operations."""
        return 2 * self.batch * math.prod(self.output) * self.out_channels * self.reduction

    @property
    def is_pointwise(self) -> bool:
        """1x1, stride 1, no padding: a matrix product of the pixels as they lie."""
        return (
            self.taps == 1
            and max(self.stride) == 1
            and all(lo == 0 and hi == 0 for lo, hi in self.pads)
        )

    @property
    def is_depthwise(self) -> bool:
        """One input channel a group, and more than one group."""
        return self.groups > 1 and self.groups == self.in_channels

    @functools.cached_property
    def backward_input_phases(self) -> tuple[Phase, ...]:
        """backward_input in gather form: one stride-1 convolution of ``dy`` a phase.

        ``dx[p]`` collects every ``(q, t)`` with ``q*s = p + lo - t*d``. For the positions
        ``p = r + s*j`` of one residue ``r`` the taps that can satisfy this form an arithmetic
        progression, so each residue is a dense convolution without multiplications by zero;
        stride 1 has the single phase of the flipped kernel.
        """
        dimensions = [
            [
                _phase_1d(r, i, o, k, s, d, lo)
                for r in range(min(s, i))  # an extent below the stride has no later residues
            ]
            for i, o, k, s, d, (lo, _) in zip(
                self.input,
                self.output,
                self.kernel,
                self.stride,
                self.dilation,
                self.pads,
                strict=True,
            )
        ]
        return tuple(self._phase(parts) for parts in itertools.product(*dimensions))

    def _phase(self, parts: tuple[_Phase1D, ...]) -> Phase:
        taps = tuple(part.taps for part in parts)
        geometry = None
        if all(taps):
            geometry = ConvGeometry(
                batch=self.batch,
                in_channels=self.out_channels,
                out_channels=self.in_channels,
                input=self.output,
                kernel=tuple(len(t) for t in taps),
                stride=(1,) * self.rank,
                dilation=tuple(part.dilation for part in parts),
                pads=tuple(part.pads for part in parts),
                groups=self.groups,
            )
        return Phase(tuple(part.offset for part in parts), taps, geometry)


@dataclass(frozen=True, slots=True)
class _Phase1D:
    offset: int
    taps: tuple[int, ...]
    dilation: int
    pads: tuple[int, int]


def _phase_1d(
    r: int, input: int, output: int, kernel: int, stride: int, dilation: int, lo: int
) -> _Phase1D:
    """Phase ``r`` of one dimension; see :attr:`ConvGeometry.backward_input_phases`."""
    taps = [t for t in range(kernel) if (r + lo - t * dilation) % stride == 0]
    if not taps:
        return _Phase1D(r, (), 1, (0, 0))
    # Consecutive taps are stride/gcd apart, hence dilation/gcd apart in dy.
    step = dilation // math.gcd(stride, dilation)
    last = (r + lo - taps[-1] * dilation) // stride  # position in dy of the last tap at j = 0
    extent = -(-(input - r) // stride)
    pad_lo = -last
    pad_hi = extent + step * (len(taps) - 1) - output - pad_lo
    return _Phase1D(r, tuple(reversed(taps)), step, (pad_lo, pad_hi))
