"""Settings of the whole process, ``gpuconv.config``, and the folder for what may be lost.

A setting is an attribute of :data:`config`; assigning checks the value at once.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import SupportsIndex

from gpuconv.errors import InvalidArgumentError, shown, suggestion

CACHE_VARIABLE = "GPUCONV_CACHE"
"""Name of the environment variable that says where the cache folder is."""

_DEFAULT_WORKSPACE = 256 * 1024**2
_ASSUMED_MEMORY = 4 * 1024**3
_NAMES = ("autotune", "deterministic", "workspace_limit")


class Config:
    """The settings.

    Attributes:
        autotune: whether the engine for an operation is chosen by timing the candidates once for
            each operation, geometry, dtype and device, instead of by a model of their costs.
            What was measured is kept in the cache folder. Default False.
        deterministic: whether only algorithms are used that give the same bits on every run.
            Default True; False also admits faster ones that do not, where an engine has any.
        workspace_limit: bytes that a convolution may use beyond inputs and outputs. None (the
            default) stands for a sixteenth of the physical memory, at most 256 MiB, on the CPU,
            which is what reading it then gives; on a CUDA device for an eighth of its free memory,
            rounded down to a power of two, from 16 MiB to 1 GiB. Under a smaller limit im2col works
            in smaller chunks.
    """

    __slots__ = ("_autotune", "_deterministic", "_workspace_limit")

    def __init__(self) -> None:
        self._autotune = False
        self._deterministic = True
        self._workspace_limit: int | None = None

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _NAMES and name not in self.__slots__:
            hint = suggestion(name, _NAMES)
            raise AttributeError(f"gpuconv.config has no setting {name!r}.{hint}")
        object.__setattr__(self, name, value)

    @property
    def autotune(self) -> bool:
        return self._autotune

    @autotune.setter
    def autotune(self, value: bool) -> None:
        self._autotune = _as_bool(value, "autotune")

    @property
    def deterministic(self) -> bool:
        return self._deterministic

    @deterministic.setter
    def deterministic(self, value: bool) -> None:
        self._deterministic = _as_bool(value, "deterministic")

    @property
    def workspace_limit(self) -> int:
        chosen = self._workspace_limit
        return _default_workspace() if chosen is None else chosen

    @workspace_limit.setter
    def workspace_limit(self, value: int | None) -> None:
        whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
        whole = whole and not hasattr(value, "__len__")  # arrays have an __index__ too
        if value is not None and not (whole and int(value) >= 1):
            raise InvalidArgumentError(
                f"workspace_limit must be a number of bytes of at least 1, or None. "
                f"Received: {shown(value)}"
            )
        self._workspace_limit = None if value is None else int(value)

    @property
    def chosen_workspace_limit(self) -> int | None:
        """The workspace limit that was set, or None where the default of the device holds."""
        return self._workspace_limit

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)}" for name in _NAMES)
        return f"Config({values})"


def _as_bool(value: object, name: str) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # Python's, NumPy's
        raise InvalidArgumentError(f"{name} must be True or False. Received: {shown(value)}")
    return bool(value)


@functools.cache
def _default_workspace() -> int:
    return min(_DEFAULT_WORKSPACE, (physical_memory() or _ASSUMED_MEMORY) // 16)


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def cache_folder() -> Path:
    """Return the folder for files that can be made again: ``GPUCONV_CACHE``, or the system's.

    That is ``$XDG_CACHE_HOME/gpuconv`` or ``~/.cache/gpuconv``, ``~/Library/Caches/gpuconv`` on
    macOS and ``%LOCALAPPDATA%/gpuconv/Cache`` on Windows. It need not exist.

    Raises:
        RuntimeError: the user has no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gpuconv"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
        return base / "gpuconv" / "Cache"
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: relative paths are to be ignored.
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    return base / "gpuconv"


config = Config()
