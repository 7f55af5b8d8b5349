"""Dropout masks with the same bits as NumPy's: Philox4x64-10, a counter-based generator.

Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". A block of random
bits is a function of a counter and a key alone, so a thread computes its own, in any order, with no
state. ``numpy.random.Generator(Philox(key=seed, counter=[0, 0, 0, count]))`` advances the
counter before each block, cuts each 64-bit word into its low and then its high half, and makes a
float32 of the upper 24 bits of each half::

    thread b:  counter (b + 1, 0, 0, count), key (seed, 0)
               -> 10 rounds -> 4 words of 64 bits -> 8 halves -> mask[8 b .. 8 b + 7]
                               | lo hi | lo hi | lo hi | lo hi |

A float32 in [0, 1) is ``n 2^-24`` with an integer n, so ``u >= rate`` is a comparison of integers.
No shared memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div, elementwise_grid, is_aligned, launch
from gpuconv_kernels.device.reductions import MIN_BLOCKS
from gpuconv_kernels.device.target import (
    SIMULATED,
    KernelSpec,
    compiled,
    copy16,
    cuda,
    flat,
    inlined,
    lanes,
    types,
)

Array = Any

_THREADS = 32 if SIMULATED else 256
_EACH = 8
"""Numbers of one block of random bits."""

# On a device all words are uint64 and wrap around; in the simulator they are Python's integers,
# which do not. So every sum and product is cut to 64 bits, for which a device does nothing.
_word: Any = int if SIMULATED else np.uint64
_ALL, _LOW = _word(2**64 - 1), _word(2**32 - 1)
_HALF, _DROPPED, _ONE, _ZERO = _word(32), _word(8), _word(1), _word(0)
_FACTOR_0, _FACTOR_1 = _word(0xD2E7470EE14C6C93), _word(0xCA5A826395121157)
_STEP_0, _STEP_1 = _word(0x9E3779B97F4A7C15), _word(0xBB67AE8584CAA73B)


def dropout_mask(out: Array, rate: float, key: tuple[int, int]) -> None:
    """Write zeros with probability ``rate``, else ``1/(1 - rate)``.

    The numbers behind it are ``generator.random(shape, dtype="float32")`` of the NumPy generator
    with ``Philox(key=key[0], counter=[0, 0, 0, key[1]])``; those below ``rate`` give zero.

    Args:
        out: output of any shape.
        rate: in [0, 1), compared as float32.
        key: two integers in [0, 2^64).
    """
    if out.size == 0:
        return
    bound = math.ceil(float(np.float32(rate)) * 2**24)
    whole = out.size // _EACH if is_aligned(out) else 0
    grid, block = elementwise_grid(ceil_div(out.size, _EACH))
    launch(
        _mask_kernel(out.dtype.name),
        grid,
        block,
        out,
        np.uint64(bound),
        out.dtype.type(1.0 / (1.0 - rate)),
        np.uint64(key[0]),
        np.uint64(key[1]),
        np.int64(whole),
        np.int64(out.size),
    )


def _product(a, b):  # type: ignore[no-untyped-def]
    """Upper and lower 64 bits of a product of 64-bit words, by halves of 32 bits."""
    a_low, a_high = a & _LOW, a >> _HALF
    b_low, b_high = b & _LOW, b >> _HALF
    low = a_low * b_low
    # Each sum below stays under 2^64: (2^32 - 1)^2 + 2 (2^32 - 1) = 2^64 - 1.
    middle = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    high = a_high * b_high + (middle >> _HALF) + (other >> _HALF)
    return high, (a * b) & _ALL


product = inlined(_product)


def _philox(counter, last, seed):  # type: ignore[no-untyped-def]
    """The four words that belong to counter ``(counter, 0, 0, last)`` and key ``(seed, 0)``."""
    c0, c1, c2, c3 = counter, _ZERO, _ZERO, last
    k0, k1 = seed, _ZERO
    for _ in range(10):
        high_0, low_0 = product(_FACTOR_0, c0)
        high_1, low_1 = product(_FACTOR_1, c2)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0 = (k0 + _STEP_0) & _ALL
        k1 = (k1 + _STEP_1) & _ALL
    return c0, c1, c2, c3


philox = inlined(_philox)


def _mask(dtype: str) -> Callable[..., None]:
    number, width = np.dtype(dtype).type, lanes(dtype)
    zero = number(0)

    def dropout(out, bound, scale, seed, last, whole, count):  # type: ignore[no-untyped-def]
        held = cuda.local.array(_EACH, number)
        blocks = (count + _EACH - 1) // _EACH
        for b in range(cuda.grid(1), blocks, cuda.gridsize(1)):
            words = philox(_word(b) + _ONE, _word(last), _word(seed))
            held[0] = scale if (words[0] & _LOW) >> _DROPPED >= bound else zero
            held[1] = scale if words[0] >> _HALF >> _DROPPED >= bound else zero
            held[2] = scale if (words[1] & _LOW) >> _DROPPED >= bound else zero
            held[3] = scale if words[1] >> _HALF >> _DROPPED >= bound else zero
            held[4] = scale if (words[2] & _LOW) >> _DROPPED >= bound else zero
            held[5] = scale if words[2] >> _HALF >> _DROPPED >= bound else zero
            held[6] = scale if (words[3] & _LOW) >> _DROPPED >= bound else zero
            held[7] = scale if words[3] >> _HALF >> _DROPPED >= bound else zero
            start = b * _EACH
            if b < whole:
                for q in range(0, _EACH, width):
                    copy16(out, start + q, held, q)
            else:
                for q in range(_EACH):
                    if start + q < count:
                        out[start + q] = held[q]

    return dropout


@functools.cache
def _mask_kernel(dtype: str) -> Any:
    return compiled(_mask(dtype), _THREADS, MIN_BLOCKS)


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file in every form that its launchers use."""
    for dtype in ("float32", "float64"):
        array, word, long = flat(dtype), types.uint64, types.int64
        yield KernelSpec(
            f"dropout[{dtype}]",
            _mask(dtype),
            (array, word, array.dtype, word, word, long, long),
            _THREADS,
            min_blocks=MIN_BLOCKS,
        )
