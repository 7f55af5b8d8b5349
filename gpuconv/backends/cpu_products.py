"""Matrix products of ``cpu:jit``: those of dense layers, on the micro-kernel of convolution.

A product is a convolution with a 1x1 kernel over a line of pixels, and its two gradients are that
convolution's. So dense layers share the threads of all other kernels, where those of BLAS go on
spinning for some 30 ms after each product and keep a core from whoever comes next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from gpuconv.geometry import ConvGeometry
from gpuconv_kernels.host import direct, weight_gradient
from gpuconv_kernels.host.memory import empty

if TYPE_CHECKING:
    from gpuconv.backends.base import Array
    from gpuconv.backends.cpu_jit_weights import KeptWeights
    from gpuconv.backends.functions import Activation

_LEAST: Final = 2**18
"""Multiply-adds from which on a product is worth handing to threads."""
_MOST_WEIGHTS: Final = 2**22
"""Weights up to which packing them costs less than it gives; BLAS takes larger products."""


@lru_cache(maxsize=256)
def _geometry(rows: int, inner: int, columns: int) -> ConvGeometry:
    return ConvGeometry(
        batch=1,
        in_channels=inner,
        out_channels=columns,
        input=(rows,),
        kernel=(1,),
        stride=(1,),
        dilation=(1,),
        pads=((0, 0),),
    )


def dense(
    x: Array,
    w: Array,
    bias: Array | None,
    activation: Activation | None = None,
    kept: KeptWeights | None = None,
) -> Array | None:
    """Return ``x`` (M, K) times ``w`` (K, N) plus ``bias``; None where BLAS should do it.

    ``activation`` is applied as the kernel stores: of a kind of ``host.activations.FORWARD``.
    ``kept`` holds ``w``, if that does not change.
    """
    if not (_fits(x, w.shape[1], w.size) and w.flags.c_contiguous and _rows_together(x)):
        return None
    y = empty((x.shape[0], w.shape[1]), x.dtype)
    g = _geometry(x.shape[0], *w.shape)
    packed = None if kept is None else kept.packed(1)
    direct.conv_forward(x[None], w[None], bias, y[None], g, activation, packed)
    return y


def gemm(a: Array, b: Array) -> Array | None:
    """Return ``a`` (M, K) times ``b`` (K, N), of which one may be transposed; None: BLAS's."""
    if a.dtype != b.dtype:
        return None
    (rows, inner), columns = a.shape, b.shape[1]
    if _rows_together(a) and b.flags.c_contiguous:
        return dense(a, b, None)
    if _rows_together(a.T) and _rows_together(b) and _fits(a, columns, rows * columns):
        dw = empty((rows, columns), a.dtype)
        g = _geometry(inner, rows, columns)
        weight_gradient.conv_backward_weight(b[None], a.T[None], dw[None], g)
        return dw
    if _rows_together(a) and b.T.flags.c_contiguous and _fits(a, columns, b.size):
        dx = empty((rows, columns), a.dtype)
        g = _geometry(rows, columns, inner)
        direct.conv_backward_input(a[None], b.T[None], dx[None], g)
        return dx
    return None


def _fits(a: Array, columns: int, weights: int) -> bool:
    known = a.dtype.char in "fd"
    return known and a.size * columns >= _LEAST and weights <= _MOST_WEIGHTS


def _rows_together(a: Array) -> bool:
    return bool(a.strides[1] == a.itemsize)
