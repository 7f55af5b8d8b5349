"""What a process needs before Numba compiles its first kernel for a CUDA device.

Three things that Numba or its CUDA target do not do themselves: get along with a NumPy that is
newer than they are, keep compiled kernels somewhere on a machine where the usual folders cannot be
written, and keep them right where several processes compile at once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.settings import cache_folder


def prepare() -> None:
    """Do all of it, where Numba compiles for a device and not for its simulator."""
    from gpuconv_kernels.device import target

    if not target.SIMULATED:
        give_row_stack()
        choose_cache_folder()
        lock_cache()


def give_row_stack() -> bool:
    """Give NumPy the name ``row_stack`` where it has none; returns whether it had none.

    NumPy 2.5 removed this other name of ``vstack``. numba-cuda up to 0.30.4 looks it up when it
    compiles the first kernel of a process, whatever is in that kernel, and fails
    (NVIDIA/numba-cuda#907).
    """
    missing = not hasattr(np, "row_stack")
    if missing:
        vars(np)["row_stack"] = np.vstack
    return missing


def give_types_of_dates() -> bool:
    """Give Numba its types of dates where numba-cuda looks for them; returns whether they lacked.

    Numba 0.66 moved them. numba-cuda up to 0.30.3 takes them from where they were when it is
    imported, whatever is then compiled, and fails. So this comes before ``import numba.cuda``.
    """
    try:
        before = importlib.import_module("numba.core.types.scalars")
        now = importlib.import_module("numba.np.types")
    except ImportError:  # not moved yet; or Numba does not fit NumPy, which others tell
        return False
    lacking = [n for n in ("NPDatetime", "NPTimedelta") if n not in vars(before) and n in vars(now)]
    vars(before).update({name: vars(now)[name] for name in lacking})
    return bool(lacking)


# --- where compiled kernels are kept --------------------------------------------------------


def choose_cache_folder() -> None:
    """Tell Numba a folder for compiled kernels where it finds none that it can write.

    It looks beside the kernels' sources and in the user's home. If it may write to neither, and
    ``NUMBA_CACHE_DIR`` names no folder, it raises for each kernel that is to be kept.
    """
    from gpuconv_kernels.device import target

    try:
        target.compiled(target.real, threads=1)  # looks for a folder; compiles nothing yet
    except RuntimeError:
        # Not by the environment: child processes would share a folder that ends with this one, and
        # Numba would read all its settings again and forget those that were assigned.
        target.config.CACHE_DIR = str(writable_folder("numba"))


def writable_folder(name: str) -> Path:
    """Return a folder for files that can be made again, which can be written.

    Args:
        name: of the folder, in gpuconv's cache folder. Where that cannot be written, or the user
            has no home, it is a new one that is removed when the process ends.
    """
    try:
        folder = cache_folder() / name
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return folder
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix=f"gpuconv-{name}-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


# --- several processes at once --------------------------------------------------------------


def lock_cache() -> bool:
    """Let one process at a time read or write a folder of compiled kernels.

    Numba reads a function's index, chooses a file name that is free, and writes both. Two processes
    that do so at once choose the same name, and from then on one finds the other's kernel, which
    may be for another dtype (numba/numba#4807).

    Returns:
        Whether it is so now; False on Windows, and where Numba's cache is not as it was.
    """
    try:
        import fcntl  # noqa: F401

        files: Any = importlib.import_module("numba.cuda.core.caching").IndexDataCacheFile
        methods = {name: getattr(files, name) for name in ("save", "load")}
    except (ImportError, AttributeError):
        return False
    for name, method in methods.items():
        if not hasattr(method, "__wrapped__"):
            setattr(files, name, _alone(method))
    return True


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one process at a time, and one thread of it, be in a method of one cache folder."""

    @functools.wraps(method)
    def locked(self: Any, *arguments: Any) -> Any:
        with _lock(self._cache_path):
            return method(self, *arguments)

    return locked


@contextlib.contextmanager
def _lock(folder: str) -> Iterator[None]:
    import fcntl

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a file system without locks: as Numba does it
            file = held.enter_context(open(os.path.join(folder, "gpuconv.lock"), "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
