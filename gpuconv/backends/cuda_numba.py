"""Engines ``cuda:numba`` and ``cuda-sim:numba``: kernels in Python, compiled by Numba.

Every method allocates its result and what scratch memory the kernel asks for, makes inputs
contiguous where they are not, and calls a launcher of ``gpuconv_kernels.device``. Memory is CuPy's;
Numba only runs the kernels. In the simulator the same launchers run the same kernels on the CPU.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gpuconv.backends import cuda_numba_setup, cuda_probe
from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array, Engine, Plan, Probe, Refusal
from gpuconv.backends.cuda_numba_plans import Way, choose_way, plan_convolution, plan_pooling
from gpuconv.backends.device_profile import DeviceProfile, current_profile
from gpuconv.backends.functions import Activation
from gpuconv.errors import UnsupportedError
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv_kernels.device import (
    activations,
    avg_pooling,
    depthwise_gradient,
    direct,
    implicit_gemm,
    max_pooling,
    moments,
    normalization,
    normalization_backward,
    padding,
    random_numbers,
    reductions,
    softmax,
    transpose,
    updates,
    weight_gradient,
)


class CudaNumba(Engine):
    """Implicit GEMM, direct convolution, pooling, and fused kernels for the rest of a step."""

    name: ClassVar[str] = "cuda:numba"
    device: ClassVar[str] = "cuda"

    def __init__(self) -> None:
        cuda_numba_setup.prepare()

    @classmethod
    def probe(cls) -> Probe:
        return cuda_probe.probe_numba_engine()

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
        x, w = _contiguous(x), _contiguous(w)
        bias = None if bias is None else _contiguous(bias)
        y = _empty(x, geometry.y_shape)
        way = self._way("conv_forward", geometry, x, workspace_limit)
        function = _named(activation)
        if way.choice is None:
            direct.conv_forward(x, w, bias, y, geometry, *function)
            return y
        tile, parts = way.choice.tile, way.choice.parts
        partial = _scratch(x, way.partial)
        implicit_gemm.conv_forward(x, w, bias, y, geometry, *function, tile, partial, parts)
        return y

    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dy, w = _contiguous(dy), _contiguous(w)
        dx = _empty(dy, geometry.x_shape)
        way = self._way("conv_backward_input", geometry, dy, workspace_limit)
        if way.algorithm == "direct":
            direct.conv_backward_input(dy, w, dx, geometry)
        else:
            packed = _empty(dy, (way.packed,))
            partial = _scratch(dy, way.partial)
            implicit_gemm.conv_backward_input(dy, w, dx, geometry, packed, partial=partial)
        return dx

    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        dy, x = _contiguous(dy), _contiguous(x)
        dw = _empty(dy, geometry.w_shape)
        way = self._way("conv_backward_weight", geometry, dy, workspace_limit)
        partial = _scratch(dy, way.partial)
        if way.choice is None:
            depthwise_gradient.conv_backward_weight(dy, x, dw, geometry, partial, way.parts)
        else:
            tile, parts = way.choice.tile, way.choice.parts
            weight_gradient.conv_backward_weight(dy, x, dw, geometry, partial, tile, parts)
        return dw

    def sum_channels(self, dy: Array) -> Array:
        dy = _contiguous(dy)
        out = _empty(dy, dy.shape[-1:])
        reductions.sum_channels(dy, out, _scratch(dy, reductions.partial_elements(dy.shape)))
        return out

    # --- padding ---------------------------------------------------------------------

    def pad(self, x: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        x = _contiguous(x)
        batch, *extents, channels = x.shape
        padded = [e + lo + hi for e, (lo, hi) in zip(extents, pads, strict=True)]
        y = _empty(x, (batch, *padded, channels))
        padding.pad(x, y, pads, mode)
        return y

    def pad_backward(self, dy: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        dy = _contiguous(dy)
        batch, *padded, channels = dy.shape
        extents = [e - lo - hi for e, (lo, hi) in zip(padded, pads, strict=True)]
        dx = _empty(dy, (batch, *extents, channels))
        padding.pad_backward(dy, dx, pads, mode)
        return dx

    # --- pooling ---------------------------------------------------------------------

    def max_pool(
        self, x: Array, geometry: PoolGeometry, with_indices: bool
    ) -> tuple[Array, Array | None]:
        x = _contiguous(x)
        y = _empty(x, geometry.y_shape)
        indices = _empty(x, geometry.y_shape, "int64") if with_indices else None
        max_pooling.max_pool(x, y, indices, geometry)
        return y, indices

    def max_pool_backward(self, dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
        dy, indices = _contiguous(dy), _contiguous(indices)
        dx = _empty(dy, geometry.x_shape)
        max_pooling.max_pool_backward(dy, indices, dx, geometry)
        return dx

    def avg_pool(self, x: Array, geometry: PoolGeometry) -> Array:
        x = _contiguous(x)
        y = _empty(x, geometry.y_shape)
        avg_pooling.avg_pool(x, y, geometry)
        return y

    def avg_pool_backward(self, dy: Array, geometry: PoolGeometry) -> Array:
        dy = _contiguous(dy)
        dx = _empty(dy, geometry.x_shape)
        avg_pooling.avg_pool_backward(dy, dx, geometry)
        return dx

    # --- matrix products -------------------------------------------------------------

    def dense(
        self, x: Array, w: Array, bias: Array | None, activation: Activation | None = None
    ) -> Array:
        bias = None if bias is None else _contiguous(bias)
        return self._product(_contiguous(x), _contiguous(w), bias, activation)

    def gemm(self, a: Array, b: Array) -> Array:
        if a.shape[1] == 0:  # the gradient of an empty batch: sums of nothing
            return array_module(a).zeros((a.shape[0], b.shape[1]), a.dtype)
        if a.T.flags.c_contiguous and not a.flags.c_contiguous:
            return self._product_transposed(a.T, _contiguous(b))
        if b.T.flags.c_contiguous and not b.flags.c_contiguous:
            turned = _empty(b, b.shape)
            transpose.transpose(b.T, turned)
            b = turned
        return self._product(_contiguous(a), _contiguous(b), None, None)

    # --- element-wise ----------------------------------------------------------------

    def activation(self, x: Array, activation: Activation) -> Array:
        x = _contiguous(x)
        y = _empty(x, x.shape)
        activations.activation(x, y, activation.kind, activation.alpha)
        return y

    def activation_backward(
        self, dy: Array, x: Array | None, y: Array | None, activation: Activation
    ) -> Array:
        dy, z = _contiguous(dy), _contiguous(y if activation.from_output else x)
        dx = _empty(dy, dy.shape)
        activations.activation_backward(dy, z, dx, activation.kind, activation.alpha)
        return dx

    # --- softmax ---------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        x = _contiguous(x)
        y = _empty(x, x.shape)
        softmax.softmax(x, y)
        return y

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        dy, y = _contiguous(dy), _contiguous(y)
        dx = _empty(dy, dy.shape)
        softmax.softmax_backward(dy, y, dx)
        return dx

    def softmax_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        logits, targets = _contiguous(logits), _targets(targets, logits)
        losses = _empty(logits, logits.shape[:1])
        probabilities = _empty(logits, logits.shape)
        softmax.softmax_cross_entropy(logits, targets, losses, probabilities)
        return losses, probabilities

    def softmax_cross_entropy_backward(
        self, probabilities: Array, targets: Array, scale: Array
    ) -> Array:
        probabilities, scale = _contiguous(probabilities), _contiguous(scale)
        targets = _targets(targets, probabilities)
        gradient = _empty(probabilities, probabilities.shape)
        softmax.softmax_cross_entropy_backward(probabilities, targets, scale, gradient)
        return gradient

    # --- normalisation ---------------------------------------------------------------

    def moments(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        x = _contiguous(x)
        shape = _reduced_shape(x.shape, axes)
        mean, variance = _empty(x, shape), _empty(x, shape)
        partial = _scratch(x, moments.moments_elements(x.shape, axes))
        moments.moments(x, mean, variance, axes, partial)
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
        x, mean, variance = _contiguous(x), _contiguous(mean), _contiguous(variance)
        scale = None if scale is None else _contiguous(scale)
        offset = None if offset is None else _contiguous(offset)
        y = _empty(x, x.shape)
        normalization.normalize(x, y, mean, variance, scale, offset, epsilon)
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
        dy, x, mean, variance = (_contiguous(a) for a in (dy, x, mean, variance))
        scale = None if scale is None else _contiguous(scale)
        dx = _empty(x, x.shape) if input_gradient else None
        shape = _reduced_shape(x.shape, parameter_axes)
        dscale, doffset = _empty(x, shape), _empty(x, shape)
        needed = normalization_backward.normalize_backward_elements(
            x.shape, axes, parameter_axes, batch_statistics, input_gradient
        )
        normalization_backward.normalize_backward(
            dy,
            x,
            mean,
            variance,
            scale,
            dx,
            dscale,
            doffset,
            epsilon,
            axes,
            parameter_axes,
            batch_statistics,
            _scratch(x, needed),
        )
        return dx, dscale, doffset

    # --- random numbers --------------------------------------------------------------

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, key: tuple[int, int], dtype: str
    ) -> Array:
        out = self._module.empty(shape, dtype)
        random_numbers.dropout_mask(out, rate, key)
        return out

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
        gradient = _contiguous(gradient)
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
            _contiguous(gradient),
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
            _contiguous(gradient),
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
            value,
            _contiguous(gradient),
            accumulator,
            learning_rate,
            epsilon,
            epsilon_inside_root,
        )

    # --- parts -----------------------------------------------------------------------

    @property
    def _profile(self) -> DeviceProfile:
        return current_profile(self.device)

    @property
    def _module(self) -> Any:
        import cupy

        return cupy

    def _way(self, op: str, geometry: ConvGeometry, array: Array, workspace_limit: int) -> Way:
        way = choose_way(op, geometry, array.dtype.name, workspace_limit, self._profile)
        if isinstance(way, Refusal):  # the dispatcher asks for the plan first
            raise UnsupportedError(f"{self.name}: {op} {way.reason}")
        return way

    def _product(
        self, a: Array, b: Array, bias: Array | None, activation: Activation | None
    ) -> Array:
        (m, k), n = a.shape, b.shape[1]
        c = _empty(a, (m, n))
        g = _product_geometry(m, k, n)
        choice = implicit_gemm.choose_tile(g, a.dtype.name, self._profile.multiprocessors)
        partial = _scratch(
            a, implicit_gemm.partial_elements(g, a.dtype.name, self._profile.multiprocessors)
        )
        function = _named(activation)
        implicit_gemm.matrix_product(a, b, c, bias, *function, choice.tile, partial, choice.parts)
        return c

    def _product_transposed(self, a: Array, b: Array) -> Array:
        """``a`` (K, M) transposed times ``b`` (K, N)."""
        (k, m), n = a.shape, b.shape[1]
        c = _empty(a, (m, n))
        g = _product_geometry(k, m, n)
        choice = weight_gradient.choose_splits(g, a.dtype.name, self._profile.multiprocessors)
        partial = _scratch(a, weight_gradient.partial_elements(g, choice.parts))
        weight_gradient.product_transposed(a, b, c, partial, choice.tile, choice.parts)
        return c


class CudaSimNumba(CudaNumba):
    """The same kernels in Numba's simulator, on the CPU."""

    name: ClassVar[str] = "cuda-sim:numba"
    device: ClassVar[str] = "cuda-sim"

    @classmethod
    def probe(cls) -> Probe:
        return cuda_probe.probe_simulator()

    @property
    def _module(self) -> Any:
        from gpuconv.backends.simulated import numpy_on_device

        return numpy_on_device


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array_module(array).ascontiguousarray(array)


def _empty(like: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    return array_module(like).empty(shape, like.dtype if dtype is None else dtype)


def _scratch(like: Array, elements: int) -> Array | None:
    return _empty(like, (elements,)) if elements else None


def _named(activation: Activation | None) -> tuple[str | None, float]:
    return (None, 0.0) if activation is None else (activation.kind, activation.alpha)


def _targets(targets: Array, scores: Array) -> Array:
    """Class numbers as int64, or probabilities in the dtype of the scores."""
    wanted = "int64" if targets.ndim == 1 else scores.dtype
    return _contiguous(targets.astype(wanted, copy=False))


def _reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    reduced = {axis % len(shape) for axis in axes}
    return tuple(1 if axis in reduced else extent for axis, extent in enumerate(shape))


def _product_geometry(rows: int, depth: int, columns: int) -> ConvGeometry:
    """A matrix product as the 1x1 convolution of images of one pixel."""
    return ConvGeometry(rows, depth, columns, (1,), (1,), (1,), (1,), ((0, 0),))
