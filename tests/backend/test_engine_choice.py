"""Who computes on a GPU, decided without one: both engines' own plans for an H200's numbers."""

from __future__ import annotations

from unittest import mock

import pytest
from devices import H200, T4, square

from gpuconv import dispatch
from gpuconv.backends import registry
from gpuconv.backends.cuda_cupy import CudaCupy
from gpuconv.backends.cuda_numba import CudaNumba
from gpuconv.dispatch import selecting
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv_kernels.device.target import SIMULATED

pytestmark = pytest.mark.skipif(SIMULATED, reason="the simulator has tiles of its own")

GIB, MIB = 2**30, 2**20
ENGINES = ("cuda:cupy", "cuda:numba")


@pytest.fixture
def choose(monkeypatch):
    """Return a function that decides for a profile and so much allowed workspace."""

    def decide(op, geometry, profile=H200, limit=GIB, dtype="float32"):
        class Numba(CudaNumba):
            _profile = profile

        made = {"cuda:cupy": CudaCupy(profile=profile), "cuda:numba": Numba()}
        with (
            mock.patch.object(registry, "engine", made.__getitem__),
            mock.patch.object(selecting, "_usable", return_value=ENGINES),
            mock.patch.object(selecting, "workspace_limit", return_value=limit),
        ):
            selecting._select.cache_clear()
            try:
                return dispatch.select(op, geometry, dtype, "cuda")
            finally:
                selecting._select.cache_clear()

    return decide


OPERATIONS = ("conv_forward", "conv_backward_input", "conv_backward_weight")


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_large_3x3_layer_needs_no_columns(choose, op):
    decision = choose(op, square(32, 64, 64, 56, 3))
    assert (decision.engine, decision.algorithm) == ("cuda:numba", "implicit_gemm")
    assert "im2col would write 220.5 MiB of columns" in decision.reason
    assert "64 channels (a multiple of 4: 16-byte loads)" in decision.reason
    assert "cuda:cupy" in decision.reason  # and what it would have taken
    assert len(decision.candidates) == 2


@pytest.mark.parametrize("op", OPERATIONS)
def test_depthwise_is_direct(choose, op):
    decision = choose(op, square(32, 144, 144, 56, 3, groups=144))
    assert (decision.engine, decision.algorithm) == ("cuda:numba", "direct")
    assert "depthwise, 144 channels" in decision.reason


def test_few_filters_to_the_input_go_through_columns(choose):
    """backward_input of a stem has 3 result channels: a tile of 16 would be mostly empty."""
    stem = square(32, 3, 64, 224, 7, 2)
    roomy = choose("conv_backward_input", stem)
    assert (roomy.engine, roomy.algorithm) == ("cuda:cupy", "gemm+col2im")
    assert roomy.workspace_bytes <= GIB


def test_no_plan_exceeds_what_is_free(choose):
    layer = square(32, 64, 64, 56, 3)
    for limit in (GIB, 16 * MIB, MIB, 64 * 1024):
        for op in OPERATIONS:
            decision = choose(op, layer, limit=limit)
            assert decision.workspace_bytes <= limit, (op, limit, decision)


def test_without_room_for_turned_weights_the_columns_are_cut(choose):
    """backward_input of implicit GEMM needs the weights once more: 9 MiB of 512 x 512 x 3 x 3."""
    layer = square(8, 512, 512, 14, 3)
    assert choose("conv_backward_input", layer, limit=GIB).engine == "cuda:numba"
    tight = choose("conv_backward_input", layer, limit=4 * MIB)
    assert tight.engine == "cuda:cupy"
    assert "chunks" in tight.reason
    assert "cuda:numba" in tight.reason
    assert "needs 9.0 MiB of workspace" in tight.reason


def test_pooling_has_a_prediction_from_both(choose):
    g = PoolGeometry(32, 64, (112, 112), (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))
    decision = choose("max_pool", g)
    assert all(candidate.answer.seconds > 0 for candidate in decision.candidates)
    assert "3x3 window" in decision.reason


def test_a_slower_device_is_predicted_to_be_slower(choose):
    layer = square(32, 64, 64, 56, 3)
    fast, slow = choose("conv_forward", layer), choose("conv_forward", layer, profile=T4)
    seconds = [min(c.answer.seconds for c in d.candidates) for d in (fast, slow)]
    assert seconds[1] > 5 * seconds[0]


def test_predictions_never_beat_the_arithmetic(choose):
    for g in (
        square(32, 64, 64, 56, 3),
        square(1, 512, 512, 7, 3),
        square(32, 3, 64, 224, 7, 2),
        square(16, 64, 96, 28, 3, groups=2),
        ConvGeometry(2, 32, 64, (8, 30, 30), (3, 3, 3), (1, 1, 1), (1, 1, 1), ((1, 1),) * 3),
    ):
        for op in OPERATIONS:
            for candidate in choose(op, g).candidates:
                assert candidate.answer.seconds >= g.flops / H200.fp32_flops
