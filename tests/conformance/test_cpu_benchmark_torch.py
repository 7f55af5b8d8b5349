"""The CPU benchmark beside PyTorch: both compute the same, in every kind of row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuconv.benchmarks import cpu, cpu_goals, cpu_workload, pytorch, timing
from gpuconv.benchmarks.cpu_device import CpuDevice
from gpuconv.benchmarks.devices import Rates

pytest.importorskip("torch")


def test_every_kind_of_row_beside_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REST", 0.0)
    monkeypatch.setattr(cpu_workload, "IMAGES", 8)
    monkeypatch.setattr(CpuDevice, "rates", lambda self: Rates(10e9, 100e9, 200e9))
    monkeypatch.setattr(cpu, "usable_cores", lambda: 1)  # no threads that wait for each other
    layers = ["3x3 64-64 @6", "dw 3x3/2 576 @14", "*seed*", "avg 3x3*", "ReLU 64*", "BatchNorm 64*"]
    words = [word for layer in layers for word in ("--layer", layer)]
    words += ["--batch", "2", "--training-batch", "4", "--engine", "cpu:numpy", "--seconds", "0"]
    assert cpu.main([*words, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "cpu.json").read_text())
    rivals = [f"torch {memory}" for memory in pytorch.FORMATS]
    for row in result["rows"]:
        expected = ["cpu:numpy", *rivals]
        if row["layer"].startswith("Adam"):
            expected = ["cpu:numpy", "torch contiguous", "torch fused"]
        if row["part"] == "fit":
            expected = ["cpu:numpy"]
        assert list(row["candidates"]) == expected
        for name, record in row["candidates"].items():
            assert record["state"] == "ok", (row["layer"], row["operation"], name, record)
            # PyTorch's memory is not seen, so nothing is said about it.
            assert not (name.startswith("torch") and "extra_mib" in record)
        assert row["part"] == "fit" or cpu_goals.ratio(result, row) is not None
    assert {row["part"] for row in result["rows"]} == {
        "seed", "mobilenetv2", "pooling", "elementwise", "training", "inference", "fit",
    }  # fmt: skip
