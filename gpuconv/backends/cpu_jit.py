"""Engine ``cpu:jit``: kernels that Numba compiles for the CPU on which they run.

Convolution runs on one micro-kernel (gpuconv_kernels/host/microkernel.py), directly on the images:
no column matrix, no padded copy. What BLAS and NumPy do as well is inherited from ``cpu:numpy``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gpuconv.backends import cpu_probe
from gpuconv.backends.base import Array, Plan, Probe, Refusal
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import cache_folder
from gpuconv_kernels.array import activations
from gpuconv_kernels.host import direct, target, weight_gradient


class CpuJit(CpuNumpy):
    """Direct convolution on the micro-kernel; NumPy for the rest."""

    name: ClassVar[str] = "cpu:jit"
    device: ClassVar[str] = "cpu"

    @classmethod
    def probe(cls) -> Probe:
        return cpu_probe.probe_compiler()

    def __init__(self) -> None:
        target.keep_compiled_in(cache_folder() / "kernels")

    def plan(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, workspace_limit: int
    ) -> Plan | Refusal:
        if isinstance(geometry, PoolGeometry):
            return super().plan(op, geometry, dtype, workspace_limit)
        if op == "conv_backward_weight":
            return Plan(
                "direct",
                weight_gradient.workspace_bytes(geometry, dtype),
                "channels of all pixels on the micro-kernel, no columns",
            )
        backward = op == "conv_backward_input"
        find = direct.backward_input_workspace_bytes if backward else direct.workspace_bytes
        return Plan(
            "direct",
            find(geometry, dtype),
            "pixels of all taps on the micro-kernel, no columns",
        )

    # --- convolution -----------------------------------------------------------------

    def conv_forward(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        workspace_limit: int,
        activation: Activation | None = None,
    ) -> Array:
        y = np.empty(geometry.y_shape, x.dtype)
        relu = activation is not None and activation.kind == "relu"
        bias = None if bias is None else np.ascontiguousarray(bias)
        direct.conv_forward(_by_channels(x), np.ascontiguousarray(w), bias, y, geometry, relu)
        if activation is not None and not relu:
            activations.add_bias_activate(y, None, activation)
        return y

    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dx = np.empty(geometry.x_shape, dy.dtype)
        direct.conv_backward_input(_by_channels(dy), np.ascontiguousarray(w), dx, geometry)
        return dx

    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dw = np.empty(geometry.w_shape, dy.dtype)
        weight_gradient.conv_backward_weight(_by_channels(dy), _by_channels(x), dw, geometry)
        return dw


def _by_channels(array: Array) -> Array:
    """The array itself, or a copy, with each pixel's channels next to each other."""
    beside = array.shape[-1] <= 1 or array.strides[-1] == array.itemsize
    return array if beside else np.ascontiguousarray(array)
