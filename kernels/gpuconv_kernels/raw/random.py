"""Launcher of random.cu: dropout masks with the bits of NumPy's Philox generator."""

from __future__ import annotations

import math
from typing import Any

from gpuconv_kernels.raw.runtime import Runtime, flat_grid

Array = Any


def dropout_mask(
    rt: Runtime, shape: tuple[int, ...], rate: float, key: tuple[int, int], dtype: Any
) -> Array:
    """Zeros with probability ``rate``, else ``1/(1 - rate)``; ``key`` is (seed, count)."""
    mask = rt.empty(shape, dtype)
    count = math.prod(shape)
    if count:
        grid, block = flat_grid(count, per_thread=8)
        rt.launch("dropout_mask", grid, block, (mask, *key, rate, 1.0 / (1.0 - rate), count))
    return mask
