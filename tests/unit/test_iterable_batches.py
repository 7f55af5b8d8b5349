"""Batches that the user makes: re-iterables, generators, and what is no batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpuconv.data import ArrayBatches, IterableBatches, make_batches
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError


def _item(number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.full((2, 3), number, np.float32), np.full(2, number)


def _generator(count: int) -> Iterator[Any]:
    for number in range(count):
        yield _item(number)


class Loader:
    """A re-iterable; its length is known if told."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.starts = 0

    def __iter__(self) -> Iterator[Any]:
        self.starts += 1
        return _generator(self.count)


class SizedLoader(Loader):
    def __len__(self) -> int:
        return self.count


def _numbers(batches: IterableBatches) -> list[int]:
    return [int(y[0]) for _, y, _ in batches.epoch()]


def test_a_re_iterable_starts_anew_each_epoch() -> None:
    loader = SizedLoader(3)
    batches = IterableBatches(loader)
    assert batches.steps == 3
    assert [_numbers(batches) for _ in range(2)] == [[0, 1, 2], [0, 1, 2]]
    assert loader.starts == 2
    assert not batches.exhausted


def test_an_unknown_length_is_none() -> None:
    assert IterableBatches(Loader(3)).steps is None
    assert IterableBatches(Loader(3), steps_per_epoch=2).steps == 2


def test_a_list_of_batches() -> None:
    batches = make_batches([_item(0), _item(1)])
    assert isinstance(batches, IterableBatches)
    assert _numbers(batches) == [0, 1]


def test_steps_go_on_where_the_last_epoch_stopped_and_start_over_at_the_end() -> None:
    batches = IterableBatches(Loader(3), steps_per_epoch=2)
    assert [_numbers(batches) for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]
    batches = IterableBatches(Loader(2), steps_per_epoch=5)
    assert _numbers(batches) == [0, 1, 0, 1, 0]
    assert not batches.exhausted


def test_a_generator_is_one_epoch() -> None:
    batches = IterableBatches(_generator(3))
    assert batches.one_shot
    batches.check_epochs(1)
    with pytest.raises(InvalidArgumentError, match=r"only once.*generator for 2 epochs"):
        batches.check_epochs(2)
    assert _numbers(batches) == [0, 1, 2]
    assert not batches.exhausted
    with pytest.warns(UserWarning, match="ran out of data after 3 batches"):
        assert _numbers(batches) == []
    assert batches.exhausted


def test_a_generator_with_steps_lasts_for_several_epochs_and_says_when_it_ends() -> None:
    batches = IterableBatches(_generator(5), steps_per_epoch=2)
    batches.check_epochs(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [_numbers(batches) for _ in range(2)] == [[0, 1], [2, 3]]
    assert not batches.exhausted
    with pytest.warns(UserWarning, match="after 5 batches in all, 1 of 2 in this epoch"):
        assert _numbers(batches) == [4]
    assert batches.exhausted


def test_re_iterables_may_be_used_for_any_number_of_epochs() -> None:
    IterableBatches(Loader(2)).check_epochs(100)


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("empty", [iter([]), []])
def test_not_a_single_batch(empty: Any, steps: int | None) -> None:
    batches = IterableBatches(empty, steps_per_epoch=steps)
    with pytest.raises(InvalidArgumentError, match="at least one batch"):
        list(batches.epoch())


def test_a_re_iterable_that_turns_out_empty_does_not_hang() -> None:
    class Once(Loader):
        def __iter__(self) -> Iterator[Any]:
            self.starts += 1
            return _generator(self.count if self.starts == 1 else 0)

    batches = IterableBatches(Once(1), steps_per_epoch=3)
    with pytest.warns(UserWarning, match="after 1 batches in all, 1 of 3"):
        assert _numbers(batches) == [0]


def test_batches_may_be_lists_with_weights_and_several_inputs() -> None:
    x, y = _item(4)
    item = [(x, x), y.tolist(), [0.5, 2.0]]
    (first, second), targets, weights = next(IterableBatches([item]).epoch())
    assert first.dtype == second.dtype == np.float32
    assert targets.tolist() == [4, 4]
    assert weights.tolist() == [0.5, 2.0]


def test_inputs_alone_where_no_targets_are_needed() -> None:
    x, _ = _item(4)
    for item in (x, (x,), [x], (x, None)):
        got, y, w = next(IterableBatches(iter([item]), targets=False).epoch())
        assert got.shape == (2, 3)
        assert (y, w) == (None, None)
        with pytest.raises(InvalidArgumentError, match=r"batch 0 must .*Received: "):
            next(IterableBatches(iter([item])).epoch())


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ((np.zeros((2, 3)), np.zeros(3)), ShapeError, "batch 1: x with 2, y with 3"),
        ((np.zeros((0, 3)), np.zeros(0)), InvalidArgumentError, "batch 1: x must have at least"),
        ((np.array(["a", "b"]), np.zeros(2)), DTypeError, "batch 1: x"),
        ((np.full((2, 3), np.nan), np.zeros(2)), InvalidArgumentError, "batch 1 must hold finite"),
        ((np.zeros((2, 3)), np.array([0, np.inf])), InvalidArgumentError, "batch 1 must hold"),
        ((1, 2, 3, 4), InvalidArgumentError, r"batch 1 must be \(x, y\) or .*tuple of 4"),
        ({"x": 1}, InvalidArgumentError, "batch 1 must be .*dict of 1"),
        ((), InvalidArgumentError, "tuple of 0"),
    ],
)
def test_an_item_that_is_no_batch_is_named_by_its_number(
    item: Any, error: type[Exception], words: str
) -> None:
    stream = IterableBatches([_item(0), item]).epoch()
    next(stream)
    with pytest.raises(error, match=words):
        next(stream)


def test_a_permutation_makes_no_sense() -> None:
    with pytest.raises(InvalidArgumentError, match="own order"):
        IterableBatches([_item(0)]).epoch(np.arange(2))


@pytest.mark.parametrize("value", [3, "abc", {"x": 1}, None])
def test_what_cannot_be_iterated(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected an iterable of batches"):
        IterableBatches(value)


@pytest.mark.parametrize("steps", [0, -2, 1.5, True])
def test_steps_per_epoch_is_a_positive_integer(steps: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="steps_per_epoch must be"):
        IterableBatches([_item(0)], steps_per_epoch=steps)


def test_targets_and_weights_beside_an_iterable_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="brings its own y"):
        make_batches(_generator(2), np.zeros(4))
    with pytest.raises(InvalidArgumentError, match="brings its own sample_weight"):
        make_batches(_generator(2), sample_weight=np.zeros(4))


def test_missing_targets() -> None:
    with pytest.raises(InvalidArgumentError, match="y, the targets, must be given"):
        make_batches(np.zeros((3, 2)))
    assert isinstance(make_batches(np.zeros((3, 2)), targets=False), ArrayBatches)
