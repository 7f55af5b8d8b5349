"""Where a result was measured: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpuconv import __version__
from gpuconv.backends.cpu_probe import processor_name, usable_cores
from gpuconv.backends.packages import installed_version

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the repository, where gpuconv runs from a checkout."""


def provenance(*packages: str) -> dict[str, Any]:
    """Return what a reader needs to judge a figure, and to repeat it.

    Args:
        packages: whose versions are given, beside those of Python, gpuconv and NumPy.
    """
    return {
        "date": now(),
        "command": command(),
        "commit": commit(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), "gpuconv": __version__}
        | {name: installed_version(name) for name in ("numpy", *packages)},
    }


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def command() -> str:
    """The command line, as it can be typed again in the checkout."""
    program = Path(sys.argv[0])
    words = ["gpuconv"]
    if program.suffix == ".py":
        if program.resolve().is_relative_to(CHECKOUT):
            program = program.resolve().relative_to(CHECKOUT)
        words = ["python", str(program)]
    return shlex.join([*words, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the checkout; ``+`` marks changes that are not in it. None outside of one."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), CHECKOUT):
            return None  # installed somewhere inside another repository
        # What a benchmark leaves is no change of what it measures.
        changed = git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
        mark = "+" if changed else ""
        return git("rev-parse", "--short=12", "HEAD") + mark
    except (OSError, subprocess.CalledProcessError):
        return None
