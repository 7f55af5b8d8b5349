"""Sums over every axis but the last on the device."""

from __future__ import annotations

import device_mutants
import numpy as np
import pytest
from device_mutants import mutant

from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import small_integers
from gpuconv_kernels.device import reductions

SHAPES = [
    (1, 1),
    (1, 7),
    (9, 1),
    (65, 3),
    (2, 3, 4, 5),
    (37, 33),
    (700, 2),
    (5, 64),
    (0, 3),
    (3, 0),
]


def total(memory, dy, module=reductions):
    out = memory.empty(dy.shape[-1:], dy.dtype)
    needed = module.partial_elements(dy.shape)
    partial = memory.empty((needed,), dy.dtype) if needed else None
    module.sum_channels(memory.put(dy), out, partial)
    return memory.get(out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_integers_are_exact(memory, rng, shape, dtype):
    dy = small_integers(rng, shape, dtype)
    assert_exact(total(memory, dy), reference.sum_channels(dy))


def test_random_numbers(memory, rng):
    dy = rng.standard_normal((11, 13, 5)).astype("float32")
    expected = dy.astype("float64").reshape(-1, 5).sum(axis=0)
    scale = np.abs(dy.astype("float64")).reshape(-1, 5).sum(axis=0)
    assert_close(total(memory, dy), expected, 1, scale)


@pytest.mark.parametrize(
    "case", [(1, 2, 3), (3, 5, 1), (70, 1, 1), (6, 4, 9), (40, 100, 1), (1, 300, 40)]
)
def test_bricks_of_any_form(memory, rng, case):
    """Sums along the middle: short and long, one number or many on each side."""
    x = small_integers(rng, case)
    out = memory.empty((case[0], case[2]), x.dtype)
    needed = reductions.sum_elements(*case)
    partial = memory.empty((needed,), x.dtype) if needed else None
    reductions.sum_run(memory.put(x), out, partial, *case)
    assert_exact(memory.get(out), x.sum(axis=1))


def test_the_same_bits_again(memory, rng):
    dy = rng.standard_normal((300, 3)).astype("float32")
    assert total(memory, dy).tobytes() == total(memory, dy).tobytes()


def test_the_hardware_brick(memory, rng, monkeypatch):
    """256 threads in one block, as a device gets them."""
    monkeypatch.setattr(reductions, "THREADS", 256)
    monkeypatch.setattr(reductions, "bricks", reductions.bricks.__wrapped__)
    dy = small_integers(rng, (45, 35))
    assert reductions.bricks(1, 45, 35).block == (32, 8, 1)
    assert_exact(total(memory, dy), reference.sum_channels(dy))


def test_bricks_respect_the_limits_of_a_device():
    for case in [
        (1, 1, 1),
        (10**9, 1, 1),
        (1, 10**9, 1),
        (1, 1, 10**9),
        (10**5, 3, 7),
        (7, 10**6, 64),
    ]:
        for threads in (32, 256):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reductions, "THREADS", threads)
                cut = reductions.bricks.__wrapped__(*case, 1024)
            x, y, z = cut.block
            assert x * y * z <= threads
            assert z <= 64
            assert cut.grid < 2**31
            assert (cut.splits - 1) * cut.chunk < case[1] <= cut.splits * cut.chunk
            assert cut.tiles[0] * x >= case[2]
            assert cut.tiles[1] * z >= case[0]


@pytest.mark.parametrize(
    ("old", "new", "which"),
    [
        ("cuda.syncthreads()", "pass", 0),
        ("cuda.syncthreads()", "pass", 1),
        ("while row + 3 * down < stop", "while row < stop", 0),
        ("half * across", "half", 0),
        ("min((split + 1) * chunk, reduced)", "(split + 1) * chunk", 0),
    ],
)
def test_mistakes_are_noticed(memory, rng, old, new, which):
    broken = mutant(reductions, old, new, which)
    dy = small_integers(rng, (67, 5), low=1)
    try:
        got = total(memory, dy, broken)
    except IndexError:  # the simulator noticed an access out of bounds
        return
    with pytest.raises(AssertionError):
        assert_exact(got, reference.sum_channels(dy))


def test_no_broken_kernel_reaches_a_device(monkeypatch):
    monkeypatch.setattr(device_mutants, "SIMULATED", False)
    with pytest.raises(pytest.skip.Exception, match="may hang a device"):
        mutant(reductions, "cuda.syncthreads()", "pass")
