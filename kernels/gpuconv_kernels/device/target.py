"""The one module that imports Numba's CUDA target, and what it lacks: 16-byte copies.

Kernels are written in the part of Numba's CUDA that its simulator runs too: one shared
array a source line, no warp intrinsics. ``SIMULATED`` says which of the two this process has; it
is decided by ``NUMBA_ENABLE_CUDASIM`` before Numba is first imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba.cuda
from numba import types

cuda: Any = numba.cuda  # typed differently with numba-cuda installed, without, and in the simulator
config: Any = numba.config

SIMULATED: bool = bool(config.ENABLE_CUDASIM)
"""Whether kernels run as Python threads on the CPU instead of on a device."""

ALIGNMENT: int | None = None if SIMULATED else 16
"""Of shared arrays that are read 16 bytes at a time; the simulator takes no number here."""

if SIMULATED:
    from gpuconv_kernels.device.simulator import mend

    mend()
else:
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small layers fill few multiprocessors; no news


@dataclass(frozen=True)
class KernelSpec:
    """One kernel as ``benchmarks/kernel_report.py`` compiles it.

    Attributes:
        name: unique, with the sizes it was made for: ``"implicit_gemm[float32,128x128x8]"``.
        function: the kernel, as a plain Python function.
        signature: Numba types of its arguments.
        threads: in a block.
        dynamic_shared_bytes: given at launch, beyond the arrays of fixed size.
        min_blocks: blocks a multiprocessor that the compiler must leave registers for; 0: free.
        arithmetic: whether the inner loop's share of multiply-adds is worth reporting.
    """

    name: str
    function: Callable[..., None]
    signature: tuple[Any, ...]
    threads: int
    dynamic_shared_bytes: int = 0
    min_blocks: int = 0
    arithmetic: bool = False


def real(dtype: str) -> Any:
    """Numba's scalar type for ``"float32"`` or ``"float64"``."""
    return {"float32": types.float32, "float64": types.float64}[dtype]


def flat(dtype: str) -> Any:
    """Numba's type of a flat, contiguous array: how every kernel takes its arrays."""
    number = {"int32": types.int32, "int64": types.int64, "uint8": types.uint8}.get(dtype)
    return types.Array(number or real(dtype), 1, "C")


def lanes(dtype: str) -> int:
    """Numbers in 16 bytes, the widest access of a thread: 4 of float32, 2 of float64."""
    return int(128 // real(dtype).bitwidth)


def compiled(function: Callable[..., None], threads: int, min_blocks: int = 0) -> Any:
    """Make a kernel of ``function``: compiled when first launched and cached on disk.

    ``threads`` and ``min_blocks`` are promises to the compiler, which then knows how many
    registers a thread may have.
    """
    if SIMULATED:
        return cuda.jit(function)
    bounds = (threads, min_blocks) if min_blocks else threads
    return cuda.jit(function, cache=True, launch_bounds=bounds)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a device function, for kernels to call, that the compiler always inlines."""
    return (
        cuda.jit(function, device=True)
        if SIMULATED
        else cuda.jit(device=True, forceinline=True)(function)
    )


if SIMULATED:

    def copy16(destination: Any, i: int, source: Any, j: int) -> None:
        """Copy 16 bytes, ``lanes`` numbers: ``destination[i:] = source[j:]``.

        On a device this is one load and one store of 16 bytes; ``i`` and ``j`` must then be
        multiples of ``lanes`` and the arrays begin on a multiple of 16 bytes. All are flat;
        each is global, shared or local (where it means registers).
        """
        for q in range(16 // destination.dtype.itemsize):
            destination[i + q] = source[j + q]

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    @intrinsic
    def copy16(typing_context, destination, i, source, j):  # type: ignore[no-untyped-def]
        """Copy 16 bytes as one vector; see the simulator's twin above."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            to_type, _, from_type, _ = signature.args
            to, i_value, source_value, j_value = arguments
            into = context.make_array(to_type)(context, builder, to)
            out_of = context.make_array(from_type)(context, builder, source_value)
            number = context.get_data_type(to_type.dtype)
            vector = ir.VectorType(number, 128 // to_type.dtype.bitwidth)
            load_at = builder.gep(out_of.data, [j_value])
            store_at = builder.gep(into.data, [i_value])
            value = builder.load(builder.bitcast(load_at, vector.as_pointer()), align=16)
            builder.store(value, builder.bitcast(store_at, vector.as_pointer()), align=16)
            return context.get_dummy_value()

        return types.void(destination, i, source, j), generate

    # Without this the intrinsic counts as another one in every process, and no kernel that calls
    # a device function with it is ever found in the cache on disk.
    copy16._set_uuid("gpuconv_kernels.device.target.copy16")  # type: ignore[attr-defined]
