"""The benchmark of whole networks: its rows, the script on small images, processes, goals."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuconv.benchmarks import (
    machine,
    networks,
    networks_goals,
    networks_parts,
    networks_picture,
    networks_processes,
    networks_report,
    networks_workload,
    processes,
    pytorch,
    timing,
)
from gpuconv.benchmarks.candidates import Candidate, run
from gpuconv.benchmarks.cpu_device import CpuDevice
from gpuconv.benchmarks.networks_workload import AS_TRAINED, FULL_STEP, OURS

ENGINE = "cpu:numpy"


@pytest.fixture(autouse=True)
def _without_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REST", 0.0)


def bench(folder: Path, *words: str) -> int:
    return networks.main(
        ["--engine", ENGINE, "--size", "32", "--no-torch", "--out", str(folder), *words]
    )


def result_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "networks.json").read_text())
    return found


def every_row(torch: Any = None) -> list[Any]:
    options = networks._parser().parse_args([])
    return list(networks._wanted(options, CpuDevice(), torch))


# --- the rows -----------------------------------------------------------------------------------


def test_the_rows_are_what_they_claim() -> None:
    found = every_row()
    assert len({row.key for row in found}) == len(found)
    assert [(row.part, row.layer, row.batch) for row in found] == [
        ("training", "ResNet-18 224x224", 8),
        ("transfer", "ResNet-18 224x224", 8),
        ("start-up", "gpuconv train", 32),
        ("inference", "ResNet-50 224x224", 1),
        ("memory", "ResNet-18 224x224", 8),
        ("start-up", "3x3 64-64 @56", 1),
        ("inference", "MobileNet-V2 224x224", 8),
        ("inference", "VGG-16 224x224", 1),
        ("inference", "MobileNet-V2 224x224", 1),
        ("training", "LeNet-5 28x28", 32),
    ]


def test_every_goal_is_about_one_row() -> None:
    rows = [made_up_row(row.part, row.layer, row.operation, row.batch) for row in every_row()]
    found = networks_goals.reached(made_up(*rows))
    assert [goal["measured"] for goal in found] == [1] * 6
    assert [goal["of"] for goal in found] == [1] * 6


def test_only_the_head_learns_in_a_transfer() -> None:
    network = networks_workload.Network("ResNet-18", "resnet18", 32, classes=5)
    model = networks_workload.model_of(network, True, only_head=True)
    assert sorted(p.shape for p in model.trainable_parameters) == [(5,), (512, 5)]
    assert len(networks_workload.model_of(network, True).trainable_parameters) > 40


# --- the whole script ---------------------------------------------------------------------------


def test_the_whole_script_without_pytorch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks_processes, "TURNS", 2)
    rows = ("*LeNet*", "*MobileNet*batch 1", "transfer*", "*convolution*", "memory*")
    words = [word for row in rows for word in ("--row", row)]
    assert bench(tmp_path, "--seconds", "0", "--commit", "abc", *words) == 0
    said = capsys.readouterr().out
    result = result_in(tmp_path)
    candidates = {row["part"]: row["candidates"] for row in result["rows"]}
    assert {part: list(found) for part, found in candidates.items()} == {
        "training": [OURS],
        "inference": [OURS, AS_TRAINED],
        "transfer": [OURS, FULL_STEP],
        "start-up": [OURS],
        "memory": [OURS],
    }
    refused = set() if networks_parts.CLEAR.exists() else {"memory"}
    for part, records in candidates.items():
        for record in records.values():
            assert record["state"] == ("refused" if part in refused else "ok"), record
            assert part in refused or record["error"] <= record["allowed"]
    assert candidates["transfer"][OURS]["samples"] >= 3  # turns, each of as many steps as fit
    first = candidates["start-up"][OURS]
    assert first["processes"] == 2
    assert first["min_ms"] > first["import_ms"] > 0
    if not refused:
        memory = candidates["memory"][OURS]
        weights = 4 * 11_689_512 / 2**20  # twice: gradients, momentum
        assert 2 * weights < memory["above_mib"] < 10 * weights
        assert memory["peak_mib"] == pytest.approx(memory["before_mib"] + memory["above_mib"])
    assert (result["commit"], result["engines"]) == ("abc", [ENGINE])
    text = (tmp_path / "networks.md").read_text()
    for part in (said, text):
        assert "gpuconv's engine: cpu:numpy; PyTorch: not asked for" in part
        assert "| goal " in part
        assert ", all layers" in part
        assert ", as trained" in part
        assert "wrong." in part
    lenet = next(line for line in text.splitlines() if line.startswith("| LeNet-5 28x28"))
    assert [cell.strip() for cell in lenet.split("|")[5:-1]] == ["-"] * 5
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_of_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--row", "*LeNet*", "--row", "*MobileNet*batch 1"]
    assert bench(tmp_path, *rows, "--budget", "1") == 0
    first = result_in(tmp_path)["rows"]
    assert first[0]["layer"] == "MobileNet-V2 32x32"
    assert bench(tmp_path, *rows, "--resume", "--seconds", "0") == 0
    assert [row["layer"] for row in result_in(tmp_path)["rows"]] == [
        "MobileNet-V2 32x32", "LeNet-5 28x28",
    ]  # fmt: skip
    assert result_in(tmp_path)["rows"][0] == first[0]
    capsys.readouterr()
    assert bench(tmp_path, *rows, "--budget", "0") == 0
    assert "- not reached in the time: 2 rows; --resume goes on" in capsys.readouterr().out
    assert result_in(tmp_path)["rows"] == []


def test_the_time_is_divided_by_what_the_rows_need(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    given: dict[str, float] = {}
    monkeypatch.setattr(networks.time, "perf_counter", lambda: now)
    options = networks._parser().parse_args([])
    waiting = deque(every_row())
    total = sum(row.share for row in waiting)
    record = networks._recorder(options, CpuDevice(), waiting, now + total)
    for row in list(waiting):
        waiting.popleft()

        def spend(device: Any, makers: Any, seconds: float, **words: Any) -> dict[str, Any]:
            nonlocal now
            given[f"{row.part} {row.layer} {row.batch}"] = seconds  # noqa: B023 (called here)
            now += row.share  # noqa: B023
            return {}

        monkeypatch.setattr(networks, "run", spend)
        record(dataclasses.replace(row, makers=dict))
    assert given["training ResNet-18 224x224 8"] == pytest.approx(75)
    assert given["training LeNet-5 28x28 32"] == pytest.approx(6)
    assert given["start-up gpuconv train 32"] == math.inf
    assert 300 <= total <= 330


def test_pytorch_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytorch, "load", lambda: None)
    words = ["--engine", ENGINE, "--seconds", "0", "--row", "*LeNet*"]
    assert networks.main(words) == 0
    assert "PyTorch: not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_wrong_result_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks_workload, "_expected_losses", lambda *key: [9.0, 9.0])
    assert bench(tmp_path, "--seconds", "0", "--row", "*LeNet*") == 1
    said = capsys.readouterr().out
    assert "1 results checked, 1 wrong." in said
    assert "gpuconv: WRONG (differs by" in said
    (row,) = result_in(tmp_path)["rows"]
    assert "min_ms" not in row["candidates"][OURS]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", "nothing"], "no row is called that"),
        (["--size", "31"], "--size must be at least 32. Received: 31"),
        (["--engine", "cuda:numba"], "Received: cuda:numba"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_script_is_the_same_code() -> None:
    script = machine.CHECKOUT / "benchmarks" / "networks.py"
    if not script.exists():
        pytest.skip("needs the source tree")
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert "--budget" in done.stdout


# --- processes ----------------------------------------------------------------------------------


def replies(monkeypatch: pytest.MonkeyPatch, *given: processes.Reply) -> list[list[str]]:
    """Let the next questions have these replies; return what was asked."""
    asked: list[list[str]] = []
    waiting = iter(given)

    def ask(command: list[str], limit: float, variables: Any = None) -> processes.Reply:
        asked.append(list(command))
        return next(waiting)

    monkeypatch.setattr(processes, "ask", ask)
    return asked


def one(operation: str) -> Callable[[], Candidate]:
    (row,) = [row for row in networks_processes.rows(CpuDevice(), None, "cpu")
              if row.operation.startswith(operation)]  # fmt: skip
    return row.makers()[OURS]


def records_of(make: Callable[[], Candidate]) -> dict[str, Any]:
    turns = networks_processes.Answers
    return run(CpuDevice(), {OURS: make}, math.inf, itertools.count().__next__, turns)[OURS]


def test_the_quickest_of_several_processes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        processes.Reply(json.dumps({"ms": ms, "import_ms": ms / 2, "value": 576.0}), 1.0)
        for ms in (900.0, 700.0, 800.0, 750.0, 720.0)
    ]
    asked = replies(monkeypatch, *given)
    record = records_of(one("import"))
    assert (record["state"], record["min_ms"], record["import_ms"]) == ("ok", 700.0, 350.0)
    assert [command[1] for command in asked] == ["-c"] * networks_processes.TURNS


def test_a_process_with_another_result_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    replies(monkeypatch, processes.Reply(json.dumps({"ms": 1.0, "value": 570.0}), 1.0))
    assert records_of(one("import"))["state"] == "WRONG"


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    replies(monkeypatch, processes.Reply("a\nImportError: no numpy\n", 1.0, "exit status 1"))
    record = records_of(one("import"))
    assert record["state"] == "failed"
    assert record["reason"] == "RuntimeError: exit status 1: ImportError: no numpy"


def test_compiling_is_what_the_first_run_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x\ndigits is ready after 12.0s: 9 decisions, 0 by measurement\n"
    asked = replies(monkeypatch, processes.Reply(text, 20.0), processes.Reply(text, 6.5))
    record = records_of(one("compiling"))
    assert record["min_ms"] == 13_500
    assert (record["first_s"], record["again_s"]) == (20.0, 6.5)
    assert record["said"].endswith("0 by measurement")
    first, again = asked
    assert first[1:6] == again[1:6] == ["-m", "gpuconv", "train", "--epochs", "1"]
    assert first[-1] != again[-1]


def test_a_training_that_does_not_say_what_it_compiles_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies(monkeypatch, processes.Reply("x", 20.0), processes.Reply("x", 6.5))
    assert "did not say that it compiles" in records_of(one("compiling"))["reason"]


def test_empty_caches_are_in_the_folder(tmp_path: Path) -> None:
    program = "from gpuconv.settings import cache_folder; print(cache_folder())"
    reply = processes.ask([sys.executable, "-c", program], 60, processes.empty_caches(tmp_path))
    assert reply.problem == ""
    assert Path(reply.text.strip()).parent == tmp_path


# --- goals and report ---------------------------------------------------------------------------


def made_up_row(part: str, layer: str, operation: str, batch: int, **more: float) -> dict[str, Any]:
    values = {
        OURS: 0.9,
        FULL_STEP: 2.0,
        "torch contiguous": 1.0,
        "torch channels_last": 0.6,
        **more,
    }
    field = "above_mib" if part == "memory" else "min_ms"
    candidates = {name: {"state": "ok", field: 1e3 * ms} for name, ms in values.items()}
    return {"part": part, "layer": layer, "operation": operation, "batch": batch,
            "candidates": candidates}  # fmt: skip


def made_up(*rows: dict[str, Any]) -> dict[str, Any]:
    result = {
        "engines": ["cpu"], "judged": OURS, "device": {"device": "a CPU", "cores": 2},
        "versions": {"python": "3"}, "commit": "abc", "date": "today", "commands": ["bench"],
        "rates": None, "not_reached": 0, "rows": list(rows), "torch_threads": 2,
    }  # fmt: skip
    return {**result, "goals": networks_goals.reached(result)}


def test_goals_and_verdicts() -> None:
    rows = [made_up_row(row.part, row.layer, row.operation, row.batch) for row in every_row()]
    found = [
        (goal["value"], goal["must"], goal["aim"], goal["reached"])
        for goal in made_up(*rows)["goals"]
    ]
    assert found == [
        (pytest.approx(0.9), 1.0, 0.8, "must"),
        (pytest.approx(0.9), 1.0, None, "must"),
        (pytest.approx(0.45), 0.45, None, "must"),
        (pytest.approx(1.5), 1.2, None, "no"),  # to the better layout
        (pytest.approx(0.9), 1.0, None, "must"),
        (pytest.approx(0.9), 30.0, None, "must"),
    ]
    smaller = made_up_row("training", "ResNet-18 64x64", "step", 8)
    assert all("value" not in goal for goal in made_up(smaller)["goals"])


def test_the_tables() -> None:
    result = made_up(
        made_up_row("training", "ResNet-18 224x224", "step", 8),
        made_up_row("memory", "ResNet-18 224x224", "peak memory of a step", 8),
    )
    lines = list(networks_report.markdown(result))
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line[:5] == "| Res"]
    assert cells[0] == ["ResNet-18 224x224", "step", "8", "900.0 ms", "2.00 s, all layers",
                        "1.00 s", "600.0 ms", "0.90", "1.50"]  # fmt: skip
    assert cells[1][3:] == ["900 MiB", "2000 MiB, all layers", "1000 MiB", "600 MiB", "0.90",
                            "1.50"]  # fmt: skip
    goal = next(line for line in lines if line.startswith("| ResNet-18 224x224, training"))
    assert [cell.strip() for cell in goal.split("|")[2:-1]] == ["0.90", "1.00", "0.80", "must"]
    assert len({len(line) for line in lines if line.startswith("|")}) == 2  # two even tables
    assert "- gpuconv's engine: cpu; PyTorch: 2 threads" in lines


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    assert not networks_picture.draw(made_up(), path)
    assert not path.exists()
    rows = [made_up_row(row.part, row.layer, row.operation, row.batch) for row in every_row()]
    assert networks_picture.draw(made_up(*rows), path)
    assert path.read_bytes().startswith(b"\x89PNG")
