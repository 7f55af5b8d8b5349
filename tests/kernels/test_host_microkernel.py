"""The micro-kernel whose rows are pixels, called by its address, beside NumPy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from gpuconv.testing import assert_exact
from gpuconv_kernels.host import microkernel
from gpuconv_kernels.host.memory import address
from gpuconv_kernels.host.target import Host, host

HOSTS = [Host(16, 16), Host(32, 16), Host(64, 32)]
CANARY = 12345.0


def call(kernel: int, *arguments: int) -> None:
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 12)(kernel)(*arguments)


@pytest.mark.parametrize("of", HOSTS, ids=lambda h: f"{8 * h.vector_bytes}x{h.registers}")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [0, 1, 7])
@pytest.mark.parametrize("residual", [False, True])
def test_lanes_that_are_no_results_are_left_alone(of, dtype, accumulate, residual):
    """Neither written nor read: what lies there may be memory of nobody, or of another thread."""
    vectors, lanes = 2, of.lanes(dtype)
    rows, width = microkernel.rows_for(vectors, of), vectors * lanes
    kernel = microkernel.pixel_kernel(dtype, of, rows, vectors)
    rng = np.random.default_rng(lanes)
    segments, steps = 3, 5
    a = rng.integers(-3, 4, (segments, rows, steps)).astype(dtype)
    b = rng.integers(-3, 4, (segments * steps, width)).astype(dtype)
    bias = rng.integers(-3, 4, width).astype(dtype)
    of_rows = address(a) + a.strides[0] * np.arange(segments)[:, None]
    table = np.ascontiguousarray(of_rows + a.strides[1] * np.arange(rows), np.int64)
    order = np.arange(segments, dtype=np.int64)
    products = np.einsum("smk,skn->mn", a, b.reshape(segments, steps, width))
    for left_out in range(lanes):
        used = width - left_out
        memory = np.full((2, rows, width), np.nan, dtype)  # results, and what is added to them
        memory[:, :, :used] = rng.integers(-9, 9, (2, rows, used))
        before = memory.copy()
        places = address(memory) + memory.strides[1] * np.arange(rows, dtype=np.int64)
        call(
            kernel, address(table), address(order), segments, 0, address(table), address(b), steps,
            address(places), 0, address(bias), accumulate + left_out * microkernel.LEFT_OUT,
            memory.strides[0] + microkernel.RELU if residual else 0,
        )  # fmt: skip
        expected = products + (before[0] if accumulate else bias)
        if residual:
            expected = np.maximum(expected + before[1], 0)
        before[0, :, :used] = expected[:, :used]
        np.testing.assert_array_equal(memory, before)


def test_rows_may_be_the_same_pixel():
    """As in a tile that has fewer pixels; even where results are added to what is there."""
    of, vectors = host(), 1
    rows, width = microkernel.rows_for(vectors, of), of.lanes("float32")
    kernel = microkernel.pixel_kernel("float32", of, rows, vectors)
    a, b = np.arange(6, dtype="float32"), np.arange(6 * width, dtype="float32").reshape(6, width)
    results = np.full((2, width), CANARY, "float32")
    table, places = np.full(rows, address(a)), np.full(rows, address(results))
    order = np.zeros(1, np.int64)
    call(
        kernel, address(table), address(order), 1, 0, address(table), address(b), 6,
        address(places), 0, address(b), 1, 0,
    )  # fmt: skip
    assert_exact(results[0], CANARY + a @ b)
    assert (results[1] == CANARY).all()


@pytest.mark.parametrize("of", HOSTS, ids=lambda h: f"{8 * h.vector_bytes}x{h.registers}")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_across_leave_less_than_a_vector_empty(of, dtype):
    lanes, most = of.lanes(dtype), microkernel.most_vectors(of)
    for columns in range(1, 300):
        vectors, last = microkernel.vectors_across(columns, dtype, of)
        assert 1 <= last <= vectors <= most
        rest = columns - last * lanes  # whole micro-kernels before the last
        before = -(-rest // (vectors * lanes)) if rest > 0 else 0
        assert 0 <= (before * vectors + last) * lanes - columns < lanes
        assert before == (columns - 1) // lanes // most  # as few as can be
