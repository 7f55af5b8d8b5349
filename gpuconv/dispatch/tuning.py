"""Measured choice: candidates are timed once for each operation, geometry, dtype and device.

Each candidate is warmed up, which also compiles it. Then several rounds time one after the
other, so that a change of the clock meets all of them; the least time of each counts. Times are
kept in memory and in the cache folder.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuconv.backends import registry
from gpuconv.backends.device_profile import device_name
from gpuconv.backends.units import in_seconds
from gpuconv.dispatch.measurements import Key, Measurements
from gpuconv.dispatch.operands import Operands
from gpuconv.geometry import ConvGeometry, PoolGeometry

Run = Callable[[], object]
Timer = Callable[[Run, int], float]
"""Runs something so many times and returns the seconds of one."""

_log = logging.getLogger("gpuconv")

_WARM_UPS = 2
_ROUNDS = 5
_LEAST_SECONDS, _MOST_REPEATS = 1e-3, 20
"""A round repeats short runs until it lasts so long, or so many times."""

_allowed: contextvars.ContextVar[bool] = contextvars.ContextVar("gpuconv_tuning", default=True)


@contextlib.contextmanager
def without_tuning() -> Iterator[None]:
    """Measure nothing inside a ``with`` block, for this thread or task only.

    For batches that come once, such as the short last one of an epoch: they take what was
    measured for the same geometry with another batch size, or what the model of costs says.
    """
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def may_measure() -> bool:
    """Whether this is outside of every :func:`without_tuning` block."""
    return _allowed.get()


@dataclass(frozen=True)
class Measured:
    """What is known about the candidates of one operation.

    Attributes:
        seconds: engine -> its least time.
        dropped: engine -> why it could not be timed.
        batch: batch size that was measured.
        borrowed: whether that is another one than was asked about.
    """

    seconds: Mapping[str, float]
    batch: int
    dropped: Mapping[str, str] = field(default_factory=dict)
    borrowed: bool = False

    def covers(self, engines: Sequence[str]) -> bool:
        """Whether nothing is missing about ``engines``, and one of them has a time."""
        return all(e in self.seconds or e in self.dropped for e in engines) and any(
            e in self.seconds for e in engines
        )


class Tuner:
    """Times candidates and remembers.

    Args:
        store: where times are kept; None keeps them in memory only.
        timer: None takes the device's events on CUDA and the clock on the CPU.
    """

    def __init__(self, store: Measurements | None = None, timer: Timer | None = None) -> None:
        self.store = store
        self.timer = timer
        self.generation = 0
        """Rises with everything that becomes known."""
        self._known: dict[Key, dict[int, Measured]] = {}
        self._lock = threading.RLock()

    def known(
        self,
        op: str,
        geometry: ConvGeometry | PoolGeometry,
        dtype: str,
        device: str,
        engines: Sequence[str],
        limit: int,
    ) -> Measured | None:
        """Return what was measured for this geometry, or else for the nearest batch size."""
        with self._lock:
            batches = self._batches(_key(op, geometry, dtype, device))
            usable = [m for m in batches.values() if m.covers(engines)]
        if not usable:
            return None
        nearest = min(usable, key=lambda m: (abs(m.batch - geometry.batch), m.batch))
        return dataclasses.replace(nearest, borrowed=nearest.batch != geometry.batch)

    def measured(
        self,
        op: str,
        geometry: ConvGeometry | PoolGeometry,
        dtype: str,
        device: str,
        engines: Sequence[str],
        limit: int,
    ) -> Measured | None:
        """Return what is known about exactly this geometry; time the engines if nothing is.

        Args:
            op, geometry, dtype, device: what is to be computed.
            engines: names of the candidates.
            limit: of the workspace, in bytes.

        Returns:
            None where nothing can be timed: an empty batch, the simulator, no memory.
        """
        if geometry.batch == 0 or device == "cuda-sim" or not Operands.can_make(op):
            return None
        key = _key(op, geometry, dtype, device)
        with self._lock:
            batches = self._batches(key)
            found = batches.get(geometry.batch)
            if found is None or not _is_complete(found, engines):
                found = self._time(op, geometry, dtype, device, engines, limit)
                batches[geometry.batch] = found
                self.generation += 1
                if self.store is not None and found.seconds:
                    self.store.write(key, {b: m.seconds for b, m in batches.items() if m.seconds})
        return found if found.covers(engines) else None

    def forget(self) -> None:
        """Forget what is in memory."""
        with self._lock:
            self._known.clear()
            self.generation += 1

    def _batches(self, key: Key) -> dict[int, Measured]:
        if key not in self._known:
            stored = {} if self.store is None else self.store.read(key)
            self._known[key] = {batch: Measured(times, batch) for batch, times in stored.items()}
        return self._known[key]

    def _time(
        self,
        op: str,
        geometry: ConvGeometry | PoolGeometry,
        dtype: str,
        device: str,
        engines: Sequence[str],
        limit: int,
    ) -> Measured:
        timer = self.timer or timer_for(device)
        runs: dict[str, Run] = {}
        dropped: dict[str, str] = {}
        try:
            operands = Operands(op, geometry, dtype, device)
            for name in engines:
                runs[name] = operands.run(registry.engine(name), limit)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"could not be timed: no memory for the arrays ({_first_line(error)})"
            return Measured({}, geometry.batch, dict.fromkeys(engines, reason))
        seconds, dropped = time_in_turns(runs, timer)
        times = ", ".join(f"{name} {in_seconds(s)}" for name, s in seconds.items())
        _log.info("measured %s of %s in %s: %s", op, geometry, dtype, times or "nothing")
        return Measured(seconds, geometry.batch, dropped)


def time_in_turns(
    runs: Mapping[str, Run], timer: Timer, rounds: int = _ROUNDS
) -> tuple[dict[str, float], dict[str, str]]:
    """Time several candidates, one after the other in each round.

    Returns:
        Name -> least seconds of a run, and name -> reason for those that ran out of memory.
    """
    seconds: dict[str, float] = {}
    repeats: dict[str, int] = {}
    dropped: dict[str, str] = {}
    for turn in range(_WARM_UPS + rounds):
        for name, run in runs.items():
            if name in dropped:
                continue
            try:
                taken = timer(run, repeats.get(name, 1))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                dropped[name] = f"ran out of memory when it was timed ({_first_line(error)})"
                seconds.pop(name, None)
                continue
            if turn < _WARM_UPS:
                wanted = math.ceil(_LEAST_SECONDS / max(taken, 1e-9))
                repeats[name] = max(1, min(wanted, _MOST_REPEATS))
            else:
                seconds[name] = min(taken, seconds.get(name, math.inf))
    return seconds, dropped


def timer_for(device: str) -> Timer:
    """Return the timer of a device."""
    return cuda_timer if device == "cuda" else clock_timer


def clock_timer(run: Run, repeats: int) -> float:
    """Time on the CPU, by the clock."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def cuda_timer(run: Run, repeats: int) -> float:
    """Time on the current CUDA stream, by events; waits for the device."""
    import cupy

    stream = cupy.cuda.get_current_stream()
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record(stream)
    for _ in range(repeats):
        run()
    stop.record(stream)
    stop.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, stop)) / 1e3 / repeats


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: NumPy's, CuPy's, the driver's, cuBLAS's."""
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        word in words for word in ("outofmemory", "out_of_memory", "alloc_failed")
    )


def _is_complete(found: Measured, engines: Sequence[str]) -> bool:
    return all(e in found.seconds or e in found.dropped for e in engines)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _key(op: str, geometry: ConvGeometry | PoolGeometry, dtype: str, device: str) -> Key:
    return Key(op, dataclasses.replace(geometry, batch=0), dtype, device, device_name(device))


tuner = Tuner(Measurements())
"""The one that the dispatcher asks."""
