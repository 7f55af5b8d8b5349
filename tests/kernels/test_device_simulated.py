"""Every file of tests/device in Numba's simulator, in a process with a hard time limit.

A kernel whose barrier is missed by a thread hangs for ever in the simulator: hence the process.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "device"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
SECONDS = 400  # several times what the slowest takes on two cores that nobody else uses


@pytest.mark.parametrize("name", FILES)
def test_in_the_simulator(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    try:
        done = subprocess.run(
            [*command, str(FOLDER / name)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
            cwd=FOLDER.parents[1],
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout
        pytest.fail(f"{name} did not end within {SECONDS} s; a barrier may hang.\n{said}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
