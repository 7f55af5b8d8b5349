"""Engine cuda:cupy: its shape, how it is looked for, and on a GPU, where there is one, itself."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

from gpuconv.backends import cuda_probe
from gpuconv.backends.base import Engine, Probe
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_close

CONTRACT = [name for name in vars(Engine) if name in Engine.__abstractmethods__]


def test_it_fulfils_the_contract_in_its_order():
    assert (CudaCupy.name, CudaCupy.device) == ("cuda:cupy", "cuda")
    defined = [
        key
        for key, value in vars(CudaCupy).items()
        if callable(getattr(value, "__func__", value)) and not key.startswith("_")
    ]
    assert defined == CONTRACT
    for method in CONTRACT:
        ours, contract = getattr(CudaCupy, method), getattr(Engine, method)
        assert inspect.signature(ours) == inspect.signature(contract)


def test_planning_needs_no_cupy():
    code = (
        "import sys; from gpuconv.backends.cuda_cupy import CudaCupy as E\n"
        "from gpuconv.geometry import ConvGeometry as G\n"
        "E.probe(); E().plan('conv_forward', G(1,1,1,(3,),(3,),(1,),(1,),((0,0),)), 'float32', 9)\n"
        "assert 'cupy' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_probing_names_what_is_missing(monkeypatch):
    yes, no = Probe(True, "here"), Probe(False, "not here", "do this")
    for driver, cupy, expected in ((no, yes, no), (yes, no, no)):
        monkeypatch.setattr(cuda_probe, "probe_driver", lambda found=driver: found)
        monkeypatch.setattr(cuda_probe, "probe_cupy", lambda found=cupy: found)
        assert CudaCupy.probe() == expected
    monkeypatch.setattr(cuda_probe, "probe_cupy", lambda: yes)
    assert CudaCupy.probe() == Probe(True, "here; here")


on_gpu = pytest.mark.skipif(not CudaCupy.probe().available, reason="no GPU or no CuPy here")


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("limit", [2**30, 5000])
def test_convolution_on_the_device(groups, limit, dtype):
    import cupy

    g = ConvGeometry(2, 8, 16, (9, 7), (3, 2), (2, 1), (1, 2), ((1, 1), (2, 0)), groups)
    rng = np.random.default_rng(0)
    x, w, b, dy = (
        rng.standard_normal(s).astype(dtype) for s in (g.x_shape, g.w_shape, (16,), g.y_shape)
    )
    gpu, cpu = CudaCupy(), CpuNumpy()
    dx, dw, ddy, db = (cupy.asarray(a) for a in (x, w, dy, b))
    relu = Activation("relu")
    y = gpu.conv_forward(dx, dw, db, g, limit, relu)
    assert_close(y, cpu.conv_forward(x, w, b, g, limit, relu), g.reduction)
    assert_close(
        gpu.conv_backward_input(ddy, dw, g, limit), cpu.conv_backward_input(dy, w, g, limit), 96
    )
    assert_close(
        gpu.conv_backward_weight(ddy, dx, g, limit), cpu.conv_backward_weight(dy, x, g, limit), 96
    )


@on_gpu
def test_products_on_the_device():
    import cupy

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((33, 17)), rng.standard_normal((17, 65))
    gpu = CudaCupy()
    for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
        moved = cupy.asarray(left), cupy.asarray(right)
        assert_close(gpu.gemm(*moved), a @ b, 17)


@on_gpu
def test_dropout_masks_are_the_same_on_the_device():
    mask = CudaCupy().dropout_mask((1000, 7), 0.3, (5, 6), "float32")
    assert (
        mask.get().tobytes() == CpuNumpy().dropout_mask((1000, 7), 0.3, (5, 6), "float32").tobytes()
    )
