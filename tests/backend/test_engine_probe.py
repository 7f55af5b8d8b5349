"""An engine that cannot be imported is one that cannot run, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuconv.backends import registry
from gpuconv.backends.base import Probe

ASKED = """
from gpuconv.backends import registry
from gpuconv.backends.base import Probe
from gpuconv.errors import BackendUnavailableError

registry.cuda_probe.probe_cuda = lambda: Probe(True, "a device")
print(registry.probe("cuda:numba"))
try:
    registry.engine("cuda:numba")
except BackendUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('Numba needs NumPy 2.4 or less')",
        "AttributeError('no row_stack')",
        "SystemError('initialization failed')",
    ],
)
def test_numba_cannot_be_imported_on_a_machine_with_a_gpu(tmp_path: Path, error: str) -> None:
    (tmp_path / "numba.py").write_text(f"raise {error}\n")
    paths = [str(tmp_path), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    probed, raised = done.stdout.splitlines()
    name, _, words = error.rstrip("')").partition("('")
    assert probed.startswith(f"Probe(available=False, reason='importing it failed: {name}: {words}")
    assert "gpuconv.doctor()" in probed
    assert raised.startswith(
        f"the engine 'cuda:numba' is not available: importing it failed: {name}: {words}"
    )


def test_the_other_engine_of_the_device_still_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Right:
        probe = staticmethod(lambda: Probe(True, "CuPy"))

    def load(name: str) -> type:
        if name == "cuda:numba":
            raise ImportError("no module named numba")
        return Right

    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: Probe(True, "a device"))
    monkeypatch.setattr(registry, "_load", load)
    assert not registry.probe("cuda:numba").available
    assert registry.probe_device("cuda") == Probe(True, "cuda:cupy: CuPy")
