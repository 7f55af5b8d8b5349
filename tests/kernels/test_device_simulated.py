"""Every file of tests/device in Numba's simulator, each in a process with a hard time limit.

A kernel whose barrier is missed by a thread hangs for ever in the simulator: hence the processes.
They run side by side, one a core.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "device"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
SECONDS = 600  # ten times what the slowest takes on two cores that nobody else uses

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


def simulate(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / name)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"},
        cwd=FOLDER.parents[1],
    )


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """The processes of all files that are to be run, started by size, the largest first."""
    chosen = {item.callspec.params["name"] for item in request.session.items if _is_ours(item)}
    longest_first = sorted(chosen, key=lambda name: -(FOLDER / name).stat().st_size)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield {name: pool.submit(simulate, name) for name in longest_first}
        pool.shutdown(cancel_futures=True)


def _is_ours(item: pytest.Item) -> bool:
    return item.path == pathlib.Path(__file__) and "name" in getattr(item, "callspec", _None).params


class _None:
    params: dict[str, str] = {}  # noqa: RUF012


@pytest.mark.parametrize("name", FILES)
def test_in_the_simulator(runs: Runs, name: str) -> None:
    try:
        done = runs[name].result()
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout
        pytest.fail(f"{name} did not end within {SECONDS} s; a barrier may hang.\n{said}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
