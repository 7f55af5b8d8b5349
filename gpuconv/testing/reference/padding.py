"""Padding as an index map: which input element does a padded position show?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.testing.reference.extents import F64
from gpuconv.testing.reference.indexing import pixel


def source_index(position: int, extent: int, mode: str) -> int | None:
    """Return the input index that stands at ``position``; None where a zero stands.

    Args:
        position: counted in the input, so negative in the left padding.
        extent: of the input.
        mode: zeros, reflect (without repeating the edge), replicate or circular.

    Raises:
        ValueError: reflect needs pads below the extent, circular at most the extent.
    """
    if 0 <= position < extent:
        return position
    if mode == "zeros":
        return None
    if mode == "replicate":
        return 0 if position < 0 else extent - 1
    if mode == "reflect":
        mirrored = -position if position < 0 else 2 * (extent - 1) - position
    elif mode == "circular":
        mirrored = position + extent if position < 0 else position - extent
    else:
        raise ValueError(f"unknown mode {mode!r}")
    if not 0 <= mirrored < extent:
        raise ValueError(f"{mode} padding reaches position {position} of an extent {extent}")
    return mirrored


def _pairs(
    extents: Sequence[int], pads: Sequence[tuple[int, int]], mode: str
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ``(padded position, input position)`` that show an input element."""
    padded = [n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True)]
    found = []
    for p in np.ndindex(*padded):
        source = [
            source_index(q - lo, n, mode) for q, n, (lo, _) in zip(p, extents, pads, strict=True)
        ]
        real = tuple(i for i in source if i is not None)
        if len(real) == len(source):
            found.append((p, real))
    return found


def pad(x: F64, pads: Sequence[tuple[int, int]], mode: str = "zeros") -> F64:
    """Pad the spatial axes of ``x`` (N, *in, C)."""
    extents = x.shape[1:-1]
    padded = [n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True)]
    y: F64 = np.zeros((x.shape[0], *padded, x.shape[-1]))
    for p, i in _pairs(extents, pads, mode):
        y[pixel(p)] = x[pixel(i)]
    return y


def pad_backward(dy: F64, pads: Sequence[tuple[int, int]], mode: str = "zeros") -> F64:
    """Gradient of :func:`pad`: every padded position gives its share to its source."""
    extents = [n - lo - hi for n, (lo, hi) in zip(dy.shape[1:-1], pads, strict=True)]
    dx: F64 = np.zeros((dy.shape[0], *extents, dy.shape[-1]))
    for p, i in _pairs(extents, pads, mode):
        dx[pixel(i)] += dy[pixel(p)]
    return dx
