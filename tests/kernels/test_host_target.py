"""Compiled CPU kernels are found again on disk, and whatever happens to the disk, they work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuconv_kernels.host import target
from gpuconv_kernels.host.target import Host

PROGRAM = """
import sys, time
from pathlib import Path
import numba
from numba.core import event
from gpuconv_kernels.compiling import compiled_so_far
from gpuconv_kernels.host import parallel, target
from gpuconv_kernels.host.kernel import Kernel

target.keep_compiled_in(Path(sys.argv[1]))
compilations = event.RecordingListener()

def define(step):
    part = target.inlined(lambda value: value + step)
    def kernel(counter, tasks, total):
        task = parallel.take(counter)
        while task < tasks:
            task = part(parallel.take(counter)) - step
    return kernel

with event.install_listener("numba:compile", compilations):
    for step in (1, 2):
        parallel.run(Kernel(define(step), step), 3, 0)
    address = target.entry(lambda a: None, 1, "nothing")
names = {str(e.data["dispatcher"]) for _, e in compilations.buffer if e.is_start}
kernels, seconds = compiled_so_far()
print(len([n for n in names if "kernel" in n]), address != 0, kernels, seconds > 0)
"""

COMPILED = "2 True 4 True"  # two kernels, what calls them, and the entry
FOUND = "0 True 0 False"


def run(folder: Path, **environment: str) -> str:
    paths = os.pathsep.join(p for p in sys.path if p)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_second_process_compiles_nothing(tmp_path):
    assert run(tmp_path / "kept") == COMPILED
    assert run(tmp_path / "kept") == FOUND
    for file in (tmp_path / "kept").rglob("*.nb?"):  # damaged: compiled again, and kept again
        file.write_bytes(b"nonsense")
    assert run(tmp_path / "kept") == COMPILED
    assert run(tmp_path / "kept") == FOUND


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert run(tmp_path / "file" / "kept") == COMPILED


def test_another_compiler_makes_other_kernels(monkeypatch):
    before = target._version()
    target._version.cache_clear()
    monkeypatch.setattr(target.numba, "__version__", "0")
    assert target._version() != before
    target._version.cache_clear()


def test_folders_of_old_versions_are_removed(tmp_path):
    for number in range(8):
        folder = tmp_path / str(number)
        target._make(folder)
        (folder / "kernel.nbc").write_text("code")
        os.utime(folder, (number, number))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("features", "host"),
    [
        ({"avx512f": True, "avx2": True, "fma": True}, Host(64, 32)),
        ({"avx512f": False, "avx2": True, "fma": True}, Host(32, 16)),
        ({"avx2": True}, Host(16, 16)),
        ({"neon": True}, Host(16, 32)),
        ({}, Host(16, 16)),
    ],
)
def test_the_vectors_of_a_cpu(monkeypatch, features, host):
    monkeypatch.setattr(target.binding, "get_host_cpu_features", lambda: features)
    target.host.cache_clear()
    try:
        assert target.host() == host
    finally:
        target.host.cache_clear()
