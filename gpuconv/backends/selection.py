"""Which backend the user asked for: for the process, for a block, or by the environment.

The order is ``use_backend`` (this context only: threads and coroutines do not see each other's),
``set_backend`` (the process), ``GPUCONV_BACKEND``, then ``"auto"``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
from collections.abc import Iterator

from gpuconv.backends import registry
from gpuconv.errors import BackendUnavailableError, InvalidArgumentError, suggestion

VARIABLE = "GPUCONV_BACKEND"
"""Name of the environment variable that chooses a backend."""

_log = logging.getLogger("gpuconv")
_block: contextvars.ContextVar[str | None] = contextvars.ContextVar("gpuconv_backend", default=None)
_process: str | None = None


def set_backend(name: str) -> None:
    """Choose the backend of the process.

    Args:
        name: ``"auto"`` (CUDA if it can run, else the CPU), a device (``"cpu"``, ``"cuda"``,
            ``"cuda-sim"``), or an engine (``"cpu:numpy"``). What is named never falls back.

    Raises:
        InvalidArgumentError: an unknown name.
        BackendUnavailableError: it cannot run here; the message says why.
    """
    global _process
    require(name)
    _process = name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block, for this thread or task only; may be nested.

    Raises:
        InvalidArgumentError: an unknown name.
        BackendUnavailableError: it cannot run here; the message says why.
    """
    require(name)
    token = _block.set(name)
    try:
        yield
    finally:
        _block.reset(token)


def requested_backend() -> str:
    """Return the name that is in force: a device, an engine or ``"auto"``.

    Raises:
        InvalidArgumentError: ``GPUCONV_BACKEND`` holds an unknown name.
    """
    name = _block.get() or _process  # asked for every operation: what was set has been checked
    if name:
        return name
    return _request()[0] if environment() else "auto"


@functools.cache
def environment() -> str:
    """What ``GPUCONV_BACKEND`` holds when it is first asked for; to look it up takes 2 us."""
    return os.environ.get(VARIABLE, "")


def _request() -> tuple[str, str]:
    """Return the name that is in force and who put it there."""
    for name, source in (
        (_block.get(), "use_backend"),
        (_process, "set_backend"),
        (environment(), VARIABLE),
    ):
        if name:
            return check_name(name, source), source
    return "auto", "the default"


def check_name(name: str, source: str = "") -> str:
    """Return ``name`` if it is a device, an engine or ``"auto"``; ``source`` is for the message.

    Raises:
        InvalidArgumentError: it is not.
    """
    known = registry.backend_names()
    if not isinstance(name, str) or name not in known:
        word = str(name).lower()
        hint = suggestion("cuda" if word == "gpu" else word, known)
        raise InvalidArgumentError(
            f"{source + ': ' if source else ''}unknown backend; expected one of "
            f"{', '.join(known)}.{hint} Received: {name!r}"
        )
    return name


def require(name: str) -> None:
    """Check that what was named can run here; ``"auto"`` always can.

    Raises:
        InvalidArgumentError: an unknown name.
        BackendUnavailableError: it cannot run; the message says why.
    """
    check_name(name)
    if name == "auto":
        return
    if ":" in name:
        device = name.partition(":")[0]
        if device != "cpu":
            _require_device(device)
        registry.engine(name)
    else:
        _require_device(name)


_verified: set[str] = set()
"""Devices that were found once: a driver does not go away, and asking it takes longer than a
kernel."""


def _require_device(device: str) -> None:
    if device in _verified:
        return
    found = registry.probe_device(device)
    if not found.available:
        hint = f" {found.hint}" if found.hint else ""
        raise BackendUnavailableError(
            f"the backend {device!r} is not available: {found.reason}.{hint}"
        )
    _verified.add(device)


def forget_devices() -> None:
    """Look for every device anew when it is asked for next."""
    _verified.clear()
    _automatic.cache_clear()


def resolve_device(name: str | None = None) -> tuple[str, str]:
    """Return ``(device, reason)`` for new data and models.

    Args:
        name: what a call asked for, or None for what is in force.

    Raises:
        InvalidArgumentError: an unknown name.
        BackendUnavailableError: a named backend cannot run; ``"auto"`` falls back instead and
            says so once, in the log.
    """
    wanted, source = _request() if name is None else (check_name(name), "")
    if wanted != "auto":
        require(wanted)
        by = f" by {source}" if source else ""
        return wanted.partition(":")[0], f"{wanted!r} was asked for{by}"
    return _automatic()


@functools.cache
def _automatic() -> tuple[str, str]:
    found = registry.probe_device("cuda")
    if found.available:
        return "cuda", f"automatic: {found.reason}"
    _log.info("computing on the CPU: %s", found.reason)
    return "cpu", f"automatic: CUDA is not available ({found.reason})"
