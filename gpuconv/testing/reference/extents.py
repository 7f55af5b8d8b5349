"""Sizes: from the words of a user to ``(lo, hi)`` pads and output extents.

Written anew from the published formulas, on purpose without a look at ``gpuconv.geometry``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

F64 = Any
"""A float64 array; arguments of another dtype are converted first."""
I64 = Any
"""An int64 array."""
Pads = list[tuple[int, int]]
Ints = int | Sequence[int]


def as_f64(array: Any) -> F64:
    """The array in float64, so that nothing is computed in less."""
    return np.asarray(array, dtype=np.float64)


def per_axis(value: Ints, rank: int) -> list[int]:
    """``value`` as one int for each of ``rank`` dimensions."""
    values = [value] * rank if isinstance(value, int) else list(value)
    if len(values) != rank:
        raise ValueError(f"expected one int or {rank}. Received: {value!r}")
    return values


def resolve_pads(
    padding: Any,
    extents: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Pads:
    """``padding`` in any of its forms as one ``(lo, hi)`` a dimension."""
    rank = len(extents)
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "causal":
        return [(dilation[0] * (kernel[0] - 1), 0)]
    if padding == "same":
        pads = []
        for n, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
            windows = -(-n // s)
            covered = (windows - 1) * s + d * (k - 1) + 1
            missing = max(covered - n, 0)
            pads.append((missing // 2, missing - missing // 2))
        return pads
    if isinstance(padding, int):
        return [(padding, padding)] * rank
    entries = list(padding)
    if len(entries) != rank:
        raise ValueError(f"expected {rank} paddings. Received: {padding!r}")
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in entries]


def conv_extent(n: int, k: int, s: int, d: int, lo: int, hi: int) -> int:
    """Windows of a convolution: count the starts at which all taps lie in the padded input."""
    padded = n + lo + hi
    reach = d * (k - 1) + 1
    count = 0
    while count * s + reach <= padded:
        count += 1
    if count < 1:
        raise ValueError(f"kernel {k} (dilation {d}) does not fit into {n} + {lo} + {hi}")
    return count


def pool_extent(n: int, k: int, s: int, d: int, lo: int, hi: int, ceil_mode: bool) -> int:
    """Windows of a pooling: with ``ceil_mode`` one more may hang over the right end.

    That one is dropped if it would start in the right padding (PyTorch's rule).
    """
    room = n + lo + hi - d * (k - 1) - 1
    if not ceil_mode:
        count = room // s + 1
    else:
        count = (room + s - 1) // s + 1
        if (count - 1) * s >= n + lo:
            count -= 1
    if count < 1:
        raise ValueError(f"window {k} (dilation {d}) does not fit into {n} + {lo} + {hi}")
    return count


def conv_transpose_extent(
    n: int, k: int, s: int, d: int, lo: int, hi: int, output_padding: int
) -> int:
    """Extent that a transposed convolution fills, its pads cut off."""
    extent = (n - 1) * s + d * (k - 1) + 1 - lo - hi + output_padding
    if extent < 1:
        raise ValueError(f"the padding {lo}, {hi} leaves nothing of input {n}, kernel {k}")
    return extent
