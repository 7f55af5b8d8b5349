"""Numba compiles for a device with a newer NumPy, where nothing can be written, and beside others.

Each program runs in a process of its own: what Numba and NumPy hold is the process's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from gpuconv.backends import cuda_numba_setup
from gpuconv.backends.packages import installed_version
from gpuconv.testing import assembly

needs_target = pytest.mark.skipif(
    installed_version("numba-cuda") is None, reason="numba-cuda is not installed"
)
KERNELS = Path(assembly.__file__).parents[2] / "kernels"


def said(tmp_path: Path, program: str, **variables: str | None) -> str:
    """What a program prints; a variable that is None is not set."""
    environment: dict[str, str | None] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GPUCONV_CACHE": str(tmp_path / "cache"),
        "NUMBA_CACHE_DIR": None,
        "NUMBA_ENABLE_CUDASIM": None,
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True,
        timeout=200, check=False, cwd=tmp_path,
        env={name: value for name, value in environment.items() if value is not None},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


# --- NumPy 2.5 --------------------------------------------------------------------------------

WITHOUT = "import numpy as np\nif hasattr(np, 'row_stack'):\n    del np.row_stack\n"
COMPILED = (
    WITHOUT
    + """
from gpuconv.backends.cuda_numba import CudaNumba
CudaNumba()
from numba import cuda, types

def double(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] *= 2

ptx, _ = cuda.compile_ptx(double, (types.float32[::1],), cc=(9, 0))
print(".entry" in ptx, np.row_stack is np.vstack)
"""
)
ASSEMBLED = (
    WITHOUT
    + """
from gpuconv.testing import assembly
from gpuconv_kernels.device import updates
spec = next(spec for spec in updates.catalogue() if spec.name == "sgd[float32]")
print(".entry" in assembly.compile_ptx(spec, "sm_90"))
"""
)
SIMULATED = (
    WITHOUT
    + """
from gpuconv.backends import registry
from gpuconv.backends.functions import Activation
from gpuconv.backends.simulated import to_simulated
x = to_simulated(np.array([-1.0, 3.0], "float32"))
print(registry.engine("cuda-sim:numba").activation(x, Activation("relu")).get().tolist())
"""
)


@needs_target
def test_the_engine_compiles_without_row_stack(tmp_path: Path) -> None:
    assert said(tmp_path, COMPILED) == "True True"


@pytest.mark.skipif(bool(assembly.missing_tools()), reason="needs the tools of CUDA")
def test_kernels_are_assembled_without_row_stack(tmp_path: Path) -> None:
    assert said(tmp_path, ASSEMBLED) == "True"


def test_the_simulator_runs_without_row_stack(tmp_path: Path) -> None:
    assert said(tmp_path, SIMULATED, NUMBA_ENABLE_CUDASIM="1") == "[0.0, 3.0]"


def test_row_stack_is_given_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = cuda_numba_setup.np
    monkeypatch.setattr(numpy, "row_stack", sum, raising=False)
    assert not cuda_numba_setup.give_row_stack()
    assert numpy.row_stack is sum  # type: ignore[comparison-overlap]
    monkeypatch.delattr(numpy, "row_stack")
    assert cuda_numba_setup.give_row_stack()
    assert numpy.row_stack is numpy.vstack
    assert not cuda_numba_setup.give_row_stack()


# --- nowhere to write -------------------------------------------------------------------------

MADE = """
from gpuconv_kernels.device import target
try:
    target.compiled(target.real, 64)
    print("a folder of Numba's own")
except RuntimeError as error:
    print("no folder")
from gpuconv.backends.cuda_numba import CudaNumba
CudaNumba()
print(target.compiled(target.flat, 64).stats.cache_path)
"""


@needs_target
@pytest.mark.parametrize("with_cache", [True, False])
def test_kernels_are_made_where_nothing_can_be_written(tmp_path: Path, with_cache: bool) -> None:
    # Files stand where folders would be made: that stops even a user who may write everywhere.
    shutil.copytree(KERNELS, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kernels" / "gpuconv_kernels" / "device" / "__pycache__").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    first, path = said(
        tmp_path,
        MADE,
        PYTHONPATH=os.pathsep.join([str(tmp_path / "kernels"), *(p for p in sys.path if p)]),
        HOME=str(tmp_path / "file"),
        XDG_CACHE_HOME=str(tmp_path / "file"),
        GPUCONV_CACHE=str(tmp_path / ("cache" if with_cache else "file")),
        TMPDIR=str(tmp_path / "temporary"),
    ).splitlines()
    assert first == "no folder"
    folder = tmp_path / "cache" / "numba" if with_cache else tmp_path / "temporary"
    assert Path(path).is_relative_to(folder)
    assert Path(path).is_dir() == with_cache  # what is temporary is gone with the process


@needs_target
def test_a_folder_that_numba_has_is_kept(tmp_path: Path) -> None:
    first, path = said(tmp_path, MADE, NUMBA_CACHE_DIR=str(tmp_path / "own")).splitlines()
    assert first == "a folder of Numba's own"
    assert Path(path).parent == tmp_path / "own"
    assert not (tmp_path / "cache" / "numba").exists()


def test_a_folder_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Any] = []
    monkeypatch.setattr(
        cuda_numba_setup.atexit, "register", lambda *given, **options: removed.append(given[1])
    )
    (tmp_path / "home").write_text("no folder")
    for name in ("GPUCONV_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cuda_numba_setup.writable_folder("numba")
    assert folder.parent == tmp_path
    assert folder.is_dir()
    assert removed == [folder]
    monkeypatch.setenv("GPUCONV_CACHE", str(tmp_path / "own"))
    assert cuda_numba_setup.writable_folder("numba") == tmp_path / "own" / "numba"
    assert removed == [folder]


# --- several at once --------------------------------------------------------------------------


def test_a_cache_is_used_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    files = pytest.importorskip("numba.cuda.core.caching").IndexDataCacheFile
    for name in ("save", "load"):  # as they were, afterwards
        monkeypatch.setattr(files, name, getattr(files, name))
    assert cuda_numba_setup.lock_cache()
    once = files.save
    assert cuda_numba_setup.lock_cache()
    assert files.save is once
    at_once = files._load_index

    def load_slowly(self: Any) -> Any:
        found = at_once(self)
        threading.Event().wait(0.05)  # what another would use to choose the same name
        return found

    monkeypatch.setattr(files, "_load_index", load_slowly)

    def save(number: int) -> None:
        files(str(tmp_path), "function", (1, 2)).save(("key", number), f"kernel {number}")

    threads = [threading.Thread(target=save, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = files(str(tmp_path), "function", (1, 2))
    assert [kept.load(("key", n)) for n in range(5)] == [f"kernel {n}" for n in range(5)]


@pytest.mark.parametrize("broken", ["open", "flock"])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    fcntl = pytest.importorskip("fcntl")

    class Kept:
        _cache_path = str(tmp_path / ("nowhere" if broken == "open" else ""))

        def save(self, number: int) -> int:
            return number + 1

    def flock(file: Any, how: int) -> None:
        raise OSError("no locks available")

    if broken == "flock":
        monkeypatch.setattr(fcntl, "flock", flock)
    assert cuda_numba_setup._alone(Kept.save)(Kept(), 2) == 3
