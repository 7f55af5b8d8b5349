"""Engine ``cuda:cupy``: cuBLAS under the matrix products, CUDA C++ kernels for the rest.

Convolution is im2col + GEMM under the workspace limit; everything around it is one fused kernel an
operation, in :mod:`gpuconv_kernels.raw`, compiled by NVRTC when first used. The engine's logic is
written over a small runtime object, so that it runs in tests on a machine without a GPU.

The workspace that a plan states is what the engine allocates. Inputs that are not contiguous
are copied first, and cuBLAS has some megabytes of its own.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from gpuconv.backends import cost, cuda_probe
from gpuconv.backends.base import Array, Engine, Plan, Probe, Refusal
from gpuconv.backends.device_profile import DeviceProfile, current_profile
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv_kernels.raw import (
    activations,
    convolution,
    depthwise,
    normalization,
    padding,
    pooling,
    random,
    softmax,
    sums,
    updates,
    windows,
)
from gpuconv_kernels.raw.runtime import Runtime

_MOST_DEPTH = 2**31 - 1
"""Numbers of one row of the column matrix that a kernel counts in 32 bits."""


class CudaCupy(Engine):
    """im2col + cuBLAS for convolution, fused kernels for the rest.

    Args:
        runtime: where to run; by default the GPU, through CuPy, looked for when first needed.
        profile: of the device, for predicted times; by default the GPU's, None without one.
    """

    name: ClassVar[str] = "cuda:cupy"
    device: ClassVar[str] = "cuda"

    def __init__(
        self, runtime: Runtime | None = None, profile: DeviceProfile | None = None
    ) -> None:
        self._given = runtime
        self._given_profile = profile

    @cached_property
    def _profile(self) -> DeviceProfile | None:
        if self._given_profile is not None or self._given is not None:
            return self._given_profile
        return current_profile("cuda") if cuda_probe.probe_cuda().available else None

    @cached_property
    def _rt(self) -> Runtime:
        if self._given is not None:
            return self._given
        from gpuconv.backends.cupy_runtime import CupyRuntime

        return CupyRuntime()

    @classmethod
    def probe(cls) -> Probe:
        driver = cuda_probe.probe_driver()
        if not driver.available:
            return driver
        cupy = cuda_probe.probe_cupy()
        return Probe(True, f"{driver.reason}; {cupy.reason}") if cupy.available else cupy

    def plan(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, workspace_limit: int
    ) -> Plan | Refusal:
        if isinstance(geometry, PoolGeometry):
            return plan_pooling(op, geometry, dtype, self._profile)
        return plan_convolution(op, geometry, dtype, workspace_limit, self._profile)

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
        rt = self._rt
        x, w, bias = self._contiguous(x, w, bias)
        y = rt.empty(geometry.y_shape, x.dtype)
        if geometry.is_depthwise:
            depthwise.forward(rt, x, w, bias, y, geometry, activation)
            return y

        def epilogue(rows: Array) -> None:
            activations.add_bias_activate(rt, rows, bias, activation)

        fused = epilogue if bias is not None or activation is not None else None
        convolution.forward(rt, x, w, y, geometry, workspace_limit, fused)
        return y

    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        rt = self._rt
        dy, w = self._contiguous(dy, w)
        if geometry.is_depthwise:
            dx = rt.empty(geometry.x_shape, dy.dtype)
            depthwise.backward_input(rt, dy, w, dx, geometry)
            return dx
        itemsize = rt.xp.finfo(dy.dtype).bits // 8
        whole = geometry.is_pointwise or (
            convolution.chunks(geometry, itemsize, workspace_limit).whole_samples
        )
        dx = (rt.empty if whole else rt.zeros)(geometry.x_shape, dy.dtype)
        convolution.backward_input(rt, dy, w, dx, geometry, workspace_limit)
        return dx

    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        rt = self._rt
        dy, x = self._contiguous(dy, x)
        if geometry.batch == 0:
            return rt.zeros(geometry.w_shape, dy.dtype)
        dw = rt.empty(geometry.w_shape, dy.dtype)
        backward = depthwise if geometry.is_depthwise else convolution
        backward.backward_weight(rt, dy, x, dw, geometry, workspace_limit)
        return dw

    def sum_channels(self, dy: Array) -> Array:
        return sums.sum_channels(self._rt, self._rt.contiguous(dy))

    # --- padding ---------------------------------------------------------------------

    def pad(self, x: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        return padding.pad(self._rt, self._rt.contiguous(x), pads, mode)

    def pad_backward(self, dy: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        return padding.pad_backward(self._rt, self._rt.contiguous(dy), pads, mode)

    # --- pooling ---------------------------------------------------------------------

    def max_pool(
        self, x: Array, geometry: PoolGeometry, with_indices: bool
    ) -> tuple[Array, Array | None]:
        return pooling.max_pool(self._rt, self._rt.contiguous(x), geometry, with_indices)

    def max_pool_backward(self, dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
        dy, indices = self._contiguous(dy, indices)
        return pooling.max_pool_backward(self._rt, dy, indices, geometry)

    def avg_pool(self, x: Array, geometry: PoolGeometry) -> Array:
        return pooling.avg_pool(self._rt, self._rt.contiguous(x), geometry)

    def avg_pool_backward(self, dy: Array, geometry: PoolGeometry) -> Array:
        return pooling.avg_pool_backward(self._rt, self._rt.contiguous(dy), geometry)

    # --- matrix products -------------------------------------------------------------

    def dense(
        self, x: Array, w: Array, bias: Array | None, activation: Activation | None = None
    ) -> Array:
        y = self.gemm(x, w)
        if bias is not None or activation is not None:
            (bias,) = self._contiguous(bias)
            activations.add_bias_activate(self._rt, y, bias, activation)
        return y

    def gemm(self, a: Array, b: Array) -> Array:
        rt = self._rt
        out = rt.empty((a.shape[0], b.shape[1]), a.dtype)
        a, b = rt.factor(a), rt.factor(b)
        rt.multiply(a[None, ...], b[None, ...], out[None, ...])
        return out

    # --- element-wise ----------------------------------------------------------------

    def activation(self, x: Array, activation: Activation) -> Array:
        return activations.forward(self._rt, self._rt.contiguous(x), activation)

    def activation_backward(
        self, dy: Array, x: Array | None, y: Array | None, activation: Activation
    ) -> Array:
        dy, z = self._contiguous(dy, y if activation.from_output else x)
        return activations.backward(self._rt, dy, z, activation)

    # --- softmax ---------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        return softmax.softmax(self._rt, self._rt.contiguous(x))

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        return softmax.softmax_backward(self._rt, *self._contiguous(dy, y))

    def softmax_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        logits, targets = self._contiguous(logits, self._targets(targets, logits.dtype))
        return softmax.softmax_cross_entropy(self._rt, logits, targets)

    def softmax_cross_entropy_backward(
        self, probabilities: Array, targets: Array, scale: Array
    ) -> Array:
        dtype = probabilities.dtype
        scale = self._rt.cast(scale, dtype)
        operands = self._contiguous(probabilities, self._targets(targets, dtype), scale)
        return softmax.softmax_cross_entropy_backward(self._rt, *operands)

    # --- normalisation ---------------------------------------------------------------

    def moments(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        return normalization.moments(self._rt, self._rt.contiguous(x), axes)

    def normalize(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        scale: Array | None,
        offset: Array | None,
        epsilon: float,
    ) -> Array:
        x, mean, variance, scale, offset = self._contiguous(x, mean, variance, scale, offset)
        return normalization.normalize(self._rt, x, mean, variance, scale, offset, epsilon)

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
        dy, x, mean, variance, scale = self._contiguous(dy, x, mean, variance, scale)
        return normalization.normalize_backward(
            self._rt,
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

    # --- random numbers --------------------------------------------------------------

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, key: tuple[int, int], dtype: str
    ) -> Array:
        return random.dropout_mask(self._rt, shape, rate, key, getattr(self._rt.xp, dtype))

    # --- optimizer updates, in place -------------------------------------------------

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
        gradient = self._rt.contiguous(gradient)
        updates.sgd_update(
            self._rt,
            value,
            gradient,
            velocity,
            learning_rate,
            momentum,
            nesterov,
            torch_form,
            first,
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
            self._rt,
            value,
            self._rt.contiguous(gradient),
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
            self._rt,
            value,
            self._rt.contiguous(gradient),
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
        gradient = self._rt.contiguous(gradient)
        updates.adagrad_update(
            self._rt, value, gradient, accumulator, learning_rate, epsilon, epsilon_inside_root
        )

    def _contiguous(self, *arrays: Array | None) -> tuple[Any, ...]:
        return tuple(None if a is None else self._rt.contiguous(a) for a in arrays)

    def _targets(self, targets: Array, dtype: Any) -> Array:
        """Class numbers as int64, probabilities in the dtype of the logits."""
        return self._rt.cast(targets, self._rt.xp.int64 if targets.ndim == 1 else dtype)


def plan_convolution(
    op: str, g: ConvGeometry, dtype: str, limit: int, profile: DeviceProfile | None
) -> Plan | Refusal:
    """How a convolution would be done, from its integers alone; in what time, given a profile."""
    refusal = windows.too_large(g)
    if g.taps * g.in_channels > _MOST_DEPTH:
        refusal = f"one window reads {g.taps * g.in_channels} numbers, more than 2^31"
    if refusal is not None:
        return Refusal(refusal)
    if g.is_depthwise:
        return _plan_depthwise(op, g, dtype, limit, profile)
    if g.is_pointwise:
        return _plan(
            "gemm", 0, "", None if profile is None else cost.pointwise_gemm(profile, op, g, dtype)
        )
    cut = convolution.chunks(g, np.dtype(dtype).itemsize, limit)
    note = "at once" if cut.number <= 1 else f"in {cut.number} chunks of {cut.rows} positions"
    if cut.bytes > limit:
        note += f"; one position needs {cut.row_bytes} bytes, more than the limit of {limit}"
    if op == "conv_backward_input":
        estimate = None if profile is None else cost.col2im(profile, g, dtype, cut.number)
        return _plan("gemm+col2im", cut.bytes, note, estimate)
    estimate = None if profile is None else cost.im2col_gemm(profile, op, g, dtype, cut.number)
    return _plan("im2col+gemm", cut.bytes, note, estimate)


def _plan_depthwise(
    op: str, g: ConvGeometry, dtype: str, limit: int, profile: DeviceProfile | None
) -> Plan:
    tile = (1,) * g.rank  # nothing is staged: each output reads its window through the caches
    if op != "conv_backward_weight":
        return _plan(
            "direct", 0, "", None if profile is None else cost.direct(profile, op, g, dtype, tile)
        )
    cut = depthwise.segments(g, limit)
    note = f"summed in {cut.number} segments"
    if cut.bytes > limit:
        note += f"; they need {cut.bytes} bytes, more than the limit of {limit}"
    estimate = None if profile is None else cost.direct(profile, op, g, dtype, tile, launches=2)
    return _plan("direct+reduction", cut.bytes, note, estimate)


def plan_pooling(
    op: str, g: PoolGeometry, dtype: str, profile: DeviceProfile | None
) -> Plan | Refusal:
    """How a pooling would be done; in what time, given a profile."""
    refusal = windows.too_large(g)
    if refusal is not None:
        return Refusal(refusal)
    estimate = None if profile is None else cost.pooling(profile, op, g, dtype)
    if op == "avg_pool" and g.is_global and g.divisor_override is None:
        needed = sums.workspace_bytes((g.batch, g.taps, g.channels), (1,))
        return _plan("reduction", needed, "", estimate)
    return _plan("gather", 0, "", estimate)


_WHY = {
    "gemm": "1x1, stride 1, no padding: the pixels are the column matrix already",
    "gemm+col2im": "dy times the weights by cuBLAS; each input gathers its columns",
    "im2col+gemm": "columns, multiplied by cuBLAS",
    "direct": "one input channel a group: nothing for a matrix product to reduce over",
    "direct+reduction": "one input channel a group: nothing for a matrix product to reduce over",
    "reduction": "one window: the mean of each plane, in two stages",
    "gather": "each result reads what it depends on",
}


def _plan(algorithm: str, workspace: int, note: str, estimate: cost.Estimate | None) -> Plan:
    words = _WHY[algorithm] if estimate is None else estimate.words
    reason = f"{words}; {note}" if note else words
    return Plan(algorithm, workspace, reason, None if estimate is None else estimate.seconds)
