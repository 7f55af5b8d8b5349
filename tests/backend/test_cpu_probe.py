"""What is said about the processor comes from the system, and survives its silence."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import numpy as np

from gpuconv.backends import cpu_probe


def test_everything_is_found_here():
    for look in (
        cpu_probe.probe_cpu,
        cpu_probe.probe_blas,
        cpu_probe.probe_memory,
        cpu_probe.probe_numba,
    ):
        assert look().available
        assert look().reason


def test_libraries_are_named_with_their_versions():
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    assert cpu_probe.probe_blas().reason == f"{blas['name']} {blas['version']}"
    assert f"numba {importlib.metadata.version('numba')}" in cpu_probe.probe_numba().reason


def test_a_missing_package_is_named(monkeypatch):
    def version(name):
        if name == "llvmlite":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = cpu_probe.probe_numba()
    assert not found.available
    assert found.reason == "the package llvmlite is not installed"


def test_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5}, raising=False)
    assert cpu_probe.usable_cores() == 2
    assert ", 2 of 8 cores, " in cpu_probe.probe_cpu().reason
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpu_probe.usable_cores() == 8
    assert ", 8 core(s), " in cpu_probe.probe_cpu().reason


def test_the_processor_name(monkeypatch):
    text = "processor\t: 0\nmodel name\t: Good CPU @ 3:1\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    assert cpu_probe.processor_name() == "Good CPU @ 3:1"

    def absent(self, encoding):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(cpu_probe.platform, "processor", lambda: "arm")
    assert cpu_probe.processor_name() == "arm"


def test_memory_that_is_not_told(monkeypatch):
    monkeypatch.setattr(cpu_probe, "physical_memory", lambda: None)
    assert not cpu_probe.probe_memory().available
    monkeypatch.setattr(cpu_probe, "physical_memory", lambda: 3 * 2**29)
    assert cpu_probe.probe_memory().reason == "1.5 GiB"
