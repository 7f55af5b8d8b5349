"""One step of training: which losses, and how a batch becomes a change of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuconv import optimizers
from gpuconv.backends.arrays import to_device
from gpuconv.containers import unwrap
from gpuconv.data import make_batches
from gpuconv.data.forms import BatchForm
from gpuconv.dispatch import engine_for
from gpuconv.errors import InvalidArgumentError, NotBuiltError
from gpuconv.layers.base import Layer
from gpuconv.metrics import Metric
from gpuconv.models.finite import first_not_finite
from gpuconv.models.graph import GraphBackward
from gpuconv.models.objectives import Objectives
from gpuconv.models.running import Running
from gpuconv.models.weight_files import WeightFiles
from gpuconv.parameter import Parameter


class Steps(WeightFiles):
    """What a model does with one batch; of several it is :class:`gpuconv.Model`."""

    layers: list[Layer]
    optimizer: optimizers.Optimizer | None
    objectives: Objectives | None
    watches_loss: bool
    not_finite: str | None

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, for data in dicts; empty for an input that has none."""
        return []

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs: those of the layers that they come from."""
        return [self.layers[-1].name if self.layers else self.name]

    @property
    def several_outputs(self) -> bool:
        """Whether the model gives a list of outputs."""
        return False

    # --- compile ----------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
    ) -> None:
        """Choose how to train.

        Args:
            optimizer: name, object or configuration; default ``"rmsprop"``.
            loss: name, object or configuration; None for a model that only predicts. For several
                outputs one for all of them, or a list with an entry for each, or a dict with all
                their names; None as an entry: this output is not trained.
            metrics: list of names or objects; ``"accuracy"`` finds its form from the shapes. For
                several outputs a list with an entry for each, which is a metric, a list of them
                or None; or a dict of such entries by name.
            loss_weights: for several outputs numbers by which their losses are multiplied before
                they are added up: a list, or a dict by name; None: 1 each. The names of outputs
                are those of the layers that they come from, see ``output_names``.

        When the last layer is a softmax and the loss a categorical cross-entropy of
        probabilities, training computes both as one: the gradient of the logits is
        ``probabilities - targets``, which is exact where the separate steps would divide by a
        vanishing probability.

        With several outputs the logs hold the total as ``loss``, each output's loss, without its
        weight, as ``<output>_loss`` and its metrics as ``<output>_<metric>``, as Keras's do.

        Raises:
            InvalidArgumentError: an unknown name, or not one entry for each output.
        """
        chosen = (
            optimizers.get(optimizer),
            Objectives.of(self.output_names, self.several_outputs, loss, loss_weights, metrics),
        )
        self.optimizer, self.objectives = chosen  # both of them, or none after an error

    @property
    def loss(self) -> Any:
        """The loss, None before :meth:`compile`; for several outputs a list of them."""
        return None if self.objectives is None else self.objectives.loss

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of all outputs."""
        return list(self.named_metrics.values())

    @property
    def named_metrics(self) -> dict[str, Metric]:
        """The metrics of all outputs by their names in logs."""
        return {} if self.objectives is None else self.objectives.metrics

    @property
    def metrics_names(self) -> list[str]:
        """Names of the numbers that ``evaluate`` returns, in their order; empty if not compiled."""
        objectives = self.objectives
        return [] if objectives is None else [*objectives.loss_names, *objectives.metric_names]

    def require_compiled(self) -> tuple[Objectives, optimizers.Optimizer]:
        """Return losses with metrics, and the optimizer.

        Raises:
            NotBuiltError: ``compile`` was not called, or without a loss.
        """
        if self.objectives is None or self.optimizer is None or not self.objectives.trained:
            raise NotBuiltError(
                f"{self.name} has no loss yet: call compile(optimizer=..., loss=...) first"
            )
        return self.objectives, self.optimizer

    @property
    def batch_form(self) -> BatchForm:
        """What batches of data for this model hold."""
        outputs = tuple(self.output_names)
        targeted = outputs
        if self.several_outputs and self.objectives is not None:
            targeted = self.objectives.targeted
        return BatchForm(tuple(self.input_names), outputs, self.several_outputs, targeted)

    # --- one step ---------------------------------------------------------------------

    def prepare(self, x: Any) -> Any:
        """Bring a batch of inputs to the model's device and dtype; build on first use."""
        parts = [unwrap(part)[0] for part in x] if isinstance(x, tuple) else [unwrap(x)[0]]
        self.accept([tuple(part.shape) for part in parts])
        device = self.backend or "cpu"
        arrays = [self.cast(to_device(part, device)) for part in parts]
        return arrays if self.several_inputs else arrays[0]

    def accept(self, shapes: Sequence[Sequence[int]]) -> Any:
        """Check the inputs' shapes, build on first use; return their shape without the batch size.

        Raises:
            ShapeError: the model cannot take them.
            InvalidArgumentError: several inputs for a model that has one.
        """
        if len(shapes) > 1 and not self.several_inputs:
            raise InvalidArgumentError(
                f"{self.name} has one input. Received: a list of {len(shapes)} arrays"
            )
        several: list[Any] = [(None, *shape[1:]) for shape in shapes]
        shape = several if self.several_inputs else several[0]
        self.build(shape)
        return shape

    def prepare_targets(self, y: Any) -> Any:
        """Bring targets or weights to the model's device, in their own dtype."""
        if y is None:
            return None
        if self.several_outputs and isinstance(y, (list, tuple)):
            return tuple(self.prepare_targets(part) for part in y)
        return to_device(unwrap(y)[0], self.backend or "cpu")

    def train_step(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Learn from one batch.

        Returns:
            The loss (0-d) and the predictions, on the device; nothing waits for it. If several
            outputs have a loss, a tuple: the total, then the loss of each.
        """
        with self.computing():
            return self._train_step(x, y, sample_weight)

    def _train_step(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        inputs = self.prepare(x)
        network, objectives, fused = self.network_and_loss()
        everything = self.parameters
        for parameter in everything:
            parameter.zero_grad()  # of a step that was interrupted, or of gradients by hand
        predictions, backward = network.run(inputs, training=True)
        targets = self.prepare_targets(y)
        losses, gradient = objectives.compute(
            targets, predictions, self.prepare_targets(sample_weight)
        )
        if self.watches_loss and not math.isfinite(float(losses[0])):
            named = dict(zip(objectives.loss_names, losses, strict=True))
            self.not_finite = first_not_finite(network, inputs, named)
        if isinstance(backward, GraphBackward):
            backward.release = True  # each activation goes as soon as it has been used
        backward(gradient, input_gradient=False)
        parameters = [p for p in everything if p.trainable]
        regularized = [p for p in parameters if p.regularizer is not None]
        if regularized:
            losses[0] = losses[0] + _add_penalties(regularized)
        self.require_compiled()[1].step(parameters)
        return _one_or_several(losses), _probabilities(predictions, fused)

    def test_step(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Evaluate one batch; returns as :meth:`train_step`."""
        with self.computing():
            inputs = self.prepare(x)
            network, objectives, fused = self.network_and_loss()
            predictions = network.infer(inputs)
            targets = self.prepare_targets(y)
            weights = self.prepare_targets(sample_weight)
            losses = objectives.evaluate(targets, predictions, weights)
            losses[0] = losses[0] + self.penalty()
            return _one_or_several(losses), _probabilities(predictions, fused)

    def network_and_loss(self) -> tuple[Layer, Objectives, list[int]]:
        """Return what is run and its losses; and where softmax and cross-entropy became one."""
        objectives, _ = self.require_compiled()
        fusing = objectives.accepting_logits
        if not fusing:
            return self, objectives, []
        network, fused = self.with_logits(fusing)
        return network, objectives.with_logits(fused) if fused else objectives, fused

    def with_logits(self, outputs: Sequence[int]) -> tuple[Layer, list[int]]:
        """Return a twin that gives logits, and which of these outputs end in a softmax."""
        twin = self.without_softmax()
        return (self, []) if twin is None else (twin, [0])

    def penalty(self) -> Any:
        """Return the sum of all regularizers' values, 0.0 if there are none."""
        return _penalty([p for p in self.trainable_parameters if p.regularizer is not None])

    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Learn from one batch; returns as :meth:`evaluate`, for this batch alone.

        Raises:
            NotBuiltError: the model is not compiled.
            ShapeError, InvalidArgumentError: inputs and targets do not fit.
        """
        return self._one_batch(self.train_step, x, y, sample_weight, return_dict)

    def test_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Evaluate one batch; returns as :meth:`evaluate`."""
        return self._one_batch(self.test_step, x, y, sample_weight, return_dict)

    def _one_batch(self, step: Any, x: Any, y: Any, sample_weight: Any, return_dict: bool) -> Any:
        self.require_compiled()
        form = self.batch_form
        (batch,) = make_batches(x, y, sample_weight, batch_size=2**62, form=form).epoch()
        running = Running(self.require_compiled()[0])
        loss, predictions = step(*batch)
        running.update(loss, predictions, batch)
        return running.result(return_dict)


def _penalty(regularized: Sequence[Parameter]) -> Any:
    """The sum of the regularizers' values."""
    return sum((p.regularizer.value(p.value) for p in regularized if p.regularizer), 0.0)


def _add_penalties(regularized: Sequence[Parameter]) -> Any:
    """Add the regularizers' gradients to the parameters'; return their value."""
    for parameter in regularized:
        if parameter.regularizer is not None:
            parameter.add_gradient(parameter.regularizer.gradient(parameter.value))
    return _penalty(regularized)


def _one_or_several(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _probabilities(predictions: Any, fused: Sequence[int]) -> Any:
    """The predictions, with the softmax that was left out of some outputs."""
    if not fused:
        return predictions
    if not isinstance(predictions, list):
        return engine_for(predictions).softmax(predictions)
    return [
        engine_for(part).softmax(part) if number in fused else part
        for number, part in enumerate(predictions)
    ]
