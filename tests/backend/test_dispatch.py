"""Who computes an operation: order, refusals, forcing, and what a decision is cached by."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType

import numpy as np
import pytest

from gpuconv import dispatch
from gpuconv.backends import registry, selection
from gpuconv.backends.base import Plan, Probe, Refusal
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.selection import use_backend
from gpuconv.dispatch import selecting
from gpuconv.errors import BackendUnavailableError, UnsupportedError
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import config

CONV = ConvGeometry(2, 4, 8, (9, 9), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
POOL = PoolGeometry(2, 4, (9, 9), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
NUMPY = "gpuconv.backends.cpu_numpy:CpuNumpy"


class Refusing(CpuNumpy):
    """An engine that computes pooling only."""

    name = "cpu:refusing"

    def plan(self, op, geometry, dtype, workspace_limit):
        if isinstance(geometry, PoolGeometry):
            return Plan("quick", 0, "made for it")
        return Refusal(f"no {op} in {dtype}")


class Absent(Refusing):
    name = "cpu:absent"

    @classmethod
    def probe(cls):
        return Probe(False, "its compiler is missing", "Install one.")


class Counting(CpuNumpy):
    """An engine that notes what it is asked."""

    name = "cpu:counting"
    asked: list = []  # noqa: RUF012

    def plan(self, op, geometry, dtype, workspace_limit):
        self.asked.append((op, geometry, dtype, workspace_limit))
        return Plan("counting", min(workspace_limit, 1000), "it counts")


def forget():
    for cached in (registry.engine, selecting._select, selecting._usable):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch):
    monkeypatch.delenv("GPUCONV_BACKEND", raising=False)
    monkeypatch.setattr(selection, "_process", None)
    forget()
    yield
    config.workspace_limit = None
    forget()


def engines(monkeypatch, *classes):
    """Put engines of this file before ``cpu:numpy``."""
    here = {c.name: f"{__name__}:{c.__name__}" for c in classes}
    monkeypatch.setattr(registry, "_MODULES", {**here, "cpu:numpy": NUMPY})


def test_a_decision(monkeypatch):
    engines(monkeypatch)
    decision = dispatch.select("conv_forward", CONV, "float32", "cpu")
    plan = registry.engine("cpu:numpy").plan("conv_forward", CONV, "float32", 2**28)
    assert decision.engine == "cpu:numpy"
    assert decision.algorithm == plan.algorithm
    assert decision.workspace_bytes == plan.workspace_bytes
    assert decision.reason.startswith("cpu:numpy is the only engine on this device; ")
    assert decision.reason.endswith(plan.reason)
    assert decision.candidates == (dispatch.Candidate("cpu:numpy", plan),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.engine = "other"


@pytest.mark.parametrize(
    ("op", "geometry"),
    [
        ("conv_forward", CONV),
        ("conv_backward_input", CONV),
        ("conv_backward_weight", CONV),
        ("max_pool", POOL),
        ("avg_pool_backward", POOL),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_can_do_everything(op, geometry, dtype, monkeypatch):
    engines(monkeypatch)
    decision = dispatch.select(op, geometry, dtype, "cpu")
    assert decision.engine == "cpu:numpy"
    assert decision.workspace_bytes >= 0
    array = np.zeros(geometry.x_shape, dtype)
    assert dispatch.select_engine(op, geometry, array) is registry.engine("cpu:numpy")


def test_a_decision_is_made_once_for_each_workspace_limit(monkeypatch):
    engines(monkeypatch, Counting)
    monkeypatch.setattr(Counting, "asked", [])
    first = dispatch.select("conv_forward", CONV, "float32", "cpu")
    assert dispatch.select("conv_forward", CONV, "float32", "cpu") is first
    assert len(Counting.asked) == 1
    config.workspace_limit = 500
    small = dispatch.select("conv_forward", CONV, "float32", "cpu")
    assert (first.workspace_bytes, small.workspace_bytes) == (1000, 500)
    assert Counting.asked[1] == ("conv_forward", CONV, "float32", 500)
    config.workspace_limit = None
    assert dispatch.select("conv_forward", CONV, "float32", "cpu") is first
    assert dispatch.select("conv_forward", CONV, "float64", "cpu") is not first
    assert dispatch.select("conv_backward_input", CONV, "float32", "cpu") is not first
    other = dataclasses.replace(CONV, batch=3)
    assert dispatch.select("conv_forward", other, "float32", "cpu") is not first
    assert len(Counting.asked) == 5


def test_a_smaller_limit_gives_a_smaller_workspace():
    big = ConvGeometry(8, 16, 16, (40, 40), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    free = dispatch.select("conv_forward", big, "float32", "cpu").workspace_bytes
    config.workspace_limit = free // 2
    assert dispatch.select("conv_forward", big, "float32", "cpu").workspace_bytes <= free // 2


def test_the_first_engine_wins(monkeypatch):
    engines(monkeypatch, Counting)
    decision = dispatch.select("conv_forward", CONV, "float32", "cpu")
    assert decision.engine == "cpu:counting"
    assert decision.reason == ("cpu:counting comes first among cpu:counting, cpu:numpy; it counts")


def test_a_refusal_passes_to_the_next_engine(monkeypatch):
    engines(monkeypatch, Refusing)
    decision = dispatch.select("conv_forward", CONV, "float32", "cpu")
    assert decision.engine == "cpu:numpy"
    assert decision.candidates[0] == dispatch.Candidate(
        "cpu:refusing", Refusal("no conv_forward in float32")
    )
    assert decision.reason.startswith(
        "cpu:refusing refused (no conv_forward in float32); cpu:numpy is left; "
    )
    assert dispatch.select("max_pool", POOL, "float32", "cpu").engine == "cpu:refusing"


def test_a_forced_engine_is_the_only_one_asked(monkeypatch):
    engines(monkeypatch, Counting)
    with use_backend("cpu:numpy"):
        decision = dispatch.select("conv_forward", CONV, "float32", "cpu")
        assert dispatch.engine_for(np.zeros(1)).name == "cpu:numpy"
    assert decision.engine == "cpu:numpy"
    assert decision.reason.startswith("cpu:numpy was asked for; ")
    assert [c.engine for c in decision.candidates] == ["cpu:numpy"]
    assert dispatch.select("conv_forward", CONV, "float32", "cpu").engine == "cpu:counting"
    assert dispatch.engine_for(np.zeros(1)).name == "cpu:counting"


def test_a_forced_engine_that_refuses_never_falls_back(monkeypatch):
    engines(monkeypatch, Refusing)
    with (
        use_backend("cpu:refusing"),
        pytest.raises(UnsupportedError, match=r"conv_forward.*cpu:refusing: no conv_forward in"),
    ):
        dispatch.select("conv_forward", CONV, "float32", "cpu")


def test_when_all_refuse_every_reason_is_given(monkeypatch):
    monkeypatch.setattr(CpuNumpy, "plan", lambda self, *a: Refusal("too tired"))
    engines(monkeypatch, Refusing)
    with pytest.raises(UnsupportedError, match=r"cpu:refusing: no .*; cpu:numpy: too tired"):
        dispatch.select("conv_forward", CONV, "float32", "cpu")


def test_an_engine_that_cannot_run_is_skipped_unless_named(monkeypatch):
    engines(monkeypatch, Absent)
    decision = dispatch.select("max_pool", POOL, "float32", "cpu")
    assert [c.engine for c in decision.candidates] == ["cpu:numpy"]
    assert dispatch.engine_for(np.zeros(1)).name == "cpu:numpy"
    with (
        pytest.raises(BackendUnavailableError, match=r"its compiler is missing\. Install one\."),
        use_backend("cpu:absent"),
    ):
        pass


class Later:
    """Of an engine that cannot run."""

    @staticmethod
    def probe():
        return Probe(False, "not part of this version")


def test_a_device_whose_engines_cannot_run(monkeypatch):
    class DeviceArray(np.ndarray):
        pass

    cupy = ModuleType("cupy")
    cupy.ndarray = DeviceArray
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: Probe(True, "a device"))
    later = {"cuda:later": f"{__name__}:Later", "cpu:numpy": NUMPY}
    monkeypatch.setattr(registry, "_MODULES", later)
    with pytest.raises(BackendUnavailableError, match="cuda:later: not part of this version"):
        dispatch.select("conv_forward", CONV, "float32", "cuda")
    with pytest.raises(BackendUnavailableError, match="cuda:later: not part of this version"):
        dispatch.engine_for(np.zeros(1).view(DeviceArray))


def test_an_engine_of_another_device_forces_nothing_here(monkeypatch):
    monkeypatch.setattr(selecting, "requested_backend", lambda: "cuda:cupy")
    assert dispatch.forced_engine("cuda") == "cuda:cupy"
    assert dispatch.forced_engine("cpu") is None
    assert dispatch.select("conv_forward", CONV, "float32", "cpu").engine == "cpu:jit"


@pytest.mark.parametrize("backend", ["cpu", "auto"])
def test_a_device_forces_no_engine(backend):
    with use_backend(backend):
        assert dispatch.forced_engine("cpu") is None


def test_where_data_is_computed(monkeypatch):
    assert dispatch.target_device("cpu") == "cpu"
    assert dispatch.target_device("cuda") == "cuda"
    with use_backend("cpu:numpy"):
        assert dispatch.target_device("cuda") == "cpu"
    missing = Probe(False, "no NVIDIA driver")
    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: missing)
    monkeypatch.setenv("GPUCONV_BACKEND", "cuda")
    selection.environment.cache_clear()
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        dispatch.target_device("cpu")
