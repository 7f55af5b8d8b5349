"""Batches cut from arrays: which samples, in which order, in which memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv.data import ArrayBatches, make_batches, split_validation
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.tensors import Tensor


class OnDisk:
    """An array-like as HDF5 libraries have it: shape, dtype, slices; it counts what is read."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.rows_read = 0

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        assert isinstance(rows, slice), "only slices"
        result = self._array[rows].copy()
        self.rows_read += len(result)
        return result


def _collect(batches: Iterator[Any]) -> tuple[list[list[int]], list[list[int]]]:
    xs, ys = [], []
    for x, y, _ in batches:
        xs.append(np.asarray(x)[:, 0].tolist())
        ys.append(np.asarray(y).tolist())
    return xs, ys


def _column(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n)[:, None] * np.ones((1, 3), np.int64)


def test_the_short_last_batch_is_kept() -> None:
    batches = ArrayBatches(_column(7), np.arange(7), batch_size=3)
    assert len(batches) == batches.steps == 3
    assert batches.samples == 7
    xs, ys = _collect(batches.epoch())
    assert xs == ys == [[0, 1, 2], [3, 4, 5], [6]]


def test_fifty_thousand_samples_make_1563_steps() -> None:
    x = np.broadcast_to(np.zeros(1, np.uint8), (50_000, 1))
    assert len(ArrayBatches(x)) == 1563


def test_batches_without_a_permutation_are_views_in_the_users_dtype() -> None:
    x, y = np.zeros((10, 2, 2, 1), np.uint8), np.zeros(10, np.int16)
    for bx, by, bw in ArrayBatches(x, y, batch_size=4).epoch():
        assert np.shares_memory(bx, x)
        assert np.shares_memory(by, y)
        assert (bx.dtype, by.dtype, bw) == (np.uint8, np.int16, None)


def test_a_permutation_orders_inputs_targets_and_weights_alike() -> None:
    order = np.array([4, 0, 3, 1, 2])
    batches = ArrayBatches(_column(5), np.arange(5) * 10, np.arange(5) / 10, batch_size=2)
    got = list(batches.epoch(order))
    assert [x[:, 0].tolist() for x, _, _ in got] == [[4, 0], [3, 1], [2]]
    assert [y.tolist() for _, y, _ in got] == [[40, 0], [30, 10], [20]]
    assert [w.tolist() for _, _, w in got] == [[0.4, 0.0], [0.3, 0.1], [0.2]]


def test_an_epoch_can_be_repeated() -> None:
    batches = ArrayBatches(_column(4), np.arange(4), batch_size=3)
    assert _collect(batches.epoch()) == _collect(batches.epoch())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32), st.booleans())
def test_all_kinds_of_sources_give_the_same_batches(
    samples: int, batch_size: int, seed: int, shuffle: bool
) -> None:
    x, y = _column(samples), np.arange(samples)
    order = np.random.default_rng(seed).permutation(samples) if shuffle else None
    numbers = np.arange(samples) if order is None else order
    expected = [
        numbers[start : start + batch_size].tolist() for start in range(0, samples, batch_size)
    ]
    tensor = Tensor(x)
    for source in (x, OnDisk(x), x.tolist(), tensor, x[:, ::-1], np.asfortranarray(x)):
        xs, ys = _collect(ArrayBatches(source, y, batch_size=batch_size).epoch(order))
        assert xs == ys == expected


def test_array_likes_are_read_a_batch_at_a_time() -> None:
    source = OnDisk(_column(100))
    batches = ArrayBatches(source, np.arange(100), batch_size=10)
    already = source.rows_read
    assert already <= 1
    stream = batches.epoch()
    next(stream)
    assert source.rows_read == already + 10
    shuffled = batches.epoch(np.random.default_rng(0).permutation(100))
    next(shuffled)
    assert source.rows_read == already + 20


def test_memory_mapped_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", _column(9))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    batches = ArrayBatches(x, np.arange(9), batch_size=4)
    batch = next(batches.epoch())[0]
    assert type(batch) is np.ndarray
    assert np.shares_memory(batch, x)
    assert _collect(batches.epoch(np.arange(9)[::-1]))[0] == [[8, 7, 6, 5], [4, 3, 2, 1], [0]]


def test_several_inputs_come_as_a_tuple() -> None:
    a, b = np.zeros((5, 2)), np.ones((5, 3), np.float32)
    for x in ([a, b], (a, b), [a, OnDisk(b)]):
        (first, second), y, _ = next(ArrayBatches(x, np.arange(5), batch_size=2).epoch())
        assert (first.shape, second.shape, y.tolist()) == ((2, 2), (2, 3), [0, 1])
    single, _, _ = next(ArrayBatches([a], np.arange(5)).epoch())
    assert single.shape == (5, 2)


def test_several_inputs_without_targets() -> None:
    batches = make_batches((np.zeros((5, 2)), np.ones((5, 3))), targets=False)
    (first, second), y, w = next(batches.epoch())
    assert (first.shape, second.shape, y, w) == ((5, 2), (5, 3), None, None)


def test_lists_become_arrays() -> None:
    x, y, _ = next(ArrayBatches([[1.0, 2.0], [3.0, 4.0]], [0, 1]).epoch())
    assert x.dtype.kind == "f"
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    assert y.dtype.kind == "i"


def test_steps_per_epoch_takes_the_first_batches_of_the_order() -> None:
    batches = ArrayBatches(_column(10), np.arange(10), batch_size=3, steps_per_epoch=2)
    assert len(batches) == 2
    assert _collect(batches.epoch())[0] == [[0, 1, 2], [3, 4, 5]]
    assert _collect(batches.epoch(np.arange(10)[::-1]))[0] == [[9, 8, 7], [6, 5, 4]]
    assert _collect(batches.epoch(first=3))[0] == [[9], [0, 1, 2]]
    with pytest.raises(InvalidArgumentError, match=r"at most 4.*Received: 5"):
        ArrayBatches(_column(10), np.arange(10), batch_size=3, steps_per_epoch=5)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None, "32"])
def test_batch_size_is_a_positive_integer(batch_size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="batch_size must be an integer of at least 1"):
        ArrayBatches(_column(4), np.arange(4), batch_size=batch_size)


def test_the_permutation_must_fit() -> None:
    with pytest.raises(InvalidArgumentError, match=r"shape \(4,\). Received: \(3,\)"):
        ArrayBatches(_column(4), np.arange(4)).epoch(np.arange(3))


@pytest.mark.parametrize(
    ("x", "y", "w", "words"),
    [
        (np.zeros((3, 2)), np.zeros(4), None, "x with 3, y with 4"),
        (np.zeros((3, 2)), np.zeros(3), np.ones(2), "x with 3, sample_weight with 2"),
        (np.zeros((3, 2)), np.zeros(3), np.ones((3, 1)), r"shape \(3,\). Received: \(3, 1\)"),
        ([np.zeros((3, 2)), np.zeros((4, 2))], np.zeros(3), None, r"numpy\.stack.*\[3, 4\]"),
        (np.float64(3.0), np.zeros(1), None, "x must have at least one axis"),
        (np.zeros(3), 5, None, "y must have at least one axis"),
        ([[1, 2], [3]], np.zeros(2), None, "x.*Received"),
    ],
)
def test_wrong_shapes(x: Any, y: Any, w: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        ArrayBatches(x, y, w)


@pytest.mark.parametrize("x", [np.zeros((0, 8, 8, 1)), []])
def test_no_samples(x: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="at least one sample"):
        ArrayBatches(x, np.zeros(0))


@pytest.mark.parametrize(
    "x",
    [
        np.array(["cat", "dog"]),
        ["cat", "dog"],
        np.array([None, 1], dtype=object),
        np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
        np.zeros(2, complex),
        {"image": np.zeros(2)},
        "cat",
    ],
)
def test_elements_that_are_no_real_numbers(x: Any) -> None:
    with pytest.raises(DTypeError, match=r"^x.*Received: "):
        ArrayBatches(x, np.zeros(2))
    with pytest.raises(DTypeError, match=r"^y.*Received: "):
        ArrayBatches(np.zeros(2), x)


def test_an_array_like_whose_slices_are_no_arrays_is_refused_at_once() -> None:
    class Strange(OnDisk):
        def __getitem__(self, rows: slice) -> Any:
            return np.zeros((7, 7))

    with pytest.raises(InvalidArgumentError, match=r"x\[0:1\] should give an array of shape"):
        ArrayBatches(Strange(_column(4)), np.arange(4))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.floats(0.001, 0.999))
def test_validation_is_the_last_samples(samples: int, fraction: float) -> None:
    x, y, w = _column(samples), np.arange(samples), np.ones(samples)
    first = int(np.floor(samples * (1 - fraction)))
    if first in (0, samples):
        with pytest.raises(InvalidArgumentError, match="both need at least one"):
            split_validation(x, y, w, fraction)
        return
    (x_train, y_train, w_train), (x_val, y_val, w_val) = split_validation(x, y, w, fraction)
    np.testing.assert_array_equal(y_train, np.arange(first))
    np.testing.assert_array_equal(y_val, np.arange(first, samples))
    for part, whole in ((x_train, x), (x_val, x), (y_val, y), (w_val, w), (w_train, w)):
        assert np.shares_memory(part, whole)
    np.testing.assert_array_equal(np.concatenate([x_train, x_val]), x)


def test_the_known_split_of_keras() -> None:
    (x, _, w), (x_val, _, w_val) = split_validation(np.zeros((10, 2)), np.zeros(10), None, 0.2)
    assert (len(x), len(x_val), w, w_val) == (8, 2, None, None)


def test_an_array_like_is_split_without_being_read() -> None:
    source = OnDisk(_column(10))
    train, validation = split_validation(source, np.arange(10), None, 0.3)
    assert source.rows_read <= 1
    assert _collect(ArrayBatches(*validation, batch_size=2).epoch())[0] == [[7, 8], [9]]
    order = np.array([6, 0, 1, 5, 2, 3, 4])
    xs, ys = _collect(ArrayBatches(*train, batch_size=4).epoch(order))
    assert xs == ys == [[6, 0, 1, 5], [2, 3, 4]]


def test_several_inputs_are_split_together() -> None:
    train, validation = split_validation(
        (np.zeros((4, 2)), np.ones((4, 3))), np.arange(4), None, 0.5
    )
    assert [len(part) for part in train[0]] == [len(part) for part in validation[0]] == [2, 2]


@pytest.mark.parametrize("fraction", [0, 1, 1.0, 0.0, -0.1, 1.5, float("nan"), True, "0.2", None])
def test_impossible_fractions(fraction: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"between 0 and 1. Received: "):
        split_validation(np.zeros((10, 2)), np.zeros(10), None, fraction)


def test_an_iterable_cannot_be_split() -> None:
    with pytest.raises(InvalidArgumentError, match="validation_data beside an iterable"):
        split_validation(iter([]), None, None, 0.2)
