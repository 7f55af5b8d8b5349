"""Settings of the whole process: ``gpuconv.config``.

A setting is an attribute of :data:`config`; assigning checks the value at once.
"""

from __future__ import annotations

import os
from typing import SupportsIndex

from gpuconv.errors import InvalidArgumentError, shown, suggestion

_DEFAULT_WORKSPACE = 256 * 1024**2
_ASSUMED_MEMORY = 4 * 1024**3


class Config:
    """The settings.

    Attributes:
        workspace_limit: bytes that a convolution may use beyond inputs and outputs. None (the
            default) stands for a sixteenth of the physical memory, at most 256 MiB. Under a
            smaller limit im2col works in smaller chunks; the results are the same.
    """

    __slots__ = ("_workspace_limit",)

    def __init__(self) -> None:
        self._workspace_limit: int | None = None

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("_workspace_limit", "workspace_limit"):
            hint = suggestion(name, ["workspace_limit"])
            raise AttributeError(f"gpuconv.config has no setting {name!r}.{hint}")
        object.__setattr__(self, name, value)

    @property
    def workspace_limit(self) -> int:
        if self._workspace_limit is None:
            return min(_DEFAULT_WORKSPACE, (physical_memory() or _ASSUMED_MEMORY) // 16)
        return self._workspace_limit

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

    def __repr__(self) -> str:
        return f"Config(workspace_limit={self.workspace_limit})"


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


config = Config()
