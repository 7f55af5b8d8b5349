"""Known networks in PyTorch, with torchvision's structure and names of weights.

Each function takes the module ``torch`` (see pytorch.py) and returns an ``nn.Module`` of images
(N, channels, height, width) that gives logits. As torchvision does, ReLU works in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Filters of the convolutions; 0 is a pooling."""
_MOBILE = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, filters, how often, stride of the first."""


def resnet(torch: Any, counts: Sequence[int], bottleneck: bool, classes: int = 1000) -> Any:
    """Return a residual network (He et al. 2016) whose stages have so many blocks.

    Args:
        torch: the module.
        counts: blocks of each of the four stages.
        bottleneck: 1x1, 3x3 and 1x1 in a block instead of two 3x3.
        classes: number of outputs.
    """
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, channels: int, filters: int, stride: int) -> None:
            super().__init__()
            final = filters * (4 if bottleneck else 1)
            if bottleneck:
                layers = [(filters, 1, 1), (filters, 3, stride), (final, 1, 1)]
            else:
                layers = [(filters, 3, stride), (final, 3, 1)]
            self.count, inside = len(layers), channels
            for number, (out, size, step) in enumerate(layers, start=1):
                conv = nn.Conv2d(inside, out, size, step, size // 2, bias=False)
                setattr(self, f"conv{number}", conv)
                setattr(self, f"bn{number}", nn.BatchNorm2d(out))
                inside = out
            self.relu = nn.ReLU(inplace=True)
            self.downsample = nn.Identity()
            if stride != 1 or channels != final:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels, final, 1, stride, bias=False), nn.BatchNorm2d(final)
                )

        def forward(self, x: Any) -> Any:
            y = x
            for number in range(1, self.count + 1):
                y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
                if number < self.count:
                    y = self.relu(y)
            y += self.downsample(x)
            return self.relu(y)

    class ResNet(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            channels = 64
            for stage, count in enumerate(counts):
                filters, blocks = 64 * 2**stage, []
                for number in range(count):
                    blocks.append(Block(channels, filters, 2 if stage and not number else 1))
                    channels = filters * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(channels, classes)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for stage in range(len(counts)):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(torch.flatten(self.avgpool(x), 1))

    return ResNet()


def mobilenet_v2(torch: Any, classes: int = 1000) -> Any:
    """Return MobileNet-V2 (Sandler et al. 2018)."""
    nn = torch.nn

    def conv_norm_relu(channels: int, filters: int, size: int, stride: int, groups: int = 1) -> Any:
        conv = nn.Conv2d(
            channels, filters, size, stride, size // 2, groups=groups, bias=False
        )  # fmt: skip
        return nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU6(inplace=True))

    class Inverted(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
            super().__init__()
            wide = channels * expansion
            layers = [] if expansion == 1 else [conv_norm_relu(channels, wide, 1, 1)]
            layers += [
                conv_norm_relu(wide, wide, 3, stride, wide),
                nn.Conv2d(wide, filters, 1, bias=False),
                nn.BatchNorm2d(filters),
            ]
            self.conv = nn.Sequential(*layers)
            self.adds = stride == 1 and channels == filters

        def forward(self, x: Any) -> Any:
            return x + self.conv(x) if self.adds else self.conv(x)

    class MobileNetV2(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            features, channels = [conv_norm_relu(3, 32, 3, 2)], 32
            for expansion, filters, count, stride in _MOBILE:
                for number in range(count):
                    step = 1 if number else stride
                    features.append(Inverted(channels, filters, step, expansion))
                    channels = filters
            features.append(conv_norm_relu(channels, 1280, 1, 1))
            self.features = nn.Sequential(*features)
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

        def forward(self, x: Any) -> Any:
            x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
            return self.classifier(torch.flatten(x, 1))

    return MobileNetV2()


def alexnet(torch: Any, classes: int = 1000) -> Any:
    """Return AlexNet (Krizhevsky 2014)."""
    nn = torch.nn
    return _stack(
        torch,
        [
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        ],
        6,
        [
            nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, classes),
        ],
    )  # fmt: skip


def vgg(torch: Any, entries: Sequence[int], batch_norm: bool = False, classes: int = 1000) -> Any:
    """Return a network of 3x3 convolutions (Simonyan and Zisserman 2015).

    Args:
        torch: the module.
        entries: ``VGG11`` or ``VGG16``.
        batch_norm: whether each convolution is followed by a BatchNorm.
        classes: number of outputs.
    """
    nn = torch.nn
    features: list[Any] = []
    channels = 3
    for filters in entries:
        if not filters:
            features.append(nn.MaxPool2d(2))
            continue
        features.append(nn.Conv2d(channels, filters, 3, padding=1))
        features += [nn.BatchNorm2d(filters)] * batch_norm + [nn.ReLU(True)]
        channels = filters
    classifier = [
        nn.Linear(25088, 4096), nn.ReLU(True), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, classes),
    ]  # fmt: skip
    return _stack(torch, features, 7, classifier)


def _stack(torch: Any, features: Sequence[Any], extent: int, classifier: Sequence[Any]) -> Any:
    """Features, averaged to some extent, and dense layers on them."""
    nn = torch.nn

    class Stack(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(*features)
            self.avgpool = nn.AdaptiveAvgPool2d(extent)
            self.classifier = nn.Sequential(*classifier)

        def forward(self, x: Any) -> Any:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    return Stack()


def lenet5(torch: Any, classes: int = 10) -> Any:
    """Return LeNet-5 (LeCun et al. 1998) for images (N, 1, 28, 28)."""
    nn = torch.nn

    class LeNet(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
            self.fc1, self.fc2 = nn.Linear(400, 120), nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, classes)
            self.pool = nn.AvgPool2d(2)

        def forward(self, x: Any) -> Any:
            for conv in (self.conv1, self.conv2):
                x = self.pool(torch.tanh(conv(x)))
            x = torch.flatten(x, 1)
            return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))

    return LeNet()


def seed_network(torch: Any, classes: int = 10) -> Any:
    """Return three convolutions and two dense layers for images (N, 3, 32, 32)."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def digits_network(torch: Any, classes: int = 10) -> Any:
    """Return a network for digits (N, 1, 8, 8) with values from 0 to 16."""
    nn = torch.nn

    class Rescaling(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * (1 / 16)

    return nn.Sequential(
        Rescaling(),
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, classes),
    )  # fmt: skip


def _resnet(*counts: int, bottleneck: bool = False) -> Callable[..., Any]:
    return lambda torch, classes=1000: resnet(torch, counts, bottleneck, classes)


def _vgg(entries: Sequence[int], batch_norm: bool = False) -> Callable[..., Any]:
    return lambda torch, classes=1000: vgg(torch, entries, batch_norm, classes)


NETWORKS: dict[str, Callable[..., Any]] = {
    "alexnet": alexnet,
    "digits_network": digits_network,
    "lenet5": lenet5,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": _resnet(2, 2, 2, 2),
    "resnet50": _resnet(3, 4, 6, 3, bottleneck=True),
    "seed_network": seed_network,
    "vgg11": _vgg(VGG11),
    "vgg11_bn": _vgg(VGG11, batch_norm=True),
    "vgg16": _vgg(VGG16),
}
"""By their names in ``gpuconv.zoo``; each takes ``torch`` and the number of classes."""
