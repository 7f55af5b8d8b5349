"""Adadelta, Adamax, Nadam and Lion against their papers' formulas, number by number."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuconv import optimizers
from gpuconv.optimizers import schedules
from gpuconv.parameter import Parameter

GRADIENTS = [0.5, -1.5, 2.0, 0.25, -0.75, 3.0]


def adadelta(w: float) -> float:
    s = u = 0.0
    for g in GRADIENTS:
        s = 0.9 * s + 0.1 * g * g
        d = g * math.sqrt(u + 1e-4) / math.sqrt(s + 1e-4)
        u = 0.9 * u + 0.1 * d * d
        w -= 0.5 * d
    return w


def adamax(w: float) -> float:
    m = u = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        m = 0.8 * m + 0.2 * g
        u = max(0.95 * u, abs(g))
        w -= 0.1 / (1 - 0.8**t) * m / (u + 1e-3)
    return w


def nadam(w: float) -> float:
    m = v = 0.0
    product = 1.0
    for t, g in enumerate(GRADIENTS, 1):
        now, following = (0.8 * (1 - 0.5 * 0.96**n) for n in (t, t + 1))
        product *= now
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g * g
        ahead = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
        w -= 0.1 * ahead / (math.sqrt(v / (1 - 0.95**t)) + 1e-3)
    return w


def lion(w: float) -> float:
    m = 0.0
    for g in GRADIENTS:
        w -= 0.1 * math.copysign(1, 0.9 * m + 0.1 * g)
        m = 0.7 * m + 0.3 * g
    return w


CASES: dict[str, tuple[Callable[[], optimizers.Optimizer], Callable[[float], float]]] = {
    "adadelta": (lambda: optimizers.Adadelta(0.5, rho=0.9, epsilon=1e-4), adadelta),
    "adamax": (lambda: optimizers.Adamax(0.1, 0.8, 0.95, 1e-3), adamax),
    "nadam": (lambda: optimizers.Nadam(0.1, 0.8, 0.95, 1e-3), nadam),
    "lion": (lambda: optimizers.Lion(0.1, beta_1=0.9, beta_2=0.7), lion),
}


def take(optimizer: optimizers.Optimizer, w: Parameter, gradients: list[float]) -> None:
    for g in gradients:
        w.grad = np.full(w.shape, g, w.dtype)
        optimizer.step([w])


@pytest.mark.parametrize("name", CASES)
def test_steps(name: str) -> None:
    make, reference = CASES[name]
    w = Parameter(np.array([1.0, -2.0]), "w")
    take(make(), w, GRADIENTS)
    np.testing.assert_allclose(w.value, [reference(1.0), reference(-2.0)], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_state_goes_on(name: str) -> None:
    make, reference = CASES[name]
    w = Parameter(np.array([1.0]), "w")
    first, second = make(), make()
    take(first, w, GRADIENTS[:4])
    second.load_state_dict(first.state_dict([w]), [w])
    take(copy.deepcopy(second), Parameter(w.value.copy(), "w"), GRADIENTS)  # another's steps
    take(second, w, GRADIENTS[4:])
    np.testing.assert_allclose(w.value, [reference(1.0)], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_configuration(name: str) -> None:
    optimizer = CASES[name][0]()
    assert type(optimizers.get(name)) is type(optimizer)
    assert optimizers.get(optimizers.serialize(optimizer)).get_config() == optimizer.get_config()


def test_inverse_time_decay() -> None:
    rates = [schedules.InverseTimeDecay(0.8, 2, 0.5)(step) for step in range(5)]
    np.testing.assert_allclose(rates, [0.8, 0.8 / 1.25, 0.8 / 1.5, 0.8 / 1.75, 0.4])
    stairs: Any = schedules.InverseTimeDecay(0.8, 2, 0.5, staircase=True)
    assert [stairs(step) for step in (0, 1, 3)] == pytest.approx([0.8, 0.8, 0.8 / 1.5])


def test_cosine_decay_restarts() -> None:
    schedule = schedules.CosineDecayRestarts(0.4, 4, t_mul=2.0, m_mul=0.5, alpha=0.25)
    got = [schedule(step) for step in (0, 2, 4, 8, 12)]
    # Periods begin at 0, 4 and 12; each half as high.
    waves = [1.0, 0.5, 0.5, 0.25, 0.25]
    np.testing.assert_allclose(got, [0.4 * (0.75 * wave + 0.25) for wave in waves])
    even = schedules.CosineDecayRestarts(1.0, 3, t_mul=1.0)
    assert [even(step) for step in (0, 3, 6)] == pytest.approx([1, 1, 1])
    assert even(10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
