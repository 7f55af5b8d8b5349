"""Normalisation under PyTorch 2.13's signatures and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gpuconv.errors import InvalidArgumentError
from gpuconv.geometry import as_int
from gpuconv.layers.arguments import as_number
from gpuconv.layers.batch_norm import BatchNormalization
from gpuconv.layers.group_norm import GroupNormalization
from gpuconv.layers.layer_norm import LayerNormalization
from gpuconv.nn.arguments import built, constructor, dtype_or_default, named_constructor


class BatchNormConstructor(Protocol):
    """See the docstring of ``BatchNorm2d``."""

    def __call__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> BatchNormalization: ...


def _make_batch_norm(rank: int, input_ranks: tuple[int, ...], shapes: str) -> BatchNormConstructor:
    def batch_norm(
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> BatchNormalization:
        channels = as_int(num_features, "num_features", 1)
        weight_of_new = None if momentum is None else as_number(momentum, "momentum", 0.0, 1.0)
        layer = BatchNormalization(
            axis=1,
            momentum=None if weight_of_new is None else 1.0 - weight_of_new,
            epsilon=as_number(eps, "eps", 0.0),
            center=affine and bias,
            scale=affine,
            unbiased_moving_variance=True,
            track_moving_statistics=track_running_stats,
            input_ranks=input_ranks,
            dtype=dtype_or_default(dtype),
        )
        return built(layer, (None, channels), device)

    return named_constructor(batch_norm, f"BatchNorm{rank}d", _BATCH, rank=rank, shapes=shapes)


_BATCH = """Batch normalisation of {shapes}, as ``torch.nn.BatchNorm{rank}d``.

    Args:
        num_features: number of channels C.
        eps: added to the variance; default 1e-5.
        momentum: weight of the NEW value in the running statistics, default 0.1 (Keras's
            momentum is one minus this); None averages over all batches.
        affine: whether there are scale and offset; default True.
        track_running_stats: False keeps none and always normalises by the batch's.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.
        bias: False leaves out the offset; default True.

    Returns:
        A ``gpuconv.layers.BatchNormalization`` whose moving variance follows the unbiased one.
        PyTorch's weight, bias, running_mean and running_var are its ``gamma``, ``beta``,
        ``moving_mean`` and ``moving_variance``.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """

BatchNorm1d = _make_batch_norm(1, (2, 3), "(N, C) or (N, C, L)")
BatchNorm2d = _make_batch_norm(2, (4,), "(N, C, H, W)")
BatchNorm3d = _make_batch_norm(3, (5,), "(N, C, D, H, W)")


@constructor
def LayerNorm(
    normalized_shape: int | Sequence[int],
    eps: float = 1e-5,
    elementwise_affine: bool = True,
    bias: bool = True,
    device: str | None = None,
    dtype: Any = None,
) -> LayerNormalization:
    """Normalisation of each sample over its last axes, as ``torch.nn.LayerNorm``.

    Args:
        normalized_shape: extents of those axes.
        eps: added to the variance; default 1e-5.
        elementwise_affine: whether there are scale and offset; default True.
        bias: False leaves out the offset; default True.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """
    several = isinstance(normalized_shape, Sequence) and not isinstance(normalized_shape, str)
    entries: Any = normalized_shape if several else [normalized_shape]
    extents = tuple(as_int(n, "normalized_shape", 1) for n in entries)
    if not extents:
        raise InvalidArgumentError(
            f"normalized_shape must hold at least one extent. Received: {normalized_shape!r}"
        )
    layer = LayerNormalization(
        axis=tuple(range(-len(extents), 0)),
        epsilon=as_number(eps, "eps", 0.0),
        center=elementwise_affine and bias,
        scale=elementwise_affine,
        dtype=dtype_or_default(dtype),
    )
    return built(layer, (None, *extents), device)


@constructor
def GroupNorm(
    num_groups: int,
    num_channels: int,
    eps: float = 1e-5,
    affine: bool = True,
    device: str | None = None,
    dtype: Any = None,
    *,
    bias: bool = True,
) -> GroupNormalization:
    """Normalisation of groups of channels of (N, C, ...), as ``torch.nn.GroupNorm``.

    Args:
        num_groups: divides ``num_channels``.
        num_channels: C.
        eps: added to the variance; default 1e-5.
        affine: whether there are scale and offset; default True.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.
        bias: False leaves out the offset; default True.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """
    groups = as_int(num_groups, "num_groups", 1)
    channels = as_int(num_channels, "num_channels", 1)
    if channels % groups:
        raise InvalidArgumentError(
            f"num_channels must be a multiple of num_groups ({groups}). Received: {num_channels}"
        )
    layer = GroupNormalization(
        groups,
        axis=1,
        epsilon=as_number(eps, "eps", 0.0),
        center=affine and bias,
        scale=affine,
        dtype=dtype_or_default(dtype),
    )
    return built(layer, (None, channels), device)
