"""Known networks in PyTorch, with torchvision's structure and names, written for these tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Basic(nn.Module):
    expansion = 1

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = projection(channels, filters, stride)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv3 = nn.Conv2d(filters, 4 * filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * filters)
        self.downsample = projection(channels, 4 * filters, stride)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def projection(channels: int, filters: int, stride: int) -> Any:
    if stride == 1 and channels == filters:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
    )


class ResNet(nn.Module):
    def __init__(self, block: Any, counts: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(counts):
            filters, blocks = 64 * 2**stage, []
            for number in range(count):
                blocks.append(block(channels, filters, 2 if stage and not number else 1))
                channels = filters * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Any) -> Any:
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)  # type: ignore[operator]
        return self.fc(x.mean((2, 3)))


def conv_norm_relu(channels: int, filters: int, size: int, stride: int, groups: int = 1) -> Any:
    return nn.Sequential(
        nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU6(),
    )


class Inverted(nn.Module):
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


class MobileNetV2(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        features, channels = [conv_norm_relu(3, 32, 3, 2)], 32
        for t, c, n, s in (
            *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        ):
            for number in range(n):
                features.append(Inverted(channels, c, s if not number else 1, t))
                channels = c
        features.append(conv_norm_relu(channels, 1280, 1, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(1280, classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


class AlexNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.0), nn.Linear(9216, 4096), nn.ReLU(),
            nn.Dropout(0.0), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg11(classes: int, batch_norm: bool) -> Any:
    layers: list[Any] = []
    channels = 3
    for entry in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if not entry:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, entry, 3, padding=1))
        layers += [nn.BatchNorm2d(entry), nn.ReLU()] if batch_norm else [nn.ReLU()]
        channels = entry
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    network.avgpool = nn.AdaptiveAvgPool2d(7)
    network.classifier = nn.Sequential(
        nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(0.0),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4096, classes),
    )  # fmt: skip

    def forward(x: Any) -> Any:
        return network.classifier(torch.flatten(network.avgpool(network.features(x)), 1))

    network.forward = forward
    return network
