"""The harness that runs CUDA C++ on the CPU catches what would go wrong on a GPU."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.testing import assert_close, assert_exact, host_cuda, reference
from gpuconv.testing.cases import small_integers
from gpuconv_kernels.raw import source

pytestmark = pytest.mark.skipif(
    host_cuda.compiler() is None,
    reason="the CUDA C++ kernels are run on the CPU here, which takes g++ on Linux",
)

LIMIT = 2000


def offset_by_one(array):
    """The same numbers at an address that is no multiple of 16."""
    memory = np.zeros(array.size + 5, array.dtype)
    start = -memory.ctypes.data % 16 // memory.itemsize + 1
    view = memory[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def convolve(engine):
    g = ConvGeometry(2, 8, 4, (5, 6), (3, 2), (2, 1), (1, 2), ((1, 1), (2, 0)))
    rng = np.random.default_rng(0)
    x, w, dy = (offset_by_one(small_integers(rng, s)) for s in (g.x_shape, g.w_shape, g.y_shape))
    words = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation}
    assert_exact(engine.conv_forward(x, w, None, g, LIMIT), reference.conv(x, w, **words))
    wanted = reference.conv_backward_input(dy, w, x.shape, **words)
    assert_exact(engine.conv_backward_input(dy, w, g, LIMIT), wanted)


def convolve_depthwise(engine):
    g = ConvGeometry(2, 5, 5, (7, 6), (3, 3), (1, 2), (1, 1), ((1, 1), (1, 0)), 5)
    rng = np.random.default_rng(0)
    x, dy = small_integers(rng, g.x_shape), small_integers(rng, g.y_shape)
    words = {"stride": g.stride, "padding": g.pads, "groups": 5}
    wanted = reference.conv_backward_weight(dy, x, g.w_shape, **words)
    assert_exact(engine.conv_backward_weight(dy, x, g, 10**6), wanted)


def sum_up(engine):
    x = small_integers(np.random.default_rng(0), (150, 40))
    assert_exact(engine.sum_channels(x), x.sum(0))
    rows = small_integers(np.random.default_rng(0), (3, 40))
    assert_exact(engine.moments(rows * 40, (1,))[0], rows.sum(1, keepdims=True))


def take_softmax(engine):
    x = np.random.default_rng(0).standard_normal((5, 70))
    assert_close(engine.softmax(x), reference.softmax(x), 4)


def pool(engine):
    g = PoolGeometry(2, 3, (6, 5), (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1)))
    x = small_integers(np.random.default_rng(0), g.x_shape)
    y, indices = engine.max_pool(x, g, True)
    expected, expected_indices = reference.max_pool(x, g.window, g.stride, g.pads)
    assert_exact(y, expected)
    assert_exact(indices, expected_indices)
    dx = engine.max_pool_backward(y, indices, g)
    assert_exact(dx, reference.max_pool_backward(y, expected_indices, g.x_shape))


USES = {
    "im2col.cu": convolve,
    "depthwise.cu": convolve_depthwise,
    "sums.cu": sum_up,
    "softmax.cu": take_softmax,
    "pooling.cu": pool,
}

TREE = "if ((int)threadIdx.y < half)"

MUTANTS = {
    # file, what stands there, what the mutant says, which of several places
    "no barrier after the origins": ("im2col.cu", "__syncthreads();", "", 0),
    "a barrier for some threads": (
        "im2col.cu",
        "__syncthreads();",
        "if (r < 9) __syncthreads();",
        0,
    ),
    "halo one too far": ("im2col.cu", "0 <= i && i < extent", "0 <= i && i <= extent", 0),
    "packs at any address": (
        *("im2col.cu", "(reinterpret_cast<uint64>(pointer) & 15) == 0", "pointer != nullptr"),
        0,
    ),
    "chunks overlap": ("im2col.cu", "row >= rows", "row > rows", 0),
    "stride forgotten": ("im2col.cu", "q * w.stride[axis] == distance && ", "", 0),
    "no barrier in the tree": ("depthwise.cu", "__syncthreads();", "", 1),
    "filters behind the last": (
        "depthwise.cu",
        "threadIdx.y == 0 && f < filters",
        "threadIdx.y == 0",
        0,
    ),
    "no barrier in the columns' tree": ("sums.cu", "__syncthreads();", "", 1),
    "no barrier in the second stage": ("sums.cu", "__syncthreads();", "", 4),
    "a barrier inside a branch": ("sums.cu", "}\n        __syncthreads();", "__syncthreads();}", 0),
    "segments overlap": (
        *(
            "sums.cu",
            "begin = blockIdx.y * per_segment;",
            "begin = blockIdx.y * (per_segment - 1);",
        ),
        0,
    ),
    "the buffer is taken too early": (
        "softmax.cu",
        "__syncthreads();  // the buffer",
        "// the buffer",
        0,
    ),
    "rows behind the last": ("softmax.cu", "row < rows ? begin", "row <= rows ? begin", 0),
    "the last maximum wins": ("pooling.cu", "value > best", "value >= best", 0),
    "an index too many": (
        "pooling.cu",
        "y[r * channels + c] = best",
        "y[r * channels + c + 1] = best",
        0,
    ),
}


def replaced(text, old, new, place):
    parts = text.split(old)
    assert len(parts) > place + 1, f"{old!r} does not stand in the source {place + 1} times"
    return old.join(parts[: place + 1]) + new + old.join(parts[place + 1 :])


@pytest.mark.parametrize("file", USES)
def test_the_sources_as_they_are_pass(file):
    for reverse in (False, True):
        USES[file](CudaCupy(host_cuda.HostRuntime(reverse=reverse)))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name, monkeypatch):
    file, *change = MUTANTS[name]
    real = "float64" if file == "softmax.cu" else "float32"
    mutant = host_cuda.Program(replaced(source.text(file), *change), real)
    usual = host_cuda.program
    monkeypatch.setattr(
        host_cuda, "program", lambda f, r: mutant if (f, r) == (file, real) else usual(f, r)
    )
    caught = 0
    for reverse in (False, True):
        try:
            USES[file](CudaCupy(host_cuda.HostRuntime(reverse=reverse)))
        except AssertionError:
            caught += 1
    assert caught


BODIES = {
    "nothing": "",
    "right": "value[i] = i;",
    "right, with barriers": "__syncthreads(); value[i] = i; __syncthreads();",
    "behind the end": "value[i + 1] = 1;",
    "before the beginning": "value[i - 3] = 1;",
    "a barrier for 60": "if (i < 60) __syncthreads();",
    "two barriers": "if (i < 3) {\n__syncthreads(); } else {\n\n__syncthreads(); }",
    "overflow": "value[0] = most + 1 + i;",
    "division": "value[0] = 7 / (most - 2147483647);",
    "shift": "value[0] = 1 << (i + 40);",
    "16 bytes": "struct alignas(16) P { REAL at[4]; }; if (i == 0) *(P*)value = P();",
    "shared": "value[i] += s[i] != s[i]; s[i] = 3; __syncthreads(); value[i] *= s[0];",
}


@functools.cache
def small_kernels():
    """One kernel, under a name that is known, which does what its last argument says."""
    cases = "".join(
        f"case {number}: {{ {body} break; }}\n" for number, body in enumerate(BODIES.values())
    )
    return host_cuda.Program(
        "typedef long long int64;\n"
        'extern "C" __global__ void __launch_bounds__(256, 4) adagrad_update(\n'
        "REAL* __restrict__ value, const REAL* __restrict__ gradient, "
        "REAL* __restrict__ accumulator, REAL rate, REAL epsilon, int most, int64 which) {\n"
        "(void)gradient; (void)accumulator; (void)rate; (void)epsilon; (void)most;\n"
        "__shared__ REAL s[64]; const int i = threadIdx.x;\n"
        f"switch (which) {{ {cases} default: (void)s; }} }}",
        "float32",
    )


def launch_error(name, block=(64,), x=None):
    x = np.zeros(64, np.float32) if x is None else x
    which = list(BODIES).index(name)
    _, arguments = source.prepare("adagrad_update", (x, x.copy(), x.copy(), 1, 1, 2**31 - 1, which))
    try:
        small_kernels().launch("adagrad_update", (2,), block, arguments)
    except host_cuda.LaunchError as error:
        return str(error)
    return ""


def test_what_is_right_is_no_error():
    assert launch_error("right") == ""
    assert launch_error("right, with barriers") == ""


def test_errors_have_their_words():
    assert "outside of the array" in launch_error("behind the end")
    assert "outside of the array" in launch_error("before the beginning")
    words = launch_error("a barrier for 60")
    assert "4 threads of a block did not reach the barrier" in words
    assert "different barriers" in launch_error("two barriers")
    assert "overflow" in launch_error("overflow")
    assert "division by zero" in launch_error("division")
    assert "shift" in launch_error("shift")
    misaligned = offset_by_one(np.zeros(64, np.float32))
    assert "misaligned" in launch_error("16 bytes", x=misaligned)
    assert launch_error("right", x=misaligned) == ""


def test_after_an_error_the_next_launch_is_as_good_as_new():
    for _ in range(2):
        assert launch_error("a barrier for 60")
        assert launch_error("right, with barriers") == ""


def test_limits_of_cuda_are_kept():
    assert "block" in launch_error("nothing", block=(1025,))
    assert "block" in launch_error("nothing", block=(1, 1, 65))
    assert "grid" in launch_error("nothing", block=(0,))


def test_shared_memory_begins_as_nan_in_every_block():
    x = np.zeros(64, np.float32)
    assert launch_error("shared", x=x) == ""
    assert_exact(x, np.full(64, ((0 + 1) * 3 + 1) * 3))
