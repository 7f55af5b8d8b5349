"""Depthwise convolution (one input channel a group) tap by tap, in boxes that stay in cache.

With a single input channel a group there is nothing for a matrix product to reduce over: im2col
would copy ``taps`` times the input to compute ``taps`` products for each number. Instead each
tap adds its shifted, scaled copy of the input. ``m = F/C`` outputs an input channel, output
channel ``c*m + j``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuconv_kernels.array.boxes import (
    NDArray,
    block_extents,
    box_shape,
    boxes,
    gather_block,
    slices,
    tap_view,
)
from gpuconv_kernels.array.im2col import Convolution, Epilogue

BOX_BYTES = 256 * 1024
"""Output bytes of a box: output, product and input of one box together fit a 1 MiB L2."""


class Workspace:
    """Box shape and scratch sizes of one depthwise convolution under a limit in bytes."""

    def __init__(self, g: Convolution, itemsize: int, limit: int) -> None:
        self.extents = (g.batch, *g.output)
        positions = max(min(BOX_BYTES, limit) // (g.out_channels * itemsize), 1)
        while True:
            self.shape = box_shape(self.extents, positions)
            self.product = math.prod(self.shape) * g.out_channels
            self.block = (
                self.shape[0]
                * math.prod(block_extents(self.shape[1:], g.kernel, g))
                * g.in_channels
            )
            self.bytes = (self.product + self.block) * itemsize
            if self.bytes <= limit or positions == 1:
                break
            positions = max(min(positions, math.prod(self.shape)) // 2, 1)

    def scratch(self, dtype: Any) -> tuple[NDArray, NDArray]:
        """Allocate one product and the padded block."""
        return np.empty(self.product, dtype), np.empty(self.block, dtype)


def forward(
    x: NDArray,
    w: NDArray,
    y: NDArray,
    g: Convolution,
    workspace: Workspace,
    epilogue: Epilogue | None = None,
) -> None:
    """Write the C-contiguous ``y`` (N, *out, C*m)."""
    product_scratch, block_scratch = workspace.scratch(y.dtype)
    multiplier = g.out_channels // g.in_channels
    weights = w.reshape(*g.kernel, g.in_channels, multiplier)
    split = y.reshape(*y.shape[:-1], g.in_channels, multiplier)
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        block = gather_block(x, box, g.kernel, g, block_scratch).array
        target = split[slices(box)]
        product = product_scratch[: target.size].reshape(target.shape)
        target.fill(0)
        for tap in np.ndindex(*g.kernel):
            np.multiply(tap_view(block, tap, shape[1:], g)[..., None], weights[tap], out=product)
            target += product
        if epilogue is not None:
            epilogue(y[slices(box)])


def backward_weight(
    dy: NDArray, x: NDArray, dw: NDArray, g: Convolution, workspace: Workspace
) -> None:
    """Write ``dw`` (*k, 1, C*m): for each tap the sum over positions of input times ``dy``."""
    product_scratch, block_scratch = workspace.scratch(dw.dtype)
    multiplier = g.out_channels // g.in_channels
    total = np.zeros((*g.kernel, g.in_channels, multiplier), dw.dtype)
    split = dy.reshape(*dy.shape[:-1], g.in_channels, multiplier)
    for box in boxes(workspace.extents, workspace.shape):
        shape = tuple(stop - start for start, stop in box)
        block = gather_block(x, box, g.kernel, g, block_scratch).array
        gradient = split[slices(box)]
        product = product_scratch[: gradient.size].reshape(gradient.shape)
        for tap in np.ndindex(*g.kernel):
            np.multiply(tap_view(block, tap, shape[1:], g)[..., None], gradient, out=product)
            total[tap] += product.reshape(-1, *total.shape[-2:]).sum(axis=0)
    dw[...] = total.reshape(dw.shape)
