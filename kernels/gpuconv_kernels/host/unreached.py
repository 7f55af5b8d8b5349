"""Zeros in the gradient of the input where no tap reaches.

With a kernel that is smaller than its stride most of the input is never looked at::

    a 1x1 kernel of stride 2        x 0 x 0 x 0      x: what the convolution of a phase writes
                                    0 0 0 0 0 0      a line of zeros, in one piece
                                    x 0 x 0 x 0      pixels of zeros

A task is a line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, clear, number_at
from gpuconv_kernels.host.parallel import run, take

Array = Any


def fill(dx: Array, geometry: Any) -> None:
    """Clear those pixels of ``dx`` (N, *in, C) that belong to phases without taps.

    The channels of ``dx`` lie together; its other axes have any steps.
    """
    reached = _reached(geometry)
    if reached is None or not dx.size:
        return
    run(
        _kernel(),
        math.prod(dx.shape[:-2]),
        address(dx),
        address(reached),
        dx.shape[-1] * dx.itemsize,
        three(geometry.input, 1),
        three(geometry.stride, 1),
        (dx.strides[0], *three(dx.strides[1:-1], 0)),
    )


@functools.lru_cache(maxsize=1024)
def _reached(geometry: Any) -> Array | None:
    """For each residue of each dimension, one after the other, whether a tap reaches it.

    None: all of them.
    """
    phases = geometry.backward_input_phases
    if all(phase.geometry is not None for phase in phases):
        return None
    stride, missing = three(geometry.stride, 1), 3 - geometry.rank
    flags: Array = np.zeros(sum(stride), np.int64)
    flags[:missing] = 1
    for dimension in range(geometry.rank):
        first = sum(stride[: missing + dimension])
        for phase in phases:
            if phase.taps[dimension]:
                flags[first + phase.offset[dimension]] = 1
    return flags


@functools.cache
def _kernel() -> Any:
    return Kernel(define())


def define() -> Callable[..., None]:
    """Return the kernel as a plain function."""
    word = number_at("int64")

    def fill_lines(counter, tasks, dx, reached, of_pixel, input, stride, steps):  # type: ignore[no-untyped-def]
        # of_pixel, steps (image, depth, height, width): in bytes
        task = take(counter)
        while task < tasks:
            q1, rest = task % input[1], task // input[1]
            q0, image = rest % input[0], rest // input[0]
            line = dx + image * steps[0] + q0 * steps[1] + q1 * steps[2]
            met = word(reached, q0 % stride[0]) and word(reached, stride[0] + q1 % stride[1])
            if not met and steps[3] == of_pixel:
                clear(line, input[2] * of_pixel)
            else:
                for q2 in range(input[2]):
                    if not met or not word(reached, stride[0] + stride[1] + q2 % stride[2]):
                        clear(line + q2 * steps[3], of_pixel)
            task = take(counter)

    return fill_lines
