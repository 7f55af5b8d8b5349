"""Which engines exist, in order of preference, and whether each can run here.

An engine's module is imported when it is first asked for: listing names must not load CUDA.
"""

from __future__ import annotations

import functools
import importlib
from typing import Final

from gpuconv.backends import cpu_probe, cuda_probe
from gpuconv.backends.base import Engine, Probe
from gpuconv.errors import BackendUnavailableError, one_of

_MODULES: Final[dict[str, str]] = {
    "cpu:jit": "gpuconv.backends.cpu_jit:CpuJit",
    "cpu:numpy": "gpuconv.backends.cpu_numpy:CpuNumpy",
    "cuda:cupy": "gpuconv.backends.cuda_cupy:CudaCupy",
    "cuda:numba": "gpuconv.backends.cuda_numba:CudaNumba",
    "cuda-sim:numba": "gpuconv.backends.cuda_numba:CudaSimNumba",
}
"""Engine name -> where its class is. Within a device, earlier ones are preferred."""

DEVICES: Final = ("cpu", "cuda", "cuda-sim")


def engine_names(device: str | None = None) -> tuple[str, ...]:
    """Names of the engines of this version, best first, of one device or of all."""
    return tuple(n for n in _MODULES if device is None or n.partition(":")[0] == device)


def backend_names() -> tuple[str, ...]:
    """Every word that ``set_backend`` takes."""
    return ("auto", *DEVICES, *_MODULES)


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
    one_of(name, _MODULES, "engine")
    if name == "cpu:jit":
        needed: Probe | None = cpu_probe.probe_compiler()
    else:
        needed = _look_at_device(name.partition(":")[0])
    if needed is not None and not needed.available:
        return needed
    try:
        loaded = _load(name)
    except Exception as error:  # packages that do not fit each other fail in many ways
        return Probe(
            False,
            f"importing it failed: {type(error).__name__}: {error}",
            "Check that the packages fit each other: gpuconv.doctor() names their versions.",
        )
    return loaded.probe()


def _look_at_device(device: str) -> Probe | None:
    """Look for a device itself; an engine's module is not even imported where there is none."""
    if device == "cuda":
        return cuda_probe.probe_cuda()
    return cuda_probe.probe_simulator() if device == "cuda-sim" else None


def probe_device(device: str) -> Probe:
    """Say whether any engine of a device can run here: the first that can, or every reason.

    For ``cuda`` the driver and the packages are looked at first, since what is missing there
    is what a user can mend.
    """
    there = _look_at_device(device)
    if there is not None and not there.available:
        return there
    names = engine_names(device)
    reasons = []
    for name in names:
        found = probe(name)
        if found.available:
            return Probe(True, f"{name}: {found.reason}")
        reasons.append(f"{name}: {found.reason}")
    return Probe(False, "; ".join(reasons))


def _load(name: str) -> type[Engine]:
    module, _, attribute = _MODULES[name].partition(":")
    loaded: type[Engine] = getattr(importlib.import_module(module), attribute)
    return loaded
