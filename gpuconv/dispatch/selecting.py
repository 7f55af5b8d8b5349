"""Choosing the engine for an operation.

The answers are cached by everything they depend on: operation, geometry, dtype, device, forced
engine, workspace limit, the settings that engines ask for, and what was measured. Looking one up
costs a few microseconds an operation, so that path does nothing else.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from gpuconv.backends import registry
from gpuconv.backends.arrays import device_of
from gpuconv.backends.base import Array, Engine, Plan, Refusal
from gpuconv.backends.selection import requested_backend, require, resolve_device
from gpuconv.backends.units import in_bytes, in_seconds
from gpuconv.dispatch import tuning
from gpuconv.dispatch.decision import Candidate, Decision
from gpuconv.dispatch.tuning import Measured
from gpuconv.dispatch.workspace import workspace_limit
from gpuconv.errors import UnsupportedError
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.settings import config

Geometry = ConvGeometry | PoolGeometry
Settings = tuple[bool, str | int, int]
"""Determinism, Winograd, threads: what plans depend on beside their arguments."""

_DTYPES = {"f": "float32", "d": "float64"}
"""By NumPy's one-letter code, which is found thirty times as fast as the name."""

_MODEL, _KNOWN, _MEASURE = range(3)
"""Where times come from: the engines' plans; what was measured before; measuring now."""

_watchers: contextvars.ContextVar[tuple[Callable[[Decision], None], ...]] = contextvars.ContextVar(
    "gpuconv_watchers", default=()
)


def forced_engine(device: str) -> str | None:
    """Return the engine that the user named for this device, or None."""
    name = requested_backend()
    return name if name.partition(":")[0] == device and ":" in name else None


def engine_for(array: Array) -> Engine:
    """Return the engine for operations without a geometry, by where ``array`` lives."""
    return registry.engine(_usable(*_place(array))[0])


def select(op: str, geometry: Geometry, dtype: str, device: str) -> Decision:
    """Choose an engine for ``op`` (a method of the engine contract) without running anything.

    With ``config.autotune`` times that were measured before are used where there are any.

    Raises:
        UnsupportedError: no engine of the device can do it; every reason is given.
        BackendUnavailableError: an engine that was named cannot run here.
    """
    mode, generation = (_KNOWN, tuning.tuner.generation) if config.autotune else (_MODEL, 0)
    forced = forced_engine(device)
    _usable(device, forced)  # before the device is asked for its memory
    limit = workspace_limit(device)
    return _select(op, geometry, dtype, device, forced, limit, config.planning, mode, generation)


def select_engine(op: str, geometry: Geometry, array: Array) -> Engine:
    """Return the engine for an operation on ``array``; with ``config.autotune`` it may measure."""
    return select_with_limit(op, geometry, array)[0]


def select_with_limit(op: str, geometry: Geometry, array: Array) -> tuple[Engine, int]:
    """Return :func:`select_engine`'s engine and the workspace limit that it was chosen under."""
    device, forced = _place(array)
    _usable(device, forced)  # before the device is asked for its memory
    limit = workspace_limit(device)
    mode = generation = 0
    if config.autotune:
        mode = _MEASURE if tuning.may_measure() else _KNOWN
        # What is known grows with every measurement; a choice that was measured here is final.
        generation = tuning.tuner.generation if mode == _KNOWN else 0
    dtype = array.dtype
    decision = _select(
        op,
        geometry,
        _DTYPES.get(dtype.char) or dtype.name,
        device,
        forced,
        limit,
        config.planning,
        mode,
        generation,
    )
    return registry.engine(decision.engine), limit


def target_device(device: str) -> str:
    """Return the device on which to compute data that lies on ``device``.

    Data stays where it is unless a backend of another device is in force by name.
    """
    name = requested_backend()
    if name == "auto" or name.partition(":")[0] == device:
        return device  # an engine that cannot run is found out when it is asked for
    require(name)
    return resolve_device(name)[0]


@contextlib.contextmanager
def watching(watcher: Callable[[Decision], None]) -> Iterator[None]:
    """Call ``watcher`` with every decision that is made for the first time in the block."""
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


def _place(array: Array) -> tuple[str, str | None]:
    """Return the device that computes ``array``, and the engine that was named for it."""
    device, name = device_of(array), requested_backend()
    if ":" not in name:
        return device, None
    wanted, _, engine = name.partition(":")
    return device, name if engine and wanted == device else None


@lru_cache(maxsize=64)
def _usable(device: str, forced: str | None) -> tuple[str, ...]:
    """Names of the engines to ask, best first: the forced one, or all that can run here."""
    if forced:
        return (forced,)
    usable = tuple(n for n in registry.engine_names(device) if registry.probe(n).available)
    if not usable:
        require(device)  # raises, and says why
    return usable


@lru_cache(maxsize=4096)
def _select(
    op: str,
    geometry: Geometry,
    dtype: str,
    device: str,
    forced: str | None,
    limit: int,
    settings: Settings,
    mode: int,
    generation: int,
) -> Decision:
    candidates = [
        _candidate(name, registry.engine(name).plan(op, geometry, dtype, limit), settings[0])
        for name in _usable(device, forced)
    ]
    candidates = _within(limit, candidates)
    names = [c.engine for c in candidates if _eligible(c)]
    measured = None
    if mode != _MODEL and len(names) > 1:
        find = tuning.tuner.measured if mode == _MEASURE else tuning.tuner.known
        measured = find(op, geometry, dtype, device, names, limit)
    if measured is not None:
        candidates = [_timed(c, measured) for c in candidates]
    chosen = _best([c for c in candidates if _eligible(c)], measured)
    if chosen is None:
        reasons = "; ".join(f"{c.engine}: {_objection(c)}" for c in candidates)
        raise UnsupportedError(f"no engine on {device!r} can compute {op} in {dtype}: {reasons}")
    plan = _plan(chosen)
    decision = Decision(
        engine=chosen.engine,
        algorithm=plan.algorithm,
        workspace_bytes=plan.workspace_bytes,
        reason=f"{_why(chosen, forced, candidates, measured)}; {plan.reason}",
        candidates=tuple(candidates),
        op=op,
        geometry=geometry,
        dtype=dtype,
        device=device,
        workspace_limit=limit,
    )
    for watcher in _watchers.get():
        watcher(decision)
    return decision


def _candidate(name: str, answer: Plan | Refusal, deterministic: bool) -> Candidate:
    note = ""
    if isinstance(answer, Plan) and deterministic and not answer.deterministic:
        note = "does not give the same bits on every run, and config.deterministic is True"
    return Candidate(name, answer, note=note)


def _within(limit: int, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Set aside what needs more memory than the limit, unless there would be nothing left."""
    eligible = [c for c in candidates if _eligible(c)]
    if not any(_plan(c).workspace_bytes <= limit for c in eligible):
        return list(candidates)
    return [
        replace(c, note=f"needs {in_bytes(_plan(c).workspace_bytes)} of {in_bytes(limit)}")
        if c in eligible and _plan(c).workspace_bytes > limit
        else c
        for c in candidates
    ]


def _timed(candidate: Candidate, measured: Measured) -> Candidate:
    dropped = measured.dropped.get(candidate.engine, "")
    seconds = measured.seconds.get(candidate.engine)
    return replace(candidate, measured=seconds, note=candidate.note or dropped)


def _eligible(candidate: Candidate) -> bool:
    return isinstance(candidate.answer, Plan) and not candidate.note


def _plan(candidate: Candidate) -> Plan:
    assert isinstance(candidate.answer, Plan)  # of candidates that are eligible
    return candidate.answer


def _objection(candidate: Candidate) -> str:
    return candidate.answer.reason if isinstance(candidate.answer, Refusal) else candidate.note


def _best(eligible: Sequence[Candidate], measured: Measured | None) -> Candidate | None:
    """The fastest by measurement, else by prediction, else the first."""
    times = [_seconds(c, measured) for c in eligible]
    known = [(s, i) for i, s in enumerate(times) if s is not None]
    if len(known) < len(eligible) or not eligible:
        return eligible[0] if eligible else None
    return eligible[min(known)[1]]


def _seconds(candidate: Candidate, measured: Measured | None) -> float | None:
    return candidate.measured if measured is not None else _plan(candidate).seconds


# --- words ----------------------------------------------------------------------------


def _why(
    chosen: Candidate,
    forced: str | None,
    candidates: Sequence[Candidate],
    measured: Measured | None,
) -> str:
    name = chosen.engine
    if forced:
        return f"{name} was asked for"
    if len(candidates) == 1:
        return f"{name} is the only engine on this device"
    eligible = [c for c in candidates if _eligible(c)]
    passed_over = [_passed_over(c) for c in candidates if c not in eligible]
    if len(eligible) == 1:
        return "; ".join([*passed_over, f"{name} is left"])
    if any(_seconds(c, measured) is None for c in eligible):
        several = ", ".join(c.engine for c in eligible)
        return "; ".join([*passed_over, f"{name} comes first among {several}"])
    others = ", ".join(
        f"{c.engine} ({_plan(c).algorithm}): {_figures(c, measured)}"
        for c in eligible
        if c is not chosen
    )
    how = "is predicted to be the fastest"
    if measured is not None:
        borrowed = f" for a batch of {measured.batch}" if measured.borrowed else ""
        how = f"was measured to be the fastest{borrowed}"
    return "; ".join(
        [f"{name} {how}: {_figures(chosen, measured)}, against {others}", *passed_over]
    )


def _passed_over(candidate: Candidate) -> str:
    if isinstance(candidate.answer, Refusal):
        return f"{candidate.engine} refused ({candidate.answer.reason})"
    return f"{candidate.engine} {candidate.note}"


def _figures(candidate: Candidate, measured: Measured | None) -> str:
    seconds, workspace = _seconds(candidate, measured), _plan(candidate).workspace_bytes
    assert seconds is not None  # only asked for where all are known
    memory = f"{in_bytes(workspace)} of workspace" if workspace else "no workspace"
    return f"{in_seconds(seconds)} with {memory}"
