"""The loops of ``fit``, ``evaluate`` and ``predict``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.backends.selection import resolve_device
from gpuconv.callbacks.base import Callback, CallbackList, as_callbacks
from gpuconv.callbacks.history import History
from gpuconv.callbacks.progress import progress_callback
from gpuconv.data import ArrayBatches, Batches, IterableBatches, make_batches, split_validation
from gpuconv.data.batches import Batch
from gpuconv.data.forms import BatchForm, each, leaves
from gpuconv.data.sources import read_rows
from gpuconv.data.staging import on_device
from gpuconv.dispatch import without_tuning
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.layers.symbolic import several_shapes
from gpuconv.models.class_weights import class_weight_table, with_class_weights
from gpuconv.models.running import Running
from gpuconv.random import SeedStream

if TYPE_CHECKING:
    from gpuconv.models.model import Model

_ROWS = 1024
"""Number of targets that are checked together."""


class Fit:
    """One call of ``fit``: everything is checked in the constructor, before the first step."""

    def __init__(
        self,
        model: Model,
        x: Any,
        y: Any,
        *,
        batch_size: int,
        epochs: int,
        verbose: Any,
        callbacks: Any,
        validation_split: float,
        validation_data: Any,
        shuffle: bool,
        class_weight: Mapping[int, float] | None,
        sample_weight: Any,
        initial_epoch: int,
        steps_per_epoch: int | None,
        validation_steps: int | None,
        validation_batch_size: int | None,
        validation_freq: int,
    ) -> None:
        self.model = model
        self.objectives = model.require_compiled()[0]
        form = model.batch_form
        self.epochs = as_int(epochs, "epochs", 0)
        self.initial_epoch = as_int(initial_epoch, "initial_epoch", 0)
        self.validation_freq = as_int(validation_freq, "validation_freq", 1)
        self.shuffle = bool(shuffle)
        if validation_split and validation_data is None:
            train, held_out = split_validation(x, y, sample_weight, validation_split, form)
            x, y, sample_weight = train
            validation_data = held_out
        self.batches = make_batches(x, y, sample_weight, batch_size, steps_per_epoch, form=form)
        if validation_batch_size is not None:
            validation_batch_size = as_int(validation_batch_size, "validation_batch_size", 1)
        self.validation = _validation_batches(
            validation_data, validation_batch_size or batch_size, validation_steps, form
        )
        if isinstance(self.batches, IterableBatches):
            self.batches.check_epochs(self.epochs - self.initial_epoch)
        if isinstance(self.validation, IterableBatches):
            self.validation.check_epochs(
                self.epochs // self.validation_freq - self.initial_epoch // self.validation_freq
            )
        if class_weight is not None and form.many:
            raise InvalidArgumentError(
                f"class_weight is for a model of one output; give sample_weight by output instead. "
                f"Received: class_weight for {', '.join(form.outputs)}"
            )
        self.class_weights = None if class_weight is None else class_weight_table(class_weight)
        self.history = History()
        progress = progress_callback(verbose, "fit")
        # The history comes after the user's callbacks, which may add to the logs.
        several: list[Callback] = [*as_callbacks(callbacks), self.history, *progress]
        params = {"epochs": self.epochs, "steps": self.batches.steps, "verbose": verbose}
        check_batches(model, self.batches)
        if self.validation is not None:
            check_batches(model, self.validation)
        self.callbacks = CallbackList(several, model, params)

    def run(self) -> History:
        """Train; returns the history."""
        self.model.stop_training = False
        self.model.resume_at = None
        if self.model.shuffle_stream is None:
            self.model.shuffle_stream = SeedStream()
        logs: dict[str, Any] = {}
        try:
            self.callbacks.call("on_train_begin", {})
            first, batches_done = self.model.resume_at or (self.initial_epoch, 0)
            if isinstance(self.batches, IterableBatches):
                self.batches.skip_epochs(first - self.initial_epoch)
            for epoch in range(first, self.epochs):
                if self.model.stop_training or self.batches.exhausted:
                    break
                self.callbacks.call("on_epoch_begin", epoch, {})
                running, whole = self._train_epoch(epoch, batches_done if epoch == first else 0)
                if not whole:
                    break
                logs = running.logs()
                if self.validation is not None and (epoch + 1) % self.validation_freq == 0:
                    validated = evaluate(self.model, self.validation, 0, None, self.callbacks)
                    logs.update(validated.logs("val_"))
                self.callbacks.call("on_epoch_end", epoch, logs)
        finally:
            self.callbacks.finish("on_train_end", logs)
        return self.history

    def _batches_of(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; in order, each epoch goes on where the last one stopped."""
        if not isinstance(self.batches, ArrayBatches):
            return self.batches.epoch()
        if not self.shuffle:
            return self.batches.epoch(first=(epoch - self.initial_epoch) * len(self.batches))
        stream = self.model.shuffle_stream
        assert stream is not None  # set by run
        return self.batches.epoch(stream.generator().permutation(self.batches.samples or 0))

    def _train_epoch(self, epoch: int, batches_done: int) -> tuple[Running, bool]:
        """Run one epoch without the batches that an earlier run did; False if it was cut short."""
        running = Running(self.objectives)
        to_do: Iterator[Batch] = islice(self._batches_of(epoch), batches_done, None)
        if self.class_weights is not None:
            table = self.class_weights
            to_do = (with_class_weights(batch, table) for batch in to_do)
        whole = WholeBatches()
        for number, batch in enumerate(staged(self.model, to_do), batches_done):
            if self.model.stop_training:
                return running, False
            self.callbacks.call("on_train_batch_begin", number, {})
            with whole.tuning(batch):
                running.update(*self.model.train_step(*batch), batch)
            self.callbacks.call("on_train_batch_end", number, running.lazy_logs())
        return running, running.samples > 0


def evaluate(
    model: Model,
    batches: Batches,
    verbose: Any,
    callbacks: Any,
    within_fit: CallbackList | None = None,
) -> Running:
    """Run a data set through the model; ``within_fit`` hears of it instead of new callbacks."""
    if within_fit is None:
        check_batches(model, batches)
        several = [*as_callbacks(callbacks), *progress_callback(verbose, "evaluate")]
        params = {"epochs": 1, "steps": batches.steps, "verbose": verbose}
        within_fit = CallbackList(several, model, params)
    running = Running(model.require_compiled()[0])
    logs: Mapping[str, Any] = {}
    try:
        within_fit.call("on_test_begin", {})
        whole = WholeBatches()
        for number, batch in enumerate(staged(model, batches.epoch())):
            within_fit.call("on_test_batch_begin", number, {})
            with whole.tuning(batch):
                running.update(*model.test_step(*batch), batch)
            within_fit.call("on_test_batch_end", number, running.lazy_logs())
        logs = running.lazy_logs()
    finally:
        within_fit.finish("on_test_end", logs)
    return running


def predict(model: Model, batches: Batches, verbose: Any, callbacks: Any) -> Any:
    """Run inputs through the model and collect the outputs on the host: an array, or a list."""
    several = [*as_callbacks(callbacks), *progress_callback(verbose, "predict")]
    params = {"epochs": 1, "steps": batches.steps, "verbose": verbose}
    listeners = CallbackList(several, model, params)
    outputs = []
    try:
        listeners.call("on_predict_begin", {})
        whole = WholeBatches()
        for number, batch in enumerate(staged(model, batches.epoch())):
            listeners.call("on_predict_batch_begin", number, {})
            with whole.tuning(batch):
                outputs.append(on_host(model.infer_batch(batch[0])))
            listeners.call("on_predict_batch_end", number, {})
    finally:
        listeners.finish("on_predict_end", {})
    if isinstance(outputs[0], list):
        return [_joined(parts) for parts in zip(*outputs, strict=True)]
    return _joined(outputs)


def _joined(parts: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The outputs of all batches as one array."""
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            raise ShapeError(
                f"predict puts the outputs of all batches into one array, so they must have one "
                f"shape; predict_on_batch takes batches one by one. Received: outputs of shape "
                f"{parts[0].shape} and {part.shape}"
            )
    return np.concatenate(parts)


def on_host(outputs: Any) -> Any:
    """Bring a model's output, or the list of them, to the host."""
    return [to_numpy(o) for o in outputs] if isinstance(outputs, list) else to_numpy(outputs)


class WholeBatches:
    """Engines are measured (``config.autotune``) on batches as large as an epoch's first.

    What is left over at its end comes once an epoch and is not worth a measurement.
    """

    def __init__(self) -> None:
        self.samples: int | None = None

    def tuning(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the ``with`` block in which to compute a batch."""
        x = batch[0][0] if isinstance(batch[0], tuple) else batch[0]
        if self.samples is None:
            self.samples = int(x.shape[0])
        return nullcontext() if x.shape[0] == self.samples else without_tuning()


def staged(model: Model, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches with their arrays where the model computes, copied ahead.

    Labels are checked on the way, on the host: looking at them on a device would wait for it.
    """
    device = model.backend or resolve_device()[0]
    if device == "cpu":
        return batches  # the loss looks at them
    return on_device((_with_checked_labels(model, batch) for batch in batches), device)


def _with_checked_labels(model: Model, batch: Batch) -> Batch:
    x, y, _ = batch
    here = each(lambda part: part if isinstance(part, np.ndarray) else None, y)
    if model.objectives is not None and any(leaves(here, "y")):
        shapes = [tuple(part.shape) for part in (x if isinstance(x, tuple) else (x,))]
        shape = model.compute_output_shape(model.accept(shapes))
        model.objectives.check_targets(here, shape)
    return batch


def check_batches(model: Model, batches: Batches) -> None:
    """Check a whole data set in arrays before the first step; iterables are checked as they come.

    Raises:
        ShapeError: inputs or targets do not fit the model, or targets a metric.
        InvalidArgumentError: NaN, infinity, or labels out of range.
    """
    if not isinstance(batches, ArrayBatches):
        return
    shape = model.accept([tuple(part.shape) for part in batches.x])
    batches.check_finite()
    if batches.y is None or model.objectives is None:
        return
    output_shape = model.compute_output_shape(shape)
    if several_shapes(output_shape) and not model.several_outputs:
        raise InvalidArgumentError(
            f"{model.name} ends in a layer of several outputs; train gpuconv.Model(inputs, outputs)"
            f" of them. Received: outputs of shapes {output_shape}"
        )
    # Part by part: targets may be larger than memory, as inputs may.
    samples = batches.samples or 0
    for start in range(0, samples, _ROWS):
        stop = min(start + _ROWS, samples)
        rows = each(functools.partial(read_rows, start=start, stop=stop), batches.y)
        model.objectives.check_targets(rows, output_shape)
    # Else a metric would complain after the first step.
    first = each(lambda source: to_numpy(read_rows(source, 0, 1)), batches.y)
    model.objectives.try_metrics(first, output_shape, model.dtype or "float32")


def _validation_batches(
    data: Any, batch_size: int, steps: int | None, form: BatchForm
) -> Batches | None:
    if data is None:
        return None
    if isinstance(data, list) and data and all(isinstance(part, tuple) for part in data):
        return make_batches(data, steps_per_epoch=steps, form=form)
    if isinstance(data, (list, tuple)) and len(data) in (2, 3):
        weight = data[2] if len(data) == 3 else None
        return make_batches(data[0], data[1], weight, batch_size, steps, form=form)
    if isinstance(data, (list, tuple)):
        raise InvalidArgumentError(
            f"validation_data must be (x, y), (x, y, sample_weight) or an iterable of batches. "
            f"Received: a {type(data).__name__} of {len(data)}"
        )
    return make_batches(data, steps_per_epoch=steps, form=form)
