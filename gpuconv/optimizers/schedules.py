"""Learning rates that change with the number of steps taken, as in Keras 3.15.

A schedule is given to an optimizer in place of a number; it is called with the number of
steps taken before (0 for the first) and returns a float.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from gpuconv.configurable import Configurable, Registry
from gpuconv.errors import InvalidArgumentError


class Schedule(Configurable, ABC):
    """Base class; a subclass defines :meth:`__call__`."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the learning rate of step ``step``, which counts from 0."""


class ExponentialDecay(Schedule):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``.

    Args:
        initial_learning_rate: rate of step 0.
        decay_steps: steps in which the rate is multiplied by ``decay_rate`` once.
        decay_rate: positive factor.
        staircase: whether the exponent is rounded down to an integer.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = _steps(decay_steps, "decay_steps")
        self.decay_rate = _rate(decay_rate, "decay_rate")
        if self.decay_rate == 0:
            raise InvalidArgumentError(f"decay_rate must be positive. Received: {decay_rate!r}")
        self.staircase = bool(staircase)

    def __call__(self, step: int) -> float:
        exponent = step / self.decay_steps
        if self.staircase:
            exponent = math.floor(exponent)
        return self.initial_learning_rate * math.pow(self.decay_rate, exponent)


class CosineDecay(Schedule):
    """Half a period of a cosine, with an optional linear warm-up (Loshchilov and Hutter 2017).

    Without warm-up the rate falls from ``initial_learning_rate`` to ``alpha`` times it in
    ``decay_steps`` steps. With warm-up it first rises from ``initial_learning_rate`` to
    ``warmup_target`` in ``warmup_steps`` steps and then falls to ``alpha * warmup_target``.

    Raises:
        InvalidArgumentError: an impossible value; ``warmup_steps`` without ``warmup_target``.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate = _rate(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = _steps(decay_steps, "decay_steps")
        self.alpha = _rate(alpha, "alpha")
        self.warmup_target = (
            None if warmup_target is None else _rate(warmup_target, "warmup_target")
        )
        self.warmup_steps = _steps(warmup_steps, "warmup_steps", least=0)
        if self.warmup_steps and self.warmup_target is None:
            raise InvalidArgumentError(
                f"warmup_steps needs warmup_target, the rate at the end of the warm-up. "
                f"Received: warmup_steps={warmup_steps!r}, warmup_target=None"
            )

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top = self.warmup_target
        part = min(step - self.warmup_steps, self.decay_steps) / self.decay_steps
        return top * ((1 - self.alpha) * 0.5 * (1 + math.cos(math.pi * part)) + self.alpha)


class PiecewiseConstantDecay(Schedule):
    """``values[0]`` up to and including step ``boundaries[0]``, then ``values[1]``, and so on.

    Args:
        boundaries: increasing numbers of steps.
        values: rates, one more than there are boundaries.

    Raises:
        InvalidArgumentError: the lengths do not fit, or the boundaries do not increase.
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float]) -> None:
        self.boundaries = list(boundaries)
        self.values = [_rate(value, "values") for value in values]
        if len(self.values) != len(self.boundaries) + 1:
            raise InvalidArgumentError(
                f"values must be one more than boundaries. "
                f"Received: {len(self.boundaries)} boundaries, {len(self.values)} values"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise InvalidArgumentError(f"boundaries must increase. Received: {boundaries!r}")

    def __call__(self, step: int) -> float:
        return self.values[bisect_left(self.boundaries, step)]


class PolynomialDecay(Schedule):
    """``(initial - end) * (1 - step / decay_steps) ** power + end``.

    Args:
        initial_learning_rate: rate of step 0.
        decay_steps: steps until ``end_learning_rate`` is reached.
        end_learning_rate: the last rate, kept from then on.
        power: exponent; 1 is a straight line.
        cycle: instead of keeping the last rate, stretch ``decay_steps`` to its next multiple
            that is not below the step, so that the rate jumps up and falls again.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = _steps(decay_steps, "decay_steps")
        self.end_learning_rate = _rate(end_learning_rate, "end_learning_rate")
        self.power = _rate(power, "power")
        self.cycle = bool(cycle)

    def __call__(self, step: int) -> float:
        length: float = self.decay_steps
        if self.cycle:
            length *= max(1, math.ceil(step / self.decay_steps))
        part = min(step, length) / length
        span = self.initial_learning_rate - self.end_learning_rate
        return span * math.pow(1 - part, self.power) + self.end_learning_rate


class InverseTimeDecay(Schedule):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``.

    Args:
        initial_learning_rate: rate of step 0.
        decay_steps, decay_rate: as in the formula.
        staircase: whether ``step / decay_steps`` is rounded down to an integer.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _rate(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = _steps(decay_steps, "decay_steps")
        self.decay_rate = _rate(decay_rate, "decay_rate")
        self.staircase = bool(staircase)

    def __call__(self, step: int) -> float:
        part = step / self.decay_steps
        if self.staircase:
            part = math.floor(part)
        return self.initial_learning_rate / (1 + self.decay_rate * part)


class CosineDecayRestarts(Schedule):
    """Half periods of a cosine, one after another (SGDR: Loshchilov and Hutter 2017).

    Args:
        initial_learning_rate: rate of step 0.
        first_decay_steps: length of the first period.
        t_mul: each period is this many times as long as the one before; at least 1.
        m_mul: each period begins at this many times the rate of the one before.
        alpha: the least rate, as a part of ``initial_learning_rate``.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ) -> None:
        self.initial_learning_rate = _rate(initial_learning_rate, "initial_learning_rate")
        self.first_decay_steps = _steps(first_decay_steps, "first_decay_steps")
        self.t_mul = _rate(t_mul, "t_mul")
        if self.t_mul < 1:
            raise InvalidArgumentError(f"t_mul must be at least 1. Received: {t_mul!r}")
        self.m_mul = _rate(m_mul, "m_mul")
        self.alpha = _rate(alpha, "alpha")

    def __call__(self, step: int) -> float:
        begin, length, restarts = 0.0, float(self.first_decay_steps), 0
        if self.t_mul == 1:
            restarts = int(step // length)
            begin = restarts * length
        else:
            while step >= begin + length:
                begin, length, restarts = begin + length, length * self.t_mul, restarts + 1
        cosine = 0.5 * self.m_mul**restarts * (1 + math.cos(math.pi * (step - begin) / length))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


LearningRateSchedule = Schedule
"""Keras's name of the base class."""


def _rate(value: float, name: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise InvalidArgumentError(f"{name} must be a number of at least 0. Received: {value!r}")
    return float(value)


def _steps(value: int, name: str, least: int = 1) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and value >= least and value == int(value)):
        raise InvalidArgumentError(
            f"{name} must be a whole number of steps, at least {least}. Received: {value!r}"
        )
    return int(value)


_registry: Registry[Schedule] = Registry("schedule", Schedule)
_registry.register(ExponentialDecay)
_registry.register(CosineDecay)
_registry.register(PiecewiseConstantDecay)
_registry.register(PolynomialDecay)
_registry.register(InverseTimeDecay)
_registry.register(CosineDecayRestarts)

register = _registry.register


def get(identifier: Schedule | Mapping[str, Any]) -> Schedule:
    """Return a schedule from itself or from a dict of :func:`serialize`.

    Raises:
        InvalidArgumentError: neither, or an unknown class name.
    """
    return _registry.get(identifier)


def serialize(schedule: Schedule) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(schedule)
