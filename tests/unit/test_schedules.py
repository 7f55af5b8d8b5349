"""Learning-rate schedules in closed form."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gpuconv.errors import InvalidArgumentError, UnknownArgumentError
from gpuconv.optimizers import schedules


def test_exponential() -> None:
    smooth = schedules.ExponentialDecay(0.1, 10, 0.5)
    stairs = schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True)
    assert [smooth(s) for s in (0, 5, 10, 25)] == pytest.approx(
        [0.1, 0.1 * 0.5**0.5, 0.05, 0.1 * 0.5**2.5]
    )
    assert [stairs(s) for s in (0, 5, 9, 10, 25)] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.025])


def test_cosine() -> None:
    plain = schedules.CosineDecay(0.2, 100)
    assert [plain(s) for s in (0, 50, 100, 1000)] == pytest.approx([0.2, 0.1, 0, 0], abs=1e-12)
    floor = schedules.CosineDecay(0.2, 100, alpha=0.1)
    expected = 0.2 * (0.9 * 0.5 * (1 + math.cos(math.pi * 0.3)) + 0.1)
    assert [floor(s) for s in (30, 100, 500)] == pytest.approx([expected, 0.02, 0.02])


def test_cosine_with_warm_up() -> None:
    warm = schedules.CosineDecay(0.1, 100, alpha=0.1, warmup_target=0.5, warmup_steps=20)
    rising = [warm(s) for s in (0, 5, 10, 19, 20)]
    assert rising == pytest.approx([0.1, 0.2, 0.3, 0.48, 0.5])
    assert [warm(s) for s in (70, 120, 121)] == pytest.approx([0.275, 0.05, 0.05])
    none = schedules.CosineDecay(0.1, 100, warmup_target=0.5)
    assert [none(s) for s in (0, 50)] == pytest.approx([0.5, 0.25])


def test_piecewise() -> None:
    steps = schedules.PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
    assert [steps(s) for s in (0, 100, 101, 200, 201, 9999)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    assert schedules.PiecewiseConstantDecay([], [0.3])(7) == 0.3


def test_polynomial() -> None:
    line = schedules.PolynomialDecay(0.1, 10, end_learning_rate=0.02)
    assert [line(s) for s in (0, 5, 10, 11)] == pytest.approx([0.1, 0.06, 0.02, 0.02])
    root = schedules.PolynomialDecay(0.1, 10, 0.0, power=0.5)
    assert root(7) == pytest.approx(0.1 * math.sqrt(0.3))
    cycle = schedules.PolynomialDecay(0.1, 10, 0.0, cycle=True)
    assert [cycle(s) for s in (0, 5, 10, 11, 20, 25)] == pytest.approx(
        [0.1, 0.05, 0.0, 0.1 * (1 - 11 / 20), 0.0, 0.1 * (1 - 25 / 30)]
    )


ALL: list[schedules.Schedule] = [
    schedules.ExponentialDecay(0.1, 10, 0.5, True),
    schedules.CosineDecay(0.1, 100, 0.1, 0.5, 20),
    schedules.PiecewiseConstantDecay((1, 2), (3.0, 2.0, 1.0)),
    schedules.PolynomialDecay(0.1, 10, 0.02, 2.0, True),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_configurations(schedule: schedules.Schedule) -> None:
    stored = json.loads(json.dumps(schedules.serialize(schedule)))
    again = schedules.get(stored)
    assert type(again) is type(schedule)
    assert [again(s) for s in range(50)] == [schedule(s) for s in range(50)]
    assert schedules.get(schedule) is schedule


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), InvalidArgumentError),
        (lambda: schedules.ExponentialDecay(0.1, 10, 0), InvalidArgumentError),
        (lambda: schedules.ExponentialDecay(-0.1, 10, 0.5), InvalidArgumentError),
        (lambda: schedules.ExponentialDecay(math.nan, 10, 0.5), InvalidArgumentError),
        (lambda: schedules.CosineDecay(0.1, 2.5), InvalidArgumentError),
        (lambda: schedules.CosineDecay(0.1, 10, warmup_steps=5), InvalidArgumentError),
        (lambda: schedules.CosineDecay(0.1, 10, warm_up_steps=5), UnknownArgumentError),
        (lambda: schedules.PiecewiseConstantDecay([1, 2], [1.0, 2.0]), InvalidArgumentError),
        (lambda: schedules.PiecewiseConstantDecay([2, 1], [1.0, 2.0, 3.0]), InvalidArgumentError),
        (lambda: schedules.PolynomialDecay("0.1", 10), InvalidArgumentError),
        (lambda: schedules.get({"class_name": "Decay"}), InvalidArgumentError),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Received: "):
        make()
