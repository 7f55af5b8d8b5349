"""The GPU check's control flow: parts that succeed, fail, hang, are missing or not reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpuconv.benchmarks import gpu_check, gpu_parts, machine
from gpuconv.benchmarks.gpu_check import Part

PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCONV_CACHE", str(tmp_path / "cache"))


def part(name: str, program: str, seconds: float = 30, missing: str = "") -> Part:
    return Part(name, f"about {name}", [PYTHON, "-c", program], seconds, missing)


def asked(tmp_path: Path, given: list[Part], *words: str) -> tuple[int, dict[str, Any], str]:
    status = gpu_check.main(["--out", str(tmp_path), *words], lambda out, budget: given, lambda: "")
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    return status, result, (tmp_path / "gpu_check.txt").read_text()


def test_each_part_answers_for_itself(tmp_path: Path) -> None:
    start = time.monotonic()
    status, result, text = asked(
        tmp_path,
        [
            part("good", "print('x'); print('{\"speed\": 3}'); print('bye')"),
            part("bad", "import sys; print('it is broken'); sys.exit(7)"),
            part("slow", "import time; print('begun', flush=True); time.sleep(60)", 1),
            part("half", 'print(\'{"unfinished": "two of three"}\')'),
            part("crash", "import os; os.abort()"),
            part("absent", "", missing="not run: no such tool"),
            Part("nowhere", "about nowhere", ["/no/such/program"], 10),
            part("last", "print('still here')"),
        ],
    )
    assert time.monotonic() - start < 50
    assert status == 1
    states = {p["name"]: p["state"] for p in result["parts"]}
    assert states == {
        "good": "ok",
        "bad": "FAILED",
        "slow": "too long",
        "half": "unfinished",
        "crash": "FAILED",
        "absent": "skipped",
        "nowhere": "FAILED",
        "last": "ok",
    }
    assert result["parts"][0]["facts"] == {"speed": 3}
    assert result["verdict"] == "wrong"
    assert {"commit", "command", "versions", "notes", "environment", "budget"} <= result.keys()
    for words in ("it is broken", "not run: no such tool", "stopped after 2 s", "speed: 3"):
        assert words in text
    assert text.index("Verdict: wrong") == 0
    assert text.index("first lines of what went wrong") < text.index("speed: 3")


def test_the_exit_status_says_what_the_verdict_is(tmp_path: Path) -> None:
    good, bad = part("a", "print(1)"), part("b", "import sys; sys.exit(1)")
    assert asked(tmp_path, [good, bad], "--only", "a")[0] == 0
    assert asked(tmp_path, [good, bad])[0] == 1
    assert asked(tmp_path, [good, part("c", "", missing="not run")])[0] == 3
    assert asked(tmp_path, [good, part("d", 'print(\'{"unfinished": ""}\')')])[0] == 3
    assert gpu_check.main(["--only", "c"], lambda out, budget: [good], lambda: "") == 2


def test_only_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--list"], available=lambda: "no driver") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        *("machine", "warm-up", "guards", "operations", "curve", "determinism", "transfers"),
        *("memcheck", "tests", "layers", "racecheck", "synccheck", "timings"),
    ]
    assert gpu_check.main(["--list", "--only", "curve"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_when_the_time_is_up_the_rest_is_not_reached(tmp_path: Path) -> None:
    given = [part("a", "import time; time.sleep(30)"), part("b", "print(1)")]
    status, result, _ = asked(tmp_path, given, "--budget", "2")
    assert [p["state"] for p in result["parts"]] == ["too long", "not reached"]
    assert status == 1


def test_limits_add_up_and_unused_time_goes_on(tmp_path: Path) -> None:
    for budget in (600.0, 1200.0):
        found = gpu_check.parts(tmp_path, budget)
        assert sum(p.seconds for p in found) == pytest.approx(budget)
    asks = "import sys; print('{\"seconds\": ' + sys.argv[1] + '}')"
    given = [
        Part(name, "", [PYTHON, "-c", asks, "{seconds}"], seconds, missing)
        for name, seconds, missing in (
            ("first", 100.0, ""),
            ("left out", 200.0, "not run"),
            ("next", 150.0, ""),
            ("last", 150.0, ""),
        )
    ]
    _, result, _ = asked(tmp_path, given)
    limits = {p["name"]: p["limit"] for p in result["parts"]}
    assert limits["first"] == 200  # twice its own, since another part's time is free
    assert limits["next"] == 300
    assert limits["last"] > 590  # all that is left
    assert result["parts"][0]["facts"] == {"seconds": 195}


def test_a_part_may_need_longer_to_end(tmp_path: Path) -> None:
    """A row of timings that was begun in time is finished, and the tables are written."""
    asks = "import sys; print('{\"seconds\": ' + sys.argv[1] + '}')"
    slow = Part("slow", "", [PYTHON, "-c", asks, "{seconds}"], 100.0, ending=40)
    _, result, _ = asked(tmp_path, [slow, part("next", "print(1)", 500)])
    assert result["parts"][0]["limit"] == pytest.approx(100, abs=1)
    assert result["parts"][0]["facts"]["seconds"] in (59, 60)
    timings = gpu_check.parts(tmp_path)[-1]
    assert timings.name == "timings"
    assert timings.ending > 20


def test_the_first_lines_of_a_failure(tmp_path: Path) -> None:
    facts = {"failures": ["FAILED test_x"], "wrong": "tests failed"}
    shown = part("a", f"import sys; print('''{json.dumps(facts)}'''); sys.exit(1)")
    raised = part("b", "print('some talk'); raise ValueError('too small')")
    _, result, text = asked(tmp_path, [shown, raised])
    first, second = result["parts"]
    assert (first["reason"], first["failures"]) == ("tests failed", ["FAILED test_x"])
    assert second["failures"][0].startswith("Traceback")
    assert "ValueError: too small" in second["failures"]
    assert "    FAILED test_x" in text.splitlines()
    same = {"a": ["no memory"], "b": ["no memory"], "c": "another"}
    told = gpu_check._failures("", {"errors": same, "failures": ["E  x", "E  x"]})
    assert told == ["E  x", "a and 1 more: no memory", "c: another"]


def test_without_a_gpu_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "results")]
    assert gpu_check.main(words, available=lambda: "no driver") == 2
    assert "No GPU to check here: no driver" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_go_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    outs: list[Path] = []

    def parts_of(out: Path, budget: float) -> list[Part]:
        outs.append(out)
        return [part("a", "print(1)")]

    words = ["--out", str(tmp_path / "file" / "results")]
    assert gpu_check.main(words, parts_of, lambda: "") == 0
    assert "cannot be written; results go to" in capsys.readouterr().err
    assert (outs[-1] / "gpu_check.json").exists()


def test_the_parts_of_a_machine(tmp_path: Path) -> None:
    for each in gpu_check.parts(tmp_path, 600):
        assert each.command[0] == PYTHON
        for word in each.command:
            if word.startswith("tests/"):
                assert (machine.CHECKOUT / word).exists()
            if word.startswith("gpuconv.benchmarks."):
                assert (machine.CHECKOUT / f"{word.replace('.', '/')}.py").exists()


def test_the_memory_checkers_need_their_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, missing in (("", "not run: no compute-sanitizer"), ("/opt/compute-sanitizer", "")):
        monkeypatch.setattr(gpu_check.gpu_environment, "sanitizer", lambda found=found: found)
        by_name = {p.name: p.missing for p in gpu_check.parts(tmp_path)}
        assert {by_name[tool] for tool in ("memcheck", "racecheck", "synccheck")} == {missing}
        assert by_name["guards"] == ""  # needs no tool


@pytest.mark.parametrize("name", ["curve", "determinism", "transfers", "machine"])
def test_parts_run_in_the_simulator(name: str) -> None:
    environment = {
        **os.environ,
        "NUMBA_ENABLE_CUDASIM": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    done = subprocess.run(
        [PYTHON, "-m", "gpuconv.benchmarks.gpu_parts", name, "--tiny"],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads(done.stdout.splitlines()[-1])
    assert "wrong" not in facts
    assert "cuda-sim" in facts


def test_the_whole_command_in_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real parts, a little of each: processes that start processes that launch kernels."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    few = {
        "guards": ["--simulated", "--family", "random numbers", "--processes", "1"],
        "operations": ["--simulated", "--case", "dropout"],
        "layers": ["--simulated", "--case", "Dense-regularized"],
        "curve": ["--tiny"],
    }

    def parts_of(out: Path, budget: float) -> list[Part]:
        found = [p for p in gpu_check.parts(out, budget) if p.name in few]
        return [
            Part(p.name, p.about, [*p.command, *few[p.name]], 60 + p.seconds, p.missing)
            for p in found
        ]

    status = gpu_check.main(["--out", str(tmp_path)], parts_of, lambda: "")
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    states = {p["name"]: p["state"] for p in result["parts"]}
    assert states == dict.fromkeys(few, "ok") | {"guards": "unfinished"}, result
    assert status == 3  # most kernels were not reached
    facts = {p["name"]: p["facts"] for p in result["parts"]}
    assert facts["guards"]["states"]["dropout[float32]"] == "clean"
    assert facts["operations"]["right"] == {"cuda-sim:numba": 2}
    assert facts["layers"]["right"] == {"cuda-sim:numba": 2}


def test_a_wrong_curve_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu_parts.trained

    def spoiled(backend: str, steps: int, tiny: bool) -> Any:
        losses, weights = real("cpu:numpy", 1, True)
        return (losses if backend == "cpu:numpy" else [1.1 * loss for loss in losses]), weights

    monkeypatch.setattr(gpu_parts, "trained", spoiled)
    assert "differs" in gpu_parts.curve(True)["wrong"]


def test_other_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = gpu_parts.trained, iter(range(9))

    def spoiled(backend: str, steps: int, tiny: bool) -> Any:
        losses, weights = real("cpu:numpy", 1, True)
        weights[0] = weights[0] + 1e-6 * next(calls)
        return losses, weights

    monkeypatch.setattr(gpu_parts, "trained", spoiled)
    assert "other bits" in gpu_parts.determinism(True)["wrong"]


def test_an_engine_that_cannot_run_is_said_and_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    none = ([], dict.fromkeys(gpu_parts.ENGINES, "no numba-cuda"))
    monkeypatch.setattr(gpu_parts.gpu_engines, "available", lambda engines: none)
    for check in (gpu_parts.transfers, gpu_parts.determinism):
        facts = check(False)
        assert facts["wrong"] == "no engine can run"
        assert facts["cuda:numba"] == {"not run": "no numba-cuda"}
