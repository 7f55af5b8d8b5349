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
            part("slow", "import time; print('begun', flush=True); time.sleep(60)", 2),
            part("crash", "import os; os.abort()"),
            part("absent", "", missing="no such tool"),
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
        "crash": "FAILED",
        "absent": "skipped",
        "nowhere": "FAILED",
        "last": "ok",
    }
    assert result["parts"][0]["facts"] == {"speed": 3}
    assert {"commit", "command", "versions"} <= result.keys()
    for words in ("it is broken", "no such tool", "stopped after 2 s", "begun", "speed: 3"):
        assert words in text


def test_all_right_is_0_and_parts_can_be_chosen(tmp_path: Path) -> None:
    given = [part("a", "print(1)"), part("b", "import sys; sys.exit(1)")]
    assert asked(tmp_path, given, "--part", "a")[0] == 0
    assert gpu_check.main(["--part", "c"], lambda out, budget: given, lambda: "") == 2


def test_when_the_time_is_up_the_rest_is_not_reached(tmp_path: Path) -> None:
    given = [part("a", "import time; time.sleep(30)"), part("b", "print(1)")]
    _, result, _ = asked(tmp_path, given, "--budget", "2")
    assert [p["state"] for p in result["parts"]] == ["too long", "not reached"]


def test_without_a_gpu_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "results")]
    assert gpu_check.main(words, available=lambda: "no driver") == 2
    assert "No GPU to check here: no driver" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_parts_of_a_machine(tmp_path: Path) -> None:
    found = gpu_check.parts(tmp_path, 600)
    names = [p.name for p in found]
    assert names[:2] == ["machine", "kernels"]
    assert {"curve", "determinism", "transfers", "memory", "timings"} <= {*names}
    for each in found:
        for word in each.command:
            if word.startswith(("tests/", "benchmarks/")) and "results" not in word:
                assert (machine.CHECKOUT / word).exists()


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


def test_a_wrong_curve_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu_parts.trained

    def spoiled(backend: str, steps: int, tiny: bool) -> Any:
        losses, weights = real("cpu", 1, True)
        return (losses if backend == "cpu" else [1.1 * loss for loss in losses]), weights

    monkeypatch.setattr(gpu_parts, "trained", spoiled)
    assert "differs" in gpu_parts.curve(True)["wrong"]
