"""Engine ``cpu:jit``: kernels that Numba compiles for the CPU on which they run.

Convolution runs on one micro-kernel (gpuconv_kernels/host/microkernel.py), directly on the images:
no column matrix, no padded copy. What BLAS and NumPy do as well is inherited from ``cpu:numpy``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from gpuconv.backends import cpu_probe, cpu_products
from gpuconv.backends.allocation import keep_freed_memory
from gpuconv.backends.base import Array, Plan, Probe, Refusal
from gpuconv.backends.cpu_jit_plans import choose_way
from gpuconv.backends.cpu_jit_weights import KeptWeights
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import cache_folder
from gpuconv_kernels.host import activations as elementwise
from gpuconv_kernels.host import (
    avg_pooling,
    bias_gradient,
    depthwise,
    direct,
    gates,
    max_pooling,
    normalization,
    softmax,
    target,
    updates,
    weight_gradient,
    winograd,
    winograd_gradient,
)
from gpuconv_kernels.host.memory import empty
from gpuconv_kernels.host.rows import name_of

_FEW_NUMBERS = 64 * 1024
"""Below, one pass of NumPy over rows costs no more than starting a kernel and its threads."""


class CpuJit(CpuNumpy):
    """Convolution and products on the micro-kernel, other compiled kernels, NumPy for the rest."""

    name: ClassVar[str] = "cpu:jit"
    device: ClassVar[str] = "cpu"

    @classmethod
    def probe(cls) -> Probe:
        return cpu_probe.probe_compiler()

    def __init__(self) -> None:
        target.keep_compiled_in(cache_folder() / "kernels")
        keep_freed_memory()

    def plan(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, workspace_limit: int
    ) -> Plan | Refusal:
        if isinstance(geometry, PoolGeometry):
            return Plan("windows", 0, "channels of each output's window in registers, one pass")
        return choose_way(op, geometry, dtype, workspace_limit).plan

    # --- weights that do not change --------------------------------------------------

    def prepare_weights(self, w: Array) -> Any:
        return KeptWeights(w)

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
        return _convolve(x, w, bias, None, geometry, workspace_limit, activation)

    def conv_add_forward(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        residual: Array,
        geometry: ConvGeometry,
        workspace_limit: int,
        activation: Activation | None = None,
    ) -> Array:
        return _convolve(x, w, bias, residual, geometry, workspace_limit, activation)

    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dx = empty(geometry.x_shape, dy.dtype)
        dy, w = _by_channels(dy), np.ascontiguousarray(w)
        way = choose_way("conv_backward_input", geometry, name_of(dx.dtype), workspace_limit)
        if way.tile:
            winograd.conv_backward_input(dy, w, dx, geometry, way.tile, limit=way.limit)
        elif depthwise.covers(geometry):
            depthwise.conv_backward_input(dy, w, dx, geometry)
        else:
            direct.conv_backward_input(dy, w, dx, geometry)
        return dx

    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dw = empty(geometry.w_shape, dy.dtype)
        dy, x = _by_channels(dy), _by_channels(x)
        way = choose_way("conv_backward_weight", geometry, name_of(dw.dtype), workspace_limit)
        if way.tile:
            winograd_gradient.conv_backward_weight(dy, x, dw, geometry, way.tile, way.limit)
        elif depthwise.covers(geometry):
            depthwise.conv_backward_weight(dy, x, dw, geometry)
        else:
            weight_gradient.conv_backward_weight(dy, x, dw, geometry)
        return dw

    def sum_channels(self, dy: Array) -> Array:
        sums = np.empty(dy.shape[-1:], dy.dtype)
        normalization.sum_channels(dy, sums)
        return sums

    # --- pooling ---------------------------------------------------------------------

    def max_pool(
        self, x: Array, geometry: PoolGeometry, with_indices: bool
    ) -> tuple[Array, Array | None]:
        return max_pooling.max_pool(x, geometry, with_indices)

    def max_pool_backward(self, dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
        return max_pooling.max_pool_backward(dy, indices, geometry)

    def avg_pool(self, x: Array, geometry: PoolGeometry) -> Array:
        return avg_pooling.avg_pool(x, geometry)

    def avg_pool_backward(self, dy: Array, geometry: PoolGeometry) -> Array:
        return avg_pooling.avg_pool_backward(dy, geometry)

    # --- matrix products -------------------------------------------------------------

    def dense(
        self, x: Array, w: Array, bias: Array | None, activation: Activation | None = None
    ) -> Array:
        kept = w if isinstance(w, KeptWeights) else None
        w = w if kept is None else kept.values
        y = cpu_products.dense(x, w, bias, activation, kept) if x.dtype == w.dtype else None
        if y is None:
            y = np.matmul(x, w)
            _finish(y, bias, activation)
        return y

    def gemm(self, a: Array, b: Array) -> Array:
        y = cpu_products.gemm(a, b)
        return np.matmul(a, b) if y is None else y

    # --- element-wise ----------------------------------------------------------------

    def activation(self, x: Array, activation: Activation) -> Array:
        y = empty(x.shape, x.dtype)
        elementwise.forward(x, y, activation.kind, activation.alpha)
        return y

    def activation_backward(
        self, dy: Array, x: Array | None, y: Array | None, activation: Activation
    ) -> Array:
        dx = empty(dy.shape, dy.dtype)
        z = y if activation.from_output else x
        elementwise.backward(dy, z, dx, activation.kind, activation.alpha)
        return dx

    def activation_with_gradient(
        self, x: Array, activation: Activation
    ) -> tuple[Array, Callable[[Array], Array]]:
        if activation.kind not in gates.GATES:
            return super().activation_with_gradient(x, activation)
        y = empty(x.shape, x.dtype)
        bits = np.empty(gates.bytes_for(y.size), np.uint8)
        gates.forward(x, y, bits, activation.kind)

        def backward(dy: Array) -> Array:
            dx = empty(dy.shape, dy.dtype)
            gates.backward(dy, bits, dx)
            return dx

        return y, backward

    def activation_backward_with_sums(
        self, dy: Array, y: Array, activation: Activation
    ) -> tuple[Array, Array]:
        dz, sums = empty(dy.shape, dy.dtype), np.empty(dy.shape[-1:], dy.dtype)
        bias_gradient.backward(dy, y, dz, sums, activation.kind, activation.alpha)
        return dz, sums

    # --- softmax ---------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        y = empty(x.shape, x.dtype)
        softmax.softmax(x, y)
        return y

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        if y.size < _FEW_NUMBERS:
            return super().softmax_backward(dy, y)
        dx = empty(y.shape, y.dtype)
        softmax.softmax_backward(dy, y, dx)
        return dx

    def softmax_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        losses = np.empty(logits.shape[:1], logits.dtype)
        probabilities = empty(logits.shape, logits.dtype)
        softmax.softmax_cross_entropy(logits, targets, losses, probabilities)
        return losses, probabilities

    def softmax_cross_entropy_backward(
        self, probabilities: Array, targets: Array, scale: Array
    ) -> Array:
        if probabilities.size < _FEW_NUMBERS:
            return super().softmax_cross_entropy_backward(probabilities, targets, scale)
        dx = empty(probabilities.shape, probabilities.dtype)
        softmax.softmax_cross_entropy_backward(probabilities, targets, scale, dx)
        return dx

    # --- normalisation ---------------------------------------------------------------

    def moments(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        if not normalization.covers(x, axes):
            return super().moments(x, axes)
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        mean, variance = np.empty(shape, x.dtype), np.empty(shape, x.dtype)
        normalization.moments(x, mean, variance)
        return mean, variance

    def normalize(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        scale: Array | None,
        offset: Array | None,
        epsilon: float,
    ) -> Array:
        if not normalization.by_channel(x, mean, variance, scale, offset):
            return super().normalize(x, mean, variance, scale, offset, epsilon)
        y = empty(x.shape, x.dtype)
        normalization.normalize(x, mean, variance, scale, offset, epsilon, y)
        return y

    def normalize_backward(
        self,
        dy: Array,
        x: Array,
        mean: Array,
        variance: Array,
        scale: Array | None,
        epsilon: float,
        axes: tuple[int, ...],
        parameter_axes: tuple[int, ...],
        batch_statistics: bool,
        input_gradient: bool,
    ) -> tuple[Array | None, Array, Array]:
        covered = normalization.covers(x, axes, parameter_axes)
        if not covered or not normalization.by_channel(x, mean, variance, scale):
            return super().normalize_backward(
                dy,
                x,
                mean,
                variance,
                scale,
                epsilon,
                axes,
                parameter_axes,
                batch_statistics,
                input_gradient,
            )
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        dx = empty(x.shape, x.dtype) if input_gradient else None
        dscale, doffset = np.empty(shape, x.dtype), np.empty(shape, x.dtype)
        normalization.normalize_backward(
            dy, x, mean, variance, scale, epsilon, batch_statistics, dx, dscale, doffset
        )
        return dx, dscale, doffset

    # --- optimizer updates, in place -------------------------------------------------

    def updating(self) -> contextlib.AbstractContextManager[None]:
        return updates.together()

    def sgd_update(
        self,
        value: Array,
        gradient: Array,
        velocity: Array | None,
        learning_rate: float,
        momentum: float,
        nesterov: bool,
        torch_form: bool,
        first: bool,
    ) -> None:
        updates.sgd_update(
            value, gradient, velocity, learning_rate, momentum, nesterov, torch_form, first
        )

    def adam_update(
        self,
        value: Array,
        gradient: Array,
        first_moment: Array,
        second_moment: Array,
        learning_rate: float,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        step: int,
        epsilon_after_correction: bool,
    ) -> None:
        updates.adam_update(
            value,
            gradient,
            first_moment,
            second_moment,
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            step,
            epsilon_after_correction,
        )

    def rmsprop_update(
        self,
        value: Array,
        gradient: Array,
        mean_square: Array,
        mean_gradient: Array | None,
        velocity: Array | None,
        learning_rate: float,
        rho: float,
        momentum: float,
        epsilon: float,
        epsilon_inside_root: bool,
    ) -> None:
        updates.rmsprop_update(
            value,
            gradient,
            mean_square,
            mean_gradient,
            velocity,
            learning_rate,
            rho,
            momentum,
            epsilon,
            epsilon_inside_root,
        )

    def adagrad_update(
        self,
        value: Array,
        gradient: Array,
        accumulator: Array,
        learning_rate: float,
        epsilon: float,
        epsilon_inside_root: bool,
    ) -> None:
        updates.adagrad_update(
            value, gradient, accumulator, learning_rate, epsilon, epsilon_inside_root
        )


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    residual: Array | None,
    geometry: ConvGeometry,
    workspace_limit: int,
    activation: Activation | None,
) -> Array:
    """``activation(convolution + bias + residual)``; ``w`` may be ``KeptWeights``."""
    y = empty(geometry.y_shape, x.dtype)
    kept = w if isinstance(w, KeptWeights) else None
    x, w = _by_channels(x), np.ascontiguousarray(w) if kept is None else kept.values
    bias = None if bias is None else np.ascontiguousarray(bias)
    way = choose_way("conv_forward", geometry, name_of(y.dtype), workspace_limit)
    residual = None if residual is None else np.require(residual, requirements=["C", "A"])
    if way.tile:
        filters = None if kept is None else kept.transformed(way.tile)
        winograd.conv_forward(
            x, w, bias, y, geometry, activation, way.tile, filters, way.limit, residual
        )
    elif depthwise.covers(geometry):
        depthwise.conv_forward(x, w, bias, y, geometry, activation, residual)
    else:
        packed = None if kept is None else kept.packed(geometry.groups)
        direct.conv_forward(x, w, bias, y, geometry, activation, packed, residual)
    return y


def _by_channels(array: Array) -> Array:
    """The array itself, or a copy, with each pixel's channels next to each other."""
    beside = array.shape[-1] <= 1 or array.strides[-1] == array.itemsize
    return array if beside else np.ascontiguousarray(array)


def _finish(y: Array, bias: Array | None, activation: Activation | None) -> None:
    """``y = activation(y + bias)`` in place."""
    kind, alpha = (None, 0.0) if activation is None else (activation.kind, activation.alpha)
    if bias is not None:
        elementwise.add_bias(y, bias, kind, alpha)
    elif kind is not None:
        elementwise.forward(y, y, kind, alpha)
