"""Kernels with a deliberate mistake, to show that a test would notice it."""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import pytest

from gpuconv_kernels.device.target import SIMULATED


def mutant(module: Any, old: str, new: str, which: int = 0) -> Any:
    """Return a copy of a module in which the ``which``-th ``old`` is ``new``.

    In the simulator; on a device the test is skipped. There a missing barrier may not show, or hang
    the device, and Numba keeps no compiled kernel of a module without a file.
    """
    if not SIMULATED:
        pytest.skip("a broken kernel may hang a device")
    pieces = inspect.getsource(module).split(old)
    assert len(pieces) > which + 1, f"{module.__name__} has no {old!r} number {which}"
    source = old.join(pieces[: which + 1]) + new + old.join(pieces[which + 1 :])
    copy = types.ModuleType(f"{module.__name__}_mutant")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    exec(compile(source, f"<mutant of {module.__name__}>", "exec"), copy.__dict__)
    return copy
