"""Functions with a bit for each number: the bits of those that compute from the output."""

from __future__ import annotations

import numpy as np
import pytest
from test_host_activations import assert_same_bits, values

from gpuconv.testing.guards import guarded
from gpuconv_kernels.array import activations as array
from gpuconv_kernels.host import gates
from gpuconv_kernels.host.activations import TASK
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads


def check(x, dy, kind):
    bits = np.zeros(gates.bytes_for(x.size), np.uint8)
    with guarded(x, np.empty_like(x), bits, dy, np.empty_like(x)) as (x_in, y, bits, dy_in, dx):
        gates.forward(x_in, y, bits, kind)
        gates.backward(dy_in, bits, dx)
        assert_same_bits(y, array.forward(x, kind))
        assert_same_bits(dx, array.backward(dy, None, y, kind))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", sorted(gates.GATES))
def test_the_same_as_from_the_output(kind, dtype):
    x, dy = (a.reshape(-1) for a in np.meshgrid(values(dtype), values(dtype)))
    check(x, dy, kind)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 31, 40, 1000])
def test_any_number_of_numbers(size):
    x, dy = np.random.default_rng(size).standard_normal((2, size)).astype("float32")
    check(x, dy, "relu")


@pytest.fixture
def of_width(monkeypatch):
    """Compile for vectors of so many bytes, and nowhere else."""

    def compile_for(vector_bytes):
        monkeypatch.setattr(gates, "host", lambda: Host(vector_bytes, 16))
        for kernel in (gates.opening, gates.passing):
            monkeypatch.setattr(gates, kernel.__name__, kernel.__wrapped__)

    return compile_for


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
def test_every_width_of_vectors(of_width, vector_bytes):
    of_width(vector_bytes)
    x, dy = (a.reshape(-1)[:999] for a in np.meshgrid(*[values(np.float32)] * 2))
    check(x, dy, "relu6")


def test_the_bits_do_not_depend_on_the_number_of_threads():
    x, dy = np.random.default_rng(1).standard_normal((2, 3 * TASK + 21)).astype("float32")
    try:
        for count in (1, 2, 3):
            set_threads(count)
            check(x, dy, "relu")
    finally:
        set_threads(None)


def test_views():
    base = np.random.default_rng(2).standard_normal((9, 8)).astype("float32")
    x, dy = base[::2, 1:6].T, base[:5, ::-1][:, :5]
    y, dx = np.empty(x.shape, "float32"), np.empty(x.shape, "float32")
    bits = np.empty(gates.bytes_for(x.size), np.uint8)
    gates.forward(x, y, bits, "relu")
    gates.backward(dy, bits, dx)
    assert_same_bits(y, array.forward(x, "relu"))
    assert_same_bits(dx, np.where(x > 0, dy, np.float32(0)))
