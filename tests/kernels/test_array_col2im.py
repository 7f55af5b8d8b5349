"""Both forms of backward_input, whichever would be chosen: exact on small integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.geometry import ConvGeometry
from gpuconv.ops import conv as public
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import CONV_CASES, ConvCase, small_integers
from gpuconv_kernels.array import col2im

ENGINE = CpuNumpy()
ZERO_PADDED = [case for case in CONV_CASES if case.padding_mode == "zeros"]


@pytest.mark.parametrize("limit", [1, 2**30])
@pytest.mark.parametrize("scatter", [False, True], ids=["gather", "scatter"])
@pytest.mark.parametrize("case", ZERO_PADDED, ids=str)
def test_exact(case: ConvCase, scatter: bool, limit: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(col2im, "pays", lambda g: scatter)
    g = public.problem_of(case.rank, case.x_shape, case.w_shape, **case.options).geometry
    rng = np.random.default_rng(0)
    dy, w = (small_integers(rng, shape, np.float64) for shape in (g.y_shape, g.w_shape))
    want = reference.conv_backward_input(dy, w, g.x_shape, **case.options)
    assert_exact(ENGINE.conv_backward_input(dy, w, g, limit), want)


def geometry(input: int, kernel: int, stride: int = 1, pad: int = 0) -> ConvGeometry:
    pads = ((pad, pad), (pad, pad))
    return ConvGeometry(4, 8, 8, (input,) * 2, (kernel,) * 2, (stride,) * 2, (1, 1), pads)


@pytest.mark.parametrize(
    ("g", "scatter"),
    [
        (geometry(28, 28), True),  # a dense layer written as a convolution
        (geometry(28, 26), True),
        (geometry(224, 16, 16), True),  # patches
        (geometry(56, 3, 1, 1), False),
        (geometry(56, 3, 2, 1), False),
        (geometry(31, 31, 1, 15), False),
    ],
)
def test_few_outputs_are_scattered(g: ConvGeometry, scatter: bool) -> None:
    assert col2im.pays(g) is scatter
    plan: Any = ENGINE.plan("conv_backward_input", g, "float32", 2**20)
    assert (plan.algorithm == "gemm+col2im") is scatter
    assert 0 < plan.workspace_bytes < 2**22


@pytest.mark.parametrize("limit", [1, 100_000, 2**30])
def test_the_stated_workspace_keeps_the_limit(limit: int) -> None:
    g = geometry(28, 20, 2)
    workspace = col2im.Workspace(g, 4, limit)
    one_position = (20 * 20 * 8 + 8) * 4
    assert workspace.bytes <= max(limit, one_position)
