"""A model that only predicts: normalisations folded into convolutions, what follows into stores.

In inference a BatchNormalization is ``y * scale + offset`` with constants, and so are the filters
of the convolution before it: ``(w * scale) * x + (b - mean) * scale + beta`` is one convolution.
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3.2.) Weights that do not change need to be packed
only once: the kernels of what is left are fixed, see ``Parameter.fix``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuconv import activations
from gpuconv.backends.arrays import overwrite, to_numpy
from gpuconv.errors import NotBuiltError
from gpuconv.layers.activated import Biased
from gpuconv.layers.activation import Activation, ReLU
from gpuconv.layers.base import Layer
from gpuconv.layers.batch_norm import BatchNormalization
from gpuconv.layers.convolution import ConvND
from gpuconv.layers.dense import Dense
from gpuconv.layers.depthwise import DepthwiseConvND
from gpuconv.layers.input import Input
from gpuconv.layers.merging import Add
from gpuconv.layers.regularization import Dropping
from gpuconv.layers.residual import ConvAdd
from gpuconv.layers.symbolic import SymbolicTensor
from gpuconv.models.graph import Plan, Step
from gpuconv.models.model import Model

_LINEAR = (ConvND, DepthwiseConvND, Dense)


def optimize_for_inference(model: Model) -> Model:
    """Return a model that predicts the same with fewer passes; see ``Model``'s method of this name.

    Raises:
        NotBuiltError: the model has no weights yet.
    """
    if not model.built:
        raise NotBuiltError(f"{model.name} has no weights yet: build it or call it first")
    shapes: Any = model.built_shape
    several = shapes if model.several_inputs else [shapes]
    names: list[Any] = list(model.input_names) or [None]
    inputs = [Input(tuple(s)[1:], name=name) for s, name in zip(several, names, strict=True)]
    plan: Plan = model.plan
    outputs = _Rewriting(plan).apply(inputs)
    result = Model(
        inputs if len(inputs) > 1 else inputs[0],
        outputs if plan.many else outputs[0],
        name=model.name,
        backend=model.engine or model.backend,
    )
    result.trainable = False
    for layer in result.walk():
        if isinstance(layer, (ConvND, Dense)):
            layer.kernel.fix()
    return result  # type: ignore[no-any-return]


class _Rewriting:
    """Follows a plan and calls copies of its layers, or what they have become together."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        reads = Counter(slot for step in plan.steps for slot in step.inputs)
        self.reads = reads + Counter(plan.outputs)
        self.uses = Counter(id(step.layer) for step in plan.steps)
        self.copies: dict[int, Layer] = {}
        self.done: set[int] = set()

    def apply(self, inputs: list[SymbolicTensor]) -> list[SymbolicTensor]:
        """Return the outputs for symbolic inputs."""
        symbols = dict(zip(self.plan.inputs, inputs, strict=True))
        for number, step in enumerate(self.plan.steps):
            if number in self.done:
                continue
            given: Any = [symbols[slot] for slot in step.inputs]
            if isinstance(step.layer, Dropping) and not step.training:  # nothing in inference
                symbols[step.outputs[0]] = given[0]
                continue
            layer, last = self._folded(number, step)
            added = self._added(layer, step, last, given, symbols)
            if added is not None:
                layer, last, residual = added
                given = [*given, residual]
            made = layer(given if layer.several_inputs else given[0], step.training)
            symbols.update(zip(last.outputs, made if step.many else [made], strict=True))
        return [symbols[slot] for slot in self.plan.outputs]

    def _folded(self, number: int, step: Step) -> tuple[Layer, Step]:
        """A layer with what follows it inside, and the step whose outputs it then gives."""
        layer = step.layer
        if not isinstance(layer, _LINEAR) or self.uses[id(layer)] > 1 or step.training:
            return self._copy(layer), step
        twin, last = copy.deepcopy(layer), step
        while True:
            following = self._only_reader(last)
            if following is None or twin.activation.name != "linear":
                return twin, last
            at, reader = following
            if isinstance(reader.layer, BatchNormalization):
                if not _fold(twin, reader.layer):
                    return twin, last
            else:
                function = _function_of(reader.layer)
                if function is None:
                    return twin, last
                twin.activation = function
            self.done.add(at)
            last = reader

    def _added(
        self,
        layer: Layer,
        step: Step,
        last: Step,
        given: Sequence[SymbolicTensor],
        symbols: Mapping[int, SymbolicTensor],
    ) -> tuple[ConvAdd, Step, SymbolicTensor] | None:
        """A convolution with the Add behind it, the step whose output it gives, and the residual.

        None where something else follows, or where the residual is not there yet: if that comes
        from a convolution too, the Add can go behind that one.
        """
        if not isinstance(layer, ConvND) or layer.activation.name != "linear":
            return None
        following = None if self.uses[id(step.layer)] > 1 else self._only_reader(last)
        if following is None:
            return None
        at, add = following
        others = [slot for slot in add.inputs if slot not in last.outputs]
        if type(add.layer) is not Add or len(add.inputs) != 2 or others[0] not in symbols:
            return None
        residual, shape = symbols[others[0]], layer.compute_output_shape(given[0].shape)
        same = shape == tuple(residual.shape) and None not in shape[1:]  # nothing is repeated
        if not same or not add.layer.dtype == residual.dtype == layer.dtype:
            return None
        self.done.add(at)
        following = self._only_reader(add)
        function = None if following is None else _function_of(following[1].layer)
        if following is not None and function is not None:
            self.done.add(following[0])
            add = following[1]
        result = ConvAdd(layer, function, name=f"{layer.name}_add")
        result.backend = layer.backend
        return result, add, residual

    def _copy(self, layer: Layer) -> Layer:
        """A copy, the same for all calls of the layer; of a model what it becomes."""
        if id(layer) not in self.copies:
            inner = optimize_for_inference(layer) if isinstance(layer, Model) else None
            self.copies[id(layer)] = inner or copy.deepcopy(layer)
        return self.copies[id(layer)]

    def _only_reader(self, step: Step) -> tuple[int, Step] | None:
        """The step that alone reads what this one gives, if it is the only call of its layer."""
        (slot,) = step.outputs
        if self.reads[slot] != 1:
            return None
        for at, reader in enumerate(self.plan.steps):
            if slot in reader.inputs:
                once = self.uses[id(reader.layer)] == 1 and not reader.training
                return (at, reader) if once else None
        return None


def _function_of(layer: Layer) -> activations.ActivationFunction | None:
    """The activation that a layer is, if a convolution can apply it as it stores."""
    if isinstance(layer, ReLU):
        plain = (layer.negative_slope, layer.threshold) == (0.0, 0.0)
        name = {None: "relu", 6.0: "relu6"}.get(layer.max_value) if plain else None
        return activations.get(name) if name else None
    return layer.activation if isinstance(layer, Activation) else None


def _fold(twin: Biased, norm: BatchNormalization) -> bool:
    """Put a normalisation by constants into weights and bias; False if it has none."""
    channels = -1 if not getattr(twin, "channels_first", False) else 1
    rank = len(norm.built_shape or ())
    if norm.moving_mean is None or norm.axis % rank != channels % rank:
        return False
    kernel: Any = twin.kernel  # type: ignore[attr-defined]
    mean, variance = (
        to_numpy(a).astype("float64") for a in (norm.moving_mean, norm.moving_variance)
    )
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * to_numpy(norm.gamma.value)
    bias = 0.0 if twin.bias is None else to_numpy(twin.bias.value).astype("float64")
    offset = (bias - mean) * scale
    if norm.beta is not None:
        offset = offset + to_numpy(norm.beta.value)
    weights = to_numpy(kernel.value).astype("float64")
    depthwise = isinstance(twin, DepthwiseConvND)
    weights = weights * (scale.reshape(weights.shape[-2:]) if depthwise else scale)
    if twin.bias is None:
        twin.use_bias = True
        twin.add_bias(scale.size)
    assert twin.bias is not None
    for target, value in ((kernel.value, weights), (twin.bias.value, offset)):
        overwrite(target, value)
    return True
