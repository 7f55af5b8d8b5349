"""Which engines exist, in order of preference, and whether each can run here.

An engine's module is imported when it is first asked for: listing names must not load CUDA.
"""

from __future__ import annotations

import functools
import importlib
from typing import Final

from gpuconv.backends import cuda_probe
from gpuconv.backends.base import Engine, Probe
from gpuconv.errors import BackendUnavailableError, one_of

_MODULES: Final[dict[str, str]] = {
    "cpu:numpy": "gpuconv.backends.cpu_numpy:CpuNumpy",
}
"""Engine name -> where its class is. Within a device, earlier ones are preferred."""

_PLANNED: Final[dict[str, str]] = {
    "cpu:jit": "compiled CPU kernels are not part of this version; use 'cpu:numpy'",
    "cuda:numba": "the Numba CUDA engine is not part of this version",
    "cuda:cupy": "the CuPy engine is not part of this version",
    "cuda-sim:numba": "the Numba CUDA engine is not part of this version",
}
"""Engines that gpuconv's interface names but that this version does not contain."""

DEVICES: Final = ("cpu", "cuda", "cuda-sim")


def engine_names(device: str | None = None) -> tuple[str, ...]:
    """Names of the engines of this version, best first, of one device or of all."""
    return tuple(n for n in _MODULES if device is None or n.partition(":")[0] == device)


def backend_names() -> tuple[str, ...]:
    """Every word that ``set_backend`` takes."""
    return ("auto", *DEVICES, *_MODULES, *_PLANNED)


@functools.cache
def engine(name: str) -> Engine:
    """Return the one instance of an engine.

    Raises:
        InvalidArgumentError: there is no engine of this name.
        BackendUnavailableError: it cannot run here; the message says why.
    """
    found = probe(name)
    if not found.available:
        hint = f" {found.hint}" if found.hint else ""
        raise BackendUnavailableError(
            f"the engine {name!r} is not available: {found.reason}.{hint}"
        )
    return _load(name)()


def probe(name: str) -> Probe:
    """Say whether an engine can run here.

    Raises:
        InvalidArgumentError: there is no engine of this name.
    """
    one_of(name, [*_MODULES, *_PLANNED], "engine")
    if name in _PLANNED:
        return Probe(False, _PLANNED[name])
    return _load(name).probe()


def probe_device(device: str) -> Probe:
    """Say whether any engine of a device can run here: the first that can, or every reason.

    For ``cuda`` the driver and the packages are looked at first, since what is missing there
    is what a user can mend.
    """
    if device == "cuda":
        found = cuda_probe.probe_cuda()
        if not found.available:
            return found
    if device == "cuda-sim":
        found = cuda_probe.probe_simulator()
        if not found.available:
            return found
    names = engine_names(device)
    reasons = []
    for name in names:
        found = probe(name)
        if found.available:
            return Probe(True, f"{name}: {found.reason}")
        reasons.append(f"{name}: {found.reason}")
    if not names:
        reasons = [f"{n}: {why}" for n, why in _PLANNED.items() if n.partition(":")[0] == device]
    return Probe(False, "; ".join(reasons))


def _load(name: str) -> type[Engine]:
    module, _, attribute = _MODULES[name].partition(":")
    loaded: type[Engine] = getattr(importlib.import_module(module), attribute)
    return loaded
