"""The GPU benchmark without a GPU: all of it, on a device that is made of NumPy."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import cli
from gpuconv.backends import registry
from gpuconv.backends.base import Probe
from gpuconv.benchmarks import gpu, gpu_report, machine, workload
from gpuconv.testing.host_device import HostDevice, OutOfMemoryError, RealTime

# --- the rows -----------------------------------------------------------------------------------


def test_the_rows_are_what_they_claim() -> None:
    found = list(workload.rows(HostDevice(), None))
    assert len({row.key for row in found}) == len(found)
    count = {part: sum(row.part == part for row in found) for part in workload.PARTS}
    assert count == {"resnet50": 69, "training": 4, "pooling": 14, "seed": 9, "vgg16": 27}
    shapes = {s.name: s for s in workload.VGG16}
    # Known totals: VGG-16's convolutions are 15.3 billion multiply-adds an image of 224 x 224.
    often = {"3x3 256-256 @56": 2, "3x3 512-512 @28": 2, "3x3 512-512 @14": 3}
    assert sum(s.flops(1) * often.get(n, 1) for n, s in shapes.items()) / 2 == 15_346_630_656
    assert [s.output for s in workload.SEED] == [30, 13, 4]
    model = gc.zoo.seed_network()
    convolutions = [layer for layer in model.sublayers if type(layer).__name__ == "Conv2D"]
    assert [(s.filters, s.kernel) for s in workload.SEED] == [
        (layer.filters, layer.kernel_size[0]) for layer in convolutions
    ]
    small = next(row for row in found if row.layer == "3x3 3-32 @32")
    assert small.flops == 2 * 32 * 30 * 30 * 32 * 27
    assert small.moved == 4 * (32 * 32 * 32 * 3 + 32 * 30 * 30 * 32 + 27 * 32)


# --- the whole script ---------------------------------------------------------------------------


def bench(folder: Path, *words: str, device: Any = RealTime) -> int:
    fast = ["--batch", "1", "--seconds", "0", "--no-torch", "--out", str(folder)]
    return gpu.main([*fast, *words], open_device=device)


STEM = "gpu-host-made-of-numpy"


def result_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{STEM}.json").read_text())
    return found


def test_the_whole_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--layer", "3x3 512-512 @7", "--layer", "*seed*", "--layer", "3x3 3-32 @32"]
    assert bench(tmp_path, *words) == 0
    said = capsys.readouterr().out
    result = result_in(tmp_path)
    assert [gpu_report.key(row) for row in result["rows"]] == [
        ("resnet50", "3x3 512-512 @7", "forward", 1),
        ("resnet50", "3x3 512-512 @7", "backward_input", 1),
        ("resnet50", "3x3 512-512 @7", "backward_weight", 1),
        ("training", "seed network", "step", 1),
        ("pooling", "max 2x2/2 32 @30 (seed)", "forward", 1),
        ("pooling", "max 2x2/2 32 @30 (seed)", "backward", 1),
        ("seed", "3x3 3-32 @32", "forward", 1),
        ("seed", "3x3 3-32 @32", "backward_input", 1),
        ("seed", "3x3 3-32 @32", "backward_weight", 1),
    ]
    for row in result["rows"]:
        assert list(row["candidates"]) == ["cpu:numpy", "cpu"]
        for name, record in row["candidates"].items():
            assert record["state"] == "ok", (row["layer"], name, record)
            assert record["ms"] >= record["min_ms"] > 0
            assert record["error"] <= record["allowed"]
    forward = result["rows"][0]["candidates"]["cpu"]
    chosen = gc.explain("conv2d", (1, 7, 7, 512), (3, 3, 512, 512), backend="cpu", padding=1)
    assert (forward["engine"], forward["algorithm"]) == (chosen.engine, chosen.algorithm)
    assert result["versions"]["numpy"] == np.__version__
    assert result["device"]["device"] == "Host made of NumPy"
    assert result["not_reached"] == 0
    assert set(result["rates"]) == {"copy", "gemm", "fma"}
    text = (tmp_path / f"{STEM}.txt").read_text()
    for part in (said, text):
        assert "measured: copy 10 GB/s, cuBLAS float32 0.1 TFLOP/s" in part
        assert "results checked against the CPU engine, 0 wrong" in part
        for title in ("Convolution", "Pooling", "Training step", "First call"):
            assert title in part
    assert "ResNet-50's 3x3 layers, forward, cpu:numpy:" in text
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / f"{STEM}.png").read_bytes().startswith(b"\x89PNG")


def test_the_budget_stops_it_and_resume_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--part", "seed", "--layer", "3x3 64-64 @6"]
    assert bench(tmp_path, *words, "--budget", "0") == 0
    assert "not reached: 3 rows" in capsys.readouterr().out
    assert result_in(tmp_path)["rows"] == []
    assert bench(tmp_path, *words, "--operation", "forward") == 0
    first = result_in(tmp_path)["rows"]
    assert len(first) == 1
    capsys.readouterr()
    assert bench(tmp_path, *words, "--resume") == 0
    result = result_in(tmp_path)
    assert result["rows"][0] == first[0]
    assert [row["operation"] for row in result["rows"]] == list(workload.CONV_OPERATIONS)
    assert len(result["commands"]) == 2
    # Other code would not be the same measurement.
    monkeypatch.setattr(machine, "commit", lambda: "0123456789ab")
    assert bench(tmp_path, *words, "--resume") == 2
    assert "--resume needs results of the same commit" in capsys.readouterr().err
    assert bench(tmp_path, *words, "--resume", "--commit", result["commit"] or "") in (0, 2)
    (tmp_path / f"{STEM}.json").write_text("{}")
    assert bench(tmp_path, *words, "--resume") == 2
    assert "expected the results of a benchmark" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    original = gpu.run

    def interrupted(*arguments: Any) -> Any:
        rows.append(1)
        if len(rows) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(gpu, "run", interrupted)
    assert bench(tmp_path, "--part", "seed", "--layer", "3x3 64-64 @6") == 130
    assert len(result_in(tmp_path)["rows"]) == 2
    assert "Interrupted: what was measured is kept" in capsys.readouterr().out
    assert (tmp_path / f"{STEM}.txt").exists()


def test_wrong_results_and_lost_devices_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(RealTime):
        def difference(self, actual: Any, expected: Any) -> float:
            return 0.5

    words = ["--part", "seed", "--layer", "3x3 64-64 @6", "--operation", "forward"]
    assert bench(tmp_path, *words, device=Wrong) == 1
    said = capsys.readouterr().out
    assert "2 results checked against the CPU engine, 2 wrong" in said
    assert "not timed: 3x3 64-64 @6, forward, cpu: WRONG (differs by 5.0e-01" in said

    class Lost(RealTime):
        def difference(self, actual: Any, expected: Any) -> float:
            raise RuntimeError("illegal memory access")

        def synchronize(self) -> None:
            if self.stamps == 0 and self.host:
                raise RuntimeError("illegal memory access")
            self.host = 1.0

    assert bench(tmp_path, *words, device=Lost) == 1
    assert "The device failed" in capsys.readouterr().out

    class Full(RealTime):
        def put(self, array: Any) -> Any:
            raise OutOfMemoryError("no room")

    assert bench(tmp_path, *words, device=Full) == 0
    assert "operands: failed (OutOfMemoryError: no room)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "nothing"], "no row is called that"),
        (["--batch", "0"], "--batch must be at least 1. Received: 0"),
        (["--engine", "cuda:numba"], "--engine takes cpu and its engines. Received: cuda:numba"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*words, "--out", str(tmp_path)], open_device=RealTime) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "probe_device", lambda device: Probe(False, f"no {device} here"))
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "No GPU benchmark here: no cuda here. On the CPU: gpuconv bench --backend cpu, or "
        "python benchmarks/cpu.py\n"
    )


# --- gpuconv bench ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "backend", "passed"),
    [
        (["--backend", "cpu", "--quick", "--batch", "2"], "cpu", ["--quick", "--batch", "2"]),
        (["--layer", "*", "--backend", "cuda", "--ba", "3"], "cuda", ["--layer", "*", "--ba", "3"]),
        (["--backend=cuda"], "cuda", []),
        (["--backend", "cpu", "--help"], "cpu", ["--help"]),
        ([], "cpu", []),
    ],
)
def test_the_command_passes_its_options_on(
    words: list[str], backend: str, passed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuconv.backends import cuda_probe
    from gpuconv.benchmarks import cpu

    seen: list[Any] = []
    for name, module in (("cpu", cpu), ("cuda", gpu)):
        monkeypatch.setattr(
            module, "main", lambda given, program, name=name: seen.append((name, given, program))
        )
    monkeypatch.setattr(cuda_probe, "probe_cuda", lambda: Probe(False, "none"))
    cli.main(["bench", *words])
    assert seen == [(backend, passed, f"gpuconv bench --backend {backend}")]


def test_options_that_no_command_knows(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["doctor", "--fast"], ["summary", "seed", "-x"], ["bench", "--backend", "x"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_the_scripts_are_the_same_code() -> None:
    for name in ("cpu", "gpu"):
        script = machine.CHECKOUT / "benchmarks" / f"{name}.py"
        if not script.exists():
            pytest.skip("needs the source tree")
        done = subprocess.run(
            [sys.executable, str(script), "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert "--quick" in done.stdout


# --- the report ---------------------------------------------------------------------------------


def row_with(**ms: float) -> dict[str, Any]:
    names = {"torch_c": "torch contiguous", "torch_l": "torch channels_last",
             "tf32": "torch contiguous tf32", "numba": "cuda:numba", "choice": "cuda"}  # fmt: skip
    records = {names[name]: {"state": "ok", "ms": value} for name, value in ms.items()}
    return {"part": "resnet50", "layer": "3x3 a", "operation": "forward", "batch": 32,
            "flops": 1e9, "moved": 1e6, "candidates": records}  # fmt: skip


def test_ratios_are_to_the_better_format_without_tf32() -> None:
    row = row_with(torch_c=4.0, torch_l=2.0, tf32=0.5, choice=3.0)
    assert gpu_report.ratio(row, "cuda") == 1.5
    assert gpu_report.ratio(row, "cuda:numba") is None
    best = gpu_report.rival(row)
    assert best is not None
    assert best["name"] == "torch channels_last"
    row["candidates"]["torch channels_last"] = {"state": "failed", "reason": "x"}
    assert gpu_report.ratio(row, "cuda") == 0.75
    assert gpu_report.geometric_mean([1.0, None, 4.0]) == pytest.approx(2.0)
    assert gpu_report.geometric_mean([None]) is None


def test_rates_and_summary() -> None:
    result = {
        "backend": "cuda",
        "engines": ["cuda:numba", "cuda"],
        "rates": {"copy": 4e9, "gemm": 2e12, "fma": 4e12},
        "rows": [row_with(numba=0.5, choice=c, torch_c=1.0) for c in (0.5, 0.25)],
    }  # fmt: skip
    row: Any = result["rows"][0]  # type: ignore[index]
    assert gpu_report.of_rate(result, row, "cuda", "fma") == pytest.approx(0.5)
    assert gpu_report.of_rate(result, row, "cuda", "copy") == pytest.approx(0.5)
    said = gpu_report.summary(result)
    assert said[0] == "6 results checked against the CPU engine, 0 wrong"
    assert said[1].endswith("over 2: cuda:numba 0.50, cuda (choice) 0.35")
    assert said[2] == (
        "ResNet-50's 3x3 layers, forward, cuda:numba: 50% of the measured FFMA rate "
        "(geometric mean; from 50% to 50%)"
    )
    assert "from 50% to 100%" in said[3]


def test_the_raw_kernels_compile_for_every_architecture() -> None:
    pytest.importorskip("cupy")
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    from gpuconv.benchmarks.cuda_device import SOURCE

    for architecture in (75, 80, 90, 100):
        program = nvrtc.createProgram(SOURCE, "rates.cu", (), ())
        nvrtc.compileProgram(program, (f"--gpu-architecture=compute_{architecture}",))
        ptx = nvrtc.getPTX(program)
        text = ptx if isinstance(ptx, str) else ptx.decode()
        assert text.count("fma.rn.f32") == 16 * 8
        assert "globaltimer" in text
