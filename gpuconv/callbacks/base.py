"""The moments of training at which a callback may act, and the list that calls them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from gpuconv.errors import InvalidArgumentError

if TYPE_CHECKING:
    from gpuconv.models.model import Model

Logs = Mapping[str, Any]


class Callback:
    """Base class, with Keras's moments; override the ones that you need.

    Attributes:
        model: the model in training; set ``model.stop_training = True`` to end it after the
            current batch.
        params: ``epochs``, ``steps`` (None if unknown) and ``verbose`` of the run.
        peers: all callbacks of the run, this one too, in the order in which they are called.

    ``logs`` maps names such as ``"loss"`` and ``"val_accuracy"`` to numbers. In the batch methods
    a number is read from the device when it is looked up, so what is not looked at costs nothing.
    """

    model: Model
    params: Mapping[str, Any]
    peers: Sequence[Callback] = ()
    called_last: ClassVar[bool] = False
    """Whether the callback is called after the others, because it looks at what they did."""

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch, also when training was stopped or an error ended it."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch; ``epoch`` counts from 0."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """After an epoch and its validation; not for an epoch that was cut short."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a training batch; ``batch`` counts from 0 in each epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a training batch; ``logs`` are the means of this epoch so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs) -> None:
        """Keras's other word for :meth:`on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Keras's other word for :meth:`on_train_batch_end`."""

    def on_test_begin(self, logs: Logs) -> None:
        """Before an evaluation, also the validation within ``fit``."""

    def on_test_end(self, logs: Logs) -> None:
        """After an evaluation; ``logs`` is empty if an error or Ctrl-C ended it."""

    def on_test_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch of an evaluation; ``batch`` counts from 0."""

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs) -> None:
        """Before ``predict`` starts."""

    def on_predict_end(self, logs: Logs) -> None:
        """After ``predict`` has ended, also by an error."""

    def on_predict_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch of ``predict``; ``batch`` counts from 0."""

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch of ``predict``."""

    def get_state(self) -> dict[str, Any]:
        """Return what the callback must know to go on in another process; nothing by default.

        Plain data as in JSON, and NumPy arrays; see ``BackupAndRestore``.
        """
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`get_state` returned; called after ``on_train_begin``."""


class CallbackList:
    """Calls several callbacks in their order."""

    def __init__(self, callbacks: Sequence[Callback], model: Model, params: Mapping[str, Any]):
        self.callbacks = sorted(callbacks, key=lambda callback: callback.called_last)
        for callback in self.callbacks:
            callback.model = model
            callback.params = params
            callback.peers = self.callbacks

    def call(self, moment: str, *arguments: Any) -> None:
        """Call one method, such as ``"on_epoch_end"``, of every callback."""
        for callback in self.callbacks:
            getattr(callback, moment)(*arguments)

    def finish(self, moment: str, *arguments: Any) -> None:
        """Call a closing method of every callback, of the rest too when one raises."""
        with ExitStack() as stack:
            for callback in reversed(self.callbacks):  # an ExitStack begins with the last
                stack.callback(getattr(callback, moment), *arguments)


class LazyLogs(Mapping[str, Any]):
    """Numbers by name that are computed when they are looked up."""

    def __init__(self, readers: Mapping[str, Any]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Any:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def as_callbacks(callbacks: Any) -> list[Callback]:
    """Return the callbacks that a user gave: None, one, or several.

    Raises:
        InvalidArgumentError: something else.
    """
    if callbacks is None:
        return []
    several = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in several:
        if not isinstance(callback, Callback):
            raise InvalidArgumentError(
                f"callbacks must be objects of gpuconv.callbacks.Callback. Received: {callback!r}"
            )
    return several
