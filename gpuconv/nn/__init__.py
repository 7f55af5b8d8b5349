"""The layers of ``gpuconv.layers`` under PyTorch 2.13's names, signatures and initial values.

``nn.Conv2d(3, 8, 3)`` is a function that returns a ``gpuconv.layers.Conv2D``, and so on: no second
implementation. Inputs are channels-first, and layers that know their channels have parameters at
once. What stays as everywhere in gpuconv:

- a call is ``y = layer(x)`` or ``y, backward = layer.forward(x, training=True)``; training is an
  argument, there is no ``train()`` and ``eval()``;
- inputs have a batch axis;
- ``layer.parameters`` is a list, and kernels are stored as ``(*k, in/groups, out)``;
- layers without parameters keep the dtype of floating inputs; the others cast to theirs.
"""

from gpuconv.nn import optim
from gpuconv.nn.activation import (
    ELU,
    GELU,
    Dropout,
    Dropout2d,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from gpuconv.nn.containers import Sequential
from gpuconv.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from gpuconv.nn.linear import Linear
from gpuconv.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, MSELoss
from gpuconv.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from gpuconv.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from gpuconv.nn.resizing import Flatten, Upsample, ZeroPad2d

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GroupNorm",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample",
    "ZeroPad2d",
    "optim",
]
