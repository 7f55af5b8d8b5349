"""Dropout masks on the device have the bits that NumPy's Philox generator gives."""

from __future__ import annotations

import numpy as np
import pytest
from device_mutants import mutant

from gpuconv.random import generator_for
from gpuconv.testing import assert_exact
from gpuconv_kernels.device import random_numbers

KEYS = [(5, 3), (0, 0), (2**63 - 1, 2**40 + 7), (123456789123456789, 1)]


def mask(memory, shape, rate, key, dtype="float32", module=random_numbers):
    out = memory.empty(shape, dtype)
    module.dropout_mask(out, rate, key)
    return memory.get(out)


def expected(shape, rate, key, dtype="float32"):
    kept = generator_for(key).random(shape, dtype="float32") >= rate
    return np.multiply(kept, 1.0 / (1.0 - rate), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("shape", [(1003,), (7, 3, 5), (2, 8)], ids=str)
def test_the_same_bits_as_numpy(memory, shape, key, dtype):
    assert_exact(mask(memory, shape, 0.3, key, dtype), expected(shape, 0.3, key, dtype))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65])
def test_every_remainder_of_a_block(memory, size):
    assert_exact(mask(memory, (size,), 0.5, (1, 2)), expected((size,), 0.5, (1, 2)))


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 0.25, 0.5, 2 / 3, 0.999])
def test_every_rate(memory, rate):
    assert_exact(mask(memory, (400,), rate, (11, 4)), expected((400,), rate, (11, 4)))


def test_a_rate_that_is_one_of_the_numbers(memory):
    """``>=`` on the very number: kept, by NumPy and here."""
    rate = float(generator_for((11, 4)).random(400, dtype="float32")[17])
    got = mask(memory, (400,), rate, (11, 4))
    assert got[17] > 0
    assert_exact(got, expected((400,), rate, (11, 4)))


def test_memory_that_is_not_aligned(memory):
    held = memory.empty((41,), "float32")
    random_numbers.dropout_mask(held[1:], 0.5, (3, 3))
    got = memory.get(held)
    assert np.isnan(got[0])
    assert_exact(got[1:], expected((40,), 0.5, (3, 3)))


def test_words_with_all_bits_set():
    """The carries of the long product; on the host, where its integers are checked as such."""
    product = getattr(random_numbers.product, "py_func", random_numbers._product)
    word = random_numbers._word
    for a in (0, 1, 2**32 - 1, 2**32, 2**63 + 1, 2**64 - 1):
        for b in (1, 2**32 - 1, 2**33 + 5, 2**64 - 2**32, 2**64 - 1):
            with np.errstate(over="ignore"):
                high, low = product(word(a), word(b))
            assert (int(high) << 64) + int(low) == a * b


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("range(10)", "range(9)"),
        ("_word(b) + _ONE", "_word(b)"),
        ("high_1 ^ c1 ^ k0", "high_0 ^ c1 ^ k0"),
        (">> _DROPPED >= bound", ">> _DROPPED > bound"),
        ("+ (other >> _HALF)", ""),
    ],
)
def test_mistakes_are_noticed(memory, old, new):
    rate = float(generator_for((11, 4)).random(400, dtype="float32")[16])
    got = mask(memory, (400,), rate, (11, 4), module=mutant(random_numbers, old, new))
    with pytest.raises(AssertionError):
        assert_exact(got, expected((400,), rate, (11, 4)))
