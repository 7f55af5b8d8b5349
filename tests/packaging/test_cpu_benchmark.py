"""The CPU benchmark: its rows, its device, the whole script on small layers, goals, picture."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends import registry
from gpuconv.benchmarks import cpu, cpu_device, cpu_goals, cpu_report, cpu_workload, timing
from gpuconv.benchmarks.candidates import Candidate, run
from gpuconv.benchmarks.cpu_device import CpuDevice
from gpuconv.benchmarks.devices import Rates
from gpuconv.benchmarks.fma import fma_rate
from gpuconv.benchmarks.shapes import MOBILENETV2, VGG16, ConvShape

RATES = Rates(copy=10e9, gemm=100e9, fma=200e9)


@pytest.fixture(autouse=True)
def _without_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REST", 0.0)
    monkeypatch.setattr(cpu_workload, "IMAGES", 8)


@pytest.fixture
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "rates", lambda self: RATES)


# --- the rows -----------------------------------------------------------------------------------


def test_the_rows_are_what_they_claim() -> None:
    found = list(cpu_workload.rows(CpuDevice(), None))
    assert len({row.key for row in found}) == len(found)
    count = {part: sum(row.part == part for row in found) for part in cpu_workload.PARTS}
    assert count == {
        "resnet50": 2 * 69, "mobilenetv2": 2 * 30, "vgg16": 3 * 27, "seed": 2 * 9,
        "deepbench": 33, "odd": 51, "pooling": 14, "elementwise": 11,
        "training": 2, "inference": 2, "fit": 2,
    }  # fmt: skip
    assert found[0].key == ("resnet50", "conv1 7x7/2", "forward", 8)
    assert found[-1].part == "vgg16"
    some = list(cpu_workload.rows(CpuDevice(), None, [3], [5]))
    assert {row.batch for row in some if row.flops or row.moved} == {3}
    assert {row.batch for row in some if not row.moved} == {5}
    # VGG-16's convolutions are 15.3 billion multiply-adds an image of 224 x 224, in 13 layers.
    assert sum(s.often * s.flops(1) for s in VGG16) / 2 == 15_346_630_656
    assert sum(s.often for s in VGG16) == 13


def test_depthwise_layers_are_counted_by_their_groups() -> None:
    assert [s.output for s in MOBILENETV2] == [112, 56, 56, 28, 28, 14, 14, 14, 7, 7]
    shape = ConvShape("dw", 14, 576, 576, 3, 2, 1, groups=576)
    assert shape.weights == (3, 3, 1, 576)
    assert shape.flops(2) == 2 * 2 * 7 * 7 * 576 * 9
    assert shape.numbers(2) == 2 * 14 * 14 * 576 + 2 * 7 * 7 * 576 + 9 * 576
    assert all(s.groups == s.channels == s.filters for s in MOBILENETV2)


# --- the device ---------------------------------------------------------------------------------


def test_the_device_sees_what_numpy_allocates() -> None:
    device = CpuDevice()
    assert device.engines == tuple(
        name for name in registry.engine_names("cpu") if registry.probe(name).available
    )

    def work() -> np.ndarray[Any, Any]:
        ones = np.ones(2**18)  # 2 MiB, and as much again for the result
        return ones + ones

    assert 4 * 2**20 <= device.peak_bytes(work) < 4.1 * 2**20
    a, b = np.array([1.0, -4.0]), np.array([1.5, -4.0])
    assert device.difference(a, b) == 0.125
    assert math.isnan(device.difference(np.array([np.nan, 1.0]), b))
    with pytest.raises(ValueError, match=r"shape \(2,\) where \(1,\) is expected"):
        device.difference(a, np.ones(1))


def test_the_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_device, "_COPIED", 2**20)
    monkeypatch.setattr(cpu_device, "SQUARE", 64)
    rates = CpuDevice().rates()
    assert rates.copy > 1e6
    assert rates.gemm > 1e6
    assert rates.fma > 1e8  # any core of this century, even when others are on it


def test_multiply_adds_that_were_not_computed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuconv_kernels.host import parallel

    monkeypatch.setattr(parallel, "run", lambda kernel, tasks, *words: None)
    with pytest.raises(RuntimeError, match="not all computed"):
        fma_rate()


# --- time ---------------------------------------------------------------------------------------


class Clock:
    """Time that only work moves on."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Any:
        def call() -> None:
            self.now += seconds
            self.order += name

        return call

    def maker(self, name: str, seconds: float) -> Any:
        return lambda: Candidate(name, [self.work(name, seconds)], exact, memory=False)


def exact(result: Any) -> tuple[float, float]:
    return 0.0, 0.0


def test_turns_are_as_many_calls_as_fit(known_rates: None) -> None:
    clock = Clock()
    calls = {"a": 1e-3, "b": 30e-3, "c": 1e-6}
    makers = {name: clock.maker(name, seconds) for name, seconds in calls.items()}
    records = run(CpuDevice(), makers, 0.0, clock, timing.RestedTurns)
    turn = "a" * 15 + "b" + "c" * 50
    assert clock.order == "abc" + 3 * turn
    for name, seconds in calls.items():
        assert records[name]["min_ms"] == pytest.approx(seconds * 1e3)
        assert records[name]["samples"] == 3 * turn.count(name)
        assert "extra_mib" not in records[name]


def test_who_is_far_behind_of_his_side_sits_out() -> None:
    clock = Clock()
    calls = {"a": 20e-3, "b": 40e-3, "x": 90e-3, "y": 100e-3, "k": 200e-3}
    makers = {name: clock.maker(name, seconds) for name, seconds in calls.items()}
    sides = dict(zip("abxyk", ("ours", "ours", "theirs", "theirs", "ours"), strict=True))
    settled = timing.far_behind(sides, {"k"})
    records = run(CpuDevice(), makers, 3.0, clock, timing.RestedTurns, settled)
    assert records["b"]["samples"] == 3
    more = records["a"]["samples"]
    assert more > 3
    assert {records[name]["samples"] for name in "xyk"} == {more}


def test_a_candidate_may_add_what_is_known_at_the_end() -> None:
    clock, facts = Clock(), itertools.count()
    makers = {
        "a": lambda: Candidate(
            "a", [clock.work("a", 1.0)], exact, after=lambda: {"fact": next(facts)}
        )
    }
    assert run(CpuDevice(), makers, 0.0, clock, timing.RestedTurns)["a"]["fact"] == 0


# --- the whole script ---------------------------------------------------------------------------


def bench(folder: Path, *words: str) -> int:
    fast = ["--seconds", "0", "--no-torch", "--out", str(folder)]
    return cpu.main([*fast, *words])


def result_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cpu.json").read_text())
    return found


SMALL_ROWS = [
    word
    for layer in ("3x3 64-64 @6", "dw 3x3 960 @7", "*seed*", "ReLU 64*", "BatchNorm 1024*")
    for word in ("--layer", layer)
]


def test_the_whole_script(
    tmp_path: Path, known_rates: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--engine", "cpu:numpy", "--batch", "1", "--training-batch", "2", *SMALL_ROWS]
    assert bench(tmp_path, *words) == 0
    said = capsys.readouterr().out
    result = result_in(tmp_path)
    assert {(row["part"], row["layer"], row["operation"]) for row in result["rows"]} == {
        *(("seed", "3x3 64-64 @6", op) for op in ("forward", "backward_input", "backward_weight")),
        *(("mobilenetv2", "dw 3x3 960 @7", op)
          for op in ("forward", "backward_input", "backward_weight")),
        ("pooling", "max 2x2/2 32 @30 (seed)", "forward"),
        ("pooling", "max 2x2/2 32 @30 (seed)", "backward"),
        ("elementwise", "ReLU 64 @56", "backward"),
        ("elementwise", "BatchNorm 1024 @14", "forward"),
        ("elementwise", "BatchNorm 1024 @14", "backward"),
        ("elementwise", "Adam seed network", "step"),
        ("training", "seed network", "step"),
        ("inference", "seed network", "predict"),
        ("fit", "seed network", "epoch"),
    }  # fmt: skip
    for row in result["rows"]:
        assert list(row["candidates"]) == ["cpu:numpy"]
        record = row["candidates"]["cpu:numpy"]
        assert record["state"] == "ok", (row["layer"], record)
        assert record["error"] <= record["allowed"]
        assert record["ms"] >= record["min_ms"] > 0
        if row["flops"]:
            assert record["extra_mib"] >= record["result_mib"] > 0
            assert record["workspace_mib"] >= 0
    fit = next(row for row in result["rows"] if row["part"] == "fit")
    assert fit["candidates"]["cpu:numpy"]["images"] == 8
    assert fit["candidates"]["cpu:numpy"]["beyond_steps"] > 0
    assert result["judged"] == "cpu:numpy"
    assert result["rates"] == {"copy": 10e9, "gemm": 100e9, "fma": 200e9}
    assert result["versions"]["numpy"] == np.__version__
    text = (tmp_path / "cpu.txt").read_text()
    for part in (said, text):
        assert "multiply-adds in registers 200 GFLOP/s, BLAS 100 GFLOP/s, copy 10.0 GB/s" in part
        assert "--- mobilenetv2, batch 1" in part
        assert "goals, of cpu:numpy" in part
        assert "results checked against the NumPy engine's, 0 wrong" in part
        assert "images/s" in part
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_every_engine_takes_part_and_one_is_judged(tmp_path: Path, known_rates: None) -> None:
    assert bench(tmp_path, "--part", "elementwise", "--layer", "ReLU 64*", "--batch", "1") == 0
    result = result_in(tmp_path)
    (row,) = result["rows"]
    engines = list(CpuDevice().engines)
    assert list(row["candidates"]) == engines
    assert {record["state"] for record in row["candidates"].values()} == {"ok"}
    assert result["engines"] == [*engines, "cpu"]
    assert (result["judged"], row["chosen"]) == ("cpu", engines[0])


def test_a_layer_is_judged_by_the_dispatchers_choice() -> None:
    found = {row.key: row for row in cpu_workload.rows(CpuDevice(), None)}
    for operation in ("forward", "backward_input", "backward_weight"):
        row = found["mobilenetv2", "dw 3x3/2 576 @14", operation, 8]
        name = "conv2d" if operation == "forward" else f"conv2d_{operation}"
        words: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 576, "backend": "cpu"}
        choice = gc.explain(name, (8, 14, 14, 576), (3, 3, 1, 576), **words)
        assert row.chosen is not None
        assert row.chosen() == choice.engine
    pool = found["pooling", "max 2x2/2 32 @30 (seed)", "backward", 8]
    assert pool.chosen is not None
    assert pool.chosen() in CpuDevice().engines


def test_the_budget_stops_it_and_resume_goes_on(
    tmp_path: Path, known_rates: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--part", "seed", "--layer", "3x3 64-64 @6", "--batch", "1", "--engine", "cpu:numpy"]
    assert bench(tmp_path, *words, "--budget", "0") == 0
    assert "not reached in the time: 3 rows" in capsys.readouterr().out
    assert bench(tmp_path, *words, "--operation", "forward") == 0
    first = result_in(tmp_path)["rows"]
    assert bench(tmp_path, *words, "--resume") == 0
    result = result_in(tmp_path)
    assert result["rows"][0] == first[0]
    assert len(result["rows"]) == 3
    assert len(result["commands"]) == 2


def test_a_wrong_result_is_not_timed(
    tmp_path: Path,
    known_rates: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CpuDevice, "difference", lambda self, actual, expected: 0.5)
    words = ["--part", "seed", "--layer", "3x3 64-64 @6", "--batch", "1", "--engine", "cpu:numpy"]
    assert bench(tmp_path, *words, "--operation", "forward") == 1
    said = capsys.readouterr().out
    assert "1 results checked against the NumPy engine's, 1 wrong" in said
    assert "cpu:numpy: WRONG (differs by 5.0e-01" in said
    (row,) = result_in(tmp_path)["rows"]
    assert "min_ms" not in row["candidates"]["cpu:numpy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "nothing"], "no row is called that"),
        (["--batch", "0"], "--batch must be at least 1. Received: 0"),
        (["--training-batch", "-1"], "--training-batch must be at least 1. Received: -1"),
        (["--engine", "cuda:numba"], "Received: cuda:numba"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cpu.main(["--resume", "--no-torch", "--layer", "3x3 64-64 @6"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_quick_run_is_about_the_goals() -> None:
    options = cpu._parser(None).parse_args(["--quick"])
    found = {row.key for row in cpu._wanted(options, CpuDevice(), None)}
    assert len(found) < 40
    assert {part for part, *_ in found} == set(cpu_workload.PARTS)
    assert {batch for part, _, _, batch in found if part == "vgg16"} == {4}
    assert {batch for part, _, _, batch in found if part == "resnet50"} == {8}
    assert {batch for part, _, _, batch in found if part == "training"} == {32}


# --- the goals ----------------------------------------------------------------------------------


def row(part: str, layer: str, operation: str, batch: int = 8, **ms: float) -> dict[str, Any]:
    names = {"jit": "cpu:jit", "numpy": "cpu:numpy", "cpu": "cpu", "first": "torch contiguous",
             "last": "torch channels_last"}  # fmt: skip
    candidates = {names[name]: {"state": "ok", "min_ms": value} for name, value in ms.items()}
    made = {"part": part, "layer": layer, "operation": operation, "batch": batch,
            "flops": 4e9, "moved": 8e6, "candidates": candidates}  # fmt: skip
    return made if part in ("training", "fit") else {**made, "chosen": "cpu:jit"}


def made_up(*rows_given: dict[str, Any], judged: str = "cpu") -> dict[str, Any]:
    return {
        "backend": "cpu", "engines": ["cpu:jit", "cpu:numpy", "cpu"], "judged": judged,
        "device": {"device": "a CPU", "cores": 2}, "versions": {"python": "3"}, "commit": "abc",
        "date": "today", "commands": ["bench"], "not_reached": 2, "rows": list(rows_given),
        "rates": {"copy": 10e9, "gemm": 100e9, "fma": 200e9},
    }  # fmt: skip


def goal_of(result: dict[str, Any], start: str) -> dict[str, Any]:
    (found,) = (g for g in cpu_goals.reached(result) if g["goal"].startswith(start))
    return found


def test_ratios_are_to_the_better_format() -> None:
    layer = row("resnet50", "3x3 a", "forward", jit=3.0, numpy=1.0, first=4.0, last=2.0)
    assert cpu_goals.ratio(made_up(), layer) == 1.5
    assert cpu_goals.ratio(made_up(judged="cpu:numpy"), layer) == 0.5
    assert cpu_goals.ratio(made_up(), layer, ("contiguous",)) == 0.75
    layer["candidates"]["torch channels_last"]["state"] = "failed"
    assert cpu_goals.ratio(made_up(), layer) == 0.75
    assert cpu_goals.ratio(made_up(), row("resnet50", "3x3 a", "forward", jit=1.0)) is None


def test_means_worst_layers_and_verdicts() -> None:
    result = made_up(
        row("resnet50", "3x3 a", "forward", jit=1.0, first=2.0),
        row("resnet50", "1x1 b", "forward", jit=2.0, first=1.0),
        row("resnet50", "1x1 b", "forward", batch=1, jit=9.0, first=1.0),  # of no goal
        row("resnet50", "3x3/2 c", "backward_input", jit=1.2, first=1.0),
        row("vgg16", "3x3 a", "forward", batch=4, jit=0.2, first=1.0),
    )
    mean = goal_of(result, "ResNet-50's convolutions, forward")
    assert mean["value"] == pytest.approx(1.0)
    assert (mean["reached"], mean["measured"], mean["of"]) == ("must", 2, 23)
    assert (mean["worst"], mean["where"]) == (2.0, "1x1 b, forward, batch 8")
    assert goal_of(result, "ResNet-50's convolutions, backward_input")["reached"] == "no"
    worst = goal_of(result, "the worst of those")
    assert (worst["value"], worst["measured"], worst["reached"]) == (2.0, 3, "no")
    threes = goal_of(result, "3x3 stride 1 of ResNet-50 and VGG-16, forward")
    assert threes["value"] == pytest.approx(math.sqrt(0.5 * 0.2))
    assert (threes["reached"], threes["of"]) == ("aim", 4 + 9)
    empty = goal_of(result, "max pooling")
    assert "value" not in empty
    assert (empty["measured"], empty["of"]) == (0, 8)


def test_the_goals_count_the_rows_of_a_whole_run() -> None:
    every = [
        row(r.part, r.layer, r.operation, r.batch, jit=1.0, cpu=1.0, first=1.0, last=1.0)
        for r in cpu_workload.rows(CpuDevice(), None)
    ]
    for made in every:
        made["candidates"]["cpu"].update(beyond_steps=0.0)
    for goal in cpu_goals.reached(made_up(*every)):
        assert goal["measured"] == goal["of"], goal
        assert goal["measured"] > 0 or goal["goal"].startswith("extra memory")


def test_sums_are_of_all_layers_as_often_as_they_occur() -> None:
    result = made_up(
        row("vgg16", "3x3 3-64 @224", "forward", batch=4, jit=1.0, first=5.0, last=4.0),
        row("vgg16", "3x3 512-512 @14", "forward", batch=4, jit=2.0, first=2.0),  # three times
    )
    summed = goal_of(result, "VGG-16's 13 convolutions summed, batch 4, forward")
    assert summed["value"] == pytest.approx((1 + 3 * 2) / (4 + 3 * 2))
    assert summed["reached"] == "must"


def test_training_fit_and_memory() -> None:
    step = row("training", "seed network", "step", 32, jit=9.0, cpu=3.0, first=10.0, last=4.0)
    fit = row("fit", "seed network", "epoch", 128, cpu=100.0)
    fit["candidates"]["cpu"].update(beyond_steps=0.05, images=1000)
    layer = row("resnet50", "3x3 a", "forward", jit=1.0)
    layer["candidates"]["cpu:jit"].update(extra_mib=4.0, result_mib=3.0)
    result = made_up(step, fit, layer)
    contiguous = goal_of(result, "seed network, training step, batch 32, PyTorch contiguous")
    assert (contiguous["value"], contiguous["reached"]) == (pytest.approx(0.3), "aim")
    last = goal_of(result, "seed network, training step, batch 32, PyTorch channels_last")
    assert (last["value"], last["reached"]) == (0.75, "must")
    assert goal_of(result, "fit, time beyond its steps, batch 128")["reached"] == "must"
    found = [g for g in cpu_goals.reached(result) if g["goal"].startswith("extra memory")]
    assert [g["measured"] for g in found] == [1, 0]
    assert found[0]["value"] == pytest.approx(2**20 / 8e6)
    text = "\n".join(cpu_report.summary({**result, "goals": cpu_goals.reached(result)}))
    assert "5.0%    10%     3%     must" in text
    assert "13.1%    25%    10%     must" in text
    assert "not reached in the time: 2 rows" in text
    assert "10,000 images/s, 5.0% beyond its steps" in cpu_report.line(result, fit)


def test_a_line_of_the_table() -> None:
    layer = row("resnet50", "3x3 a", "forward", jit=40.0, numpy=50.0, first=80.0)
    layer["candidates"]["torch channels_last"] = {"state": "failed", "reason": "x"}
    layer["candidates"]["torch fused"] = {"state": "ok", "min_ms": 1.0}
    text = cpu_report.line(made_up(), layer)
    assert text.split() == [
        "3x3", "a", "forward", "40.00", "50.00", "-", "80.00", "failed", "jit", "0.50", "100",
        "50%", "0.2", "2%", ";", "torch", "fused", "1.000",
    ]  # fmt: skip


# --- the picture --------------------------------------------------------------------------------


def drawn_rows() -> Iterator[dict[str, Any]]:
    for batch, operation in itertools.product((1, 8), ("forward", "backward_weight")):
        yield row("resnet50", "3x3 a", operation, batch, jit=40.0, numpy=80.0, first=60.0)
        yield row("mobilenetv2", "dw", operation, batch, jit=900.0, first=600.0, last=50.0)


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from gpuconv.benchmarks.cpu_picture import draw

    whole = made_up(*drawn_rows())
    alone = made_up(row("seed", "3x3 a", "forward", numpy=40.0), judged="cpu:numpy")
    alone["rates"]["fma"] = 0.0  # Numba could not compile
    ratios = made_up(row("training", "seed network", "step", 32, cpu=1.0, first=2.0))
    for number, result in enumerate((whole, alone, ratios)):
        path = tmp_path / f"{number}.png"
        assert draw(result, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not draw(made_up(), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
