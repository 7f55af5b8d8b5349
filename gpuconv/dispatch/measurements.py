"""Measured times in the cache folder: one small JSON file for each operation and geometry.

A file holds the times for all batch sizes, with the versions that they belong to; others are as
good as none. Files are replaced as a whole, so that several programs may write at once: the last
one wins. Whatever is wrong with the folder or a file is logged and costs a new measurement only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuconv import __version__
from gpuconv.backends.packages import installed_version
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import cache_folder

Times = dict[int, dict[str, float]]
"""Batch size -> engine -> seconds."""

_log = logging.getLogger("gpuconv")

_FORMAT = 1
_PACKAGES = {
    "cpu": ("numpy", "numba"),
    "cuda": ("cupy-cuda12x", "cupy-cuda13x", "cupy", "numba", "numba-cuda"),
}
"""What an engine's speed depends on, beside gpuconv itself."""


@dataclass(frozen=True)
class Key:
    """What times belong to.

    Attributes:
        op: method of the engine contract.
        geometry: with a batch of 0.
        dtype: ``"float32"`` or ``"float64"``.
        device: ``"cpu"`` or ``"cuda"``.
        hardware: name of the GPU or the processor.
    """

    op: str
    geometry: ConvGeometry | PoolGeometry
    dtype: str
    device: str
    hardware: str

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """The key as plain data, as it stands in the file."""
        geometry = dataclasses.asdict(self.geometry)
        del geometry["batch"]
        described = {**dataclasses.asdict(self), "geometry": geometry}
        plain: dict[str, Any] = json.loads(json.dumps(described))  # tuples become lists
        return plain

    @property
    def file_name(self) -> str:
        """Operation and digest: ``conv_forward-0123456789abcdef.json``."""
        text = json.dumps(self.description, sort_keys=True)
        return f"{self.op}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


class Measurements:
    """The folder of measured times.

    Args:
        folder: None: ``tuning`` in the cache folder, as it is when a file is needed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._complained = False

    def read(self, key: Key) -> Times:
        """Return the times that are known, or nothing."""
        try:
            path = self._path(key)
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, RuntimeError, ValueError, RecursionError) as error:
            self._complain(f"measured times cannot be read and are taken anew: {error}")
            return {}
        times = _times_of(content, key)
        if times is None:
            self._complain(f"the file with measured times {path} is damaged and ignored")
            return {}
        return times

    def write(self, key: Key, times: Mapping[int, Mapping[str, float]]) -> None:
        """Put times into the file of a key, beside those for other batch sizes."""
        merged = {**self.read(key), **times}
        content = {
            "format": _FORMAT,
            "versions": versions(key.device),
            "key": key.description,
            "seconds": {str(batch): dict(each) for batch, each in sorted(merged.items())},
        }
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, json.dumps(content, indent=1) + "\n")
        except (OSError, RuntimeError) as error:
            self._complain(f"measured times are not kept: {error}")

    def _path(self, key: Key) -> Path:
        folder = cache_folder() / "tuning" if self._folder is None else self._folder
        return folder / key.file_name

    def _complain(self, message: str) -> None:
        """Warn once; what follows from the same cause is not worth a line an operation."""
        _log.log(logging.DEBUG if self._complained else logging.WARNING, "%s", message)
        self._complained = True


def versions(device: str) -> dict[str, str]:
    """Return the versions of gpuconv and of everything that decides how fast its engines are."""
    return dict(_versions(device))


@functools.cache
def _versions(device: str) -> tuple[tuple[str, str], ...]:
    found = {name: installed_version(name) for name in _PACKAGES.get(device, ())}
    if device == "cuda":
        from cupy.cuda import runtime

        found["driver"] = str(runtime.driverGetVersion())
        found["runtime"] = str(runtime.runtimeGetVersion())
    return (("gpuconv", __version__), *((n, v) for n, v in found.items() if v is not None))


def _times_of(content: Any, key: Key) -> Times | None:
    """Return the times in a file, nothing if they belong to other versions, None if damaged."""
    if not isinstance(content, dict) or not isinstance(content.get("seconds"), dict):
        return None
    if content.get("format") != _FORMAT or content.get("versions") != versions(key.device):
        return {}
    if content.get("key") != key.description:
        return None
    times: Times = {}
    for batch, each in content["seconds"].items():
        if not (batch.isascii() and batch.isdigit() and isinstance(each, dict)):
            return None
        if not all(_is_time(seconds) for seconds in each.values()):
            return None
        times[int(batch)] = each
    return times


def _is_time(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def _replace(path: Path, text: str) -> None:
    """Put a file in its place whole. Not flushed to the disk: a cache may be lost."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
