"""A device without kernels: the CPU engine behind arrays that keep a device's rules.

:func:`stand_in_device` makes ``cuda-sim`` compute with NumPy. Layers, losses, optimizers and
the training loop can so be run on device arrays at full speed, without Numba's simulator: what
mixes host and device arrays raises, and what reads from the device is counted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

from gpuconv.backends import cuda_probe, registry, selection
from gpuconv.backends.base import Engine, Probe
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.simulated import SimulatedArray
from gpuconv.dispatch import selecting


def _unwrapped(value: Any) -> Any:
    return value.host if isinstance(value, SimulatedArray) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wrapped, value))
    return SimulatedArray(value) if hasattr(value, "dtype") else value


def _on_the_device(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Engine, *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            if hasattr(argument, "dtype") and not isinstance(argument, SimulatedArray):
                raise TypeError(
                    f"{method.__name__}: an engine of a device takes arrays on it. "
                    f"Received: {type(argument).__name__}"
                )
        named = {name: _unwrapped(value) for name, value in kwargs.items()}
        return _wrapped(method(self, *map(_unwrapped, args), **named))

    return call


class StandIn(CpuNumpy):
    """The CPU engine for arrays on the simulated device."""

    name: ClassVar[str] = "cuda-sim:stand-in"
    device: ClassVar[str] = "cuda-sim"


for _name in sorted(Engine.__abstractmethods__ - {"probe", "plan"}):
    _method = _on_the_device(getattr(CpuNumpy, _name))
    _method.__doc__ = getattr(Engine, _name).__doc__
    setattr(StandIn, _name, _method)


@contextlib.contextmanager
def stand_in_device() -> Iterator[None]:
    """Let ``"cuda-sim"`` be there inside a ``with`` block, computed by NumPy."""
    engines = {"cuda-sim:stand-in": "gpuconv.testing.device_stand_in:StandIn"}
    there = Probe(True, "a stand-in for tests")
    with (
        mock.patch.object(registry, "_MODULES", {**registry._MODULES, **engines}),
        mock.patch.object(registry, "engine_names", _engine_names),
        mock.patch.object(cuda_probe, "probe_simulator", return_value=there),
    ):
        _forget()
        try:
            yield
        finally:
            _forget()


def _engine_names(device: str | None = None) -> tuple[str, ...]:
    names = tuple(n for n in registry._MODULES if n != "cuda-sim:numba")
    return tuple(n for n in names if device is None or n.partition(":")[0] == device)


def _forget() -> None:
    selection.forget_devices()
    registry.engine.cache_clear()
    for cached in (selecting._usable, selecting._select):
        cached.cache_clear()
