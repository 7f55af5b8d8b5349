"""What the outputs of a model are trained for and judged by: losses, their weights, metrics.

A model of one output is the simple case: one objective, whose targets, predictions and gradient
are arrays. For several they are tuples or lists with an entry for each output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuconv import losses as loss_registry
from gpuconv import metrics as metric_registry
from gpuconv.backends.base import Array
from gpuconv.errors import GpuconvError, InvalidArgumentError
from gpuconv.losses import Loss
from gpuconv.metrics import Metric
from gpuconv.models.objective_words import as_losses, as_metrics, as_weights


@dataclass(frozen=True)
class Objective:
    """Of one output.

    Attributes:
        name: of the output.
        loss: None: the output is not trained.
        weight: of the loss in the total; None: 1.
        metrics: their names are those that the user gave.
    """

    name: str
    loss: Loss | None = None
    weight: float | None = None
    metrics: tuple[Metric, ...] = ()


class Objectives:
    """Of all outputs of a model, in their order.

    Args:
        several: an objective for each output.
        many: whether targets, predictions and gradients come in tuples or lists.

    Attributes:
        loss_names: keys in logs of what :meth:`compute` gives: the total, ``"loss"``; and if
            several outputs have a loss ``"<output>_loss"`` for each of them, without its weight.
        metrics: by key in logs: their names, with the output's before it where there are several.

    Raises:
        InvalidArgumentError: two numbers would have the same name in logs.
    """

    def __init__(self, several: Sequence[Objective], many: bool) -> None:
        self.several = tuple(several)
        self.many = many
        trained = [one.name for one in self.several if one.loss is not None]
        self.loss_names = ["loss"]
        if len(trained) > 1:
            self.loss_names += [f"{name}_loss" for name in trained]
        keys = [
            (f"{one.name}_{metric.name}" if len(self.several) > 1 else metric.name, metric)
            for one in self.several
            for metric in one.metrics
        ]
        names = [*self.loss_names, *(key for key, _ in keys)]
        for name in names:
            if names.count(name) > 1 or f"val_{name}" in names:
                raise InvalidArgumentError(
                    f"the losses and metrics of a model need different names in logs; give metrics "
                    f"or output layers other names. Received: {', '.join(names)}"
                )
        if len({id(metric) for _, metric in keys}) < len(keys):
            raise InvalidArgumentError(
                f"each output needs metrics of its own. Received: one object for several of "
                f"{', '.join(key for key, _ in keys)}"
            )
        self.metrics = dict(keys)
        self._with_logits: dict[tuple[int, ...], Objectives] = {}

    @classmethod
    def of(
        cls, names: Sequence[str], many: bool, loss: Any, weights: Any = None, metrics: Any = None
    ) -> Objectives:
        """Make them of what ``Model.compile`` was given for the outputs of these names.

        Raises:
            InvalidArgumentError: unknown names, or lists of another length.
        """
        chosen = zip(
            names,
            as_losses(loss, names),
            as_weights(weights, names),
            as_metrics(metrics, names),
            strict=True,
        )
        return cls([Objective(*one) for one in chosen], many)

    @property
    def trained(self) -> bool:
        """Whether any output has a loss."""
        return any(one.loss is not None for one in self.several)

    @property
    def targeted(self) -> tuple[str, ...]:
        """Names of the outputs that need targets, for a loss or a metric."""
        return tuple(one.name for one in self.several if one.loss is not None or one.metrics)

    @property
    def metric_names(self) -> list[str]:
        """Keys of :attr:`metrics`; of several outputs in the order of the names, as in Keras."""
        return sorted(self.metrics) if len(self.several) > 1 else list(self.metrics)

    @property
    def accepting_logits(self) -> list[int]:
        """Numbers of the outputs whose loss can take logits instead of a softmax's output."""
        several = enumerate(one.loss for one in self.several)
        return [n for n, loss in several if loss is not None and loss.accepts_softmax_fusion]

    @property
    def loss(self) -> Any:
        """The loss, or for several outputs a list; None where there is none."""
        found = [one.loss for one in self.several]
        if self.many and self.trained:
            return found
        return found[0] if found else None

    # --- on batches -------------------------------------------------------------------

    def compute(self, y: Any, predictions: Any, sample_weight: Any = None) -> tuple[list[Any], Any]:
        """Return the losses of a batch and the gradient for the predictions.

        Args:
            y, predictions: arrays, or for several outputs an entry for each.
            sample_weight: an array for all outputs, an entry for each, or None.

        Returns:
            Numbers (0-d, on the device) in the order of :attr:`loss_names`; and one gradient, or
            one for each output, None for those without a loss.

        Raises:
            ShapeError, InvalidArgumentError: targets or weights do not fit the predictions.
        """
        values: list[Any] = []
        gradients: list[Any] = []
        for one, labels, outputs, weights in self._parts(y, predictions, sample_weight):
            if one.loss is None:
                gradients.append(None)
                continue
            value, gradient = self._call(one, one.loss.compute, labels, outputs, weights)
            values.append(value)
            gradients.append(gradient if one.weight is None else gradient * one.weight)
        return self._with_total(values), gradients if self.many else gradients[0]

    def evaluate(self, y: Any, predictions: Any, sample_weight: Any = None) -> list[Any]:
        """Return the losses of a batch alone; arguments and errors as in :meth:`compute`."""
        values = [
            self._call(one, one.loss, labels, outputs, weights)
            for one, labels, outputs, weights in self._parts(y, predictions, sample_weight)
            if one.loss is not None
        ]
        return self._with_total(values)

    def update_metrics(self, y: Any, predictions: Any) -> None:
        """Let the metrics take in a batch; they ignore sample weights, as in Keras."""
        for one, labels, outputs, _ in self._parts(y, predictions, None):
            for metric in one.metrics:
                metric.update_state(labels, outputs)

    def reset_metrics(self) -> None:
        """Let the metrics forget all batches."""
        for metric in self.metrics.values():
            metric.reset_state()

    def check_targets(self, y: Any, shapes: Any) -> None:
        """Check targets, or those of them that are not None, against the shapes of the outputs.

        Raises:
            ShapeError, InvalidArgumentError: they do not fit.
        """
        for one, labels, shape, _ in self._parts(y, shapes, None):
            if one.loss is not None and labels is not None:
                self._call(one, one.loss.check_targets, labels, shape)

    def try_metrics(self, y: Any, shapes: Any, dtype: str) -> None:
        """Give the metrics the targets of one sample, for outputs of these shapes.

        Raises:
            ShapeError, InvalidArgumentError: a metric cannot take them.
        """
        for one, labels, shape, _ in self._parts(y, shapes, None):
            for metric in one.metrics:
                made_up = np.zeros((1, *shape[1:]), dtype)
                self._call(one, metric.update_state, labels, made_up)
                metric.reset_state()

    def with_logits(self, outputs: Sequence[int]) -> Objectives:
        """Return the same, with losses that take logits from the outputs of these numbers."""
        key = tuple(outputs)
        if key not in self._with_logits:  # once, not in every step
            several = list(self.several)
            for number in key:
                loss = several[number].loss
                assert loss is not None  # of those that accept logits
                several[number] = replace(several[number], loss=loss.with_logits())
            self._with_logits[key] = Objectives(several, self.many)
        return self._with_logits[key]

    # --- configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return ``loss``, ``loss_weights`` and ``metrics``, as ``Model.compile`` takes them."""
        losses = [None if o.loss is None else loss_registry.serialize(o.loss) for o in self.several]
        weights = [one.weight for one in self.several]
        metrics = [[metric_registry.serialize(m) for m in one.metrics] for one in self.several]
        weighted = any(weight is not None for weight in weights)
        return {
            "loss": losses if self.many else losses[0],
            "loss_weights": weights if weighted else None,
            "metrics": metrics if self.many else metrics[0],
        }

    # --- inside -----------------------------------------------------------------------

    def _parts(
        self, y: Any, predictions: Any, sample_weight: Any
    ) -> Iterator[tuple[Objective, Any, Any, Any]]:
        if not self.many:
            y, predictions, sample_weight = (y,), (predictions,), (sample_weight,)
        elif not isinstance(sample_weight, tuple):
            sample_weight = (sample_weight,) * len(self.several)
        return zip(self.several, y, predictions, sample_weight, strict=True)

    def _with_total(self, values: list[Any]) -> list[Array]:
        """Put the weighted sum before the losses, or in place of the only one."""
        weights = [one.weight for one in self.several if one.loss is not None]
        total: Any = None
        for value, weight in zip(values, weights, strict=True):
            part = value if weight is None else value * weight
            total = part if total is None else total + part
        return [total, *values] if len(values) > 1 else [total]

    def _call(self, one: Objective, function: Any, *arguments: Any) -> Any:
        """Call a loss or metric; where there are several outputs its errors name the output."""
        try:
            return function(*arguments)
        except GpuconvError as error:
            if not self.many:
                raise
            raise type(error)(f"{one.name}: {error}") from error
