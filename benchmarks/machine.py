"""Where a result was measured: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpuconv.backends.cpu_probe import processor_name, usable_cores


def provenance() -> dict[str, Any]:
    """Return what a reader needs to judge a figure, and to repeat it."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": _commit(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("gpuconv", "numpy", "torch")},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "gpuconv":
            return None
        import gpuconv

        return gpuconv.__version__


def _commit() -> str | None:
    """The commit of this checkout; ``+`` marks changes that are not in it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        mark = "+" if git("status", "--porcelain") else ""
        return git("rev-parse", "--short=12", "HEAD") + mark
    except (OSError, subprocess.CalledProcessError):
        return None
