"""What is read from a device, with the attributes that real ones report."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import pytest

from gpuconv.backends import device_profile
from gpuconv.backends.cpu_probe import processor_name
from gpuconv.backends.device_profile import SIMULATOR, current_profile, device_name, profile_from

H200 = {75: 9, 76: 0, 16: 132, 13: 1_980_000, 36: 3_201_000, 37: 6144, 38: 50 * 2**20}
T4 = {75: 7, 76: 5, 16: 40, 13: 1_590_000, 36: 5_001_000, 37: 256, 38: 4 * 2**20}
RTX_4090 = {75: 8, 76: 9, 16: 128, 13: 2_520_000, 36: 10_501_000, 37: 384, 38: 72 * 2**20}


def properties(name, memory=16 * 2**30):
    return {"name": name, "totalGlobalMem": memory}


@pytest.mark.parametrize(
    ("attributes", "fp32", "fp64", "bandwidth"),
    [  # from the data sheets, in TFLOP/s and GB/s; the RTX's clock is its boost clock
        (H200, 66.9, 33.5, 4917),
        (T4, 8.14, 0.254, 320),
        (RTX_4090, 82.6, 1.29, 1008),
    ],
)
def test_rates_of_known_devices(attributes, fp32, fp64, bandwidth):
    profile = profile_from(properties(b"a device", 7), lambda code: attributes.get(code, 0))
    assert profile.name == "a device"
    assert profile.capability == (attributes[75], attributes[76])
    assert profile.multiprocessors == attributes[16]
    assert profile.fp32_flops / 1e12 == pytest.approx(fp32, rel=0.01)
    assert profile.fp64_flops / 1e12 == pytest.approx(fp64, rel=0.01)
    assert profile.bandwidth / 1e9 == pytest.approx(bandwidth, rel=0.01)
    assert (profile.l2_bytes, profile.memory_bytes) == (attributes[38], 7)
    assert profile.flops("float32") == profile.fp32_flops
    assert profile.flops("float64") == profile.fp64_flops


def test_float64_tensor_cores_count_for_the_vendors_product_only():
    h200 = profile_from(properties("H200"), lambda code: H200.get(code, 0))
    t4 = profile_from(properties("T4"), lambda code: T4.get(code, 0))
    assert h200.gemm_flops("float64") == 2 * h200.fp64_flops
    assert h200.gemm_flops("float32") == h200.fp32_flops
    assert t4.gemm_flops("float64") == t4.fp64_flops


def test_what_a_driver_does_not_say_is_assumed():
    profile = profile_from(properties("future"), lambda code: 0)
    for number in dataclasses.astuple(profile)[2:]:
        assert number > 0


def test_the_simulator_is_the_same_everywhere():
    assert current_profile("cuda-sim") is SIMULATOR
    assert device_name("cuda-sim") == "simulator"


def test_the_cpu_has_no_profile_but_a_name():
    assert device_name("cpu") == processor_name()
    with pytest.raises(ValueError, match=r"Received: 'cpu'"):
        current_profile("cpu")


def test_cuda_is_asked_once_for_each_device(monkeypatch):
    asked = []

    class Missing(Exception):
        pass

    def attribute(code, number):
        asked.append((code, number))
        if code == 36:
            raise Missing
        return H200.get(code, 0)

    runtime = SimpleNamespace(
        CUDARuntimeError=Missing,
        getDevice=lambda: 3,
        deviceGetAttribute=attribute,
        getDeviceProperties=lambda number: properties(f"device {number}".encode()),
    )
    cuda = ModuleType("cupy.cuda")
    cuda.runtime = runtime
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    device_profile._cuda_profile.cache_clear()
    try:
        profile = current_profile("cuda")
        count = len(asked)
        assert current_profile("cuda") is profile
        assert len(asked) == count
    finally:
        device_profile._cuda_profile.cache_clear()
    assert profile.name == "device 3"
    assert profile.bandwidth == 300e9  # the clock of its memory was refused
    assert {number for _, number in asked} == {3}
