"""Batches copied ahead: the right ones, in order, and never over memory that is still in use.

A stand-in for CuPy keeps each stream's work in a queue and runs the queues in every kind of order
that their events allow: as late as possible, as early as possible, and at random.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.backends.transfers import count_transfers
from gpuconv.data import staging
from gpuconv.data.staging import CudaSlot, on_device


class Clock:
    """The streams of a device whose work runs when the clock says so."""

    def __init__(self, eager, seed=0):
        self.streams = []
        self.eager = eager
        self.random = random.Random(seed)

    def tick(self):
        """Let some of the work that could run now run."""
        runs = {"late": 0, "early": 10**6, "random": self.random.randrange(4)}[self.eager]
        for _ in range(runs):
            ready = [s for s in self.streams if s.queue and s.queue[0].ready()]
            if not ready:
                return
            self.random.choice(ready).run_one()

    def run_until(self, done):
        while not done():
            ready = [s for s in self.streams if s.queue and s.queue[0].ready()]
            assert ready, "the streams wait for each other for ever"
            self.random.choice(ready).run_one()


class Work:
    def __init__(self, run=None, event=None, after=0):
        self.run, self.event, self.after = run, event, after

    def ready(self):
        return self.event is None or self.run is not None or self.event.done >= self.after


class Stream:
    def __init__(self, clock, **_):
        self.clock, self.queue = clock, []
        clock.streams.append(self)

    def run_one(self):
        work = self.queue.pop(0)
        if work.run is not None:
            work.run()

    def do(self, run):
        self.queue.append(Work(run))
        self.clock.tick()

    def wait_event(self, event):
        self.queue.append(Work(None, event, event.recorded))

    def record(self):
        event = Event(self.clock)
        event.record(self)
        return event

    def synchronize(self):
        self.clock.run_until(lambda: not self.queue)


class Event:
    def __init__(self, clock):
        self.clock, self.recorded, self.done = clock, 0, 0

    def record(self, stream):
        self.recorded += 1
        number = self.recorded
        stream.queue.append(Work(lambda: setattr(self, "done", number)))

    def synchronize(self):
        wanted = self.recorded
        self.clock.run_until(lambda: self.done >= wanted)


class Memory(np.ndarray):
    """Device memory: copies into it are work of a stream."""

    def set(self, staged, stream):
        assert staged.flags.c_contiguous
        assert (staged.shape, staged.dtype) == (self.shape, self.dtype)
        stream.do(lambda: np.copyto(np.asarray(self), staged))


def stand_in(clock):
    main = Stream(clock)

    def empty(nbytes, dtype):
        return np.full(nbytes, 255, dtype).view(Memory)

    cuda = SimpleNamespace(
        Event=lambda disable_timing: Event(clock),
        get_current_stream=lambda: main,
        alloc_pinned_memory=lambda nbytes: bytearray(nbytes),
    )
    return SimpleNamespace(cuda=cuda, empty=empty), main


def run(batches, eager, seed=0, slot_class=CudaSlot):
    """Run batches through two slots; return what the computing stream read."""
    clock = Clock(eager, seed)
    cupy, main = stand_in(clock)
    side = Stream(clock)
    slots = [slot_class(cupy, side) for _ in range(2)]
    read = []
    for x, y, weights in staging._pipelined(iter(batches), slots):
        parts = [x] if not isinstance(x, tuple) else list(x)
        parts += [part for part in (y, weights) if part is not None]
        main.do(lambda parts=parts: read.append([np.array(p) for p in parts]))
        # The step goes on: what was given must still be there at its end.
        main.do(lambda parts=parts: read[-1].extend(np.array(p) for p in parts))
    clock.run_until(lambda: not any(s.queue for s in clock.streams))
    return read


@pytest.mark.parametrize("taken", [1, 2, 3, 7])
def test_nothing_is_copied_any_more_when_the_memory_is_given_back(taken):
    """Stopped early, with the next batch on its way, or run to the end."""
    clock = Clock("late")
    cupy, main = stand_in(clock)
    side = Stream(clock)
    staged = staging._pipelined(
        iter(some_batches(6, np.random.default_rng(0))), [CudaSlot(cupy, side) for _ in range(2)]
    )
    for _ in zip(range(taken), staged, strict=False):
        main.do(lambda: None)
    assert bool(side.queue) == (taken < 6)
    staged.close()
    assert not side.queue


def some_batches(count, rng):
    batches = []
    for k in range(count):
        samples = 3 if k == count - 1 else 5
        x = rng.normal(size=(samples, 4, 3)).astype("float32")
        batches.append((x, rng.integers(0, 9, samples), None if k % 2 else x[:, 0, 0].copy()))
    return batches


@pytest.mark.parametrize("eager", ["late", "early", "random"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_batch_arrives_whole_and_in_order(eager, count):
    batches = some_batches(count, np.random.default_rng(count))
    for seed in range(20 if eager == "random" else 1):
        read = run(batches, eager, seed)
        assert len(read) == count
        for got, (x, y, weights) in zip(read, batches, strict=True):
            expected = [part for part in (x, y, weights) if part is not None]
            for a, b in zip(got, expected * 2, strict=True):
                np.testing.assert_array_equal(a, b)


def test_several_inputs_and_growing_batches():
    batches = [((np.full((n, 2), n), np.full((n,), -n, "int8")), np.zeros(n), None) for n in (1, 9)]
    read = run(batches * 2, "random")
    assert [r[0].shape for r in read] == [(1, 2), (9, 2), (1, 2), (9, 2)]
    assert [int(r[1][0]) for r in read] == [-1, -9, -1, -9]


def broken(name):
    """A slot one of whose steps is left out."""
    return type("Broken", (CudaSlot,), {name: lambda self: None})


@pytest.mark.parametrize("name", ["wait_until_copied", "computed", "end"])
def test_a_missing_event_is_noticed(name):
    batches = some_batches(7, np.random.default_rng(0))
    wrong = 0
    for seed in range(40):
        try:
            read = run(batches, "random", seed, broken(name))
        except AssertionError:  # waits for ever
            wrong += 1
            continue
        wrong += any(
            not np.array_equal(part, batch[0])
            for got, batch in zip(read, batches, strict=True)
            for part in (got[0], got[len(got) // 2])
        )
    assert wrong


def test_on_the_cpu_nothing_is_copied_or_taken_ahead():
    taken = []

    def source():
        for k in range(3):
            taken.append(k)
            yield np.zeros(k), None, None

    staged = on_device(source(), "cpu")
    next(staged)
    assert taken == [0]


def test_a_device_without_streams_gets_every_array_once():
    batches = some_batches(3, np.random.default_rng(1))
    with count_transfers() as counted:
        arrived = list(on_device(iter(batches), "cuda-sim"))
    assert counted.to_device == sum(part is not None for batch in batches for part in batch)
    assert counted.to_host == 0
    for got, batch in zip(arrived, batches, strict=True):
        for a, b in zip(got, batch, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                np.testing.assert_array_equal(a.get(), b)
