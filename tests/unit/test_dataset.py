"""Data sets that shuffle, change and prefetch their batches, alone and under a model."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.arrays import device_of, to_device, to_numpy
from gpuconv.data import Dataset, make_batches, mixup
from gpuconv.data.prefetching import prefetched
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.random import next_seed

X = np.arange(10)[:, None] * np.ones((1, 3))
Y = np.arange(10) * 10


def order_of(data: Any) -> list[list[int]]:
    """The first column of each batch."""
    return [np.asarray(item[0])[:, 0].astype(int).tolist() for item in data]


def flat(batches: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(batches))


def threads() -> int:
    return sum(thread.name == "gpuconv-prefetch" for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true within some seconds."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert until(lambda: threads() == 0)


# --- batches of arrays ------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_batches_in_order(prefetch: int) -> None:
    data = Dataset(X, Y, batch_size=4, prefetch=prefetch)
    assert (data.samples, data.steps, len(data), data.exhausted) == (10, 3, 3, False)
    for _ in range(2):
        batches = list(data)
        assert order_of(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [y.tolist() for _, y in batches] == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90]]


def test_what_is_missing_is_left_out() -> None:
    assert all(type(item) is np.ndarray for item in Dataset(X))
    assert [len(item) for item in Dataset(X, Y)] == [2]
    assert [len(item) for item in Dataset(X, Y, Y / 10)] == [3]
    assert [len(item) for item in Dataset([X, X, X])] == [1]  # one part: several inputs
    ((inputs, targets),) = Dataset((X, X), Y)
    assert [part.shape for part in inputs] == [(10, 3), (10, 3)]
    assert targets.shape == (10,)
    assert next(Dataset(X).epoch())[1:] == (None, None)


def test_drop_remainder() -> None:
    data = Dataset(X, Y, batch_size=4, drop_remainder=True, shuffle=True, seed=0)
    assert (data.samples, data.steps) == (8, 2)
    seen = [flat(order_of(data)) for _ in range(5)]
    assert [len(set(epoch)) for epoch in seen] == [8] * 5
    assert set(flat(seen)) == set(range(10))  # others are left out each time


def test_array_likes_are_read_in_slices() -> None:
    class OnDisk:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows: slice) -> Any:
            assert isinstance(rows, slice)
            return X[rows].copy()

    assert order_of(Dataset(OnDisk(), Y, batch_size=5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    shuffled = flat(order_of(Dataset(OnDisk(), Y, batch_size=5, shuffle=True, seed=0)))
    assert shuffled == flat(order_of(Dataset(X, Y, batch_size=5, shuffle=True, seed=0)))


def test_arrays_on_a_device_need_no_thread() -> None:
    data = Dataset(to_device(X, "cuda-sim"), to_device(Y, "cuda-sim"), batch_size=4, shuffle=True)
    for x, y in data:
        assert (device_of(x), device_of(y)) == ("cuda-sim", "cuda-sim")
        np.testing.assert_array_equal(to_numpy(x)[:, 0] * 10, to_numpy(y))
        assert threads() == 0


# --- the order --------------------------------------------------------------------------------


def test_the_order_is_that_of_the_seed_and_another_each_epoch() -> None:
    def epochs(seed: int | None) -> list[Any]:
        data = Dataset(X, Y, batch_size=4, shuffle=True, seed=seed)
        return [order_of(data) for _ in range(3)]

    first = epochs(1)
    assert all(sorted(flat(epoch)) == list(range(10)) for epoch in first)
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs(1) == first
    assert epochs(2) != first
    gpuconv.set_seed(5)
    drawn = epochs(None)
    assert epochs(None) != drawn  # the next seed
    gpuconv.set_seed(5)
    assert epochs(None) == drawn


def test_targets_and_weights_are_shuffled_with_the_inputs() -> None:
    for x, y, weights in Dataset(X, Y, Y / 100, batch_size=4, shuffle=True, seed=3):
        np.testing.assert_array_equal(x[:, 0] * 10, y)
        np.testing.assert_array_equal(weights, y / 100)


def test_epochs_can_be_skipped_and_an_order_given() -> None:
    data = Dataset(X, Y, batch_size=10, shuffle=True, seed=1)
    orders = [order_of(data) for _ in range(4)]
    again = Dataset(X, Y, batch_size=10, shuffle=True, seed=1)
    again.skip_epochs(2)
    assert [order_of(again) for _ in range(2)] == orders[2:]
    reverse = np.arange(10)[::-1]
    assert order_of(again.epoch(reverse)) == [reverse.tolist()]
    for wrong in (-1, 1.0, True):
        with pytest.raises(InvalidArgumentError, match="epochs"):
            again.skip_epochs(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"each of the 10 samples.*\(3,\)"):
        again.epoch(np.arange(3))


def test_a_seed_is_drawn_only_where_it_is_needed() -> None:
    gpuconv.set_seed(1)
    plain = next_seed()
    gpuconv.set_seed(1)
    list(Dataset(X, Y).map(lambda x, y: (x, y)))
    assert next_seed() == plain


# --- map --------------------------------------------------------------------------------------


def test_functions_change_batches_one_after_another() -> None:
    data = Dataset(X, Y, batch_size=4)
    changed = data.map(lambda x, y: (x + 1, y)).map(lambda x, y: (x * 2, y, y * 0 + 1))
    x, y, weights = next(iter(changed))
    np.testing.assert_array_equal(x, (X[:4] + 1) * 2)
    np.testing.assert_array_equal(y, Y[:4])
    assert weights.tolist() == [1] * 4
    assert order_of(data) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]  # as it was
    assert next(iter(Dataset(X).map(lambda x: x * 2))).shape == (10, 3)


def test_a_function_may_make_several_inputs_of_one() -> None:
    data = Dataset(X, Y).map(lambda x, y: ([x, -x], y)).map(lambda x, y: (x[0] + x[1], y, y))
    ((x, _, _),) = data
    assert (x == 0).all()


def test_random_functions_are_reproducible() -> None:
    def noisy(generator: np.random.Generator, x: Any, y: Any) -> Any:
        return generator.normal(size=x.shape), y

    def epochs(**options: Any) -> list[list[float]]:
        data = Dataset(X, Y, batch_size=4, **options).map(noisy, random=True)
        return [[float(x[0, 0]) for x, _ in data] for _ in range(2)]

    numbers = epochs(seed=1)
    assert len(set(flat(numbers))) == 6  # another for each batch and epoch
    assert epochs(seed=1, prefetch=0) == numbers
    assert epochs(seed=2) != numbers
    gpuconv.set_seed(0)
    drawn = epochs()
    gpuconv.set_seed(0)
    assert epochs() == drawn
    twice = (
        Dataset(X, Y, seed=1)
        .map(noisy, random=True)
        .map(lambda g, x, y: (x - g.normal(size=x.shape), y), random=True)
    )
    assert np.abs(next(iter(twice))[0]).min() > 0  # each function has numbers of its own


def test_mixup_in_the_background() -> None:
    def blended(generator: np.random.Generator, x: Any, y: Any) -> Any:
        return mixup(x, y, num_classes=10, seed=int(generator.integers(2**62)))

    data = Dataset(X, np.arange(10), batch_size=4, seed=1).map(blended, random=True)
    first, second = [np.concatenate([y for _, y in data]) for _ in range(2)]
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-6)
    assert (first != second).any()


def test_what_a_function_returns_is_checked() -> None:
    with pytest.raises(InvalidArgumentError, match=r"batch 0 from map.*a tuple of 4"):
        list(Dataset(X, Y).map(lambda x, y: (x, y, y, y)))
    with pytest.raises(InvalidArgumentError, match="Received: int"):
        Dataset(X, Y).map(3)  # type: ignore[arg-type]


# --- generators -------------------------------------------------------------------------------


def samples() -> Iterator[Any]:
    for number in range(10):
        yield X[number], Y[number]


def test_samples_of_a_generator_become_batches() -> None:
    data = Dataset.from_generator(samples, batch_size=4)
    assert (data.samples, data.steps) == (None, None)
    with pytest.raises(TypeError, match="unknown"):
        len(data)
    for _ in range(2):
        batches = list(data)
        assert order_of(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert batches[2][1].tolist() == [80, 90]
    dropped = Dataset.from_generator(samples, batch_size=4, drop_remainder=True)
    assert order_of(dropped) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_steps_end_a_generator_without_end() -> None:
    def forever() -> Iterator[Any]:
        while True:
            yield from samples()

    data = Dataset.from_generator(forever, batch_size=6, steps=2)
    assert len(data) == 2
    assert order_of(data) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 1]]


def test_batches_of_a_generator() -> None:
    def batches() -> Iterator[Any]:
        yield X[:3], Y[:3]
        yield X[3:4], Y[3:4]

    assert order_of(Dataset.from_generator(batches, batch_size=None)) == [[0, 1, 2], [3]]


def test_samples_of_several_inputs() -> None:
    def pairs() -> Iterator[Any]:
        for number in range(4):
            yield (X[number], X[number, :2]), Y[number]

    ((inputs, y),) = Dataset.from_generator(pairs)
    assert [part.shape for part in inputs] == [(4, 3), (4, 2)]
    assert y.shape == (4,)


@pytest.mark.parametrize(
    ("items", "error", "match"),
    [
        ([(X[0], 1), (X[0, :2], 1)], ShapeError, r"\(3,\).*\(2,\) for sample 1"),
        ([(X[0], 1), (X[0],)], InvalidArgumentError, "none for sample 1"),
        ([((X[0], X[0]), 1), ((X[0],), 1)], InvalidArgumentError, "2 inputs.*1 for sample 1"),
        ([(1, 2, 3, 4)], InvalidArgumentError, "a tuple of 4"),
    ],
)
def test_samples_that_do_not_fit(items: list[Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        list(Dataset.from_generator(lambda: items))


def test_what_is_no_generator_function() -> None:
    with pytest.raises(InvalidArgumentError, match=r"a new iterator in each epoch.*generator"):
        Dataset.from_generator(samples())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="Received: int"):
        list(Dataset.from_generator(lambda: 3))  # type: ignore[arg-type, return-value]


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Dataset(X, Y[:9]), ShapeError),
        (lambda: Dataset(X[:0]), InvalidArgumentError),
        (lambda: Dataset(["a"]), DTypeError),
        (lambda: Dataset(X, batch_size=0), InvalidArgumentError),
        (lambda: Dataset(X, batch_size=11, drop_remainder=True), InvalidArgumentError),
        (lambda: Dataset(X, prefetch=-1), InvalidArgumentError),
        (lambda: Dataset(X, prefetch=True), InvalidArgumentError),
        (lambda: Dataset(X, prefetch=1.5), InvalidArgumentError),  # type: ignore[arg-type]
        (lambda: Dataset(X, shuffle=True, seed=-1), InvalidArgumentError),
        (lambda: Dataset.from_generator(samples, batch_size=0), InvalidArgumentError),
        (lambda: Dataset.from_generator(samples, steps=0), InvalidArgumentError),
        (
            lambda: Dataset.from_generator(samples, batch_size=None, drop_remainder=True),
            InvalidArgumentError,
        ),
    ],
)
def test_impossible_arguments(make: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="Received"):
        make()


def test_everything_in_memory() -> None:
    data = Dataset(X, Y, batch_size=4, shuffle=True, seed=1)
    x, y = data.map(lambda x, y: (x * 2, y)).arrays()
    np.testing.assert_array_equal(x, X * 2)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(Dataset(X, batch_size=4).arrays(), X)
    (a, b), y, weights = Dataset([X, -X], Y, Y, batch_size=4).arrays()
    np.testing.assert_array_equal(a, -b)
    np.testing.assert_array_equal(y, weights)
    assert order_of(data) == order_of(Dataset(X, Y, batch_size=4, shuffle=True, seed=1))
    with pytest.raises(InvalidArgumentError, match="Received: none"):
        Dataset.from_generator(list).arrays()


# --- the thread -------------------------------------------------------------------------------


def test_batches_are_made_ahead_and_no_further() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(20):
            made.append(threading.get_ident())
            yield number

    iterator = prefetched(source(), 3)
    assert next(iterator) == 0
    assert until(lambda: len(made) == 5)  # one taken, three waiting, one in the thread's hand
    time.sleep(0.05)
    assert len(made) == 5
    assert threading.get_ident() not in made
    assert list(iterator) == list(range(1, 20))
    assert until(lambda: threads() == 0)


def test_making_and_using_overlap() -> None:
    turn = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        turn.set()  # while 0 is in use
        yield 1

    iterator = prefetched(source(), 1)
    assert next(iterator) == 0
    assert turn.wait(5)
    assert next(iterator) == 1


def test_an_error_comes_in_its_turn_with_its_traceback() -> None:
    def breaks_here() -> Iterator[Any]:
        yield X[0], 1
        yield X[1], 2
        raise LookupError("no third sample")

    iterator = iter(Dataset.from_generator(breaks_here, batch_size=1))
    assert [next(iterator)[1][0] for _ in range(2)] == [1, 2]
    with pytest.raises(LookupError, match="no third sample") as caught:
        next(iterator)
    assert "breaks_here" in [
        frame.name for frame in traceback.extract_tb(caught.value.__traceback__)
    ]
    with pytest.raises(StopIteration):
        next(iterator)


def test_an_end_that_is_raised_by_mistake_is_an_error() -> None:
    def ends(x: Any, y: Any) -> Any:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(Dataset(X, Y).map(ends))


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_the_thread_ends_when_the_iteration_is_abandoned(how: str) -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    iterator: Any = prefetched(source(), 2)
    if how == "break":
        for _ in iterator:
            break
    else:
        next(iterator)
    assert threads() == 1
    if how == "close":
        iterator.close()
    del iterator
    gc.collect()
    assert until(lambda: threads() == 0)
    assert closed.wait(5)  # files that it reads are closed


def test_an_iteration_that_never_starts_has_no_thread() -> None:
    iterator = prefetched(iter(range(3)), 2)
    assert threads() == 0
    del iterator


def test_closing_does_not_wait_for_code_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuconv.data.prefetching._PATIENCE", 0.05)
    hold = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        hold.wait(10)
        yield 1

    iterator: Any = prefetched(source(), 2)
    next(iterator)
    start = time.monotonic()
    iterator.close()
    assert time.monotonic() - start < 5
    hold.set()


@pytest.mark.parametrize(
    "ending", ["", "raise SystemExit(3)", "hold = [iterator]; hold.append(hold)"]
)
def test_the_interpreter_exits_with_an_iteration_open(ending: str) -> None:
    program = (
        "from gpuconv.data.prefetching import prefetched\n"
        "import itertools\n"
        "iterator = prefetched(itertools.count(), 2)\n"
        "next(iterator)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (3 if "Exit" in ending else 0, b"")


# --- under a model ----------------------------------------------------------------------------


def model() -> Any:
    built = gpuconv.Sequential([gpuconv.layers.Dense(2, input_shape=(3,))])
    built.compile("sgd", "mse")
    built.set_weights([np.full((3, 2), 0.1, np.float32), np.zeros(2, np.float32)])
    return built


TARGETS = np.stack([X[:, 0], -X[:, 0]], axis=1).astype(np.float32) / 10
INPUTS = (X / 10).astype(np.float32)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_fit_evaluate_and_predict_as_with_arrays(prefetch: int) -> None:
    data = Dataset(INPUTS, TARGETS, batch_size=4, prefetch=prefetch)
    one, other = model(), model()
    history = one.fit(data, epochs=3, validation_data=data, verbose=0)
    expected = other.fit(
        INPUTS, TARGETS, batch_size=4, epochs=3, shuffle=False, verbose=0,
        validation_data=(INPUTS, TARGETS),
    )  # fmt: skip
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-6)
    for got, wanted in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert one.evaluate(data, verbose=0) == pytest.approx(
        other.evaluate(INPUTS, TARGETS, batch_size=4, verbose=0), rel=1e-6
    )
    outputs = other.predict(INPUTS, batch_size=4, verbose=0)
    np.testing.assert_array_equal(one.predict(data, verbose=0), outputs)
    only_inputs = Dataset(INPUTS, batch_size=4)
    np.testing.assert_array_equal(one.predict(only_inputs, verbose=0), outputs)


def test_training_is_reproducible_with_shuffling_and_random_functions() -> None:
    def noisy(generator: np.random.Generator, x: Any, y: Any) -> Any:
        return x + generator.normal(size=x.shape, scale=0.1).astype(x.dtype), y

    def weights(seed: int) -> np.ndarray[Any, Any]:
        data = Dataset(INPUTS, TARGETS, batch_size=4, shuffle=True, seed=seed)
        trained = model()
        trained.fit(data.map(noisy, random=True), epochs=2, verbose=0)
        return trained.get_weights()[0]

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()


def test_a_run_that_goes_on_after_skipped_epochs_is_the_same() -> None:
    def data() -> Dataset:
        return Dataset(INPUTS, TARGETS, batch_size=4, shuffle=True, seed=7)

    whole, parted = model(), model()
    whole.fit(data(), epochs=4, verbose=0)
    parted.fit(data(), epochs=2, verbose=0)
    rest = data()
    rest.skip_epochs(2)
    parted.fit(rest, epochs=4, initial_epoch=2, verbose=0)
    np.testing.assert_array_equal(whole.get_weights()[0], parted.get_weights()[0])


def test_steps_per_epoch_goes_through_several_epochs_of_the_data() -> None:
    trained = model()
    data = Dataset(INPUTS, TARGETS, batch_size=4, shuffle=True, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = trained.fit(data, epochs=2, steps_per_epoch=5, verbose=0)
    assert len(history.history["loss"]) == 2
    assert int(trained.optimizer.iterations) == 10


def test_a_generator_without_steps_trains_for_several_epochs() -> None:
    def generator() -> Iterator[Any]:
        yield from zip(INPUTS, TARGETS, strict=True)

    trained = model()
    trained.fit(Dataset.from_generator(generator, batch_size=4), epochs=3, verbose=0)
    assert int(trained.optimizer.iterations) == 9


def test_stopping_halfway_leaves_no_thread() -> None:
    class Stop(gpuconv.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            self.model.stop_training = True

    data = Dataset(INPUTS, TARGETS, batch_size=1)
    model().fit(data, epochs=2, verbose=0, callbacks=[Stop()])
    gc.collect()
    assert until(lambda: threads() == 0)


def test_errors_of_a_data_set_under_a_model() -> None:
    with pytest.raises(InvalidArgumentError, match="brings its own y"):
        model().fit(Dataset(INPUTS), TARGETS, verbose=0)
    with pytest.raises(InvalidArgumentError, match=r"must be \(x, y\)"):
        model().fit(Dataset(INPUTS), verbose=0)
    with pytest.raises(InvalidArgumentError, match="validation_split needs arrays"):
        model().fit(Dataset(INPUTS, TARGETS), validation_split=0.5, verbose=0)
    broken = INPUTS.copy()
    broken[7, 1] = np.nan
    with pytest.raises(InvalidArgumentError, match="batch 1 must hold finite numbers"):
        model().fit(Dataset(broken, TARGETS, batch_size=4), verbose=0)


def test_the_number_of_samples_is_known() -> None:
    assert make_batches(Dataset(INPUTS, TARGETS, batch_size=4)).samples == 10
    assert make_batches(Dataset(INPUTS, TARGETS, batch_size=4)).steps == 3
