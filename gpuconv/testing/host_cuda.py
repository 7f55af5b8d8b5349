"""The CUDA C++ kernels of ``gpuconv_kernels.raw`` on the CPU, for tests without a GPU.

The very same sources are compiled with the machine's C++ compiler (see ``host_cuda.hpp`` for what
stands in for CUDA) and run on NumPy arrays, or on those of ``array_api_strict``. Every launch is
checked: arguments against the declaration, limits of CUDA on grids and blocks, divergent barriers,
undefined behaviour, and that nothing was written outside of an array. Outputs begin as NaN.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv_kernels.raw import gemm, source
from gpuconv_kernels.raw.runtime import Runtime

Array = Any

_HEADER = pathlib.Path(__file__).with_name("host_cuda.hpp")
_FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
    "-fsanitize=alignment,null,signed-integer-overflow,integer-divide-by-zero,shift,bounds",
)
_GUARD = 1024
"""Bytes on either side of each array that a kernel must leave alone."""

_BYTE = 0xFF
"""Of which guards and fresh outputs are made: NaN as a float, -1 as an integer."""


def compiler() -> str | None:
    """Path of a C++ compiler for Linux's object format, or None."""
    return shutil.which(*_CXX) if os.uname().sysname == "Linux" else None


_CXX = ("g++",)


@functools.cache
def _compiled_header() -> pathlib.Path:
    """The header, compiled beforehand: it takes longer than most kernels."""
    folder = tempfile.TemporaryDirectory(prefix="host_cuda_")
    atexit.register(folder.cleanup)
    copied = pathlib.Path(folder.name, _HEADER.name)
    shutil.copy(_HEADER, copied)
    _run([*_CXX, *_FLAGS, "-x", "c++-header", str(copied), "-o", f"{copied}.gch"])
    return copied


class LaunchError(AssertionError):
    """A kernel did what would be wrong on a GPU."""


class Program:
    """One source file compiled for the CPU.

    Args:
        code: the source, includes written out.
        real: ``"float32"`` or ``"float64"``.

    Raises:
        RuntimeError: the compiler refuses it.
    """

    def __init__(self, code: str, real: str) -> None:
        names = [kernel.name for kernel in source.declared(code, "")]
        entries = (
            f'extern "C" const char* launch_{n}(void** a, const unsigned* grid, '
            f"const unsigned* block, int reverse) {{ return host::launch("
            f"[](void** b) {{ host::call({n}, b); }}, a, grid, block, reverse); }}\n"
            for n in names
        )
        define = f"#define REAL {source.REALS[real]}"
        with tempfile.TemporaryDirectory(prefix="host_cuda_") as name:
            folder = pathlib.Path(name)
            file, built = folder / "kernels.cpp", folder / "kernels.so"
            file.write_text(f'{define}\n#line 1 "kernels"\n{code}\n{"".join(entries)}')
            header, objects = _compiled_header(), folder / "kernels.o"
            _run([*_CXX, *_FLAGS, "-include", str(header), "-c", str(file), "-o", str(objects)])
            # Linked apart: with the sanitizer's flags the linker would want its library, whose
            # functions the header defines itself.
            _run([*_CXX, "-shared", str(objects), "-o", str(built)])
            self._library = ctypes.CDLL(str(built))

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        reverse: bool = False,
    ) -> None:
        """Run a kernel; arguments as ``source.prepare`` gives them.

        With ``reverse`` the last block and in it the last thread come first: what a kernel
        computes must not depend on the order.

        Raises:
            LaunchError: see the top of this file.
        """
        grid, block = ((*extents, 1, 1)[:3] for extents in (grid, block))
        threads = math.prod(block)
        if not (1 <= threads <= 1024 and min(*grid, *block) >= 1):
            raise LaunchError(f"{name}: grid {grid}, block {block}")
        if grid[0] > 2**31 - 1 or max(grid[1:]) > 65_535 or block[2] > 64:
            raise LaunchError(f"{name}: grid {grid} or block {block} is more than CUDA allows")
        parameters = source.kernels()[name].parameters
        guarded = [_Guarded(a, p.is_const) for a, p in zip(arguments, parameters, strict=True)]
        pointers = (ctypes.c_void_p * len(guarded))(*(g.pointer for g in guarded))
        function = getattr(self._library, f"launch_{name}")
        function.restype = ctypes.c_char_p
        three = ctypes.c_uint * 3
        problem = function(pointers, three(*grid), three(*block), int(reverse))
        if problem:
            raise LaunchError(f"{name}: {problem.decode()}")
        for parameter, value in zip(parameters, guarded, strict=True):
            value.finish(f"{parameter.name} of {name}")


class _Guarded:
    """An argument; an array is copied between two guards, at an address alike."""

    def __init__(self, value: Any, is_const: bool) -> None:
        self._array = None
        if isinstance(value, np.ndarray) and value.dtype.kind != "V":
            self._array, self._is_const = value, is_const
            # What is read by mistake is NaN; written by mistake, NaN must look different.
            self._byte = _BYTE if is_const else _BYTE - 1
            self._memory = np.full(value.nbytes + 2 * _GUARD + 64, self._byte, np.uint8)
            begin = _GUARD + (value.ctypes.data - self._memory.ctypes.data - _GUARD) % 64
            self._slot = slice(begin, begin + value.nbytes)
            self._memory[self._slot] = value.reshape(-1).view(np.uint8)
            self._value = np.array(self._memory.ctypes.data + begin, np.uint64)
        elif value is None:
            self._value = np.zeros((), np.uint64)
        else:
            self._value = np.array(value)
        self.pointer = self._value.ctypes.data

    def finish(self, what: str) -> None:
        """Copy back what was written; nothing may have been written elsewhere."""
        if self._array is None:
            return
        inner = self._memory[self._slot].copy()
        self._memory[self._slot] = self._byte
        if (self._memory != self._byte).any():
            raise LaunchError(f"{what}: something was written outside of the array")
        if not self._is_const:
            self._array.reshape(-1).view(np.uint8)[...] = inner


@functools.cache
def program(file: str, real: str) -> Program:
    """A source file of ``gpuconv_kernels.raw``, compiled once a process."""
    return Program(source.text(file), real)


class HostRuntime(Runtime):
    """A :class:`gpuconv_kernels.raw.runtime.Runtime` on the CPU.

    Args:
        xp: ``numpy`` or ``array_api_strict``.
        reverse: run threads and blocks in reverse order.

    Attributes:
        launched: names of the kernels started so far.
        allocated: bytes of each array made so far by the engine, copies of operands included.
    """

    def __init__(self, xp: Any = np, reverse: bool = False) -> None:
        self.xp, self.reverse = xp, reverse
        self.launched: list[str] = []
        self.allocated: list[int] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        made = np.empty(shape, _numpy_dtype(dtype))
        made.reshape(-1).view(np.uint8)[...] = _BYTE
        return self._own(made)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._own(np.zeros(shape, _numpy_dtype(dtype)))

    def contiguous(self, array: Array) -> Array:
        plain = np.asarray(array)
        if plain.flags.c_contiguous and plain.flags.aligned:
            return array
        return self._own(np.array(plain, order="C"))

    def factor(self, matrix: Array) -> Array:
        plain = np.asarray(matrix)
        lies = plain.flags.aligned and gemm.layout(plain) is not None
        return matrix if lies else self.contiguous(matrix)

    def transpose(self, array: Array, order: tuple[int, ...]) -> Array:
        return self.xp.permute_dims(array, order)

    def cast(self, array: Array, dtype: Any) -> Array:
        return array if array.dtype == dtype else self.xp.asarray(array, dtype=dtype)

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]
    ) -> None:
        self.launched.append(kernel)
        plain = [np.asarray(a) if hasattr(a, "__array_namespace__") else a for a in arguments]
        real, passed = source.prepare(kernel, plain)
        compiled = program(source.kernels()[kernel].file, real)
        compiled.launch(kernel, grid, block, passed, self.reverse)

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        if self.xp is not np:
            out[...] = out + self.xp.matmul(a, b) if add else self.xp.matmul(a, b)
        elif out.size and a.size:
            cublas_like(a, b, out, add)
        elif not add:
            out[...] = 0

    def _own(self, array: Any) -> Array:
        self.allocated.append(array.nbytes)
        return array if self.xp is np else self.xp.asarray(array)


def cublas_like(a: Any, b: Any, out: Any, add: bool) -> None:
    """Carry out ``gemm.describe``'s call as cuBLAS would: by columns, from bare addresses."""
    call = gemm.describe(a, b, out)

    def matrices(array: Any, rows: int, columns: int, lead: int, step: int) -> Any:
        if lead < max(rows, 1):
            raise LaunchError(f"leading dimension {lead} for {rows} rows")
        size = array.itemsize
        return np.lib.stride_tricks.as_strided(
            array, (call.batch, rows, columns), (step * size, size, lead * size)
        )

    m, n, k = call.m, call.n, call.k
    shapes = [(k, m) if call.transpose_first else (m, k)]
    shapes.append((n, k) if call.transpose_second else (k, n))
    first = matrices(b, *shapes[0], call.lead_first, call.step_first)
    second = matrices(a, *shapes[1], call.lead_second, call.step_second)
    if call.transpose_first:
        first = first.transpose(0, 2, 1)
    if call.transpose_second:
        second = second.transpose(0, 2, 1)
    result = matrices(out, m, n, call.lead_out, call.step_out)
    product = np.matmul(first, second)
    result[...] = result + product if add else product


def _numpy_dtype(dtype: Any) -> Any:
    return np.dtype(getattr(dtype, "_np_dtype", dtype))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr.strip()[:4000]}")
