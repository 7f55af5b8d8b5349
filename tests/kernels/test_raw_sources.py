"""The CUDA C++ sources: what Python reads of them, and NVRTC's verdict."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT
from gpuconv_kernels.raw import activations, gemm, padding, runtime, source, sums, windows


def enumerators(file, name):
    found = re.search(rf"enum {name} {{(.*?)}}", re.sub(r"//.*", "", source.text(file)), re.DOTALL)
    return [word.strip().lower() for word in found[1].split(",") if word.strip()]


def test_every_source_is_read_and_is_free_of_other_headers():
    listed = {path.name for path in source.FOLDER.glob("*.cu")}
    assert listed == set(source.FILES)
    for file in source.FILES:
        assert "#include" not in source.text(file)
        assert "atomic" not in re.sub(r"//.*", "", source.text(file))
    assert len(source.kernels()) == 29
    assert len(source.declared("".join(source.text(f) for f in source.FILES), "")) == 29


def test_numbers_of_functions_modes_and_terms_are_those_of_the_sources():
    assert list(activations.KINDS) == enumerators("activations.cu", "Kind")
    assert set(activations.KINDS) - {"linear"} == FROM_INPUT | FROM_OUTPUT
    assert set(activations.KINDS[1 : 1 + len(FROM_OUTPUT)]) == FROM_OUTPUT
    assert list(padding.MODES) == enumerators("padding.cu", "Mode")
    terms = enumerators("sums.cu", "Term")
    assert terms == ["values", "squares", "gradients"]
    assert (sums.VALUES, sums.SQUARES, sums.GRADIENTS) == (0, 1, 2)


def test_a_declaration_becomes_types():
    kernel = source.kernels()["im2col"]
    assert (kernel.file, kernel.threads) == ("im2col.cu", 256)
    assert [p.name for p in kernel.parameters] == [
        *("x", "columns", "w", "channels", "groups", "first", "rows")
    ]
    x, columns, w, channels, *_, rows = kernel.parameters
    assert (x.is_array, x.is_const, x.dtype) == (True, True, None)
    assert (columns.is_array, columns.is_const) == (True, False)
    assert (w.dtype, channels.dtype, rows.dtype) == (source.WINDOW, np.int32, np.int64)
    with pytest.raises(ValueError, match="not understood"):
        source.declared('extern "C" __global__ void __launch_bounds__(1, 1) k(short n) {}', "")


def test_arguments_are_converted_or_refused():
    x = np.zeros((2, 3), np.float32)
    w = windows.describe((3,), (3,), (1,), (1,), (1,), ((0, 0),))
    real, made = source.prepare("im2col", (x, x, w, 3, 1, 2**40, 5))
    assert real == "float32"
    assert [type(a) for a in made[3:]] == [np.int32, np.int32, np.int64, np.int64]
    assert made[0] is x
    for arguments, error, words in (
        ((x, x, w, 3, 1, 0), TypeError, "takes 7 arguments"),
        ((x, x.astype("float64"), w, 3, 1, 0, 5), TypeError, "columns of im2col"),
        ((x, x.T, w, 3, 1, 0, 5), TypeError, "C-contiguous"),
        ((x.astype("int32"), x, w, 3, 1, 0, 5), TypeError, "float32 or float64"),
        ((x, x, w, 2**31, 1, 0, 5), OverflowError, "channels of im2col"),
        ((x, x, np.zeros(3), 3, 1, 0, 5), TypeError, "w of im2col"),
    ):
        with pytest.raises(error, match=words):
            source.prepare("im2col", arguments)
    real, made = source.prepare("max_pool", (x, x, None, w, 3, 5))
    assert made[2] is None


def test_a_window_of_one_dimension_is_the_last_of_three():
    w = windows.describe((9,), (4,), (3,), (2,), (1,), ((1, 0),))
    assert w["input"].tolist() == [1, 1, 9]
    assert w["kernel"].tolist() == [1, 1, 3]
    assert w["lo"].tolist() == [0, 0, 1]
    assert w.dtype.itemsize == 84


@pytest.mark.parametrize("width", [1, 2, 3, 17, 64, 65, 5000])
@pytest.mark.parametrize("widest", [32, 64, 256])
def test_blocks_are_powers_of_two(width, widest):
    x, y = runtime.row_block(width, widest)
    assert x * y == 256
    assert x & (x - 1) == 0
    assert x <= widest
    assert x >= min(width, widest)


# --- matrix products as calls ----------------------------------------------------------------


def test_layouts():
    a = np.zeros((4, 6, 8))
    layout = gemm.layout
    assert layout(a) == (True, 8)
    assert layout(a.transpose(0, 2, 1)) == (False, 8)
    assert layout(a[:, :, 2:5]) == (True, 8)
    assert layout(a[:, ::2]) == (True, 16)
    assert layout(a[:, :, ::2]) is None
    assert layout(a[:, ::-1]) is None
    assert layout(a[:, :, ::2][:, :, :1]) == (True, 8)
    assert layout(a[:, :1, ::2]) == (False, 2)
    assert layout(np.broadcast_to(np.zeros((6, 1)), (6, 8))) is None


def test_a_result_with_gaps_is_refused():
    a = np.zeros((1, 4, 4))
    with pytest.raises(ValueError, match="contiguous rows"):
        gemm.describe(a, a, np.zeros((1, 4, 8))[:, :, ::2])
    with pytest.raises(ValueError, match="contiguous rows"):
        gemm.describe(a, a, a.transpose(0, 2, 1)[:, ::-1])


# --- NVRTC -----------------------------------------------------------------------------------


IN_DOUBLE = {"finish_sums", "inverse_deviation"}
"""Short kernels that compute in double in both dtypes."""


def compiled(file, real, architecture):
    """Compile with NVRTC; return what it and the assembler say, and the PTX if there is one."""
    nvrtc = pytest.importorskip(
        "cuda.bindings.nvrtc", reason="cuda-bindings is needed to call NVRTC", exc_type=ImportError
    )
    try:
        status, handle = nvrtc.nvrtcCreateProgram(
            source.text(file).encode(), file.encode(), 0, [], []
        )
    except RuntimeError as error:
        pytest.skip(f"the library NVRTC (nvidia-cuda-nvrtc) is needed: {error}")
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    options = ["-std=c++17", f"-DREAL={source.REALS[real]}", f"-arch={architecture}"]
    if architecture.startswith("sm_"):
        options.append("--ptxas-options=-v")
    (status,) = nvrtc.nvrtcCompileProgram(handle, len(options), [o.encode() for o in options])
    _, size = nvrtc.nvrtcGetProgramLogSize(handle)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(handle, log)
    ptx = b""
    if architecture.startswith("compute_") and status == nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = nvrtc.nvrtcGetPTXSize(handle)
        ptx = b" " * size
        nvrtc.nvrtcGetPTX(handle, ptx)
    nvrtc.nvrtcDestroyProgram(handle)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    return log.decode(), ptx.decode()


@pytest.mark.parametrize("file", source.FILES)
@pytest.mark.parametrize(
    ("architecture", "real"),
    [("compute_75", "float32"), ("compute_80", "float64"), ("compute_100", "float32")],
)
def test_nvrtc_compiles(file, architecture, real):
    said, ptx = compiled(file, real, architecture)
    assert "error" not in said
    bodies = re.split(r"\.entry (\w+)\(", ptx)[1:]
    names, texts = bodies[::2], bodies[1::2]
    assert set(names) == {k.name for k in source.kernels().values() if k.file == file}
    if real == "float32":  # a constant without REAL(...) would make single precision double
        for name, body in zip(names, texts, strict=True):
            arithmetic = re.findall(r"\b(?:add|sub|mul|fma|div|rcp|sqrt|setp)\S*\.f64", body)
            assert name in IN_DOUBLE or not arithmetic, f"{name}: {set(arithmetic)}"


@pytest.mark.parametrize("file", source.FILES)
@pytest.mark.parametrize("real", source.REALS)
def test_all_stays_in_registers(file, real):
    said, _ = compiled(file, real, "sm_90")
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", said)
    assert len(frames) >= sum(k.file == file for k in source.kernels().values()), said
    assert {number for frame in frames for number in frame} == {"0"}, said
