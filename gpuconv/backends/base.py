"""The contract that every engine fulfils: names, arguments, layouts, who allocates.

An engine is one file with one subclass of :class:`Engine`, its methods in the order
of this file; a test compares the signatures. What all methods have in common:

- Arrays are the device's own (NumPy on the CPU, CuPy on CUDA), float32 or float64, of
  one dtype a call. They may be views of any strides and read-only; they are never modified
  (the optimizer updates, which say so, are the exception).
- Activations are channels-last ``(N, *spatial, C)``, convolution kernels
  ``(*kernel, C/groups, F)``, for one to three spatial dimensions.
- Results are new C-contiguous arrays on the same device.
- Nothing waits for the device, and nothing is validated here: ``gpuconv.ops`` has
  done that from the geometry before the call.
- The same inputs give the same bits, on every call.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, PoolGeometry

Array = Any
"""A NumPy or CuPy array. Both are duck-typed here: importing CuPy must not be needed."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What looking for an engine or a package found, and the reason in words."""

    available: bool
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an engine would carry out one operation.

    Attributes:
        algorithm: name of the method, such as ``"im2col+gemm"``.
        workspace_bytes: memory needed beyond inputs and outputs.
        reason: why this method, in words, for ``gpuconv.explain``.
        seconds: predicted time; None where the engine has no model of its costs.
        deterministic: whether it gives the same bits on every run.
    """

    algorithm: str
    workspace_bytes: int
    reason: str
    seconds: float | None = None
    deterministic: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine cannot carry out an operation; the dispatcher then asks the next."""

    reason: str


class Engine(ABC):
    """One way of computing on one kind of device."""

    name: ClassVar[str]
    """``"device:engine"``, such as ``"cpu:numpy"``."""
    device: ClassVar[str]
    """``"cpu"``, ``"cuda"`` or ``"cuda-sim"``."""

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Say whether this engine can run here, without running anything expensive."""

    @abstractmethod
    def plan(
        self, op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, workspace_limit: int
    ) -> Plan | Refusal:
        """Say how ``op``, a method name below, would be done within a limit in bytes."""

    # --- weights that do not change --------------------------------------------------

    def prepare_weights(self, w: Array) -> Any:
        """Return what :meth:`conv_forward` and :meth:`dense` take for ``w`` too, with equal bits.

        For weights (*k, C/g, F) that do not change any more, so that an engine can keep what its
        kernels make of them; for this engine alone. By default ``w`` itself, and an engine that
        keeps nothing does not define it.
        """
        return w

    # --- convolution -----------------------------------------------------------------

    @abstractmethod
    def conv_forward(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        workspace_limit: int,
        activation: Activation | None = None,
    ) -> Array:
        """``x`` (N, *in, C), ``w`` (*k, C/g, F), ``bias`` (F,) -> ``y`` (N, *out, F)."""

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
        """:meth:`conv_forward`, ``residual`` (N, *out, F) added before the activation.

        By default in passes of their own; an engine that can do it as it stores defines this.
        """
        y = self.conv_forward(x, w, bias, geometry, workspace_limit)
        y += residual
        return y if activation is None else self.activation(y, activation)

    @abstractmethod
    def conv_backward_input(
        self, dy: Array, w: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        """``dy`` (N, *out, F), ``w`` (*k, C/g, F) -> ``dx`` (N, *in, C)."""

    @abstractmethod
    def conv_backward_weight(
        self, dy: Array, x: Array, geometry: ConvGeometry, workspace_limit: int
    ) -> Array:
        """``dy`` (N, *out, F), ``x`` (N, *in, C) -> ``dw`` (*k, C/g, F), a fresh array."""

    @abstractmethod
    def sum_channels(self, dy: Array) -> Array:
        """``dy`` (..., C) -> (C,): the bias gradient, summed over every other axis."""

    # --- padding ---------------------------------------------------------------------

    @abstractmethod
    def pad(self, x: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        """Pad the spatial axes; ``mode`` is zeros, reflect, replicate or circular."""

    @abstractmethod
    def pad_backward(self, dy: Array, pads: tuple[tuple[int, int], ...], mode: str) -> Array:
        """Gradient of :meth:`pad`: what was copied several times is summed."""

    # --- pooling ---------------------------------------------------------------------

    @abstractmethod
    def max_pool(
        self, x: Array, geometry: PoolGeometry, with_indices: bool
    ) -> tuple[Array, Array | None]:
        """``x`` (N, *in, C) -> ``y`` and ``indices`` (int64), both (N, *out, C).

        An index counts row-major in the un-padded spatial plane. The first maximum in
        row-major order of the window wins; NaN beats every number. Indices are computed only
        ``with_indices``, else None; ``y`` has the same bits in both cases.
        """

    @abstractmethod
    def max_pool_backward(self, dy: Array, indices: Array, geometry: PoolGeometry) -> Array:
        """``dy`` (N, *out, C) -> ``dx`` (N, *in, C); windows that overlap add up."""

    @abstractmethod
    def avg_pool(self, x: Array, geometry: PoolGeometry) -> Array:
        """``x`` (N, *in, C) -> ``y`` (N, *out, C), divided as the geometry says."""

    @abstractmethod
    def avg_pool_backward(self, dy: Array, geometry: PoolGeometry) -> Array:
        """``dy`` (N, *out, C) -> ``dx`` (N, *in, C)."""

    # --- matrix products -------------------------------------------------------------

    @abstractmethod
    def dense(
        self, x: Array, w: Array, bias: Array | None, activation: Activation | None = None
    ) -> Array:
        """``x`` (M, I), ``w`` (I, F), ``bias`` (F,) -> (M, F)."""

    @abstractmethod
    def gemm(self, a: Array, b: Array) -> Array:
        """``a`` (M, K) times ``b`` (K, N); transposed views cost no copy."""

    # --- element-wise ----------------------------------------------------------------

    @abstractmethod
    def activation(self, x: Array, activation: Activation) -> Array:
        """Apply an element-wise function."""

    @abstractmethod
    def activation_backward(
        self, dy: Array, x: Array | None, y: Array | None, activation: Activation
    ) -> Array:
        """Gradient from the input ``x`` or, where ``activation.from_output``, the output ``y``."""

    def activation_with_gradient(
        self, x: Array, activation: Activation
    ) -> tuple[Array, Callable[[Array], Array]]:
        """:meth:`activation`, and the function from ``dy`` to the gradient of ``x``.

        The function keeps what it needs and no more: an input, an output, or less.
        """
        y = self.activation(x, activation)
        if activation.from_output:
            return y, lambda dy: self.activation_backward(dy, None, y, activation)
        return y, lambda dy: self.activation_backward(dy, x, None, activation)

    def activation_backward_with_sums(
        self, dy: Array, y: Array, activation: Activation
    ) -> tuple[Array, Array]:
        """Gradient ``dz`` from the output, and :meth:`sum_channels` of it: that of a bias.

        An engine that computes both in one pass does so with the same bits.
        """
        dz = self.activation_backward(dy, None, y, activation)
        return dz, self.sum_channels(dz)

    # --- softmax ---------------------------------------------------------------------

    @abstractmethod
    def softmax(self, x: Array) -> Array:
        """Softmax over the last axis."""

    @abstractmethod
    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """``y * (dy - sum(dy * y))`` over the last axis."""

    @abstractmethod
    def softmax_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """``logits`` (M, K), ``targets`` (M,) class numbers or (M, K) probabilities.

        Returns the loss of each row (M,) and the softmax (M, K), stable for large logits.
        """

    @abstractmethod
    def softmax_cross_entropy_backward(
        self, probabilities: Array, targets: Array, scale: Array
    ) -> Array:
        """``scale[:, None] * (probabilities * sum(targets) - targets)``, (M, K)."""

    # --- normalisation ---------------------------------------------------------------

    @abstractmethod
    def moments(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """Mean and biased variance over ``axes``, extents kept as 1, by two passes."""

    @abstractmethod
    def normalize(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        scale: Array | None,
        offset: Array | None,
        epsilon: float,
    ) -> Array:
        """``(x - mean) / sqrt(variance + epsilon) * scale + offset``, all broadcast to ``x``."""

    @abstractmethod
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
        """Return ``(dx, dscale, doffset)`` of :meth:`normalize` after :meth:`moments`.

        ``dx`` flows through the moments too if ``batch_statistics``, and is None unless
        ``input_gradient``; the other two are summed over ``parameter_axes`` and keep
        extents of 1 there.
        """

    # --- random numbers --------------------------------------------------------------

    @abstractmethod
    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, key: tuple[int, int], dtype: str
    ) -> Array:
        """Zeros with probability ``rate``, else ``1/(1-rate)``; the same for the same key."""

    # --- optimizer updates, in place -------------------------------------------------

    def updating(self) -> contextlib.AbstractContextManager[None]:
        """A block at whose end the updates in it have been computed, perhaps all at once."""
        return contextlib.nullcontext()

    @abstractmethod
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
        """Modify ``value`` and ``velocity``. Keras: ``v = mu v - lr g``; PyTorch: ``v = mu v + g``.

        ``first`` marks the first step of this parameter (PyTorch starts with ``v = g``).
        """

    @abstractmethod
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
        """Modify ``value`` and both moments; ``step`` counts from 1.

        Keras adds epsilon to ``sqrt(v)`` before the bias correction, PyTorch after it.
        """

    @abstractmethod
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
        """Modify ``value``, ``mean_square`` and, where given, ``mean_gradient`` (centered) and
        ``velocity`` (momentum).

        With ``epsilon_inside_root`` (Keras) the velocity includes the learning rate; without it
        (PyTorch) the rate multiplies the velocity when that is applied, which differs when the
        rate changes.
        """

    @abstractmethod
    def adagrad_update(
        self,
        value: Array,
        gradient: Array,
        accumulator: Array,
        learning_rate: float,
        epsilon: float,
        epsilon_inside_root: bool,
    ) -> None:
        """Modify ``value`` and ``accumulator``."""
