"""Normalisation over the batch (Ioffe and Szegedy 2015, "Batch Normalization")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import initializers
from gpuconv.backends.arrays import array_module, to_device
from gpuconv.backends.base import Array
from gpuconv.dispatch import engine_for
from gpuconv.errors import ShapeError
from gpuconv.geometry import as_extents, as_int
from gpuconv.layers.arguments import as_number
from gpuconv.layers.axes import resolve_axis
from gpuconv.layers.base import Backward, Shape
from gpuconv.layers.normalizing import Normalizing


class BatchNormalization(Normalizing):
    """Gives each channel mean 0 and variance 1 over the batch, then scales and shifts it.

    Training normalises by the batch's own mean and biased variance and moves the moving statistics
    towards them: ``moving = momentum * moving + (1 - momentum) * batch``. Inference normalises by
    the moving statistics; so does a frozen layer (``trainable = False``) even in training,
    and its statistics do not move. An empty batch moves nothing.

    Args:
        axis: of the channels; -1 (default), or 1 for channels-first inputs.
        momentum: weight of the old value, default 0.99, as in Keras (PyTorch's momentum is one
            minus this); None averages over all batches seen, as PyTorch's None.
        epsilon: added to the variance, default 1e-3.
        center (True), scale (True): whether there is a ``beta``, a ``gamma``, both (C,).
        beta_initializer ("zeros"), gamma_initializer ("ones"), moving_mean_initializer ("zeros"),
            moving_variance_initializer ("ones"), beta_regularizer, gamma_regularizer: as in Keras.
        unbiased_moving_variance: the moving variance follows ``n/(n-1)`` times the batch's, as in
            PyTorch; default False, as in Keras.
        track_moving_statistics: False keeps none; inference then uses the batch's statistics
            too, as PyTorch's ``track_running_stats=False``.
        input_ranks: numbers of dimensions that an input may have, the batch included; None
            (default): any that has the axis.

    Input (N, C), (N, ..., C), or (N, C, ...) with ``axis=1``; the output has the same shape.
    State: ``gamma``, ``beta``, ``moving_mean``, ``moving_variance``; if ``momentum`` is None also
    ``batches_seen`` (int64).

    Raises:
        InvalidArgumentError: momentum out of [0, 1], or a negative epsilon.
        ShapeError: the input lacks the axis, or has another number of channels than the layer was
            built for; training with a single value a channel and an unbiased variance.
    """

    moving_mean: Array
    moving_variance: Array
    batches_seen: Array

    def __init__(
        self,
        axis: int = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        *,
        unbiased_moving_variance: bool = False,
        track_moving_statistics: bool = True,
        input_ranks: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            **kwargs,
        )
        self.axis = as_int(axis, "axis")
        self.momentum = None if momentum is None else as_number(momentum, "momentum", 0.0, 1.0)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.unbiased_moving_variance = bool(unbiased_moving_variance)
        self.track_moving_statistics = bool(track_moving_statistics)
        self.input_ranks = None if input_ranks is None else as_extents(input_ranks, "input_ranks")
        self.moving_mean = None
        self.moving_variance = None
        self.batches_seen = None

    def check_input_shape(self, shape: Shape) -> None:
        if self.input_ranks is not None and len(shape) not in self.input_ranks:
            raise ShapeError(
                f"{self.name}: expected an input of {' or '.join(map(str, self.input_ranks))} "
                f"dimensions (batch first). Received: shape {tuple(shape)}"
            )
        super().check_input_shape(shape)

    def parameter_axes(self, rank: int) -> tuple[int, ...]:
        return (resolve_axis(self.axis, rank, self.name),)

    def add_parameters(self, input_shape: Shape) -> None:
        super().add_parameters(input_shape)
        if not self.track_moving_statistics:
            return
        shape = self.parameter_shape(input_shape)
        self.moving_mean = self.moving_mean_initializer(shape, self.dtype)
        self.moving_variance = self.moving_variance_initializer(shape, self.dtype)
        if self.momentum is None:
            self.batches_seen = np.zeros((), np.int64)
        self.move_non_parameters(self.backend or "cpu")

    def non_parameters(self) -> dict[str, Array]:
        named = {
            "moving_mean": self.moving_mean,
            "moving_variance": self.moving_variance,
            "batches_seen": self.batches_seen,
        }
        return {name: array for name, array in named.items() if array is not None}

    def move_non_parameters(self, device: str) -> None:
        for name, array in self.non_parameters().items():
            setattr(self, name, to_device(array, device))

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        axis = self.parameter_axes(x.ndim)[0]
        is_last = axis == x.ndim - 1  # where there is nothing to move: moveaxis takes 20 us to see
        last = x if is_last else xp.moveaxis(x, axis, -1)
        over, along = tuple(range(x.ndim - 1)), (x.ndim - 1,)
        of_batch = self._uses_batch(training) and last.size > 0
        if of_batch:
            count = self._values_a_channel(last)
            mean, variance = engine_for(x).moments(last, over)
            if training and self.trainable:
                self._move_statistics(mean, variance, count)
        else:  # copies, as later batches move the statistics in place
            mean, variance = (array.copy() for array in self._constants(last))
        y = self.normalize(last, mean, variance, along)
        backward_last = self.normalize_backward(
            last, mean, variance, along, over if of_batch else None
        )

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            dx = backward_last(xp.moveaxis(dy, axis, -1), input_gradient)
            return None if dx is None else xp.moveaxis(dx, -1, axis)

        return (y, backward_last) if is_last else (xp.moveaxis(y, -1, axis), backward)

    def _uses_batch(self, training: bool) -> bool:
        if not self.track_moving_statistics:
            return True
        return training and self.trainable

    def _values_a_channel(self, last: Array) -> int:
        count = int(last.size // last.shape[-1])
        if self.unbiased_moving_variance and count < 2:
            raise ShapeError(
                f"{self.name}: the batch's unbiased variance needs at least two values a channel. "
                f"Received: shape {tuple(last.shape)}, channels last"
            )
        return count

    def _constants(self, last: Array) -> tuple[Array, Array]:
        """Moving statistics, or 0 and 1 where an empty batch meets a layer without them."""
        shape = (*(1,) * (last.ndim - 1), last.shape[-1])
        if self.moving_mean is None:
            xp = array_module(last)
            return xp.zeros(shape, last.dtype), xp.ones(shape, last.dtype)
        return self.moving_mean.reshape(shape), self.moving_variance.reshape(shape)

    def _move_statistics(self, mean: Array, variance: Array, count: int) -> None:
        """Move the statistics, in place, towards those of a batch of ``count`` values a channel."""
        if self.moving_mean is None:
            return
        if self.momentum is None:
            self.batches_seen += 1
            weight = (1.0 / self.batches_seen).astype(self.dtype)
        else:
            weight = 1.0 - self.momentum
        if self.unbiased_moving_variance:
            variance = variance * (count / (count - 1))
        self.moving_mean += (mean.reshape(-1) - self.moving_mean) * weight
        self.moving_variance += (variance.reshape(-1) - self.moving_variance) * weight
