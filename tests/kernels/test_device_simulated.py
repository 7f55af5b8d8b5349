"""Every file of tests/device in Numba's simulator; how they are run stands in simulations.py."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from simulations import FILES, SECONDS, Simulations


@pytest.mark.parametrize("name", FILES)
def test_in_the_simulator(simulated: Simulations, name: str) -> None:
    try:
        done = simulated.results[name].result()
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{name} did not end within {SECONDS} s; a barrier may hang.\n{late.stdout!s}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


# --- how they are run ---------------------------------------------------------------------------


def say_and_sleep(name: str) -> list[str]:
    """A process that says something and then hangs, or ends at once with status 3."""
    seconds = 0 if name == "short" else 600
    program = f"import sys, time; print('here', flush=True); time.sleep({seconds}); sys.exit(3)"
    return [sys.executable, "-c", program]


def test_what_hangs_is_ended_and_what_it_said_is_kept() -> None:
    runs = Simulations(["hangs", "short"], say_and_sleep, seconds=3)
    runs.start(1)
    done = runs.results["short"].result(30)  # it waits for the first
    assert (done.returncode, done.stdout) == (3, "here\n")
    with pytest.raises(subprocess.TimeoutExpired) as late:
        runs.results["hangs"].result(0)
    assert late.value.stdout == "here\n"


def test_a_session_that_ends_early_leaves_none_behind() -> None:
    runs = Simulations(["one", "two", "three"], say_and_sleep)
    runs.start(2)
    deadline = time.monotonic() + 30
    while len(runs._running) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes = list(runs._running)
    runs.stop()
    assert [process.returncode for process in processes] == [-9, -9]
    assert not runs.results["three"].done()  # it never began
    runs.start(3)
    assert not runs._running


def test_a_program_that_cannot_be_started_is_said() -> None:
    runs = Simulations(["any"], lambda name: ["/no/such/program"])
    runs.start(1)
    with pytest.raises(FileNotFoundError):
        runs.results["any"].result(30)


def test_a_process_ends_with_a_session_that_was_killed() -> None:
    hangs = "import os, simulations, time; simulations.end_with(os.getppid()); "
    hangs += "print(os.getpid(), flush=True); time.sleep(600)"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hangs!r}])"
    session = subprocess.Popen(
        [sys.executable, "-c", starts], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert session.stdout is not None
    number = int(session.stdout.readline())
    try:
        session.kill()
        session.communicate(timeout=30)  # the pipe is closed when both have ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
