"""The commands ``gpuconv report`` and ``gpuconv profile``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpuconv as gc
from gpuconv.backends import selection
from gpuconv.cli import main
from gpuconv.cli.profile import NETWORKS


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An engine without kernels to compile, an empty folder, the root logger as it was."""
    monkeypatch.setenv(selection.VARIABLE, "cpu:numpy")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as it is after a kill: only the model and its settings."""
    folder = tmp_path / "run"
    folder.mkdir()
    gc.zoo.digits_network().save(folder / "model.safetensors")
    (folder / "run.json").write_text(json.dumps({"settings": {"data": "digits"}}))
    return folder


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command which must fail says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("gpuconv: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    return said.err


def test_report_says_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "run"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(r"run/report.html: one page of \d+ KiB, .*\n", said.out)
    assert said.err == ""
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_report_elsewhere(run: Path) -> None:
    assert main(["report", "run", "--out", "page.html"]) == 0
    assert Path("page.html").read_text().rstrip().endswith("</html>")
    assert not (run / "report.html").exists()


def test_report_of_what_is_no_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "found nothing. Received: none" in failure(["report", "none"], capsys)
    file = "run/model.safetensors"
    assert f"found a file. Received: {file}" in failure(["report", file], capsys)
    Path("empty").mkdir()
    assert "no model.safetensors in this one" in failure(["report", "empty"], capsys)
    assert "does not exist" in failure(["report", "run", "--out", "no/page.html"], capsys)
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-9])
    assert "a truncated one" in failure(["report", "run"], capsys)
    assert not (run / "report.html").exists()


def test_profile_shows_every_layer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--batch", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("digits, batch of 2, on ")
    for layer in gc.zoo.digits_network().layers:
        assert re.search(rf"^{layer.name} \(", said, re.MULTILINE), layer.name
    assert main(["profile", "--model", "run/model.safetensors", "--batch", "3"]) == 0
    of_file = capsys.readouterr().out
    assert of_file.startswith("digits, batch of 3, on ")
    assert len(of_file.splitlines()) == len(said.splitlines())


def test_profile_takes_every_network_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    known = {name.removesuffix("_network") for name in gc.zoo.__all__}
    assert set(NETWORKS) == known
    assert main(["profile", "--model", "lenet5", "--batch", "1", "--backend", "cpu:numpy"]) == 0
    assert "conv2 (Conv2D)" in capsys.readouterr().out


def test_profile_of_what_is_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(["profile", "--model", "lenet"], capsys)
    assert "Did you mean 'lenet5'? Received: lenet" in said
    assert "--batch must be at least 1. Received: 0" in failure(["profile", "--batch", "0"], capsys)
    assert "found a folder" in failure(["profile", "--model", "run"], capsys)
    assert "expected a safetensors file" in failure(["profile", "--model", "run/run.json"], capsys)
    assert "unknown backend" in failure(["profile", "--backend", "gpu"], capsys)


def test_help_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in [
        (["report", "--help"], "--out"),
        (["profile", "--help"], "--batch"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        assert expected in capsys.readouterr().out
