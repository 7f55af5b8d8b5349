"""Layers that the benchmarks time, as data."""

from __future__ import annotations

from typing import NamedTuple


class ConvShape(NamedTuple):
    """One square 2-D convolution: extent, channels, filters, kernel, stride, pad on each side."""

    name: str
    extent: int
    channels: int
    filters: int
    kernel: int
    stride: int
    pad: int

    @property
    def output(self) -> int:
        """Extent of the result."""
        return (self.extent + 2 * self.pad - self.kernel) // self.stride + 1

    def flops(self, batch: int) -> int:
        """Multiplications and additions of one operation."""
        return 2 * batch * self.output**2 * self.filters * self.channels * self.kernel**2


# He et al. 2016, as torchvision builds it (the stride of a block is in its 3x3 convolution).
RESNET50 = (
    ConvShape("conv1 7x7/2", 224, 3, 64, 7, 2, 3),
    ConvShape("1x1 64-64 @56", 56, 64, 64, 1, 1, 0),
    ConvShape("3x3 64-64 @56", 56, 64, 64, 3, 1, 1),
    ConvShape("1x1 64-256 @56", 56, 64, 256, 1, 1, 0),
    ConvShape("1x1 256-64 @56", 56, 256, 64, 1, 1, 0),
    ConvShape("1x1 256-128 @56", 56, 256, 128, 1, 1, 0),
    ConvShape("3x3/2 128-128 @56", 56, 128, 128, 3, 2, 1),
    ConvShape("1x1/2 256-512 @56", 56, 256, 512, 1, 2, 0),
    ConvShape("1x1 128-512 @28", 28, 128, 512, 1, 1, 0),
    ConvShape("1x1 512-128 @28", 28, 512, 128, 1, 1, 0),
    ConvShape("3x3 128-128 @28", 28, 128, 128, 3, 1, 1),
    ConvShape("1x1 512-256 @28", 28, 512, 256, 1, 1, 0),
    ConvShape("3x3/2 256-256 @28", 28, 256, 256, 3, 2, 1),
    ConvShape("1x1/2 512-1024 @28", 28, 512, 1024, 1, 2, 0),
    ConvShape("1x1 256-1024 @14", 14, 256, 1024, 1, 1, 0),
    ConvShape("1x1 1024-256 @14", 14, 1024, 256, 1, 1, 0),
    ConvShape("3x3 256-256 @14", 14, 256, 256, 3, 1, 1),
    ConvShape("1x1 1024-512 @14", 14, 1024, 512, 1, 1, 0),
    ConvShape("3x3/2 512-512 @14", 14, 512, 512, 3, 2, 1),
    ConvShape("1x1/2 1024-2048 @14", 14, 1024, 2048, 1, 2, 0),
    ConvShape("1x1 512-2048 @7", 7, 512, 2048, 1, 1, 0),
    ConvShape("1x1 2048-512 @7", 7, 2048, 512, 1, 1, 0),
    ConvShape("3x3 512-512 @7", 7, 512, 512, 3, 1, 1),
)
