"""Freed memory is kept for the next step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from gpuconv.backends.allocation import keep_freed_memory
print(keep_freed_memory())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step(): np.ones(2**20)  # 8 MiB: 2048 pages
step(); step()
before = faults()
for _ in range(10): step()
print(faults() - before)
"""


def run(**environment: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kept, faults = result.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_pages_are_fetched_once():
    kept, faults = run()
    assert kept
    assert faults < 2048


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_what_the_user_has_chosen_stays():
    kept, _ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
