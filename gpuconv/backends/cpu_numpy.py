"""Engine ``cpu:numpy``: whole-array NumPy, with BLAS under the matrix products.

Needs nothing but NumPy and supports everything in the contract, so it is also what the other
engines are tested against and what runs where nothing can be compiled.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import ClassVar

import numpy as np

from gpuconv.backends.base import Array, Engine, Plan, Probe, Refusal
from gpuconv.backends.cpu_probe import blas_name
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.random import generator_for
from gpuconv_kernels.array import (
    activations,
    col2im,
    depthwise,
    im2col,
    normalization,
    padding,
    pooling,
    softmax,
    updates,
)
from gpuconv_kernels.array.reductions import sum_rows


class CpuNumpy(Engine):
    """im2col + BLAS for convolution, NumPy for the rest."""

    name: ClassVar[str] = "cpu:numpy"
    device: ClassVar[str] = "cpu"

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, f"NumPy {np.__version__} with {blas_name()}")

    def plan(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, workspace_limit: int
    ) -> Plan | Refusal:
        if isinstance(geometry, PoolGeometry):
            return _plan_pooling(op, geometry, dtype)
        if op == "conv_backward_input":
            return _plan_backward_input(geometry, dtype, workspace_limit)
        return _plan_product(geometry, dtype, workspace_limit, op == "conv_backward_weight")

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
        epilogue = None
        if bias is not None or activation is not None:
            epilogue = partial(activations.add_bias_activate, bias=bias, activation=activation)
        _forward_into(y, x, w, geometry, workspace_limit, epilogue)
        return y

    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dx = np.empty(geometry.x_shape, dy.dtype)
        if col2im.pays(geometry):
            workspace = _col2im_workspace(geometry, dx.itemsize, workspace_limit)
            col2im.backward_input(dy, w, dx, geometry, workspace)
            return dx
        for phase in geometry.backward_input_phases:
            starts = zip(phase.offset, geometry.stride, strict=True)
            index = (slice(None), *(slice(r, None, s) for r, s in starts))
            part = dx[index]
            if phase.geometry is None:
                part.fill(0)
            else:
                flipped = _backward_weights(w, phase.taps, geometry.groups)
                _forward_into(part, dy, flipped, phase.geometry, workspace_limit, None)
        return dx

    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dw = np.empty(geometry.w_shape, dy.dtype)
        if geometry.is_pointwise and geometry.groups == 1:
            pixels = x.reshape(-1, geometry.in_channels)
            np.matmul(
                pixels.T,
                dy.reshape(-1, geometry.out_channels),
                out=dw.reshape(geometry.in_channels, geometry.out_channels),
            )
        elif geometry.is_depthwise:
            taps = _depthwise_workspace(geometry, dw.itemsize, workspace_limit)
            depthwise.backward_weight(np.ascontiguousarray(dy), x, dw, geometry, taps)
        else:
            columns = _weight_workspace(geometry, dw.itemsize, workspace_limit)
            im2col.backward_weight(dy, x, dw, geometry, columns)
        return dw

    def sum_channels(self, dy: Array) -> Array:
        return sum_rows(dy.reshape(-1, dy.shape[-1]))

    # --- padding ---------------------------------------------------------------------

    def pad(self, x: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        return padding.pad(x, pads, mode)

    def pad_backward(self, dy: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        return padding.pad_backward(dy, pads, mode)

    # --- pooling ---------------------------------------------------------------------

    def max_pool(
        self, x: Array, geometry: PoolGeometry, with_indices: bool
    ) -> tuple[Array, Array | None]:
        return pooling.max_pool(x, geometry, with_indices)

    def max_pool_backward(self, dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
        return pooling.max_pool_backward(dy, indices, geometry)

    def avg_pool(self, x: Array, geometry: PoolGeometry) -> Array:
        return pooling.avg_pool(x, geometry)

    def avg_pool_backward(self, dy: Array, geometry: PoolGeometry) -> Array:
        return pooling.avg_pool_backward(dy, geometry)

    # --- matrix products -------------------------------------------------------------

    def dense(
        self, x: Array, w: Array, bias: Array | None, activation: Activation | None = None
    ) -> Array:
        y = np.matmul(x, w)
        activations.add_bias_activate(y, bias, activation)
        return y

    def gemm(self, a: Array, b: Array) -> Array:
        return np.matmul(a, b)

    # --- element-wise ----------------------------------------------------------------

    def activation(self, x: Array, activation: Activation) -> Array:
        return activations.forward(x, activation.kind, activation.alpha)

    def activation_backward(
        self, dy: Array, x: Array | None, y: Array | None, activation: Activation
    ) -> Array:
        return activations.backward(dy, x, y, activation.kind, activation.alpha)

    # --- softmax ---------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        return softmax.softmax(x)

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        return softmax.softmax_backward(dy, y)

    def softmax_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        return softmax.softmax_cross_entropy(logits, targets)

    def softmax_cross_entropy_backward(
        self, probabilities: Array, targets: Array, scale: Array
    ) -> Array:
        return softmax.softmax_cross_entropy_backward(probabilities, targets, scale)

    # --- normalisation ---------------------------------------------------------------

    def moments(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        return normalization.moments(x, axes)

    def normalize(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        scale: Array | None,
        offset: Array | None,
        epsilon: float,
    ) -> Array:
        return normalization.normalize(x, mean, variance, scale, offset, epsilon)

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
        return normalization.normalize_backward(
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
        kept = generator_for(key).random(shape, dtype="float32") >= rate
        return np.multiply(kept, 1.0 / (1.0 - rate), dtype=dtype)

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


# A workspace depends on integers only and is asked for at every call.
_columns = lru_cache(maxsize=1024)(im2col.Workspace)
_depthwise_workspace = lru_cache(maxsize=1024)(depthwise.Workspace)
_col2im_workspace = lru_cache(maxsize=1024)(col2im.Workspace)


def _forward_workspace(g: ConvGeometry, itemsize: int, limit: int) -> im2col.Workspace:
    return _columns(g, itemsize, limit, _box_bytes(g, itemsize), im2col.SLAB_POSITIONS)


def _weight_workspace(g: ConvGeometry, itemsize: int, limit: int) -> im2col.Workspace:
    slab_positions = im2col.slab_positions_for_weights(g)
    return _columns(g, itemsize, limit, _box_bytes(g, itemsize), slab_positions)


def _box_bytes(g: ConvGeometry, itemsize: int) -> int:
    # Each box reads (and BLAS packs) all weights once, or adds a whole dw to the total: boxes no
    # smaller than the weights keep that from costing more than the columns themselves.
    return max(im2col.COLUMN_BYTES, math.prod(g.w_shape) * itemsize)


def _forward_into(
    y: Array,
    x: Array,
    w: Array,
    g: ConvGeometry,
    workspace_limit: int,
    epilogue: im2col.Epilogue | None,
) -> None:
    """Write the convolution into ``y``, which has any strides."""
    if g.is_pointwise and g.groups == 1 and y.flags.c_contiguous and x.flags.c_contiguous:
        flat = y.reshape(-1, g.out_channels)
        np.matmul(x.reshape(-1, g.in_channels), w.reshape(-1, g.out_channels), out=flat)
        if epilogue is not None:
            epilogue(flat)
    elif g.is_depthwise and y.flags.c_contiguous:
        workspace = _depthwise_workspace(g, y.itemsize, workspace_limit)
        depthwise.forward(x, w, y, g, workspace, epilogue)
    else:
        im2col.forward(x, w, y, g, _forward_workspace(g, y.itemsize, workspace_limit), epilogue)


def _plan_pooling(op: str, g: PoolGeometry, dtype: str) -> Plan:
    itemsize = np.dtype(dtype).itemsize
    needed = pooling.workspace_bytes(op, g, itemsize)
    count = math.prod(
        -(-e // s)
        for e, s in zip((g.batch, *g.output), pooling.box_shape(g, itemsize), strict=True)
    )
    where = "in one box" if count <= 1 else f"in {count} boxes that stay in cache"
    if op == "max_pool_backward":
        return Plan("scatter", needed, f"each gradient goes where its index points, {where}")
    if g.is_global:
        return Plan("reduction", needed, "one window: whole planes at once")
    return Plan("separable", needed, f"one dimension of the window after the other, {where}")


def _backward_weights(w: Array, taps: tuple[tuple[int, ...], ...], groups: int) -> Array:
    """(*k, C/g, F) -> (*taps, F/g, C): the weights of the convolution that runs backwards.

    The result is a view of memory ordered (C, *taps, F/g), so that whole runs of F/g numbers are
    copied; the matrix product reads it transposed, which costs BLAS nothing. Transposing the
    numbers themselves would take a third of the time of a 512-channel 7x7 layer.
    """
    for axis, kept in enumerate(taps):
        w = w[(slice(None),) * axis + (_progression(kept),)]
    *kernel, channels, filters = w.shape
    rank = len(kernel)
    split = w.reshape(*kernel, channels, groups, filters // groups)
    order = (rank + 1, rank, *range(rank), rank + 2)  # (g, C/g, *taps, F/g)
    runs = np.ascontiguousarray(split.transpose(order))
    merged = runs.reshape(groups * channels, *kernel, filters // groups)
    return merged.transpose(*range(1, rank + 2), 0)


def _progression(taps: tuple[int, ...]) -> slice:
    """The slice that selects taps in falling order, each the same step apart."""
    step = taps[0] - taps[1] if len(taps) > 1 else 1
    stop = taps[-1] - step
    return slice(taps[0], stop if stop >= 0 else None, -step)


def _plan_product(g: ConvGeometry, dtype: str, limit: int, to_weights: bool) -> Plan:
    itemsize = np.dtype(dtype).itemsize
    weight_bytes = math.prod(g.w_shape) * itemsize
    if g.is_pointwise and g.groups == 1:
        return Plan(
            "gemm", 0, "1x1, stride 1, no padding: the pixels are the column matrix already"
        )
    if g.is_depthwise:
        return Plan(
            "taps",
            _depthwise_workspace(g, itemsize, limit).bytes,
            "one input channel a group: nothing for a matrix product to reduce over",
        )
    cut = _weight_workspace if to_weights else _forward_workspace
    workspace = cut(g, itemsize, limit)
    count = math.prod(
        -(-max(e, 1) // s) for e, s in zip(workspace.extents, workspace.shape, strict=True)
    )
    where = "in one box" if count == 1 else f"in {count} boxes that stay in cache"
    if workspace.slabs > 1:
        where += f", shared by {workspace.slabs} kernel rows"
    products = f"{g.groups} matrix products a box" if g.groups > 1 else "BLAS does the arithmetic"
    extra = 2 * weight_bytes if to_weights else 0
    return Plan("im2col+gemm", workspace.bytes + extra, f"columns {where}; {products}")


def _plan_backward_input(g: ConvGeometry, dtype: str, limit: int) -> Plan:
    itemsize = np.dtype(dtype).itemsize
    if col2im.pays(g):
        return Plan(
            "gemm+col2im",
            _col2im_workspace(g, itemsize, limit).bytes + math.prod(g.w_shape) * itemsize,
            f"few outputs {g.output} for the input {g.input}: each adds its window to the gradient",
        )
    strided = max(g.stride) > 1
    inner = [phase.geometry for phase in g.backward_input_phases if phase.geometry is not None]
    if not inner:
        return Plan("zeros", 0, "no kernel tap reaches the input: its gradient is zero or empty")
    needed = 0
    for phase in inner:
        plan = _plan_product(phase, dtype, limit, to_weights=False)
        result = 0
        if strided:
            shape = _forward_workspace(phase, itemsize, limit).shape
            result = math.prod(shape) * phase.out_channels * itemsize
        needed = max(needed, plan.workspace_bytes + result)
    weights = math.prod(g.w_shape) * itemsize
    if not strided:
        plan = _plan_product(inner[0], dtype, limit, to_weights=False)
        reason = f"convolution of dy with the flipped kernel: {plan.reason}"
        return Plan(plan.algorithm, needed + weights, reason)
    return Plan(
        "phases+gemm",
        needed + weights,
        f"stride {g.stride}: {len(inner)} sub-pixel phases, each a stride-1 convolution of dy, so "
        f"no product with an inserted zero is computed",
    )
