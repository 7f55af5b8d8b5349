"""Making the next items of an iteration in a background thread, a few ahead of their use."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds to wait for a thread that was told to stop. It may be within the user's code, which
cannot be interrupted; it then ends by itself, and nothing waits for it."""


class _Channel(Generic[T]):
    """A queue of bounded length between one producer and one consumer, either of which may go."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: deque[T] = deque()
        self.ended = False
        self.closed = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Wait for room and add an item; False once nobody wants it."""
        with self.changed:
            while len(self.items) >= self.depth and not self.closed:
                self.changed.wait()
            if self.closed:
                return False
            self.items.append(item)
            self.changed.notify_all()
            return True

    def end(self, error: BaseException | None) -> None:
        """There are no further items."""
        with self.changed:
            self.ended = True
            self.error = error
            self.changed.notify_all()

    def take(self) -> tuple[T] | None:
        """Wait for an item; None at the end. What the producer raised is raised here."""
        with self.changed:
            while not self.items and not self.ended:
                self.changed.wait()
            if self.items:
                item = self.items.popleft()
                self.changed.notify_all()
                return (item,)
            error, self.error = self.error, None
        if error is None:
            return None
        try:
            raise error  # with the traceback of the place where it happened
        finally:
            del error

    def close(self) -> None:
        """Nobody wants further items."""
        with self.changed:
            self.closed = True
            self.items.clear()
            self.changed.notify_all()


_running: weakref.WeakKeyDictionary[threading.Thread, _Channel[Any]] = weakref.WeakKeyDictionary()


def prefetched(source: Iterable[T], depth: int) -> Iterator[T]:
    """Yield the items of ``source``, which a thread asks for up to ``depth`` items ahead.

    The thread starts with the first item that is asked for. It ends with the iteration: when the
    source ends, raises, or when the iterator is closed or dropped halfway, and at the exit of
    the interpreter. An exception of the source is raised here, in its turn, with its traceback.

    Args:
        source: an iterable; its items are made in the thread.
        depth: how many items may wait; each costs its memory. 0 makes them here, without a thread.
    """
    if depth == 0:
        yield from source
        return
    channel: _Channel[T] = _Channel(depth)
    thread = threading.Thread(
        target=_produce, args=(source, channel), name="gpuconv-prefetch", daemon=True
    )
    _running[thread] = channel
    thread.start()
    del source
    try:
        while (taken := channel.take()) is not None:
            yield taken[0]
            del taken  # else this item would live until the next one is there
    finally:
        _stop(thread, channel)


def _produce(source: Iterable[T], channel: _Channel[T]) -> None:
    error: BaseException | None = None
    try:
        iterator = iter(source)
        try:
            for item in iterator:
                if not channel.put(item):
                    break
                del item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
    except BaseException as raised:
        error = raised
    channel.end(error)


def _stop(thread: threading.Thread, channel: _Channel[Any]) -> None:
    channel.close()
    if thread is not threading.current_thread():  # the collector may come by in any thread
        thread.join(_PATIENCE)


@atexit.register
def _stop_all() -> None:
    for thread, channel in list(_running.items()):
        _stop(thread, channel)
