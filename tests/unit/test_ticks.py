"""Ticks of an axis: round, few, inside, and labelled with what they are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv.viz.ticks import epoch_axis, linear_axis, logarithmic_axis

numbers = st.floats(-1e12, 1e12, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-12)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 1.0], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.91, 0.99], ["0.92", "0.94", "0.96", "0.98"]),
        ([0.5, 2.3], ["0.5", "1.0", "1.5", "2.0"]),
        ([10.0, 60.0], ["10", "20", "30", "40", "50", "60"]),
        ([-1.0, 1.0], ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        ([2.5, 2.5], ["2.3", "2.4", "2.5", "2.6", "2.7"]),
    ],
)
def test_linear_labels(values: list[float], labels: list[str]) -> None:
    assert [label for _, label in linear_axis(values).ticks] == labels


@given(st.lists(numbers, min_size=1, max_size=20))
def test_a_linear_axis_shows_all_values_with_a_few_true_ticks(values: list[float]) -> None:
    axis = linear_axis(values)
    assert all(0 <= axis.fraction(value) <= 1 for value in values)
    ticks = [tick for tick, _ in axis.ticks]
    assert 1 <= len(ticks) <= 10
    assert all(0 <= axis.fraction(tick) <= 1 for tick in ticks)
    assert ticks == sorted(set(ticks))
    for tick, label in axis.ticks:
        assert math.isclose(float(label), tick, rel_tol=6e-3, abs_tol=1e-9 * (axis.high - axis.low))


def test_proportions_get_no_ticks_outside_zero_and_one() -> None:
    for values in ([0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.97, 1.0]):
        assert all(0 <= float(label) <= 1 for _, label in linear_axis(values).ticks)


@given(st.floats(1e-9, 1e9), st.floats(2, 1e12))
def test_a_logarithmic_axis_shows_all_values(low: float, ratio: float) -> None:
    values = [low, low * ratio]
    axis = logarithmic_axis(values)
    assert 0 < axis.fraction(values[0]) < axis.fraction(values[1]) < 1
    assert 1 <= len(axis.ticks) <= 8
    assert math.isclose(axis.fraction(low * math.sqrt(ratio)), 0.5, abs_tol=1e-6)
    for tick, label in axis.ticks:
        assert math.isclose(float(label), tick, rel_tol=1e-9)
        assert 0 <= axis.fraction(tick) <= 1


def test_logarithmic_labels() -> None:
    labels = [label for _, label in logarithmic_axis([0.03, 2.3]).ticks]
    assert labels == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    between = [label for _, label in logarithmic_axis([208.0, 416.0]).ticks]  # without 200 and 500
    assert between == ["300", "400"]


@pytest.mark.parametrize(
    ("epochs", "labels"),
    [
        (1, ["1"]),
        (2, ["1", "2"]),
        (6, ["1", "2", "3", "4", "5", "6"]),
        (12, ["1", "2", "4", "6", "8", "10", "12"]),
        (30, ["1", "5", "10", "15", "20", "25", "30"]),
        (100, ["1", "20", "40", "60", "80", "100"]),
    ],
)
def test_epochs_are_whole_and_begin_with_one(epochs: int, labels: list[str]) -> None:
    axis = epoch_axis(epochs)
    assert [label for _, label in axis.ticks] == labels
    assert all(0 <= axis.fraction(tick) <= 1 for tick, _ in axis.ticks)


@given(st.integers(1, 10**6))
def test_there_are_never_many_epoch_ticks(epochs: int) -> None:
    assert 1 <= len(epoch_axis(epochs).ticks) <= 12
