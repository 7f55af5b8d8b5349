"""The benchmark of whole networks beside PyTorch: both sides compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuconv.benchmarks import networks, networks_goals, networks_parts, pytorch, timing
from gpuconv.benchmarks.networks_workload import AS_TRAINED, FULL_STEP, OURS

pytest.importorskip("torch")

RIVALS = [f"torch {memory}" for memory in pytorch.FORMATS]


def test_every_kind_of_row_beside_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REST", 0.0)
    monkeypatch.setattr(networks, "usable_cores", lambda: 1)  # no threads that wait for each other
    words = ["--engine", "cpu:numpy", "--size", "32", "--seconds", "0", "--out", str(tmp_path)]
    rows = ["training*", "transfer*", "*MobileNet*batch 1"]
    assert networks.main([*words, *(word for row in rows for word in ("--row", row))]) == 0
    result = json.loads((tmp_path / "networks.json").read_text())
    beside = {"transfer": [FULL_STEP], "inference": [AS_TRAINED]}
    assert [row["part"] for row in result["rows"]] == [
        "training", "transfer", "inference", "training",
    ]  # fmt: skip
    for row in result["rows"]:
        assert list(row["candidates"]) == [OURS, *beside.get(row["part"], []), *RIVALS]
        for name, record in row["candidates"].items():
            assert record["state"] == "ok", (row["layer"], name, record)
        assert networks_goals.ratio(result, row) is not None
    assert "PyTorch: 1 threads" in (tmp_path / "networks.md").read_text()


def test_the_memory_of_pytorchs_steps(capsys: pytest.CaptureFixture[str]) -> None:
    if not networks_parts.CLEAR.exists():
        pytest.skip("the peak is read where Linux has it")
    assert networks_parts.main(["torch contiguous", "--size", "32", "--batch", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    weights = 4 * 11_689_512 / 2**20  # twice: gradients, momentum
    assert 1.8 * weights < facts["above_mib"] < 10 * weights
    assert abs(facts["loss"] - 6.9) < 2
