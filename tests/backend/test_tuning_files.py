"""Measured times on the disk: kept, versioned, shared, and never the cause of an error."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from noted_engines import (
    CONV,
    Clock,
    First,
    Third,
    chosen,
    engines,
    files,
    restart,
    tuned,
    with_batch,
)

import gpuconv as gc
from gpuconv import dispatch
from gpuconv.dispatch import measurements, tuning
from gpuconv.dispatch.measurements import Key, Measurements
from gpuconv.dispatch.tuning import Tuner


@pytest.fixture
def clock():
    return Clock(first=5e-3, second=3e-3, third=4e-3)


@pytest.fixture(autouse=True)
def _tuner(tmp_path, clock):
    with tuned(clock, tmp_path / "cache"):
        yield


# --- on the disk ------------------------------------------------------------------------------


def test_another_process_need_not_measure(clock, monkeypatch, tmp_path):
    chosen()
    (path,) = files(tmp_path)
    assert path.name.startswith("conv_forward-")
    content = json.loads(path.read_text())
    assert content["seconds"] == {"4": {"cpu:first": 5e-3, "cpu:second": 3e-3}}
    assert content["versions"]["gpuconv"] == gc.__version__
    assert content["versions"]["numpy"] == np.__version__
    assert content["key"]["geometry"]["kernel"] == [3, 3]
    assert content["key"]["hardware"]
    restart(monkeypatch, clock)
    assert chosen() == "cpu:second"
    assert not clock.timed
    with dispatch.without_tuning():
        assert chosen(with_batch(3)) == "cpu:second"


def test_batches_share_a_file_and_processes_do_not_lose_each_others(monkeypatch, clock, tmp_path):
    other = Tuner(Measurements(), clock)
    arguments = ("float32", "cpu", ["cpu:first", "cpu:second"], 2**20)
    other.known("conv_forward", CONV, *arguments)  # both have looked before either writes
    chosen(with_batch(4))
    other.measured("conv_forward", with_batch(9), *arguments)
    (path,) = files(tmp_path)
    assert list(json.loads(path.read_text())["seconds"]) == ["4", "9"]


@pytest.mark.parametrize("what", ["gpuconv", "package", "hardware", "engine"])
def test_what_was_measured_elsewhere_does_not_count(what, clock, monkeypatch, tmp_path):
    chosen()
    restart(monkeypatch, clock)
    if what == "gpuconv":
        monkeypatch.setattr(measurements, "versions", lambda device: {"gpuconv": "9.9"})
    elif what == "package":
        newer = {**measurements.versions("cpu"), "numpy": "99"}
        monkeypatch.setattr(measurements, "versions", lambda device: newer)
    elif what == "hardware":
        monkeypatch.setattr(tuning, "device_name", lambda device: "another processor")
    else:
        engines(monkeypatch, First, Third)
    chosen()
    assert len(clock.timed) == 14
    assert len(files(tmp_path)) == (2 if what == "hardware" else 1)


def damaged_forms():
    good = {
        "format": 1,
        "versions": measurements.versions("cpu"),
        "key": Key("conv_forward", with_batch(0), "float32", "cpu", "here").description,
        "seconds": {"4": {"cpu:first": 1e-3, "cpu:second": 2e-3}},
    }

    def changed(**parts):
        return json.dumps({**good, **parts}).encode()

    yield "nothing", b""
    yield "noise", b"\x80\xff\x00 noise"
    yield "cut off", json.dumps(good).encode()[:-20]
    yield "a list", b"[1, 2]"
    yield "no seconds", changed(seconds=None)
    yield "seconds of a list", changed(seconds=[1])
    yield "batch in words", changed(seconds={"four": {"cpu:first": 1.0}})
    yield "negative batch", changed(seconds={"-4": {"cpu:first": 1.0}})
    yield "times of a list", changed(seconds={"4": [1.0]})
    yield "a time in words", changed(seconds={"4": {"cpu:first": "fast", "cpu:second": 1.0}})
    yield "a negative time", changed(seconds={"4": {"cpu:first": -1.0, "cpu:second": 1.0}})
    yield "not a number", changed(seconds={"4": {"cpu:first": math.nan, "cpu:second": 1.0}})
    yield "endless", changed(seconds={"4": {"cpu:first": math.inf, "cpu:second": 1.0}})
    yield "of another geometry", changed(key={"op": "conv_forward"})
    yield "deep", b"[" * 100_000


@pytest.mark.parametrize("name", [name for name, _ in damaged_forms()])
def test_a_damaged_file_is_ignored_and_replaced(name, clock, monkeypatch, tmp_path, caplog):
    content = dict(damaged_forms())[name]
    monkeypatch.setattr(tuning, "device_name", lambda device: "here")
    chosen()
    (path,) = files(tmp_path)
    path.write_bytes(content)
    restart(monkeypatch, clock)
    with caplog.at_level(logging.WARNING, logger="gpuconv"):
        assert chosen() == "cpu:second"
    assert len(clock.timed) == 14
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    restart(monkeypatch, clock)
    assert chosen() == "cpu:second"
    assert not clock.timed


def test_the_form_that_is_damaged_above_is_good_when_it_is_not(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "device_name", lambda device: "here")
    chosen()
    (path,) = files(tmp_path)
    whole = dict(damaged_forms())["no seconds"].replace(
        b'"seconds": null', b'"seconds": {"4": {"cpu:first": 0.001, "cpu:second": 0.002}}'
    )
    path.write_bytes(whole)
    restart(monkeypatch, clock)
    assert chosen() == "cpu:first"
    assert not clock.timed


def test_a_folder_that_cannot_be_used_costs_one_warning(clock, monkeypatch, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING, logger="gpuconv"):
        assert chosen() == "cpu:second"
        assert chosen(with_batch(5)) == "cpu:second"
        assert chosen(dataclasses.replace(CONV, stride=(2, 2))) == "cpu:second"
    assert len(caplog.records) == 1
    assert (tmp_path / "cache").read_text() == "a file, not a folder"


def test_a_user_without_a_home(clock, monkeypatch, caplog):
    def homeless():
        raise RuntimeError("no home folder")

    monkeypatch.setattr(measurements, "cache_folder", homeless)
    with caplog.at_level(logging.WARNING, logger="gpuconv"):
        assert chosen() == "cpu:second"
    assert "no home folder" in caplog.text


def test_a_full_disk_leaves_the_old_file(clock, monkeypatch, tmp_path, caplog):
    chosen()
    (path,) = files(tmp_path)
    before = path.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurements.os, "replace", full)
    with caplog.at_level(logging.WARNING, logger="gpuconv"):
        assert chosen(with_batch(5)) == "cpu:second"
    assert "No space left" in caplog.text
    assert files(tmp_path) == [path]  # the temporary file is gone
    assert path.read_bytes() == before


def test_many_may_write_and_read_at_once(tmp_path):
    key = Key("conv_forward", with_batch(0), "float32", "cpu", "here")
    problems = []

    def work(number):
        store = Measurements(tmp_path)
        for turn in range(40):
            store.write(key, {number: {"cpu:first": 1.0 + turn}})
            for each in store.read(key).values():
                if set(each) != {"cpu:first"}:
                    problems.append(each)
        if store._complained:
            problems.append("complained")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [p.name for p in tmp_path.iterdir()] == [key.file_name]
    assert Measurements(tmp_path).read(key)


def test_keys_tell_apart_what_differs():
    base = Key("conv_forward", with_batch(0), "float32", "cpu", "here")
    others = [
        dataclasses.replace(base, op="conv_backward_input"),
        dataclasses.replace(base, geometry=dataclasses.replace(CONV, batch=0, stride=(2, 2))),
        dataclasses.replace(base, dtype="float64"),
        dataclasses.replace(base, device="cuda"),
        dataclasses.replace(base, hardware="there"),
    ]
    assert len({key.file_name for key in (base, *others)}) == 6


def test_versions_of_a_gpu(monkeypatch):
    runtime = SimpleNamespace(driverGetVersion=lambda: 13010, runtimeGetVersion=lambda: 13000)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cupy.cuda", SimpleNamespace(runtime=runtime))
    installed = {"cupy-cuda13x": "14.2", "numba-cuda": "0.30"}
    monkeypatch.setattr(measurements, "installed_version", installed.get)
    measurements._versions.cache_clear()
    try:
        assert measurements.versions("cuda") == {
            "gpuconv": gc.__version__,
            **installed,
            "driver": "13010",
            "runtime": "13000",
        }
    finally:
        measurements._versions.cache_clear()
