"""What a launcher needs to know about where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Array = Any


class Runtime(Protocol):
    """Arrays, kernels and matrix products of one device.

    On a GPU: CuPy, NVRTC and cuBLAS, all on the current stream. Nothing waits for the device.
    """

    xp: Any
    """The array module; of its functions ``reshape``, ``broadcast_to`` and ``finfo`` are used."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a C-contiguous array of any content."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a C-contiguous array of zeros."""

    def contiguous(self, array: Array) -> Array:
        """Return ``array`` itself if it is C-contiguous and aligned, else a copy that is."""

    def factor(self, matrix: Array) -> Array:
        """Return ``matrix`` itself if :meth:`multiply` takes it as it lies, else a copy."""

    def transpose(self, array: Array, order: tuple[int, ...]) -> Array:
        """Return a view with the axes in another order."""

    def cast(self, array: Array, dtype: Any) -> Array:
        """Return ``array`` itself if it has this dtype, else a copy that has."""

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]
    ) -> None:
        """Start a kernel; see :func:`gpuconv_kernels.raw.source.prepare` for the arguments."""

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """Write ``a @ b`` into ``out``, or add it: (G, M, K), (G, K, N), (G, M, N).

        The operands are views as :func:`gpuconv_kernels.raw.gemm.describe` takes them.
        """


def itemsize(rt: Runtime, array: Array) -> int:
    """Bytes of one number of a floating-point array."""
    return int(rt.xp.finfo(array.dtype).bits) // 8


THREADS = 256
"""Threads of a block."""

_BLOCKS = 16_384
"""Blocks of a kernel that strides over its elements by its grid: enough to fill any device."""


def blocks_for(count: int) -> int:
    """Blocks for so many blocks' worth of work, for kernels that stride by their grid."""
    return max(1, min(count, _BLOCKS))


def flat_grid(count: int, per_thread: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(grid, block)`` for an element-wise kernel over ``count`` numbers."""
    return (blocks_for(-(-count // (THREADS * per_thread))),), (THREADS,)


def row_block(width: int, widest: int = 64) -> tuple[int, int]:
    """Threads ``(X, Y)`` for rows of ``width`` numbers: powers of two, X up to ``widest``.

    X just covers a short row, so that few threads have nothing to do; Y rows share a block.
    """
    x = 1
    while x < min(width, widest):
        x *= 2
    return x, THREADS // x


def row_grid(rows: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(grid, block)`` for a kernel whose threads take channels (x) and rows (y)."""
    block = row_block(width)
    return (blocks_for(-(-rows // block[1])),), block
