"""Layers that the benchmarks time, as data: each distinct one of a network once."""

from __future__ import annotations

from typing import NamedTuple


class ConvShape(NamedTuple):
    """One square 2-D convolution: extent, channels, filters, kernel, stride, pad on each side.

    ``groups`` is 1, the channels for a depthwise layer, or a number between; ``often`` is how many
    layers of the network are like it, where that is asked for.
    """

    name: str
    extent: int
    channels: int
    filters: int
    kernel: int
    stride: int
    pad: int
    groups: int = 1
    often: int = 1

    @property
    def output(self) -> int:
        """Extent of the result."""
        return (self.extent + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def weights(self) -> tuple[int, int, int, int]:
        """Shape of the weights, (k, k, C/groups, F)."""
        return self.kernel, self.kernel, self.channels // self.groups, self.filters

    def flops(self, batch: int) -> int:
        """Multiplications and additions of one operation."""
        taps = self.channels // self.groups * self.kernel**2
        return 2 * batch * self.output**2 * self.filters * taps

    def numbers(self, batch: int) -> int:
        """Numbers in input, weights and output together."""
        return (
            batch * self.extent**2 * self.channels
            + batch * self.output**2 * self.filters
            + self.kernel**2 * self.channels // self.groups * self.filters
        )


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

# Simonyan and Zisserman 2015, configuration D: 13 layers.
VGG16 = (
    ConvShape("3x3 3-64 @224", 224, 3, 64, 3, 1, 1),
    ConvShape("3x3 64-64 @224", 224, 64, 64, 3, 1, 1),
    ConvShape("3x3 64-128 @112", 112, 64, 128, 3, 1, 1),
    ConvShape("3x3 128-128 @112", 112, 128, 128, 3, 1, 1),
    ConvShape("3x3 128-256 @56", 56, 128, 256, 3, 1, 1),
    ConvShape("3x3 256-256 @56", 56, 256, 256, 3, 1, 1, often=2),
    ConvShape("3x3 256-512 @28", 28, 256, 512, 3, 1, 1),
    ConvShape("3x3 512-512 @28", 28, 512, 512, 3, 1, 1, often=2),
    ConvShape("3x3 512-512 @14", 14, 512, 512, 3, 1, 1, often=3),
)

# Sandler et al. 2018: the depthwise convolutions, width 1, images of 224 x 224.
MOBILENETV2 = tuple(
    ConvShape(f"dw 3x3{f'/{stride}' * (stride > 1)} {c} @{extent}", extent, c, c, 3, stride, 1, c)
    for extent, c, stride in (
        (112, 32, 1),
        (112, 96, 2),
        (56, 144, 1),
        (56, 144, 2),
        (28, 192, 1),
        (28, 192, 2),
        (14, 384, 1),
        (14, 576, 1),
        (14, 576, 2),
        (7, 960, 1),
    )
)

# Baidu's DeepBench (training, vision): the square ones that are no layers of the networks above.
DEEPBENCH = (
    ConvShape("3x3/2 3-64 @108", 108, 3, 64, 3, 2, 1),
    ConvShape("3x3 64-64 @54", 54, 64, 64, 3, 1, 1),
    ConvShape("3x3 128-128 @27", 27, 128, 128, 3, 1, 1),
    ConvShape("3x3 128-256 @14", 14, 128, 256, 3, 1, 1),
    ConvShape("3x3 256-512 @7", 7, 256, 512, 3, 1, 1),
    ConvShape("5x5 192-32 @28", 28, 192, 32, 5, 1, 2),
    ConvShape("1x1 192-64 @28", 28, 192, 64, 1, 1, 0),
    ConvShape("5x5 512-48 @14", 14, 512, 48, 5, 1, 2),
    ConvShape("1x1 512-192 @14", 14, 512, 192, 1, 1, 0),
    ConvShape("1x1 832-256 @7", 7, 832, 256, 1, 1, 0),
    ConvShape("5x5 832-128 @7", 7, 832, 128, 5, 1, 2),
)

# What the others leave out: odd and small numbers of channels, large kernels, groups.
ODD = (
    ConvShape("1x1 3-5 @128", 128, 3, 5, 1, 1, 0),
    ConvShape("3x3 7-9 @64", 64, 7, 9, 3, 1, 1),
    ConvShape("3x3 10-10 @100", 100, 10, 10, 3, 1, 1),
    ConvShape("3x3/2 13-29 @57", 57, 13, 29, 3, 2, 1),
    ConvShape("3x3 17-35 @31", 31, 17, 35, 3, 1, 1),
    ConvShape("1x1 100-77 @28", 28, 100, 77, 1, 1, 0),
    ConvShape("3x3 65-130 @19", 19, 65, 130, 3, 1, 1),
    ConvShape("5x5 20-50 @12", 12, 20, 50, 5, 1, 0),
    ConvShape("7x7 16-16 @40", 40, 16, 16, 7, 1, 3),
    ConvShape("5x5 64-192 @27 (AlexNet)", 27, 64, 192, 5, 1, 2),
    ConvShape("11x11/4 3-64 @224 (AlexNet)", 224, 3, 64, 11, 4, 2),
    ConvShape("16x16/16 3-384 @224 (ViT)", 224, 3, 384, 16, 16, 0),
    ConvShape("3x3 128-128 @56, 32 groups", 56, 128, 128, 3, 1, 1, 32),
    ConvShape("3x3/2 256-256 @56, 32 groups", 56, 256, 256, 3, 2, 1, 32),
    ConvShape("1x1 240-240 @28, 3 groups", 28, 240, 240, 1, 1, 0, 3),
    ConvShape("3x3 32-64 @56, 32 groups", 56, 32, 64, 3, 1, 1, 32),
    ConvShape("dw 7x7 96 @56 (ConvNeXt)", 56, 96, 96, 7, 1, 3, 96),
)

# The network of gpuconv.zoo.seed_network.
SEED = (
    ConvShape("3x3 3-32 @32", 32, 3, 32, 3, 1, 0),
    ConvShape("3x3 32-64 @15", 15, 32, 64, 3, 1, 0),
    ConvShape("3x3 64-64 @6", 6, 64, 64, 3, 1, 0),
)


class PoolShape(NamedTuple):
    """One square 2-D pooling: ``"max"`` or ``"avg"``, extent, channels, window, stride, pad."""

    name: str
    kind: str
    extent: int
    channels: int
    window: int
    stride: int
    pad: int

    @property
    def output(self) -> int:
        """Extent of the result."""
        return (self.extent + 2 * self.pad - self.window) // self.stride + 1


POOLS = (
    PoolShape("max 3x3/2 64 @112 (ResNet-50)", "max", 112, 64, 3, 2, 1),
    PoolShape("max 2x2/2 64 @224 (VGG-16)", "max", 224, 64, 2, 2, 0),
    PoolShape("max 2x2/2 512 @28 (VGG-16)", "max", 28, 512, 2, 2, 0),
    PoolShape("max 2x2/2 32 @30 (seed)", "max", 30, 32, 2, 2, 0),
    PoolShape("avg 2x2/2 256 @56", "avg", 56, 256, 2, 2, 0),
    PoolShape("avg 3x3/1 192 @28", "avg", 28, 192, 3, 1, 1),
    PoolShape("avg 7x7 2048 @7 (ResNet-50)", "avg", 7, 2048, 7, 7, 0),
)
