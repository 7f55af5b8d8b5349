"""``gpuconv train`` with other data and other networks than the bundled ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.cli import main
from gpuconv.cli.choices import DATA, NETWORKS, Images, network


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with 60 pictures for training and 10 for testing, bright ones and dark ones."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, count in (("train", 60), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 2
        pixels = rng.integers(0, 100, (count, 28, 28)) + 150 * labels[:, None, None]
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(pixels.astype(np.uint8)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_a_run_on_files_and_going_on_with_it(
    mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", "mnist", "--data-path", str(mnist), "--model", "lenet5"]
    given = ["--backend", "cpu", "--out", str(out), "--batch-size", "10"]
    assert main([*words, *given, "--epochs", "1"]) == 0
    assert main(["train", "--out", str(out), "--resume", "--epochs", "3"]) == 0
    text = capsys.readouterr().out
    assert "mnist, 60 images to learn from, 10 to test" in text
    assert "Going on with" in text
    kept = json.loads((out / "run.json").read_text())
    assert kept["settings"]["model"] == "lenet5"
    assert kept["epochs_done"] == 3
    model = gc.load_model(out / "model.safetensors")
    assert model.output_shape == (None, 2)


def test_what_does_not_fit_is_said(
    mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        (["--data", "mnist", "--data-path", str(tmp_path / "no")], "no"),
        (["--data", "digits", "--data-path", str(mnist)], "--data-path has no meaning"),
        (["--data", "imagenet"], "--data"),
        (["--model", "resnet99"], "--model"),
        (["--data", "mnist", "--data-path", str(mnist), "--model", "resnet18"], "32 x 32"),
    ):
        assert main(["train", *words, "--epochs", "1", "--out", str(tmp_path / "run")]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_pictures_of_bytes(name: str) -> None:
    size = 8 if name == "digits" else 64
    x = np.zeros((2, size, size, 3), np.uint8)
    images = Images((x, np.array([0, 4])), (x, np.array([0, 1])), 255.0)
    model = network(name, images)
    assert model.output_shape == (None, 5)
    probabilities = np.asarray(model(x))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_names_of_the_data_sets() -> None:
    assert list(DATA) == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
    images = DATA["digits"](None)
    assert images.classes == 10
    assert images.name(3) == "3"
