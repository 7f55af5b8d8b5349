"""The command ``gpuconv``: what it leaves, what it says, and the exit status."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends import registry, selection
from gpuconv.cli import main, run_folder
from gpuconv.errors import InvalidArgumentError
from gpuconv.io import read_model_file, write_model_file

ROOT = Path(__file__).parents[2]
FILES = ["curves.png", "history.csv", "misclassified.png", "model.safetensors", "run.json"]
COLUMNS = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No backend from the environment, an empty folder, and the root logger as it was."""
    monkeypatch.delenv(selection.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch, not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "a"
    assert main(["train", "--out", str(folder), "--epochs", "1", "--backend", "cpu"]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of five epochs, not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert main(["train", "--out", str(folder), "--epochs", "5"]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def settings(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command which must fail says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("gpuconv: ")
    assert said.err.count("\n") == 1
    return said.err


def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gpuconv", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# --- train ------------------------------------------------------------------------------------


def test_what_a_run_leaves(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == FILES
    assert all(path.stat().st_size > 0 for path in finished.iterdir())
    for name in ("curves.png", "misclassified.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    (row,) = rows(finished)
    assert list(row) == COLUMNS
    assert row["epoch"] == "0"
    content = settings(finished)
    assert content["settings"] == {
        "data": "digits",
        "data_path": None,
        "model": "digits",
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.002,
        "seed": 0,
    }
    assert content["backend"] == {
        "device": "cpu",
        "reason": "'cpu' was asked for by use_backend",
    }
    assert content["versions"]["gpuconv"] == gc.__version__
    assert content["versions"]["numpy"] == np.__version__
    assert content["epochs_done"] == 1
    assert content["interrupted"] is False
    assert content["seconds"] > 0


def test_the_model_it_leaves_has_the_accuracy_it_tells(finished: Path) -> None:
    model = gc.load_model(finished / "model.safetensors")
    _, (x, y) = gc.data.load_digits()
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert settings(finished)["test"] == {"loss": loss, "accuracy": accuracy}
    assert model.optimizer is not None
    assert model.optimizer.iterations == 41  # 1,438 images, a tenth held out, batches of 32


def test_the_same_seed_gives_the_same_bits(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "b"
    assert main(["train", "--out", str(other), "--epochs", "1"]) == 0
    said = capsys.readouterr()
    assert settings(other)["test"] == settings(finished)["test"]
    assert (other / "history.csv").read_bytes() == (finished / "history.csv").read_bytes()
    (_, mine), (_, theirs) = (
        read_model_file(folder / "model.safetensors") for folder in (other, finished)
    )
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], strict=True)
    # What is said on the way, in plain lines where there is no terminal.
    assert said.err == ""
    assert "\x1b" not in said.out
    lines = said.out.splitlines()
    device, reason = selection.resolve_device()
    assert lines[0] == f"Backend: {device} ({reason})"
    assert lines[1] == "Data:    digits, 1438 images to learn from, 359 to test"
    assert re.match(r"Engine:  \S+, \S+ for conv2d", lines[2])
    assert any(line.startswith("Epoch 1/1 - ") and "val_accuracy: " in line for line in lines)
    accuracy = settings(other)["test"]["accuracy"]
    assert f"Test accuracy {accuracy:.4f}" in lines[-2]
    assert lines[-1] == f"In {other}: model.safetensors, history.csv, curves.png, " + (
        "misclassified.png, run.json"
    )


def test_five_epochs_read_most_unseen_digits(whole: Path) -> None:
    assert settings(whole)["test"]["accuracy"] >= 0.96  # twenty, the default: 0.985 and more
    assert [row["epoch"] for row in rows(whole)] == list("01234")


def test_options_reach_the_run(tmp_path: Path) -> None:
    arguments = ["--epochs", "1", "--batch-size", "700", "--learning-rate", "0.5", "--seed", "9"]
    assert main(["train", "--out", str(tmp_path / "d"), *arguments]) == 0
    content = settings(tmp_path / "d")["settings"]
    assert (content["batch_size"], content["learning_rate"], content["seed"]) == (700, 0.5, 9)
    optimizer: Any = gc.load_model(tmp_path / "d" / "model.safetensors").optimizer
    assert optimizer.iterations == 2
    assert optimizer.get_config()["learning_rate"]["config"]["initial_learning_rate"] == 0.5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_diverges_leaves_a_readable_folder(tmp_path: Path) -> None:
    arguments = ["--learning-rate", "1e30", "--batch-size", "512", "--epochs", "1"]
    assert main(["train", *arguments, "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert "NaN" not in (tmp_path / "run.json").read_text()
    assert settings(tmp_path)["test"]["loss"] is None
    assert rows(tmp_path)[0]["val_loss"] == "nan"


def test_a_folder_with_a_run_is_not_touched(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    said = failure(["train", "--out", str(run)], capsys)
    assert "the folder holds a run; use --resume" in said
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_resume_goes_on_and_counts_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = rows(run)
    assert main(["train", "--out", str(run), "--resume", "--epochs", "2"]) == 0
    said = capsys.readouterr().out
    assert f"Going on with {run} after 1 epoch" in said
    assert "Epoch 2/2" in said
    assert "Epoch 1/" not in said
    assert [row["epoch"] for row in rows(run)] == ["0", "1"]
    assert rows(run)[0] == first[0]
    content = settings(run)
    assert (content["epochs_done"], content["settings"]["epochs"]) == (2, 2)
    model = gc.load_model(run / "model.safetensors")
    assert model.optimizer is not None
    assert model.optimizer.iterations == 82
    # All is done: the same again changes nothing.
    accuracy = content["test"]
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert "All 2 epochs are done; a larger --epochs goes on" in capsys.readouterr().out
    assert len(rows(run)) == 2
    assert settings(run)["test"] == accuracy
    assert "--epochs above that" in failure(
        ["train", "--out", str(run), "--resume", "--epochs", "1"], capsys
    )


def test_resume_takes_the_latest_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "finds no run" in failure(["train", "--resume"], capsys)
    for number, name in enumerate(["b", "a"]):
        folder = Path(shutil.copytree(run, tmp_path / "runs" / name))
        os.utime(folder / "model.safetensors", (1e9 + number, 1e9 + number))
    assert run_folder.existing_folder(None) == Path("runs/a")
    shutil.rmtree(tmp_path / "runs" / "a")
    assert run_folder.existing_folder(None) == Path("runs/b")


@pytest.mark.parametrize(
    "option",
    [
        ["--seed", "1"],
        ["--batch-size", "64"],
        ["--data", "cifar10"],
        ["--model", "seed"],
    ],
)
def test_what_a_run_was_started_with_cannot_change(
    option: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(["train", "--out", str(run), "--resume", *option], capsys)
    assert f"the run was started with {option[0]}" in said
    assert said.endswith(f"Received: {' '.join(option)}\n")


def test_the_same_words_may_be_given_again(run: Path) -> None:
    same = ["--seed", "0", "--batch-size", "32", "--data", "digits", "--epochs", "1"]
    assert main(["train", "--out", str(run), "--resume", *same]) == 0


def test_resume_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(["train", "--out", str(tmp_path / "none"), "--resume"], capsys)
    assert "--resume needs a run, a folder with model.safetensors" in said
    assert not (tmp_path / "none").exists()


def test_resume_of_a_damaged_or_foreign_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert "a truncated one" in failure(["train", "--out", str(run), "--resume"], capsys)
    gc.zoo.digits_network().save(path)
    assert "was not saved by 'gpuconv train'" in failure(
        ["train", "--out", str(run), "--resume"], capsys
    )
    write_model_file(path, {}, {"model": 3})
    assert "no run to go on with" in failure(["train", "--out", str(run), "--resume"], capsys)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["--epochs", "-3"], "--epochs must be at least 1. Received: -3"),
        (["--batch-size", "0"], "--batch-size must be at least 1. Received: 0"),
        (["--learning-rate", "0"], "--learning-rate must be positive. Received: 0.0"),
        (["--learning-rate", "-1"], "--learning-rate must be positive"),
        (["--learning-rate", "nan"], "--learning-rate must be positive. Received: nan"),
        (["--learning-rate", "inf"], "--learning-rate must be positive. Received: inf"),
        (["--seed", "-1"], "a seed must be an integer in [0, 2**63). Received: -1"),
        (["--data", "cifar"], "--data must be one of 'digits', 'mnist', 'fashion_mnist'"),
        (["--data", "digit"], "Did you mean 'digits'? Received: 'digit'"),
        (["--model", "digitz"], "Did you mean 'digits'? Received: 'digitz'"),
        (["--backend", "gpu"], "unknown backend"),
    ],
)
def test_options_that_make_no_sense(
    option: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(["train", "--out", str(tmp_path / "e"), *option], capsys)
    assert message in said
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("option", [["--epochs", "many"], ["--epochs", "1.5"], ["--epoch-s", "1"]])
def test_options_that_cannot_be_read(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *option])
    assert stopped.value.code == 2
    assert "gpuconv" in capsys.readouterr().err


def test_cuda_that_is_missing_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = registry.probe_device("cuda")
    if found.available:
        pytest.skip("CUDA is available here")
    said = failure(["train", "--out", str(tmp_path / "f"), "--backend", "cuda"], capsys)
    assert f"the backend 'cuda' is not available: {found.reason}" in said
    assert not (tmp_path / "f").exists()


def test_a_bad_environment_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(selection.VARIABLE, "tpu")
    assert "GPUCONV_BACKEND: unknown backend" in failure(["train"], capsys)


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    failure(["train", "--out", str(tmp_path / "file" / "run"), "--epochs", "1"], capsys)
    assert (tmp_path / "file").read_text() == "in the way"


def test_folders_of_runs_without_a_name_never_meet() -> None:
    made = [run_folder.new_folder(None, "digits") for _ in range(3)]
    assert len(set(made)) == 3
    assert all(path.is_dir() and path.parent == Path("runs") for path in made)
    assert all(re.match(r"digits-\d{8}-\d{6}", path.name) for path in made)
    empty = run_folder.new_folder("mine", "digits")
    assert run_folder.new_folder("mine", "digits") == empty  # nothing there to be lost
    (empty / "model.safetensors").touch()
    with pytest.raises(InvalidArgumentError, match="holds a run"):
        run_folder.new_folder("mine", "digits")


# --- Ctrl-C -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_control_c_keeps_what_was_learned(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was stopped and goes on ends where one that was left alone does."""
    folder = tmp_path / "stopped"
    process = command("train", "--out", str(folder), "--epochs", "5")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Epoch 1/5"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert err == ""
    assert process.returncode == 130
    done = settings(folder)["epochs_done"]
    assert 1 <= done < 5
    assert settings(folder)["interrupted"] is True
    epochs = "epoch" if done == 1 else "epochs"
    assert f"Stopped after {done} whole {epochs}. To go on: gpuconv train --resume --out" in out
    assert len(rows(folder)) == done
    assert sorted(path.name for path in folder.iterdir()) == FILES
    model = gc.load_model(folder / "model.safetensors")
    assert model.optimizer is not None
    assert 41 * done <= model.optimizer.iterations < 41 * (done + 1)

    assert main(["train", "--out", str(folder), "--resume"]) == 0
    assert f"Going on with {folder} after {done} {epochs}" in capsys.readouterr().out
    assert settings(folder)["interrupted"] is False
    assert settings(folder)["test"] == settings(whole)["test"]
    assert len(rows(folder)) == 5
    found, expected = (read_model_file(path / "model.safetensors")[1] for path in (folder, whole))
    for name, array in expected.items():
        if name.startswith(("weights/", "optimizer/")):
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_control_c_outside_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpuconv import diagnosis

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnosis, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "gpuconv: interrupted\n"


# --- summary, doctor, help --------------------------------------------------------------------


def test_summary_of_the_seed_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "seed"]) == 0
    said = capsys.readouterr().out
    assert 'Model: "seed"' in said
    assert "Total params: 122,570 (478.79 KB)" in said
    assert main(["summary", "seed", "--style", "classic"]) == 0
    classic = capsys.readouterr().out
    assert "Param #" in classic
    assert "Total params: 122,570 (478.79 KB)" in classic


def test_summary_of_a_file(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "digits"]) == 0
    of_network = capsys.readouterr().out
    assert main(["summary", str(finished / "model.safetensors")]) == 0
    assert capsys.readouterr().out == of_network


def test_summary_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'seed'? Received: sead" in failure(["summary", "sead"], capsys)
    path = tmp_path / "bad.safetensors"
    path.write_text("no model")
    assert "expected a safetensors file" in failure(["summary", str(path)], capsys)
    assert "found a folder" in failure(["summary", str(tmp_path)], capsys)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("python", "numpy", "blas", "cuda driver", "cpu:numpy", "backend"):
        assert re.search(rf"^{name} ", said, re.MULTILINE), name
    reason = registry.probe_device("cuda").reason
    assert reason in said


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in [
        (["--version"], f"gpuconv {gc.__version__}\n"),
        (["--help"], "train"),
        (["train", "--help"], "--learning-rate"),
        (["summary", "--help"], "--style"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        assert expected in capsys.readouterr().out
    for arguments in ([], ["tran"], ["summary"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_help_is_fast_because_it_imports_next_to_nothing() -> None:
    program = (
        "import sys\n"
        "from gpuconv.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'numba', 'rich', 'PIL', 'safetensors'} & set(sys.modules)))\n"
    )
    paths = [str(ROOT), str(ROOT / "kernels")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines()[-1] == "[]"


def test_as_a_module() -> None:
    process = command("--version")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"gpuconv {gc.__version__}\n", "")
