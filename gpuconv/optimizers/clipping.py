"""Making gradients smaller before a step, as in Keras 3.15; nothing waits for the device.

All return new arrays where they change anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuconv.backends.arrays import array_module

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


def clip_by_value(gradient: Array, limit: float) -> Array:
    """Clip every element to [-limit, limit]."""
    return array_module(gradient).clip(gradient, -limit, limit)


def clip_by_norm(gradient: Array, limit: float) -> Array:
    """Scale down to an L2 norm of at most ``limit``."""
    xp = array_module(gradient)
    norm = xp.sqrt(xp.square(gradient).sum())
    return gradient * (limit / xp.maximum(norm, limit))


def clip_by_global_norm(gradients: Sequence[Array], limit: float) -> list[Array]:
    """Scale all down by one factor, so that the L2 norm of all together is at most ``limit``.

    If the norm is not finite all become NaN, as in Keras: training that has gone wrong shows.
    """
    if not gradients:
        return []
    xp = array_module(gradients[0])
    norm = xp.sqrt(sum(xp.square(g).sum() for g in gradients))
    factor = xp.where(xp.isfinite(norm), limit / xp.maximum(norm, limit), xp.nan)
    return [g * factor.astype(g.dtype) for g in gradients]
