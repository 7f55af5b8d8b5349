"""Memory by address: how kernels see arrays, arrays for results, and the zeros of the padding."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, LINE, NUMBER, REAL, inlined


@functools.cache
def view(dtype: str) -> Any:
    """Return ``view(address, count)``: ``count`` numbers as an array, inside a kernel."""
    pointer = _pointer(dtype)
    number = {"int64": np.int64, "uint8": np.uint8}.get(dtype) or np.dtype(dtype).type

    @inlined
    def array(address, count):  # type: ignore[no-untyped-def]
        return carray(pointer(address), (count,), number)

    return array


def _pointer(dtype: str) -> Any:
    number = {"int64": types.int64, "uint8": types.uint8}.get(dtype) or NUMBER[dtype]

    @intrinsic
    def pointer(typing_context, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kind: ir.Type = context.get_value_type(signature.return_type)
            return builder.inttoptr(arguments[0], kind)

        return types.CPointer(number)(types.intp), generate

    return pointer


@functools.cache
def number_at(dtype: str) -> Any:
    """Return ``f(address, i)``: the ``i``-th number from an address on, inside a kernel.

    It and :func:`put_at` compile in less time than arrays do, and LLVM makes vectors of loops over
    ``i`` all the same.
    """
    kind, number = _kinds(dtype)

    @intrinsic
    def number_at(typing_context, address, i):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            first = builder.inttoptr(arguments[0], number.as_pointer())
            return builder.load(builder.gep(first, [arguments[1]]), align=1)

        return kind(types.intp, types.intp), generate

    return number_at


@functools.cache
def put_at(dtype: str) -> Any:
    """Return ``f(address, i, number)``: store the ``i``-th number from an address on."""
    kind, number = _kinds(dtype)

    @intrinsic
    def put_at(typing_context, address, i, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            first = builder.inttoptr(arguments[0], number.as_pointer())
            builder.store(arguments[2], builder.gep(first, [arguments[1]]), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, kind), generate

    return put_at


@intrinsic
def _float_of(typing_context, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], REAL["float64"])

    return types.float64(types.intp), generate


float_of: Any = _float_of
"""``float_of(bits)``: the float64 whose bits an integer has, inside a kernel."""


def _kinds(dtype: str) -> tuple[Any, ir.Type]:
    return (types.int64, INT) if dtype == "int64" else (NUMBER[dtype], REAL[dtype])


@intrinsic
def _copy(typing_context, to, source, count):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, source = (builder.inttoptr(a, _BYTE) for a in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def _clear(typing_context, to, count):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        cgutils.memset(builder, builder.inttoptr(arguments[0], _BYTE), arguments[1], 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_BYTE = ir.IntType(8).as_pointer()
copy: Any = _copy
"""``copy(to, source, count)``: copy bytes from one address to another, inside a kernel."""
clear: Any = _clear
"""``clear(to, count)``: make bytes zero."""


_DATA = object.__basicsize__
"""Where an array's structure holds the address of its data: first, in NumPy's stable ABI."""
_word_at = ctypes.c_size_t.from_address


def address(array: Any) -> int:
    """The address of an array's first number; the array must outlive its use."""
    return _word_at(id(array) + _DATA).value


def _described_address(array: Any) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


# A description takes 3 us to make, of which a training step needs hundreds.
_sample: Any = np.zeros(4)[1:]
if address(_sample) != _described_address(_sample):
    address = _described_address  # another interpreter


@functools.cache
def copy_vectors(vector_bytes: int) -> Any:
    """Return ``copy(to, source, count)``: copy whole vectors, inside a kernel.

    As instructions: for a few vectors, ``memcpy`` takes longer to be called than to copy.
    """

    @inlined
    def copy_each(to, source, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            copy(to + i * vector_bytes, source + i * vector_bytes, vector_bytes)

    return copy_each


def aligned(count: int, dtype: Any = "uint8") -> Any:
    """Return memory for ``count`` numbers that begins with a line of the cache."""
    size = count * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE, np.uint8)
    first = -address(memory) % LINE
    return memory[first : first + size].view(dtype)


_LARGE = 32 * 1024


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array for results, whose numbers are not set.

    A large one begins with a line of the cache: NumPy's begin 16 bytes behind one, and each vector
    of 64 bytes then lies across two. Kernels that do little with a number take up to twice as long.
    """
    count = math.prod(shape)
    if count < _LARGE:
        return np.empty(shape, dtype)
    return aligned(count, dtype).reshape(shape)


_zeros = np.zeros(0, np.uint8)


def zeros(count: int) -> Any:
    """Return at least ``count`` zero bytes that nobody may write, the same for all callers."""
    global _zeros
    if _zeros.nbytes < count:
        grown = np.zeros(max(count, 2 * _zeros.nbytes, 4096), np.uint8)
        grown.flags.writeable = False
        _zeros = grown
    return _zeros
