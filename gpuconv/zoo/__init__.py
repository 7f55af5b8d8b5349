"""Known networks, ready to train or to take weights from elsewhere."""

from gpuconv.zoo.classic import alexnet, lenet5, vgg11, vgg16
from gpuconv.zoo.mobile import mobilenet_v2
from gpuconv.zoo.residual import resnet18, resnet34, resnet50
from gpuconv.zoo.small import digits_network, seed_network

__all__ = [
    "alexnet",
    "digits_network",
    "lenet5",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "seed_network",
    "vgg11",
    "vgg16",
]
