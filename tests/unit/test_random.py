"""Seeds and streams: reproducible, restorable, independent of each other."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import random
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers import Dense
from gpuconv.random import SeedStream, check_seed, generator_for, next_seed


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    state = random._global.state
    yield
    random._global.state = state


def words(stream: SeedStream, draws: int = 3) -> list[list[int]]:
    return [
        stream.generator().bit_generator.random_raw(4).tolist()  # type: ignore[attr-defined]
        for _ in range(draws)
    ]


def test_a_stream_is_its_seed() -> None:
    assert words(SeedStream(5)) == words(SeedStream(5))
    assert words(SeedStream(5)) != words(SeedStream(6))
    each = words(SeedStream(5), 50)
    assert len({tuple(w) for w in each}) == 50  # every draw has numbers of its own


def test_the_first_words_are_philoxs() -> None:
    """Raw words are the same in every version of NumPy and on every machine."""
    assert generator_for((0, 0)).bit_generator.random_raw(2).tolist() == [
        213000021201967259,
        4455796210202625458,
    ]
    expected = np.random.Philox(key=7, counter=[0, 0, 0, 3]).random_raw(5)
    np.testing.assert_array_equal(generator_for((7, 3)).bit_generator.random_raw(5), expected)


def test_draws_do_not_overlap_however_many_numbers_they_take() -> None:
    """The count is the highest word of the counter, which numbers drawn never reach."""
    first = generator_for((1, 0)).bit_generator.random_raw(5000)
    second = generator_for((1, 1)).bit_generator.random_raw(5000)
    assert len({*first.tolist(), *second.tolist()}) == 10_000


def test_the_state_is_two_integers_and_can_be_restored() -> None:
    stream = SeedStream(9)
    words(stream, 4)
    state = stream.state
    assert state == (9, 4)
    following = words(stream)
    other = SeedStream(0)
    other.state = state
    assert words(other) == following
    other.state = (np.int64(9), np.int64(4))  # as they come back from a file
    assert [type(part) for part in other.state] == [int, int]
    assert words(other) == following


def test_keys_advance_and_are_unique() -> None:
    stream = SeedStream(2)
    assert [stream.next_key() for _ in range(3)] == [(2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, np.int32(7), np.uint64(7)])
def test_seeds(seed: Any) -> None:
    assert check_seed(seed) == int(seed)
    assert type(check_seed(seed)) is int
    SeedStream(seed).generator()


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, None, "1", np.array([1, 2])])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"a seed must be an integer in \[0, 2\*\*63\)"):
        check_seed(seed)
    with pytest.raises(InvalidArgumentError, match="Received"):
        gc.set_seed(seed)


def test_set_seed_repeats_everything() -> None:
    def draw() -> list[Any]:
        gc.set_seed(4)
        layer = Dense(3)
        layer(np.ones((1, 5)))
        return [next_seed(), SeedStream().seed, *layer.get_weights()]

    first, again = draw(), draw()
    assert first[:2] == again[:2]
    for a, b in zip(first[2:], again[2:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_seed_that_is_refused_changes_nothing() -> None:
    gc.set_seed(4)
    expected = next_seed()
    gc.set_seed(4)
    with pytest.raises(InvalidArgumentError):
        gc.set_seed(-1)
    assert next_seed() == expected


def test_without_a_seed_each_process_has_its_own() -> None:
    program = "from gpuconv.random import next_seed; print(next_seed())"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 2


def test_threads_never_draw_the_same_seed() -> None:
    gc.set_seed(0)
    drawn: list[int] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        drawn.extend(next_seed() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 400
