"""What a layer costs: its multiply-adds, and what the dispatcher decides for it."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.dispatch import Decision, select
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.layers.base import Layer
from gpuconv.layers.convolution import ConvND
from gpuconv.layers.dense import Dense
from gpuconv.layers.depthwise import DepthwiseBase
from gpuconv.layers.pooling import AveragePoolingND, MaxPoolingND
from gpuconv.layers.transposed import ConvTransposeND
from gpuconv.ops.layouts import shape_last


def flops_of(layer: Layer, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
    """Twice the multiply-adds of a layer's forward pass: convolutions and dense layers, else 0.

    Args:
        layer: a built layer.
        x_shape, y_shape: of its input and output, the batch first.
    """
    if isinstance(layer, Dense):
        return 2 * math.prod(y_shape[:-1]) * layer.kernel.size
    if isinstance(layer, ConvTransposeND):  # every input pixel is spread over the kernel
        return 2 * _positions(layer, x_shape) * layer.kernel.size
    if isinstance(layer, (ConvND, DepthwiseBase)):
        weights = sum(p.size for p in layer.parameters if p.value.ndim > 1)
        return 2 * _positions(layer, y_shape) * weights
    return 0


def decisions_of(layer: Layer, x_shape: tuple[int, ...], dtype: str) -> dict[str, Decision]:
    """Return what the dispatcher decides for a layer, by operation, the forward one first.

    Args:
        layer: a built layer; those for which there is no choice give an empty dict.
        x_shape: of its input, the batch first.
        dtype: of its input.

    A separable convolution gives the decisions of its depthwise step.
    """
    device = layer.backend or "cpu"
    return {op: select(op, geometry, dtype, device) for op, geometry in _operations(layer, x_shape)}


def _operations(
    layer: Layer, x_shape: tuple[int, ...]
) -> list[tuple[str, ConvGeometry | PoolGeometry]]:
    if not isinstance(
        layer, (ConvND, DepthwiseBase, ConvTransposeND, MaxPoolingND, AveragePoolingND)
    ):
        return []
    shape = shape_last(tuple(x_shape), layer.channels_first)
    if isinstance(layer, (MaxPoolingND, AveragePoolingND)):
        kind = "max_pool" if isinstance(layer, MaxPoolingND) else "avg_pool"
        window = layer.geometry(shape)
        return [(kind, window), (f"{kind}_backward", window)]
    if isinstance(layer, DepthwiseBase):
        geometry = layer.depthwise_problem(shape).geometry
    else:
        geometry = layer._problem(shape).geometry
    names = ["conv_forward", "conv_backward_input", "conv_backward_weight"]
    if isinstance(layer, ConvTransposeND):  # it runs the convolution the other way round
        names[:2] = names[1::-1]
    return [(name, geometry) for name in names]


def _positions(layer: Any, shape: tuple[int, ...]) -> int:
    """Number of pixels in a batch."""
    return math.prod(shape_last(shape, layer.channels_first)[:-1])
