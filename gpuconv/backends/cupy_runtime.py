"""Where the kernels of ``gpuconv_kernels.raw`` run on a GPU: CuPy's memory, NVRTC, cuBLAS.

Everything goes to CuPy's current stream, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.backends.base import Array
from gpuconv_kernels.raw import gemm, source
from gpuconv_kernels.raw.runtime import Runtime

OPTIONS = ("-std=c++17",)
"""Compiler options beside the definition of REAL and the architecture, which CuPy chooses."""


class CupyRuntime(Runtime):
    """See :class:`gpuconv_kernels.raw.runtime.Runtime`.

    Each source file is compiled when one of its kernels is first needed, once for each dtype;
    CuPy keeps the machine code in ``~/.cupy/kernel_cache`` for later processes.
    """

    def __init__(self) -> None:
        import cupy
        from cupy.cuda import device
        from cupy_backends.cuda.libs import cublas

        self.xp: Any = cupy
        self._cublas, self._handle = cublas, device.get_cublas_handle
        self._modules: dict[tuple[str, str], Any] = {}
        self._kernels: dict[tuple[str, str], Any] = {}
        self._products = {"f": (cublas.sgemm, cublas.sgemmStridedBatched)}
        self._products["d"] = (cublas.dgemm, cublas.dgemmStridedBatched)
        self._numbers = {
            char: {value: np.array(value, char) for value in (0.0, 1.0)} for char in "fd"
        }

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.zeros(shape, dtype)

    def contiguous(self, array: Array) -> Array:
        return self.xp.ascontiguousarray(array)

    def factor(self, matrix: Array) -> Array:
        return matrix if gemm.layout(matrix) is not None else self.contiguous(matrix)

    def transpose(self, array: Array, order: tuple[int, ...]) -> Array:
        return array.transpose(order)

    def cast(self, array: Array, dtype: Any) -> Array:
        return array.astype(dtype, copy=False)

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]
    ) -> None:
        real, passed = source.prepare(kernel, arguments)
        function = self._kernels.get((kernel, real)) or self._kernel(kernel, real)
        function(grid, block, tuple(passed))

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        if out.size == 0:
            return
        if a.size == 0:
            if not add:
                out.fill(0)
            return
        call = gemm.describe(a, b, out)
        char = out.dtype.char
        one, many = self._products[char]
        alpha, beta = (self._numbers[char][v].ctypes.data for v in (1.0, float(add)))
        transposes = [
            self._cublas.CUBLAS_OP_T if t else self._cublas.CUBLAS_OP_N
            for t in (call.transpose_first, call.transpose_second)
        ]
        head = (self._handle(), *transposes, call.m, call.n, call.k, alpha)
        first, second, to = b.data.ptr, a.data.ptr, out.data.ptr
        if call.batch == 1:  # cuBLAS has more ways to divide a single product among the device
            one(
                *head,
                *(first, call.lead_first, second, call.lead_second, beta, to, call.lead_out),
            )
        else:
            many(
                *head,
                *(first, call.lead_first, call.step_first),
                *(second, call.lead_second, call.step_second),
                *(beta, to, call.lead_out, call.step_out, call.batch),
            )

    def _kernel(self, name: str, real: str) -> Any:
        file = source.kernels()[name].file
        module = self._modules.get((file, real))
        if module is None:
            module = self.xp.RawModule(
                code=source.text(file), options=(*OPTIONS, f"-DREAL={source.REALS[real]}")
            )
            self._modules[file, real] = module
        self._kernels[name, real] = module.get_function(name)
        return self._kernels[name, real]
