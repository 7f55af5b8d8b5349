"""Convolution layers and a training step on the CPU, beside PyTorch where it is installed.

Candidates run in turns in one process (see timing.py). Results are compared with PyTorch's before
anything is timed. PyTorch runs in its better memory format for each layer; both are in the JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.benchmarks import pytorch
from gpuconv.benchmarks.machine import provenance
from gpuconv.benchmarks.shapes import RESNET50, ConvShape
from gpuconv.benchmarks.timing import Timing, interleaved
from gpuconv.zoo import seed_network

SQUARE = 1024
"""Extent of the square matrix product that stands for the machine's BLAS rate."""
OPERATIONS = ("forward", "backward_input", "backward_weight")
QUICK = ("3x3 64-64 @56", "3x3 512-512 @7", "1x1 256-64 @56", "1x1/2 256-512 @56")


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run what the command line asks for; returns the exit status.

    Args:
        arguments: default: those of the process.
        program: what the command is called in its help.
    """
    parser = argparse.ArgumentParser(program, description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="default 8")
    parser.add_argument("--rounds", type=int, default=15, help="at most, default 15")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds a row, default 3")
    parser.add_argument("--quick", action="store_true", help="four layers, five rounds")
    parser.add_argument("--out", type=Path, help="folder for table, JSON and picture")
    options = parser.parse_args(arguments)
    rounds = 5 if options.quick else options.rounds
    layers = [s for s in RESNET50 if not options.quick or s.name in QUICK]
    torch = pytorch.load()
    if torch is not None:
        torch.set_num_threads(usable_cores())
    lines: list[str] = []

    def say(line: str = "") -> None:
        lines.append(line)
        print(line, flush=True)

    where = provenance("torch")
    say(f"{where['processor']}, {where['cores']} cores; versions {where['versions']}")
    if torch is None:
        say("PyTorch is not installed: gpuconv alone is timed.")
    say("of BLAS: rate by that of a square matrix product; of GEMM: by the same product alone")
    say()
    say(
        f"{'layer, batch ' + str(options.batch):<22}{'operation':<17}{'ms':>8}{'GFLOP/s':>9}"
        f"{'of BLAS':>9}{'of GEMM':>9}{'PyTorch ms':>12}{'ratio':>7}"
    )
    results = []
    for shape in layers:
        for operation in OPERATIONS:
            row = time_layer(shape, operation, options.batch, rounds, options.budget, torch)
            results.append(row)
            say(_line(row))
    say()
    for operation in OPERATIONS:
        say(_summary(operation, results))
    say()
    steps = [time_training_step(batch, rounds, torch) for batch in (32, 128)]
    for step in steps:
        rival = ""
        if "ratio" in step:
            rival = f"; PyTorch {step['torch_ms']:.1f} ms (contiguous), ratio {step['ratio']:.2f}"
        say(f"seed network, training step at batch {step['batch']}: {step['ms']:.1f} ms{rival}")
    if options.out is not None:
        keep(options.out, where, results, steps, lines)
    return 0


def time_layer(
    shape: ConvShape, operation: str, batch: int, rounds: int, budget: float, torch: Any
) -> dict[str, Any]:
    """Time one operation of one layer, in turns with BLAS and with PyTorch.

    ``of_blas`` compares the rate with that of a square matrix product, ``of_gemm`` with the product
    of this operation's own shape on a column matrix that is there already; ``ratio`` is gpuconv's
    time by PyTorch's better one.
    """
    ours, rivals, check = _candidates(shape, operation, batch, torch)
    check()
    flops = shape.flops(batch)
    candidates = {
        "gpuconv": ours,
        **rivals,
        "square": _square(),
        "gemm": _product(shape, operation, batch),
    }
    timings = interleaved(candidates, rounds, budget=budget)
    best = timings["gpuconv"].minimum
    row: dict[str, Any] = {
        "layer": shape.name,
        "operation": operation,
        "batch": batch,
        "ms": best * 1e3,
        "median_ms": timings["gpuconv"].median * 1e3,
        "gflops": flops / best / 1e9,
        "blas_gflops": 2 * SQUARE**3 / timings["square"].minimum / 1e9,
        "of_gemm": timings["gemm"].minimum / best,
        "rounds": timings["gpuconv"].rounds,
    }
    row["of_blas"] = row["gflops"] / row["blas_gflops"]
    if rivals:
        rival: Timing = min((timings[name] for name in rivals), key=lambda t: t.minimum)
        row["torch_ms"] = rival.minimum * 1e3
        row["ratio"] = best / rival.minimum
        row["torch_by_format_ms"] = {n: timings[n].minimum * 1e3 for n in rivals}
    return row


def _square() -> Callable[[], Any]:
    a = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), dtype="float32")
    return lambda: a @ a


def _product(shape: ConvShape, operation: str, batch: int) -> Callable[[], Any]:
    """The matrix product that im2col leads to, without im2col."""
    positions, depth = batch * shape.output**2, shape.channels * shape.kernel**2
    if operation == "backward_input":
        positions = batch * shape.extent**2
        # Only the taps that meet a position are multiplied: all of them at stride 1.
        depth = shape.filters * shape.kernel**2 // shape.stride**2 or shape.filters
    columns = np.ones((positions, depth), "float32")
    if operation == "backward_weight":
        gradient = np.ones((positions, shape.filters), "float32")
        return lambda: columns.T @ gradient
    out = shape.channels if operation == "backward_input" else shape.filters
    weights = np.ones((depth, out), "float32")
    return lambda: columns @ weights


def _candidates(
    shape: ConvShape, operation: str, batch: int, torch: Any
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]], Callable[[], None]]:
    rng = np.random.default_rng(0)

    def normal(*extents: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(extents, dtype="float32")

    x = normal(batch, shape.extent, shape.extent, shape.channels)
    w = normal(shape.kernel, shape.kernel, shape.channels, shape.filters)
    dy = normal(batch, shape.output, shape.output, shape.filters)
    words = {"stride": shape.stride, "padding": shape.pad}
    ours: dict[str, Callable[[], Any]] = {
        "forward": lambda: gc.ops.conv2d(x, w, **words),
        "backward_input": lambda: gc.ops.conv2d_backward_input(dy, w, x.shape, **words),
        "backward_weight": lambda: gc.ops.conv2d_backward_weight(dy, x, w.shape, **words),
    }
    if torch is None:
        return ours[operation], {}, lambda: None
    rivals = {}
    for memory in pytorch.FORMATS:
        tx, tdy = pytorch.images(torch, x, memory), pytorch.images(torch, dy, memory)
        tw = pytorch.weights(torch, w, memory)
        rivals[memory] = pytorch.convolution(torch, operation, shape, tx, tw, tdy)

    def check() -> None:
        actual = ours[operation]()
        expected = pytorch.convolution_result(operation, rivals["contiguous"]()).numpy()
        error = np.abs(actual - expected).max() / np.abs(expected).max()
        if not error < 1e-4:
            raise SystemExit(f"{shape.name} {operation}: differs from PyTorch by {error:.1e}")

    return ours[operation], rivals, check


def time_training_step(batch: int, rounds: int, torch: Any) -> dict[str, Any]:
    """Time a whole training step (forward, backward, Adam) of the seed network."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, batch)
    gc.set_seed(0)
    model = seed_network()
    model.compile("adam", "sparse_categorical_crossentropy")
    candidates: dict[str, Callable[[], Any]] = {"gpuconv": lambda: model.train_step(x, y)}
    if torch is not None:
        candidates["torch"] = pytorch.training_step(torch, "seed", x, y)
    timings = interleaved(candidates, rounds, budget=6.0)
    step: dict[str, Any] = {"batch": batch, "ms": timings["gpuconv"].minimum * 1e3}
    if torch is not None:
        step["torch_ms"] = timings["torch"].minimum * 1e3
        step["ratio"] = timings["gpuconv"].minimum / timings["torch"].minimum
    return step


def keep(
    folder: Path,
    where: dict[str, Any],
    results: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    lines: list[str],
) -> None:
    """Write the table, the JSON and, with Matplotlib, the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**where, "layers": results, "training_steps": steps}
    (folder / "cpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "cpu.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print("The picture needs Matplotlib: python -m pip install 'gpuconv[plot]'")
        return
    from gpuconv.benchmarks.cpu_picture import draw_layers

    draw_layers(results, folder / "cpu.png")


def _line(row: dict[str, Any]) -> str:
    rival = f"{row['torch_ms']:>12.2f}{row['ratio']:>7.2f}" if "ratio" in row else ""
    return (
        f"{row['layer']:<22}{row['operation']:<17}{row['ms']:>8.2f}{row['gflops']:>9.0f}"
        f"{row['of_blas']:>9.0%}{row['of_gemm']:>9.0%}{rival}"
    )


def _summary(operation: str, results: list[dict[str, Any]]) -> str:
    rows = [r for r in results if r["operation"] == operation]
    threes = [r for r in rows if r["layer"].startswith("3x3")]
    blas, gemm = (_geomean([r[key] for r in threes]) for key in ("of_blas", "of_gemm"))
    text = f"{operation:<17} 3x3 layers: {blas:.0%} of BLAS, {gemm:.0%} of GEMM (geometric means)"
    if "ratio" in rows[0]:
        text += f"; time ratio to PyTorch, all layers: {_geomean([r['ratio'] for r in rows]):.2f}"
    return text


def _geomean(values: list[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else math.nan
