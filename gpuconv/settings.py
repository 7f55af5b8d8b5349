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
from gpuconv_kernels.threads import set_threads, usual_threads

CACHE_VARIABLE = "GPUCONV_CACHE"
"""Name of the environment variable that says where the cache folder is."""

_DEFAULT_WORKSPACE = 256 * 1024**2
_ASSUMED_MEMORY = 4 * 1024**3
_NAMES = ("autotune", "deterministic", "threads", "winograd", "workspace_limit")
_WINOGRAD = ("auto", "off", 2, 4, 6)


class Config:
    """The settings.

    Attributes:
        autotune: whether the engine for an operation is chosen by timing the candidates once for
            each operation, geometry, dtype and device, instead of by a model of their costs.
            What was measured is kept in the cache folder. Default False.
        deterministic: whether only algorithms are used that give the same bits on every run.
            Default True; False also admits faster ones that do not, where an engine has any.
        threads: how many threads compute on the CPU, in compiled kernels and in BLAS. None (the
            default) stands for the environment variable ``GPUCONV_THREADS``, else
            ``OMP_NUM_THREADS``, else the cores that the process may use, which is what reading it
            then gives. The results have the same bits with any number of threads in compiled
            kernels; BLAS may round otherwise.
        winograd: which of Winograd's convolutions may be chosen on the CPU for 3x3 kernels:
            ``"off"`` for none, 2, 4 or 6 for outputs of up to so many pixels a tile: larger tiles
            need fewer products and round more. ``"auto"`` (the default) stands for 4.
        workspace_limit: bytes that a convolution may use beyond inputs and outputs. None (the
            default) stands for a sixteenth of the physical memory, at most 256 MiB, on the CPU,
            which is what reading it then gives; on a CUDA device for an eighth of its free memory,
            rounded down to a power of two, from 16 MiB to 1 GiB. Under a smaller limit im2col works
            in smaller chunks.
    """

    __slots__ = (
        "_autotune",
        "_deterministic",
        "_planning",
        "_threads",
        "_winograd",
        "_workspace_limit",
    )

    def __init__(self) -> None:
        self._autotune = False
        self._deterministic = True
        self._threads: int | None = None
        self._winograd: str | int = "auto"
        self._workspace_limit: int | None = None
        self._planning: tuple[bool, str | int, int] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _NAMES and name not in self.__slots__:
            hint = suggestion(name, _NAMES)
            raise AttributeError(f"gpuconv.config has no setting {name!r}.{hint}")
        if name in _NAMES:
            self._planning = None
        object.__setattr__(self, name, value)

    @property
    def planning(self) -> tuple[bool, str | int, int]:
        """``deterministic``, ``winograd`` and ``threads``: what plans depend on."""
        known = self._planning  # asked for by every operation
        if known is None:
            known = self._planning = (self.deterministic, self.winograd, self.threads)
        return known

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
    def threads(self) -> int:
        return self._threads or usual_threads()

    @threads.setter
    def threads(self, value: int | None) -> None:
        if value is not None and not _is_count(value):
            raise InvalidArgumentError(
                f"threads must be a number of at least 1, or None. Received: {shown(value)}"
            )
        count = None if value is None else int(value)
        import numpy  # noqa: F401  # only a BLAS that is loaded can be told
        import threadpoolctl

        threadpoolctl.threadpool_limits(count or usual_threads(), user_api="blas")
        set_threads(count)
        self._threads = count

    @property
    def winograd(self) -> str | int:
        return self._winograd

    @winograd.setter
    def winograd(self, value: str | int) -> None:
        if isinstance(value, bool) or value not in _WINOGRAD:
            words = ", ".join(repr(word) for word in _WINOGRAD)
            raise InvalidArgumentError(f"winograd must be one of {words}. Received: {shown(value)}")
        self._winograd = value

    @property
    def workspace_limit(self) -> int:
        chosen = self._workspace_limit
        return _default_workspace() if chosen is None else chosen

    @workspace_limit.setter
    def workspace_limit(self, value: int | None) -> None:
        if value is not None and not _is_count(value):
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


def _is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1, and neither a truth value nor an array."""
    if isinstance(value, bool) or hasattr(value, "__len__"):
        return False
    return isinstance(value, SupportsIndex) and int(value) >= 1


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
