"""Models whose layers form a graph: ``gpuconv.Model(inputs, outputs)``."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpuconv import layers as layer_registry
from gpuconv.backends.selection import resolve_device
from gpuconv.configurable import snake_case
from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.layers.base import Backward, Layer
from gpuconv.layers.input import Input, InputLayer
from gpuconv.layers.symbolic import Node, SymbolicTensor, call_symbolically
from gpuconv.models.graph import Plan, Step
from gpuconv.models.model import Model


class Functional(Model):
    """A model of a graph, as Keras's functional models; made by ``gpuconv.Model(inputs, outputs)``.

    Args:
        inputs: one symbolic tensor (``gpuconv.Input(shape)``, or any output of a layer, where the
            model is then to begin) or a list of them.
        outputs: one symbolic tensor, or a list of them; the model then gives a list.
        backend: device or engine to compute on; None: what is in force.
        name, trainable: as for every layer.

    Layers keep their weights: two models that were made of the same layers share them.

    Raises:
        InvalidArgumentError: not symbolic tensors, an output that the inputs do not lead to, or
            two layers of one name.
        BackendUnavailableError: the backend that was named cannot run here.
    """

    def __init__(
        self, inputs: Any, outputs: Any, *, backend: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(backend=backend, **kwargs)
        many = isinstance(outputs, (list, tuple))
        of_inputs = _symbols(inputs, "inputs")
        self.several_inputs = len(of_inputs) > 1  # type: ignore[misc]  # of this model
        of_outputs = _connected(of_inputs, _symbols(outputs, "outputs"))
        nodes = _in_order(of_inputs, of_outputs)
        slots = {symbol.key: number for number, symbol in enumerate(of_inputs)}
        for node in nodes:
            for index in range(len(node.shapes)):
                slots[node.output(index).key] = len(slots)
        self.plan = Plan(
            tuple(
                Step(
                    node.layer,
                    tuple(slots[symbol.key] for symbol in node.inputs),
                    tuple(slots[node.output(i).key] for i in range(len(node.shapes))),
                    node.many,
                    node.training,
                )
                for node in nodes
            ),
            tuple(slots[symbol.key] for symbol in of_inputs),
            tuple(slots[symbol.key] for symbol in of_outputs),
            many,
        )
        self._inputs, self._outputs = list(of_inputs), list(of_outputs)
        self.input_layers = [_input_layer(symbol) for symbol in of_inputs]
        steps = [step.layer for step in self.plan.steps]
        self.layers: list[Layer] = list(dict.fromkeys([*self.input_layers, *steps]))
        self._name_layers()
        self.dtype = next((each.dtype for each in self.layers if each.dtype), "float32")
        if self.backend is None:
            self.backend = resolve_device()[0]
        for layer in self.layers:
            layer.to(self.engine or self.backend)
        shapes = [symbol.shape for symbol in of_inputs]
        self.built_shape = shapes if self.several_inputs else shapes[0]
        self.name_parameters(self.name)
        if not self._trainable:
            self.trainable = False

    def _name_layers(self) -> None:
        """Number the layers of each class, as in a Sequential; names that users gave stay."""
        used = {layer.name for layer in self.layers if layer.named_by_user}
        if len(used) < sum(layer.named_by_user for layer in self.layers):
            names = Counter(layer.name for layer in self.layers if layer.named_by_user)
            twice = [name for name, count in names.items() if count > 1]
            raise InvalidArgumentError(
                f"layers of a model need different names. Received: {', '.join(twice)} twice"
            )
        counts: Counter[str] = Counter()
        for layer in self.layers:
            stem = snake_case(type(layer).__name__)
            if not layer.named_by_user:
                while (name := f"{stem}_{counts[stem]}" if counts[stem] else stem) in used:
                    counts[stem] += 1
                layer.name, layer.named_by_user = name, True
                used.add(name)
            counts[stem] += 1

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, for data in dicts."""
        return [layer.name for layer in self.input_layers]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs: of the layers that they come from, numbered where one has two."""
        inputs = zip(self.plan.inputs, self.input_layers, strict=True)
        makers = {slot: layer.name for slot, layer in inputs}
        for step in self.plan.steps:
            makers.update(dict.fromkeys(step.outputs, step.layer.name))
        names: list[str] = []
        for slot in self.plan.outputs:
            name, count = makers[slot], 0
            while name in names:
                count += 1
                name = f"{makers[slot]}_{count}"
            names.append(name)
        return names

    @property
    def several_outputs(self) -> bool:
        """Whether the model gives a list of outputs, as it was made with one."""
        return self.plan.many

    # --- as a graph -------------------------------------------------------------------

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic tensors that the graph begins with."""
        self._draw()
        return list(self._inputs)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic tensors that the graph ends with."""
        self._draw()
        return list(self._outputs)

    def _draw(self) -> None:
        """Draw the graph anew where it was lost: copies of models have layers without nodes."""
        if self._inputs:
            return
        symbols: dict[int, SymbolicTensor] = {}
        for slot, layer in zip(self.plan.inputs, self.input_layers, strict=True):
            symbols[slot] = layer.symbol()
        for step in self.plan.steps:
            given: Any = [symbols[slot] for slot in step.inputs]
            given = given if step.layer.several_inputs else given[0]
            made = call_symbolically(step.layer, given, step.training)
            symbols.update(zip(step.outputs, made if step.many else [made], strict=True))
        self._inputs = [symbols[slot] for slot in self.plan.inputs]
        self._outputs = [symbols[slot] for slot in self.plan.outputs]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_inputs": [], "_outputs": []}

    @property
    def sublayers(self) -> Sequence[Layer]:
        return self.layers

    def rows(self) -> list[tuple[Layer, Any, list[str]]]:
        shapes = self.plan.shapes(self.built_shape)
        makers: dict[int, str] = {}
        rows: list[tuple[Layer, Any, list[str]]] = []
        for slot, layer in zip(self.plan.inputs, self.input_layers, strict=True):
            makers[slot] = layer.name
            rows.append((layer, shapes[slot], []))
        for step in self.plan.steps:
            found = [shapes[slot] for slot in step.outputs]
            sources = [makers[slot] for slot in step.inputs]
            rows.append((step.layer, found if step.many else found[0], sources))
            makers.update(dict.fromkeys(step.outputs, step.layer.name))
        before = [row[0].name for row in rows]
        chain = all(row[2] == [name] for row, name in zip(rows[1:], before, strict=False))
        return [(layer, shape, [] if chain else sources) for layer, shape, sources in rows]

    # --- as a layer -------------------------------------------------------------------

    def check_input_shape(self, shape: Any) -> None:
        for one, built in zip(
            shape if self.several_inputs else [shape],
            self.built_shape if self.several_inputs else [self.built_shape],  # type: ignore[arg-type]
            strict=True,
        ):
            if tuple(one[1:]) != tuple(built[1:]):  # type: ignore[index]
                self.compute_output_shape(shape)  # other extents: do the layers take them too?
                return

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.plan.output_shape(input_shape)

    def run(self, x: Any, training: bool) -> tuple[Any, Backward]:
        return self.plan.run(x, training)

    def infer(self, x: Any) -> Any:
        return self.plan.infer(x)

    def without_softmax(self) -> Layer | None:
        if self.plan.many:
            return None
        twin, fused = self.with_logits([0])
        return twin if fused else None

    def with_logits(self, outputs: Sequence[int]) -> tuple[Layer, list[int]]:
        steps = list(self.plan.steps)
        twins: dict[int, Layer] = {}  # one for all calls of a layer
        fused = []
        for number in outputs:
            at = self._only_maker(self.plan.outputs[number])
            if at is None:
                continue
            step = steps[at]
            logits = twins.get(id(step.layer)) or step.layer.without_softmax()
            if logits is not None:
                twins[id(step.layer)] = logits
                steps[at] = replace(step, layer=logits)
                fused.append(number)
        if not fused:
            return self, fused
        twin = copy.copy(self)
        twin.plan = replace(self.plan, steps=tuple(steps))
        twin.layers = list(dict.fromkeys([*self.input_layers, *(step.layer for step in steps)]))
        return twin, fused

    def _only_maker(self, slot: int) -> int | None:
        """The step that makes this output and nothing else, if the output is read nowhere else."""
        makers = [n for n, step in enumerate(self.plan.steps) if slot in step.outputs]
        readers = [step for step in self.plan.steps if slot in step.inputs]
        if not makers or readers or self.plan.outputs.count(slot) > 1:
            return None
        return None if self.plan.steps[makers[0]].many else makers[0]

    # --- configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return name, settings, the layers' configurations, and who reads what."""
        numbers = {id(layer): number for number, layer in enumerate(self.layers)}
        return {
            "name": self.name,
            "trainable": self._trainable,
            "layers": [layer_registry.serialize(layer) for layer in self.layers],
            "inputs": [numbers[id(layer)] for layer in self.input_layers],
            "steps": [
                [
                    numbers[id(step.layer)],
                    list(step.inputs),
                    list(step.outputs),
                    *([] if step.training is None else [step.training]),
                ]
                for step in self.plan.steps
            ],
            "outputs": list(self.plan.outputs),
            "many": self.plan.many,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Functional:
        """Build an equal, untrained model from :meth:`get_config`'s dict."""
        made = [layer_registry.deserialize(entry) for entry in config["layers"]]
        symbols: dict[int, SymbolicTensor] = {}
        for slot, number in enumerate(config["inputs"]):
            entrance = made[number]
            if not isinstance(entrance, InputLayer):
                raise InvalidArgumentError(
                    f"a graph begins with input layers. Received: {type(entrance).__name__}"
                )
            symbols[slot] = entrance.symbol()
        inputs = list(symbols.values())
        for number, reads, writes, *fixed in config["steps"]:
            layer, given = made[number], [symbols[slot] for slot in reads]
            result = call_symbolically(layer, given if layer.several_inputs else given[0], *fixed)
            several = result if isinstance(result, list) else [result]
            symbols.update(zip(writes, several, strict=True))
        outputs: Any = [symbols[slot] for slot in config["outputs"]]
        model = cls(
            inputs if len(inputs) > 1 else inputs[0],
            outputs if config["many"] else outputs[0],
            name=config["name"],
        )
        model._trainable = config.get("trainable", True)  # each layer brought its own setting
        return model


layer_registry.register(Functional)


def _symbols(given: Any, what: str) -> list[SymbolicTensor]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [part for part in several if not isinstance(part, SymbolicTensor)]
    if wrong or not several:
        raise InvalidArgumentError(
            f"{what} must be symbolic tensors: gpuconv.Input(shape), or what layers give for one. "
            f"Received: {shown(wrong[0] if wrong else given)}"
        )
    return several


def _in_order(inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]) -> list[Node]:
    """The calls between inputs and outputs, each after those that it needs.

    Raises:
        InvalidArgumentError: an output needs something that the inputs do not lead to.
    """
    known = {symbol.key for symbol in inputs}
    order: list[Node] = []
    done: set[int] = set()
    waiting: list[tuple[Node, bool]] = [
        (symbol.node, False) for symbol in reversed(outputs) if symbol.key not in known
    ]
    while waiting:
        node, ready = waiting.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        if not node.inputs:
            raise InvalidArgumentError(
                f"an output needs {node.layer.name}, which the inputs do not lead to. Received: "
                f"inputs of {', '.join(symbol.name for symbol in inputs)}"
            )
        waiting.append((node, True))
        waiting.extend(
            (symbol.node, False) for symbol in reversed(node.inputs) if symbol.key not in known
        )
    return order


def _connected(
    inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]
) -> list[SymbolicTensor]:
    """The outputs, of those calls of their layers that the inputs lead to.

    ``layer.output`` is of a layer's last call; a layer may stand in several models.
    """
    found = []
    for symbol in outputs:
        calls = [reference() for reference in reversed(symbol.node.layer.nodes)]
        candidates = [symbol, *(call.output(symbol.index) for call in calls if call is not None)]
        error = None
        for candidate in candidates:
            try:
                _in_order(inputs, [candidate])
            except InvalidArgumentError as problem:
                error = error or problem
                continue
            found.append(candidate)
            break
        else:
            raise error or InvalidArgumentError(f"no call of {symbol.name} was noted")
    return found


def _input_layer(symbol: SymbolicTensor) -> InputLayer:
    """The input layer of a symbol, or a new one where a model begins in the middle of a graph."""
    layer = symbol.node.layer
    if isinstance(layer, InputLayer):
        return layer
    fresh = Input(symbol.shape[1:]).node.layer
    assert isinstance(fresh, InputLayer)
    return fresh
