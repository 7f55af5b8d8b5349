"""What the runtime tells CuPy, NVRTC and cuBLAS, with all three played by stand-ins on the CPU.

The stand-in for cuBLAS reads its operands from bare addresses, by columns, as the library does.
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cupy_host import needs_compiler

from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, host_cuda, reference
from gpuconv.testing.cases import small_integers
from gpuconv_kernels.raw import source

NORMAL, TRANSPOSED = 0, 1


class DeviceArray(np.ndarray):
    """NumPy's array with CuPy's way to its address."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def device(array):
    return np.array(array).view(DeviceArray)


class Cublas(ModuleType):
    """``cupy_backends.cuda.libs.cublas``, as far as it is used."""

    CUBLAS_OP_N, CUBLAS_OP_T = NORMAL, TRANSPOSED

    def __init__(self):
        super().__init__("cublas")
        self.calls = []

    def sgemm(self, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        self._run("f", handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1)

    def dgemm(self, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        self._run("d", handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1)

    def sgemmStridedBatched(self, *arguments):
        self._run("f", *arguments)

    def dgemmStridedBatched(self, *arguments):
        self._run("d", *arguments)

    def _run(
        self, char, handle, ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, batch
    ):
        self.calls.append((char, batch))
        assert handle == 77
        number = {"f": ctypes.c_float, "d": ctypes.c_double}[char]

        def scalar(address):
            return number.from_address(address).value

        def matrix(address, rows, columns, lead):
            assert lead >= max(rows, 1)
            count = (columns - 1) * lead + rows
            flat = np.ctypeslib.as_array((number * count).from_address(address))
            size = flat.itemsize
            return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, lead * size))

        for i in range(batch):
            size = ctypes.sizeof(number)
            first = matrix(a + i * sa * size, *((k, m) if ta else (m, k)), lda)
            second = matrix(b + i * sb * size, *((n, k) if tb else (k, n)), ldb)
            out = matrix(c + i * sc * size, m, n, ldc)
            product = scalar(alpha) * (first.T if ta else first) @ (second.T if tb else second)
            # cuBLAS does not read the result where beta is 0.
            out[...] = product + scalar(beta) * out if scalar(beta) else product


class RawModule:
    """Compiles for the CPU what CuPy gives to NVRTC."""

    made: list = []  # noqa: RUF012

    def __init__(self, code, options):
        assert "-std=c++17" in options
        (real,) = [o.removeprefix("-DREAL=") for o in options if o.startswith("-DREAL=")]
        (file,) = [f for f in source.FILES if source.text(f) == code]
        dtype = {"float": "float32", "double": "float64"}[real]
        self.program = host_cuda.program(file, dtype)
        self.made.append((file, dtype))

    def get_function(self, name):
        def start(grid, block, arguments):
            assert isinstance(arguments, tuple)
            self.program.launch(name, grid, block, arguments)

        return start


@pytest.fixture
def cublas(monkeypatch):
    cupy = ModuleType("cupy")
    for name in ("float32", "float64", "int64", "finfo", "reshape", "broadcast_to"):
        setattr(cupy, name, getattr(np, name))
    cupy.empty = lambda shape, dtype: device(np.full(shape, -99, dtype))
    cupy.zeros = lambda shape, dtype: device(np.zeros(shape, dtype))
    cupy.ascontiguousarray = lambda a: np.ascontiguousarray(a).view(DeviceArray)
    cupy.RawModule = RawModule
    cupy.ndarray = SimpleNamespace  # so that results are looked at as the NumPy arrays they are
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.device = SimpleNamespace(get_cublas_handle=lambda: 77)
    libs = ModuleType("cupy_backends.cuda.libs")
    libs.cublas = Cublas()
    for name, module in (
        *(("cupy", cupy), ("cupy.cuda", cupy.cuda), ("cupy_backends", ModuleType("b"))),
        *(("cupy_backends.cuda", ModuleType("c")), ("cupy_backends.cuda.libs", libs)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    RawModule.made.clear()
    return libs.cublas


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 2), (1, 1)])
def test_convolution(cublas, kernel, groups, dtype):
    pads = ((0, 0), (0, 0)) if kernel == (1, 1) else ((1, 0), (2, 1))
    g = ConvGeometry(2, 4, 6, (5, 6), kernel, (1, 1), (1, 1), pads, groups)
    rng = np.random.default_rng(0)
    x, w, b, dy = (small_integers(rng, s, dtype) for s in (g.x_shape, g.w_shape, (6,), g.y_shape))
    words = {"padding": pads, "groups": groups}
    engine = CudaCupy()
    dx, dw, ddy, db = (device(a) for a in (x, w, dy, b))
    for limit in (2**30, 900):
        y = engine.conv_forward(dx, dw, db, g, limit, Activation("relu"))
        assert_exact(y, np.maximum(reference.conv(x, w, b, **words), 0))
        wanted = reference.conv_backward_input(dy, w, x.shape, **words)
        assert_exact(engine.conv_backward_input(ddy, dw, g, limit), wanted)
        wanted = reference.conv_backward_weight(dy, x, w.shape, **words)
        assert_exact(engine.conv_backward_weight(ddy, dx, g, limit), wanted)
    assert set(cublas.calls) == {(np.dtype(dtype).char, groups)}
    assert len(set(RawModule.made)) == len(RawModule.made), "a source was compiled twice"


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products(cublas, dtype):
    engine = CudaCupy()
    rng = np.random.default_rng(0)
    a, b = small_integers(rng, (7, 5), dtype), small_integers(rng, (5, 3), dtype)
    wide = device(np.zeros((7, 11), dtype))
    wide[:, 2:7] = a
    for left in (device(a), device(a.T).T, wide[:, 2:7], device(a[::-1])[::-1]):
        for right in (device(b), device(b.T).T):
            assert_exact(engine.gemm(left, right), a.astype("float64") @ b)
    calls = len(cublas.calls)
    assert_exact(engine.gemm(device(a[:, :0]), device(b[:0])), np.zeros((7, 3)))
    assert engine.gemm(device(a[:0]), device(b)).shape == (0, 3)
    assert len(cublas.calls) == calls


@needs_compiler
def test_labels_and_masks(cublas):
    engine = CudaCupy()
    logits = device(np.zeros((4, 5), "float32"))
    numbers = device(np.array([0, 1, 2, 3], "int32"))
    losses, p = engine.softmax_cross_entropy(logits, numbers)
    assert np.allclose(losses, np.log(5))
    dx = engine.softmax_cross_entropy_backward(p, numbers, device(np.ones(4)))
    assert dx.dtype == "float32"
    assert engine.dropout_mask((3, 4), 0.5, (1, 2), "float64").dtype == "float64"
    assert_exact(engine.sum_channels(device(np.ones((6, 2), "float32"))), np.full(2, 6))
    assert cublas.calls == []
