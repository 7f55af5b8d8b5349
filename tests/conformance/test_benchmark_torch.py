"""PyTorch's side of the benchmarks: the same networks, the same results, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.benchmarks import gpu, gpu_report, pytorch
from gpuconv.testing.host_device import RealTime

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("network", "make", "extents"),
    [
        ("seed", gc.zoo.seed_network, (32, 32, 3)),
        ("digits", gc.zoo.digits_network, (8, 8, 1)),
    ],
)
def test_the_rival_is_the_same_network(
    network: str, make: Any, extents: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = torch.optim.Adam

    def adam(parameters: Any) -> Any:
        given = list(parameters)
        seen.append(sum(p.numel() for p in given))
        return original(given)

    monkeypatch.setattr(torch.optim, "Adam", adam)
    images, labels = np.zeros((2, *extents), "float32"), np.zeros(2, "int64")
    step = pytorch.training_step(torch, network, images, labels)
    assert seen == [sum(p.value.size for p in make().trainable_parameters)]
    losses = [float(step()) for _ in range(20)]
    assert abs(losses[0] - np.log(10)) < 1
    assert losses[-1] < losses[0]


def test_every_kind_of_row_beside_pytorch(tmp_path: Path) -> None:
    layers = ["3x3 64-64 @6", "max 2x2/2 32 @30 (seed)", "avg 7x7 2048 @7 (ResNet-50)", "digits*"]
    words = [word for layer in layers for word in ("--layer", layer)]
    status = gpu.main(
        ["--batch", "2", "--seconds", "0", "--out", str(tmp_path), *words], open_device=RealTime
    )
    result = json.loads((tmp_path / "gpu-host-made-of-numpy.json").read_text())
    for row in result["rows"]:
        coarse = ("",) if row["part"] == "pooling" else ("", " tf32")
        rivals = [f"torch {f}{t}" for f in pytorch.FORMATS for t in coarse]
        assert list(row["candidates"]) == ["cpu:numpy", "cpu", *rivals]
        for name, record in row["candidates"].items():
            assert record["state"] == "ok", (row["layer"], row["operation"], name, record)
        assert gpu_report.ratio(row, "cpu") is not None
    assert {row["operation"] for row in result["rows"]} == {
        "forward", "backward_input", "backward_weight", "backward", "step",
    }  # fmt: skip
    assert status == 0
    text = (tmp_path / "gpu-host-made-of-numpy.txt").read_text()
    assert "seed, forward: time by PyTorch's better format, TF32 off" in text


def test_tf32_is_put_back() -> None:
    backends = torch.backends
    before = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
    for allowed in (True, False):
        with pytorch.tensor_cores(torch, allowed):
            assert (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32) == (allowed,) * 2
        assert (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32) == before


def test_a_wrong_rival_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pytorch.convolution_result
    monkeypatch.setattr(pytorch, "convolution_result", lambda op, tensor: right(op, tensor) * 1.01)
    words = ["--layer", "3x3 64-64 @6", "--operation", "forward", "--batch", "2", "--seconds", "0"]
    assert gpu.main([*words, "--out", str(tmp_path)], open_device=RealTime) == 1
    (row,) = json.loads((tmp_path / "gpu-host-made-of-numpy.json").read_text())["rows"]
    states = {name: record["state"] for name, record in row["candidates"].items()}
    assert states["torch contiguous"] == states["torch channels_last"] == "WRONG"
    assert states["cpu:numpy"] == "ok"
    assert gpu_report.rival(row) is None
