"""The GPU check on images that lack something, or whose packages get something wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv.backends.base import Engine, Probe
from gpuconv.benchmarks import gpu_engines, gpu_environment, gpu_shares, gpu_tests, machine

PYTHON = sys.executable

# Lets packages be absent in a process and in those that it starts: for imports, for whoever looks
# for a module, and for whoever asks for a version.
ABSENT = """
import importlib.machinery, importlib.metadata, os

absent = os.environ["ABSENT"].split(",")
find_spec = importlib.machinery.PathFinder.find_spec
version = importlib.metadata.version

def find(name, path=None, target=None):
    return None if name.partition(".")[0] in absent else find_spec(name, path, target)

def version_of(name):
    if name.replace("-", "_").partition("_cuda13x")[0] in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.machinery.PathFinder.find_spec = find
importlib.metadata.version = version_of
if "row_stack" in absent:
    import numpy
    del numpy.row_stack
"""


def run(tmp_path: Path, program: str, *absent: str, **variables: str) -> tuple[int, str]:
    """Run a program in a process where some packages are absent."""
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)]),
        "ABSENT": ",".join(absent),
        "GPUCONV_CACHE": str(tmp_path / "cache"),
        **variables,
    }
    done = subprocess.run(
        [PYTHON, "-c", program], env=environment, capture_output=True, text=True, timeout=200,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


# The real command, but for the GPU, asked for the parts that are named.
COMMAND = """
import sys
from gpuconv.benchmarks import gpu_check
words = [word for name in {parts!r} for word in ("--only", name)]
sys.exit(gpu_check.main(["--out", {out!r}, *words], available=lambda: ""))
"""


def checked(tmp_path: Path, parts: list[str], *absent: str) -> tuple[int, dict[str, Any], str]:
    program = COMMAND.format(parts=parts, out=str(tmp_path / "out"))
    status, said = run(tmp_path, program, *absent)
    path = tmp_path / "out" / "gpu_check.json"
    return status, json.loads(path.read_text()) if path.exists() else {}, said


# --- packages that are missing ----------------------------------------------------------------

OTHERS = ("pytest", "hypothesis", "torch", "matplotlib", "rich", "PIL", "safetensors")


def test_what_only_some_parts_need_may_be_missing(tmp_path: Path) -> None:
    status, result, said = checked(tmp_path, ["tests"], *OTHERS)
    assert status == 3, said
    assert result["parts"][0]["reason"] == "not run: pytest is not installed"
    for name in OTHERS:
        left_out = gpu_environment.PACKAGES[name]
        assert f"{name} is not installed; without it is left out: {left_out}" in result["notes"]
    tiny = "import sys; from gpuconv.benchmarks import gpu_parts; "
    tiny += "sys.exit(gpu_parts.main(['curve', '--tiny']))"
    status, said = run(tmp_path, tiny, *OTHERS, "threadpoolctl", NUMBA_ENABLE_CUDASIM="1")
    assert status == 0, said


@pytest.mark.parametrize("absent", [("numba",), ("numba_cuda",), ("cupy",)], ids=str)
def test_what_everything_needs_is_missed_in_words(tmp_path: Path, absent: tuple[str]) -> None:
    status, result, said = checked(tmp_path, ["machine"], *absent)
    assert status == 1, said
    name = absent[0].replace("_", "-")
    assert any(note.startswith(f"{name} is not installed") for note in result["notes"])
    assert result["parts"][0]["state"] == "FAILED"
    assert "Traceback" not in result["parts"][0]["tail"]


def test_without_numba_the_other_engines_kernels_are_still_checked(tmp_path: Path) -> None:
    program = "import json; from gpuconv.benchmarks import gpu_memory as m; "
    program += "f = m.survey('memcheck', 30, 1, program=['true']); print(json.dumps(f.states)); "
    program += "print(m.summary(f)['errors'])"
    status, said = run(tmp_path, program, "numba")
    assert status == 0, said
    states = json.loads(said.splitlines()[0])
    assert states["raw softmax[float32]"] == "not reached"
    assert "sgd[float32]" not in states
    assert "the kernels of cuda:numba cannot be imported: ModuleNotFoundError" in said


# --- what packages get wrong ------------------------------------------------------------------


def test_numpy_without_row_stack_is_mended(tmp_path: Path) -> None:
    program = "from gpuconv.benchmarks import gpu_environment; import numpy; "
    program += "print(hasattr(numpy, 'row_stack'), gpu_environment.mend(), numpy.row_stack)"
    status, said = run(tmp_path, program, "row_stack")
    if gpu_environment.has("numba_cuda"):
        assert status == 0, said
        assert said.startswith("False ['numpy.row_stack'")
        assert "vstack" in said


@pytest.mark.parametrize(("version", "mended"), [("0.30.3", True), ("0.30.4", False)])
def test_types_that_numba_has_moved_are_put_back(
    tmp_path: Path, version: str, mended: bool
) -> None:
    program = f"""
import importlib.metadata
found = importlib.metadata.version
importlib.metadata.version = lambda n: {version!r} if n == "numba-cuda" else found(n)
from gpuconv.benchmarks import gpu_environment
import numba.core.types.scalars as scalars
for name in ("NPDatetime", "NPTimedelta"):
    vars(scalars).pop(name, None)
print("Numba's types of dates" in gpu_environment.mend(), hasattr(scalars, "NPDatetime"))
import numba.np
print(hasattr(numba.np, "types"))
"""
    status, said = run(tmp_path, program)
    assert status == 0, said
    answer, moved = said.split("\n")[:2]
    if moved == "True":  # Numba 0.66 or later
        assert answer == f"{mended} {mended}"


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"numba": "0.68.1", "numba-cuda": "0.30.3"}, "cannot be imported beside Numba 0.68.1"),
        ({"numpy": "2.5.2", "numba-cuda": "0.30.4"}, "asks for numpy.row_stack"),
        ({"numba-cuda": "0.22.0"}, "is older than 0.30"),
        ({"numpy": "2.5.2", "numba": "0.66.1"}, "Numba 0.67 is the first that does"),
        ({"nvidia-nvvm": "13.5.37", "nvidia-nvjitlink": "13.0.88"}, "install both of one release"),
        ({"nvidia-cuda-nvrtc": "12.9.1"}, "NVRTC is 12.9.1, from a wheel, the toolkit 13.0.2"),
    ],
)
def test_known_problems_are_told(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(gpu_environment, "_toolkit_version", lambda: "13.0.2")
    monkeypatch.setattr(gpu_environment, "installed_version", versions.get)
    told = [*gpu_environment._about_versions(), *gpu_environment._about_libraries()]
    assert any(words in note for note in told)
    good = {"numpy": "2.4.6", "numba": "0.68.1", "numba-cuda": "0.30.4", "nvidia-nvvm": "13.0.1"}
    good |= {"nvidia-nvjitlink": "13.0.1", "nvidia-cuda-nvrtc": "13.0.1"}
    monkeypatch.setattr(gpu_environment, "installed_version", good.get)
    told = [*gpu_environment._about_versions(), *gpu_environment._about_libraries()]
    assert not any(words in note for note in told)


# --- where things are -------------------------------------------------------------------------


def test_compute_sanitizer_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(path: Path) -> str:
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr(gpu_environment, "_package_folders", lambda: [tmp_path / "site"])
    in_wheel = put(tmp_path / "site" / "nvidia" / "cu13" / "bin" / "compute-sanitizer")
    assert gpu_environment.sanitizer() == in_wheel or "/usr/local" in gpu_environment.sanitizer()
    of_toolkit = put(tmp_path / "toolkit" / "compute-sanitizer" / "compute-sanitizer")
    assert gpu_environment.sanitizer() == of_toolkit
    on_path = put(tmp_path / "path" / "compute-sanitizer")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert gpu_environment.sanitizer() == on_path


def test_processes_by_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_shares, "usable_cores", lambda: 12)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_shares.processes() == 12  # nobody says how much memory there is
    program = tmp_path / "nvidia-smi"
    for free, count in ((140_000, 12), (8192, 5), (900, 1)):
        program.write_text(f"#!/bin/sh\necho {free}\n")
        program.chmod(0o755)
        assert gpu_shares.processes() == count


def test_every_variable_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/unpacked/packages")
    monkeypatch.setattr(gpu_environment, "toolkit", lambda: "/opt/cuda")
    found = gpu_environment.variables(tmp_path)
    assert set(found) == set(gpu_environment.VARIABLES)
    paths = found["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(machine.CHECKOUT), str(machine.CHECKOUT / "kernels"), paths[-1]]
    assert paths[-1] == "/unpacked/packages"
    assert found["CUDA_HOME"] == found["CUDA_PATH"] == "/opt/cuda"
    monkeypatch.setenv("CUDA_PATH", "/their/own")
    assert "CUDA_HOME" not in gpu_environment.variables(tmp_path)


# --- the test files ---------------------------------------------------------------------------


@pytest.fixture
def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tests"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    return folder


def test_test_files_run_beside_each_other(
    test_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (test_folder / "test_good.py").write_text("def test_it():\n    pass\n")
    (test_folder / "test_bad.py").write_text("def test_it():\n    assert 2 + 2 == 5\n")
    (test_folder / "test_dies.py").write_text("import os\n\n\ndef test_it():\n    os._exit(9)\n")
    (test_folder / "test_needs.py").write_text("import hypothesis\n")
    has = gpu_environment.has
    monkeypatch.setattr(gpu_environment, "has", lambda name: name != "hypothesis" and has(name))
    facts = gpu_tests.run_files(gpu_tests.files_in(["tests"]), 100, 2)
    assert facts["wrong"] == "tests failed in test_bad.py, test_dies.py"
    assert "1 passed" in facts["files"]["test_good.py"]
    assert "1 failed" in facts["files"]["test_bad.py"]
    assert facts["left out"] == {"test_needs.py": "needs hypothesis"}
    assert any("assert (2 + 2) == 5" in line for line in facts["failures"])
    assert "exit status 9: tests/test_dies.py::test_it" in facts["failures"]
    # Nothing was run.
    assert "wrong" in gpu_tests.run_files([test_folder / "test_needs.py"], 100, 1)


def test_a_slow_file_is_shared_by_several_processes(
    test_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os, pathlib, pytest\n\n@pytest.mark.parametrize('n', range(5))\n"
    source += "def test_it(n):\n    pathlib.Path(f'ran-{n}').write_text(str(os.getpid()))\n"
    (test_folder / "test_slow.py").write_text(source)
    monkeypatch.setattr(gpu_tests, "_PROCESSES", {"test_slow.py": 2})
    facts = gpu_tests.run_files(gpu_tests.files_in(["tests"]), 100, 2)
    assert facts["files"] == {"test_slow.py": "5 passed"}
    assert not {"wrong", "unfinished"} & facts.keys()
    processes = [Path(f"ran-{n}").read_text() for n in range(5)]
    assert processes[::2] == processes[:1] * 3
    assert processes[1::2] == processes[1:2] * 2
    assert len(set(processes)) == 2


def test_what_has_ended_counts_when_the_time_is_up(test_folder: Path) -> None:
    source = "import time\n\n\ndef test_a():\n    pass\n\n\ndef test_b():\n    assert 0\n"
    (test_folder / "test_long.py").write_text(source + "\n\ndef test_c():\n    time.sleep(60)\n")
    facts = gpu_tests.run_files(gpu_tests.files_in(["tests"]), 12, 1)
    assert facts["files"] == {"test_long.py": "1 failed, 1 passed, not finished"}
    assert facts["wrong"] == "tests failed in test_long.py"
    assert facts["failures"] == ["tests/test_long.py::test_b"]


def test_the_files_that_are_shared_exist() -> None:
    there = {path.name for path in gpu_tests.files_in(["tests/device"])}
    assert {*gpu_tests._PROCESSES} < there


# --- engines ----------------------------------------------------------------------------------


def test_every_method_of_an_engine_is_called() -> None:
    methods = {method for method, _, _ in gpu_engines.calls("float32")} | set(gpu_engines.UPDATES)
    assert methods == Engine.__abstractmethods__ - {"probe", "plan"}


def said_by(capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, Any]]]:
    messages = [json.loads(line[1:]) for line in capsys.readouterr().out.splitlines()]
    return {word: [m for m in messages if word in m] for word in ("begin", "good", "bad")}


def test_operations_are_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for dtype in gpu_engines.DTYPES:
        gpu_engines.check_operations("cpu:numpy", dtype, "")
        said = said_by(capsys)
        assert said["bad"] == []
        assert len(said["good"]) == len(list(gpu_engines.calls(dtype))) + len(gpu_engines.UPDATES)
    right = type(gpu_engines._cpu())

    class Wrong(right):  # type: ignore[misc, valid-type]
        def pad(self, x: Any, pads: Any, mode: str) -> Any:
            return super().pad(x, pads, mode) + np.float32(1e-7)

        def softmax(self, x: Any) -> Any:
            return super().softmax(x).astype("float64")

    monkeypatch.setattr(gpu_engines, "_cpu", Wrong)
    gpu_engines.check_operations("cpu:numpy", "float32", "pad")
    gpu_engines.check_operations("cpu:numpy", "float32", "softmax")
    bad = {m["bad"].split()[1]: m["why"] for m in said_by(capsys)["bad"]}
    assert set(bad) == {"pad", "softmax"}
    assert "a result of dtype float32 instead of float64" in bad["softmax"]


@pytest.mark.parametrize("layout", gpu_engines.LAYOUTS)
def test_layers_are_compared(capsys: pytest.CaptureFixture[str], layout: str) -> None:
    for wanted in ("Conv2D-", "Pooling2D", "GroupNormalization", "Dense"):
        gpu_engines.check_layers("cpu:numpy", "float32", layout, wanted)
    said = said_by(capsys)
    assert said["bad"] == []
    assert len(said["good"]) == len(said["begin"]) > 6


def test_an_engine_that_cannot_run_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(name: str) -> Probe:
        return Probe(name == "cuda:cupy", f"what is known of {name}")

    monkeypatch.setattr(gpu_engines.registry, "probe", probe)
    found, reasons = gpu_engines.available(gpu_engines.ENGINES)
    assert found == ["cuda:cupy"]
    assert reasons == {"cuda:numba": "what is known of cuda:numba"}


def test_a_process_that_dies_of_a_layer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(shares: Any, seconds: float) -> None:
        for share in shares:
            share.hear({"begin": "Conv2D"})
            share.hear({"good": "Conv2D"})
            share.ended = "done"
        shares[0].hear({"begin": "Dense"})
        shares[0].again(-11)

    monkeypatch.setattr(gpu_shares, "run_all", run_all)
    facts = gpu_engines.run_shares("layers", ["cuda:cupy"], 10, "")
    assert facts["right"] == {"cuda:cupy": 4}
    assert facts["wrong ones"] == {"Dense": "the process ended with status -11"}
    assert facts["wrong"] == "1 differ from the CPU"
