"""Who computes an operation, and why.

``select`` asks the engines of a device for their plans and returns a :class:`Decision`, cached by
(operation, geometry, dtype, device, forced engine, workspace limit). ``explain`` is the same for
shapes that a user types.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gpuconv.backends import registry
from gpuconv.backends.arrays import device_of
from gpuconv.backends.base import Array, Engine, Plan, Refusal
from gpuconv.backends.selection import requested_backend, require, resolve_device
from gpuconv.errors import UnsupportedError
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import config


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine's answer: its plan, or why it refused."""

    engine: str
    answer: Plan | Refusal


@dataclass(frozen=True, slots=True)
class Decision:
    """Which engine carries out an operation.

    Attributes:
        engine: name, such as ``"cpu:numpy"``.
        algorithm: method within the engine, such as ``"im2col+gemm"``.
        workspace_bytes: memory beyond inputs and outputs.
        reason: why, in words.
        candidates: what every engine of the device answered.
    """

    engine: str
    algorithm: str
    workspace_bytes: int
    reason: str
    candidates: tuple[Candidate, ...] = ()


def forced_engine(device: str) -> str | None:
    """Return the engine that the user named for this device, or None."""
    name = requested_backend()
    return name if name.partition(":")[0] == device and ":" in name else None


def engine_for(array: Array) -> Engine:
    """Return the engine for operations without a geometry, by where ``array`` lives."""
    device = device_of(array)
    return registry.engine(_usable(device, forced_engine(device))[0])


def select(op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, device: str) -> Decision:
    """Choose an engine for ``op`` (a method of the engine contract).

    Raises:
        UnsupportedError: no engine of the device can do it; every reason is given.
        BackendUnavailableError: an engine that was named cannot run here.
    """
    return _select(op, geometry, dtype, device, forced_engine(device), config.workspace_limit)


@lru_cache(maxsize=4096)
def _select(
    op: str,
    geometry: ConvGeometry | PoolGeometry,
    dtype: str,
    device: str,
    forced: str | None,
    workspace_limit: int,
) -> Decision:
    candidates = tuple(
        Candidate(n, registry.engine(n).plan(op, geometry, dtype, workspace_limit))
        for n in _usable(device, forced)
    )
    for candidate in candidates:
        plan = candidate.answer
        if isinstance(plan, Plan):
            return Decision(
                engine=candidate.engine,
                algorithm=plan.algorithm,
                workspace_bytes=plan.workspace_bytes,
                reason=f"{_why_this_engine(candidate.engine, forced, candidates)}; {plan.reason}",
                candidates=candidates,
            )
    reasons = "; ".join(
        f"{c.engine}: {c.answer.reason}" for c in candidates if isinstance(c.answer, Refusal)
    )
    raise UnsupportedError(f"no engine on {device!r} can compute {op} in {dtype}: {reasons}")


@lru_cache(maxsize=64)
def _usable(device: str, forced: str | None) -> tuple[str, ...]:
    """Names of the engines to ask, best first: the forced one, or all that can run here."""
    if forced:
        return (forced,)
    usable = tuple(n for n in registry.engine_names(device) if registry.probe(n).available)
    if not usable:
        require(device)  # raises, and says why
    return usable


def _why_this_engine(chosen: str, forced: str | None, candidates: tuple[Candidate, ...]) -> str:
    if forced:
        return f"{chosen} was asked for"
    if len(candidates) == 1:
        return f"{chosen} is the only engine on this device"
    refused = [
        f"{c.engine} refused ({c.answer.reason})"
        for c in candidates[: [c.engine for c in candidates].index(chosen)]
        if isinstance(c.answer, Refusal)
    ]
    if refused:
        return f"{'; '.join(refused)}; {chosen} comes next"
    return f"{chosen} comes first among {', '.join(c.engine for c in candidates)}"


def select_engine(op: str, geometry: ConvGeometry | PoolGeometry, array: Array) -> Engine:
    """Return the engine that :func:`select` chooses for an operation on ``array``."""
    decision = select(op, geometry, array.dtype.name, device_of(array))
    return registry.engine(decision.engine)


def target_device(device: str) -> str:
    """Return the device on which to compute data that lies on ``device``.

    Data stays where it is unless a backend of another device is in force by name.
    """
    name = requested_backend()
    if name == "auto":
        return device
    require(name)
    return resolve_device(name)[0]
