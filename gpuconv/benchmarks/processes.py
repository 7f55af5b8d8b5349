"""Questions to processes of their own: with a time limit, and facts as their last line of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuconv.benchmarks import machine
from gpuconv.settings import CACHE_VARIABLE

CACHES = (CACHE_VARIABLE, "NUMBA_CACHE_DIR", "CUPY_CACHE_DIR", "CUDA_CACHE_PATH")
"""Where compiled kernels and choices are kept."""


@dataclass(frozen=True)
class Reply:
    """What a process left.

    Attributes:
        text: its output and errors together.
        seconds: how long it took.
        problem: why it is of no use: ``"exit status 1"``, ``"stopped after 60 s"``; empty if it is.
        stopped: whether it took longer than it was given.
    """

    text: str
    seconds: float
    problem: str = ""
    stopped: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the last line that is a JSON object."""
        for line in reversed(self.text.splitlines()):
            if line.startswith("{"):
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    return found
        return {}


def ask(
    command: Sequence[str], limit: float, variables: Mapping[str, str | Path] | None = None
) -> Reply:
    """Run a command in the checkout, which it finds gpuconv in, until it ends or the time is up.

    Args:
        command: program and arguments.
        limit: seconds. What takes longer is ended, with all that it started.
        variables: more of the environment.
    """
    paths = [str(machine.CHECKOUT), str(machine.CHECKOUT / "kernels")]
    more = {name: str(value) for name, value in (variables or {}).items()}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            command, cwd=machine.CHECKOUT, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Reply("", 0.0, str(error))
    problem, stopped = "", False
    try:
        text, _ = process.communicate(timeout=limit)
        if process.returncode:
            problem = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        _end(process)
        text, _ = process.communicate()
        problem, stopped = f"stopped after {limit:.0f} s", True
    except KeyboardInterrupt:
        _end(process)
        raise
    return Reply(text, time.monotonic() - start, problem, stopped)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and what it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def empty_caches(folder: str | Path) -> dict[str, str]:
    """Return variables that let all that keeps compiled kernels or choices begin with nothing."""
    return {variable: os.path.join(folder, variable.lower()) for variable in CACHES}
