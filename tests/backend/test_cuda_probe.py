"""Each way in which CUDA can be missing has its own words; a stand-in plays the driver."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest

from gpuconv.backends import cuda_probe

CAPABILITY = {75: 9, 76: 0}


class Driver:
    """The functions of the CUDA driver that are asked, with what they are to answer."""

    def __init__(self, status=0, version=12040, names=("A GPU",)):
        self.status = status
        self.version = version
        self.names = names

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, out):
        out._obj.value = self.version

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.names)

    def cuDeviceGet(self, out, index):
        out._obj.value = index

    def cuDeviceGetName(self, buffer, length, device):
        buffer.value = self.names[device.value].encode()

    def cuDeviceTotalMem_v2(self, out, device):
        out._obj.value = 80 * 1024**3

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = CAPABILITY[attribute]


@pytest.fixture
def driver(monkeypatch):
    def install(**answers):
        monkeypatch.setattr(cuda_probe.ctypes, "CDLL", lambda name: Driver(**answers))

    return install


@pytest.fixture
def packages(monkeypatch):
    """Choose which packages are installed, with their versions."""

    def install(**versions):
        named = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name):
            if name not in named:
                raise importlib.metadata.PackageNotFoundError(name)
            return named[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        present = object() if any(n.startswith("cupy") for n in named) else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: present)

    return install


def test_no_driver(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(cuda_probe.ctypes, "CDLL", absent)
    for look in (cuda_probe.probe_driver, cuda_probe.probe_devices, cuda_probe.probe_cuda):
        found = look()
        assert not found.available
        assert "no NVIDIA driver" in found.reason
        assert "backend='cpu'" in found.hint


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"status": 100}, "finds no device"),
        ({"names": ()}, "finds no device"),
        ({"status": 803}, "does not start (cuInit returned error 803)"),
        ({"version": 11080}, "too old: it supports CUDA 11.8, 12.0 is needed"),
    ],
)
def test_a_driver_that_cannot_be_used(driver, packages, answers, reason):
    driver(**answers)
    packages(cupy="13.0", numba_cuda="0.20")
    for look in (cuda_probe.probe_driver, cuda_probe.probe_devices, cuda_probe.probe_cuda):
        found = look()
        assert not found.available
        assert reason in found.reason
        assert found.hint.endswith(".")


def test_a_driver_with_devices(driver):
    driver(names=("A GPU", "Another"), version=13010)
    assert cuda_probe.probe_driver().available
    assert cuda_probe.probe_driver().reason == "2 device(s), the driver supports CUDA 13.1"
    assert cuda_probe.probe_devices().reason == (
        "A GPU, 80.0 GiB, compute capability 9.0; Another, 80.0 GiB, compute capability 9.0"
    )


def test_packages_are_looked_for_one_after_the_other(driver, packages, monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    driver()
    packages()
    assert cuda_probe.probe_cuda().reason == "the package cupy is not installed"
    assert "gpuconv[cuda12]" in cuda_probe.probe_cuda().hint
    packages(cupy_cuda12x="13.4")
    assert cuda_probe.probe_cupy().reason == "cupy-cuda12x 13.4"
    assert cuda_probe.probe_cuda().available  # one of the two engines is enough for a device
    assert cuda_probe.probe_numba_engine().reason == "the package numba-cuda is not installed"
    assert "gpuconv[cuda12]" in cuda_probe.probe_numba_engine().hint
    packages(cupy_cuda12x="13.4", numba_cuda="0.20")
    assert cuda_probe.probe_numba_engine().reason == "numba-cuda 0.20"


def test_a_driver_too_old_for_the_package(driver, packages):
    driver(version=12040)
    packages(cupy_cuda13x="14.2", numba_cuda="0.30")
    found = cuda_probe.probe_cuda()
    assert found.reason == (
        "the NVIDIA driver is too old for cupy-cuda13x 14.2: it supports CUDA 12.4"
    )
    assert "cupy-cuda12x" in found.hint
    driver(version=13000)
    assert cuda_probe.probe_cuda().available
    packages(cupy_cuda12x="13.4")  # a newer driver runs what was built for an older one
    assert cuda_probe.probe_cuda().available


def test_numba_in_its_simulator_does_not_run_on_a_device(driver, packages, monkeypatch):
    driver()
    packages(cupy_cuda12x="13.4", numba_cuda="0.20")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert "NUMBA_ENABLE_CUDASIM=1" in cuda_probe.probe_numba_engine().reason
    assert cuda_probe.probe_cuda().available


def test_the_simulator(monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    assert not cuda_probe.probe_simulator().available
    assert "NUMBA_ENABLE_CUDASIM=1" in cuda_probe.probe_simulator().hint
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert cuda_probe.probe_simulator().available
