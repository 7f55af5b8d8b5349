"""Engines that note when they compute, a clock that says what a test wants, and a fresh tuner."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
from devices import square

from gpuconv import dispatch
from gpuconv.backends import registry, selection
from gpuconv.backends.base import Plan
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.dispatch import selecting, tuning
from gpuconv.dispatch.measurements import Measurements
from gpuconv.dispatch.tuning import Tuner
from gpuconv.settings import config

CONV = square(4, 3, 5, 8, 3)

calls: list[str] = []
"""Which engines have computed, in order."""


class Noted(CpuNumpy):
    """An engine that is predicted to be slow, and notes when it computes."""

    answer = Plan("noted", 0, "made for it", 2e-3)
    error: Exception | None = None

    def plan(self, op, geometry, dtype, workspace_limit):
        return self.answer

    def conv_forward(self, *arguments):
        calls.append(self.name)
        if self.error is not None:
            raise self.error
        return super().conv_forward(*arguments)


class First(Noted):
    name = "cpu:first"
    answer = Plan("first", 0, "made for it", 1e-3)


class Second(Noted):
    name = "cpu:second"


class Third(Noted):
    name = "cpu:third"


class Clock:
    """A timer that runs what it times and then says what the test wants."""

    def __init__(self, **seconds):
        self.seconds = {f"cpu:{name}": value for name, value in seconds.items()}
        self.timed = []

    def __call__(self, run, repeats):
        run()
        self.timed.append(calls[-1])
        return self.seconds[calls[-1]]


@contextlib.contextmanager
def tuned(clock, folder):
    """A tuner that knows nothing, its cache in a folder, and two engines to choose from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GPUCONV_BACKEND", raising=False)
        patch.setenv("GPUCONV_CACHE", str(folder))
        patch.setattr(selection, "_process", None)
        patch.setattr(tuning, "tuner", Tuner(Measurements(), clock))
        engines(patch, First, Second)
        calls.clear()
        config.autotune = True
        try:
            yield
        finally:
            config.autotune, config.deterministic = False, True
            forget()


def forget():
    for cached in (registry.engine, selecting._select, selecting._usable):
        cached.cache_clear()


def engines(monkeypatch, *classes):
    modules = {c.name: f"{__name__}:{c.__name__}" for c in classes}
    monkeypatch.setattr(registry, "_MODULES", modules)
    forget()


def restart(monkeypatch, clock):
    """What a new process would begin with."""
    monkeypatch.setattr(tuning, "tuner", Tuner(Measurements(), clock))
    forget()
    clock.timed.clear()


def with_batch(batch):
    return dataclasses.replace(CONV, batch=batch)


def chosen(geometry=CONV, op="conv_forward"):
    """The engine that computes arrays of this geometry."""
    return dispatch.select_engine(op, geometry, np.zeros(1, "float32")).name


def explained(geometry=CONV):
    return dispatch.select("conv_forward", geometry, "float32", "cpu")


def files(tmp_path):
    return sorted((tmp_path / "cache" / "tuning").iterdir())
