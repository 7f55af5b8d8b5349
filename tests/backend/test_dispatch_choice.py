"""Decisions as decisions: this geometry, device and free memory: that engine, that reason."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from devices import H200, T4, square

from gpuconv import dispatch
from gpuconv.backends import cost, registry, selection
from gpuconv.backends.base import Plan, Probe, Refusal
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.selection import use_backend
from gpuconv.dispatch import selecting, workspace
from gpuconv.errors import UnsupportedError
from gpuconv.geometry import PoolGeometry
from gpuconv.settings import config

LAYER = square(32, 64, 64, 56, 3)
POOL = PoolGeometry(2, 4, (9, 9), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))


class OnDevice(CpuNumpy):
    """An engine of a device that this machine need not have."""

    device = "cuda"
    profile = H200

    @classmethod
    def probe(cls):
        return Probe(True, "made up")


class Tiled(OnDevice):
    """Implicit GEMM, or direct where there is nothing to share; needs no workspace."""

    name = "cuda:tiled"

    def plan(self, op, geometry, dtype, workspace_limit):
        if isinstance(geometry, PoolGeometry):
            return Refusal("no pooling")
        if geometry.is_depthwise:
            estimate = cost.direct(self.profile, op, geometry, dtype, (8, 16))
            return Plan("direct", 0, estimate.words, estimate.seconds)
        tiles = ((128, 128, 8), (128, 64, 8), (64, 64, 8), (32, 32, 8))
        splits = (1, 4, 16) if op == "conv_backward_weight" else (1,)
        best = min(
            cost.implicit_gemm(self.profile, op, geometry, dtype, tile, s)
            for tile in tiles
            for s in splits
        )
        return Plan("implicit_gemm", 0, best.words, best.seconds)


class Columns(OnDevice):
    """im2col in chunks that fit into the limit."""

    name = "cuda:columns"

    def plan(self, op, geometry, dtype, workspace_limit):
        if isinstance(geometry, PoolGeometry):
            return Plan("pool", 0, "made for it")
        if geometry.is_pointwise:
            estimate = cost.pointwise_gemm(self.profile, op, geometry, dtype)
            return Plan("gemm", 0, estimate.words, estimate.seconds)
        whole = cost.column_bytes(op, geometry, dtype)
        chunks = max(1, math.ceil(whole / workspace_limit))
        estimate = cost.im2col_gemm(self.profile, op, geometry, dtype, chunks)
        return Plan("im2col+gemm", math.ceil(whole / chunks), estimate.words, estimate.seconds)


class Fixed(OnDevice):
    """An engine whose plan is set by the test."""

    name = "cuda:fixed"
    answer = Plan("fixed", 0, "as it is", 1e-6)

    def plan(self, op, geometry, dtype, workspace_limit):
        return self.answer


@pytest.fixture(autouse=True)
def _a_device(monkeypatch):
    """A CUDA device with 100 GiB free, and engines of this file on it."""
    monkeypatch.delenv("GPUCONV_BACKEND", raising=False)
    monkeypatch.setattr(selection, "_process", None)
    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: Probe(True, "a device"))
    monkeypatch.setattr(workspace, "free_memory", lambda: 100 * 2**30)
    engines(monkeypatch, Tiled, Columns)
    yield
    config.workspace_limit = None
    config.deterministic = True
    forget()


def forget():
    workspace.cuda_limit.forget()
    selection.forget_devices()
    for cached in (registry.engine, selecting._select, selecting._usable):
        cached.cache_clear()


def engines(monkeypatch, *classes):
    modules = {c.name: f"{__name__}:{c.__name__}" for c in classes}
    monkeypatch.setattr(registry, "_MODULES", modules)
    forget()


def choose(geometry, op="conv_forward", dtype="float32"):
    return dispatch.select(op, geometry, dtype, "cuda")


# --- who wins where ---------------------------------------------------------------------------


def test_a_layer_whose_columns_are_large():
    decision = choose(LAYER)
    assert (decision.engine, decision.algorithm) == ("cuda:tiled", "implicit_gemm")
    assert decision.workspace_bytes == 0
    assert decision.reason == (
        "cuda:tiled is predicted to be the fastest: 161 us with no workspace, against "
        "cuda:columns (im2col+gemm): 213 us with 220.5 MiB of workspace; implicit GEMM: 3x3, 64 "
        "channels (a multiple of 4: 16-byte loads), 784 tiles of 128x64 fill 132 multiprocessors "
        "5.9 times; im2col would write 220.5 MiB of columns"
    )
    assert not decision.is_measured


def test_a_1x1_layer():
    decision = choose(square(32, 256, 64, 56, 1))
    assert (decision.engine, decision.algorithm) == ("cuda:columns", "gemm")
    assert "cuda:columns is predicted to be the fastest" in decision.reason
    assert "the pixels are the column matrix already" in decision.reason


def test_a_depthwise_layer():
    decision = choose(square(32, 128, 128, 56, 3, groups=128))
    assert (decision.engine, decision.algorithm) == ("cuda:tiled", "direct")


def test_three_channels_waste_the_steps_of_an_implicit_gemm():
    decision = choose(square(32, 3, 64, 224, 7, stride=2))
    assert decision.engine == "cuda:columns"
    tiled = decision.candidates[0].answer
    assert "3 channels (not a multiple of 4: loads one by one; 5 of 8 steps" in tiled.reason


def test_one_small_image_cannot_fill_the_device():
    decision = choose(square(1, 512, 512, 7, 3))
    assert decision.engine == "cuda:columns"  # cuBLAS splits the reduction
    assert "tiles of 32x32 for 132 multiprocessors" in decision.candidates[0].answer.reason


def test_another_device_decides_otherwise(monkeypatch):
    one_wave = square(32, 128, 128, 28, 3)
    assert choose(one_wave).engine == "cuda:tiled"
    fast_memory = H200.__class__(
        "imagined", (9, 0), 132, 66.9e12, 33.5e12, 1e15, 50 * 2**20, 141 * 10**9
    )
    monkeypatch.setattr(OnDevice, "profile", fast_memory)
    forget()
    assert choose(one_wave).engine == "cuda:columns"


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_input", "conv_backward_weight"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("profile", [H200, T4], ids=lambda p: p.name)
def test_the_choice_is_the_smallest_prediction(op, dtype, profile, monkeypatch):
    monkeypatch.setattr(OnDevice, "profile", profile)
    forget()
    for geometry in (LAYER, square(1, 3, 8, 9, 3), square(4, 16, 16, 14, 5, stride=2)):
        decision = choose(geometry, op, dtype)
        seconds = {c.engine: c.answer.seconds for c in decision.candidates}
        assert decision.engine == min(seconds, key=seconds.get)


# --- memory -----------------------------------------------------------------------------------


def test_little_free_memory_means_chunks_and_another_engine(monkeypatch):
    # Launch after launch of small chunks makes the columns lose what they win elsewhere.
    geometry = square(8, 64, 64, 64, 1, stride=2, pad=0)
    monkeypatch.setattr(Tiled, "plan", lambda self, *a: Plan("slow", 0, "made up", 60e-6))
    forget()
    rich = choose(geometry)
    assert (rich.engine, rich.workspace_bytes) == ("cuda:columns", 2 * 2**20)
    config.workspace_limit = 2**17
    poor = choose(geometry)
    assert poor.engine == "cuda:tiled"
    assert "in 16 chunks" in poor.candidates[1].answer.reason
    assert poor.candidates[1].answer.workspace_bytes == 2**17


@pytest.mark.parametrize(
    ("free", "limit"),
    [
        (100 * 2**30, 2**30),
        (8 * 2**30, 2**30),
        (8 * 2**30 - 1, 2**29),
        (2**30, 2**27),
        (2**20, 2**24),
        (0, 2**24),
    ],
)
def test_the_limit_follows_the_free_memory(monkeypatch, free, limit):
    monkeypatch.setattr(workspace, "free_memory", lambda: free)
    assert dispatch.workspace_limit("cuda") == limit
    assert choose(LAYER).workspace_limit == limit


def test_the_driver_is_asked_once_in_thousands_of_decisions(monkeypatch):
    asked = []

    def free_memory():
        asked.append(1)
        return (16 if len(asked) == 1 else 1) * 2**30

    monkeypatch.setattr(workspace, "free_memory", free_memory)
    limits = [dispatch.workspace_limit("cuda") for _ in range(2 * 4096)]
    assert len(asked) == 2
    assert limits == [2**30] * 4096 + [2**27] * 4096


def test_a_limit_that_was_set_asks_nobody(monkeypatch):
    monkeypatch.setattr(workspace, "free_memory", lambda: 1 / 0)
    config.workspace_limit = 12345
    assert dispatch.workspace_limit("cuda") == dispatch.workspace_limit("cpu") == 12345
    config.workspace_limit = None
    assert dispatch.workspace_limit("cpu") == config.workspace_limit
    with pytest.raises(ZeroDivisionError):
        dispatch.workspace_limit("cuda")


def test_the_free_memory_counts_what_cupy_holds_unused(monkeypatch):
    cupy = type("cupy", (), {})
    cupy.cuda = type("cuda", (), {})
    cupy.cuda.runtime = type("runtime", (), {"memGetInfo": staticmethod(lambda: (300, 1000))})
    pool = type("pool", (), {"free_bytes": lambda self: 50})()
    cupy.get_default_memory_pool = staticmethod(lambda: pool)
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    assert workspace.free_memory() == 350


def test_what_needs_too_much_is_set_aside(monkeypatch):
    engines(monkeypatch, Fixed, Tiled)
    monkeypatch.setattr(Fixed, "answer", Plan("greedy", 3 * 2**30, "all at once", 1e-9))
    decision = choose(LAYER)
    assert decision.engine == "cuda:tiled"
    assert decision.candidates[0].note == "needs 3.0 GiB of 1.0 GiB"
    assert decision.reason.startswith("cuda:fixed needs 3.0 GiB of 1.0 GiB; cuda:tiled is left; ")
    config.workspace_limit = 4 * 2**30
    assert choose(LAYER).engine == "cuda:fixed"
    engines(monkeypatch, Fixed)  # with nobody else there is no better way
    config.workspace_limit = None
    assert choose(LAYER).engine == "cuda:fixed"


# --- order, refusals, determinism -------------------------------------------------------------


def test_without_all_predictions_the_first_engine_wins(monkeypatch):
    engines(monkeypatch, Fixed, Tiled)
    monkeypatch.setattr(Fixed, "answer", Plan("unknown", 0, "no model"))
    decision = choose(LAYER)
    assert decision.engine == "cuda:fixed"
    assert decision.reason == "cuda:fixed comes first among cuda:fixed, cuda:tiled; no model"


def test_equal_predictions_leave_the_order(monkeypatch):
    class Twin(Fixed):
        name = "cuda:twin"

    monkeypatch.setitem(globals(), "Twin", Twin)
    engines(monkeypatch, Twin, Fixed)
    assert choose(LAYER).engine == "cuda:twin"
    engines(monkeypatch, Fixed, Twin)
    assert choose(LAYER).engine == "cuda:fixed"


def test_refusals_are_told(monkeypatch):
    decision = choose(POOL, "max_pool")
    assert decision.engine == "cuda:columns"
    assert decision.reason == ("cuda:tiled refused (no pooling); cuda:columns is left; made for it")
    engines(monkeypatch, Tiled, Fixed, Columns)
    monkeypatch.setattr(Fixed, "answer", Refusal("out of order"))
    decision = choose(LAYER)
    assert decision.engine == "cuda:tiled"
    assert "; cuda:fixed refused (out of order); implicit GEMM" in decision.reason


def test_determinism_comes_before_speed(monkeypatch):
    engines(monkeypatch, Fixed, Tiled)
    atomics = Plan("atomics", 0, "sums in any order", 1e-9, deterministic=False)
    monkeypatch.setattr(Fixed, "answer", atomics)
    decision = choose(LAYER)
    assert decision.engine == "cuda:tiled"
    assert decision.reason.startswith(
        "cuda:fixed does not give the same bits on every run, and config.deterministic is True; "
        "cuda:tiled is left; "
    )
    config.deterministic = False
    assert choose(LAYER).engine == "cuda:fixed"
    config.deterministic = True
    assert choose(LAYER).engine == "cuda:tiled"
    with use_backend("cuda:fixed"), pytest.raises(UnsupportedError, match=r"config\.deterministic"):
        choose(LAYER)


def test_a_forced_engine_wins_whatever_is_predicted():
    with use_backend("cuda:columns"):
        decision = choose(LAYER)
    assert decision.engine == "cuda:columns"
    assert decision.reason.startswith("cuda:columns was asked for; im2col and GEMM")


def test_arrays_of_any_byte_order_have_a_dtype(monkeypatch):
    asked = []
    engines(monkeypatch, Fixed)

    def plan(self, op, geometry, dtype, limit):
        asked.append(dtype)
        return self.answer

    monkeypatch.setattr(Fixed, "plan", plan)
    monkeypatch.setattr(selecting, "device_of", lambda array: "cuda")
    for dtype in ("float32", "float64", ">f4", "float16"):
        forget()
        engine, limit = dispatch.select_with_limit("conv_forward", LAYER, np.zeros(1, dtype))
        assert (engine.name, limit) == ("cuda:fixed", 2**30)
    assert asked == ["float32", "float64", "float32", "float16"]


# --- what is shown ----------------------------------------------------------------------------


def test_a_decision_can_be_printed(monkeypatch):
    engines(monkeypatch, Tiled, Columns, Fixed)
    monkeypatch.setattr(Fixed, "answer", Refusal("out of order"))
    assert str(choose(LAYER)) == (
        "conv_forward in float32 on cuda\n"
        "  x (32, 56, 56, 64), w (3, 3, 64, 64) -> y (32, 56, 56, 64)\n"
        "\n"
        "    engine        algorithm      predicted  measured  workspace\n"
        "->  cuda:tiled    implicit_gemm     161 us         -       none\n"
        "    cuda:columns  im2col+gemm       213 us         -  220.5 MiB\n"
        "       im2col and GEMM: 3x3, 220.5 MiB of columns written and read at once, product "
        "(100352,\n"
        "       576) @ (576, 64)\n"
        "    cuda:fixed    refused\n"
        "       out of order\n"
        "\n"
        "cuda:tiled is predicted to be the fastest: 161 us with no workspace, against "
        "cuda:columns\n"
        "(im2col+gemm): 213 us with 220.5 MiB of workspace; cuda:fixed refused (out of order); "
        "implicit\n"
        "GEMM: 3x3, 64 channels (a multiple of 4: 16-byte loads), 784 tiles of 128x64 fill 132\n"
        "multiprocessors 5.9 times; im2col would write 220.5 MiB of columns\n"
        "The workspace may have 1.0 GiB."
    )


def test_a_pooling_is_shown_with_its_window():
    text = str(choose(POOL, "max_pool"))
    assert "x (2, 9, 9, 4), window (2, 2) -> y (2, 4, 4, 4)" in text
    assert "refused" in text


def test_decisions_can_be_watched(caplog):
    seen = []
    with dispatch.watching(seen.append), caplog.at_level(logging.DEBUG):
        first = choose(LAYER)
        choose(LAYER)
    choose(POOL, "max_pool")
    assert seen == [first]
