"""Layers one after another."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpuconv import layers as layer_registry
from gpuconv.configurable import snake_case
from gpuconv.errors import InvalidArgumentError, NotBuiltError, shown
from gpuconv.geometry import entries_of
from gpuconv.layers.base import Backward, Layer
from gpuconv.layers.input import Input, InputLayer
from gpuconv.layers.symbolic import SymbolicTensor
from gpuconv.models.graph import Plan
from gpuconv.models.model import Model


class Sequential(Model):
    """A stack of layers, itself a layer, trained with Keras's words.

    Args:
        layers: the layers, first to last; more with :meth:`add`. A first layer with
            ``input_shape`` builds the model at once, else the first data do.
        backend: device or engine to compute on; None: what is in force when the model is built.
        name, trainable: as for every layer.

    The dtype is that of the layers, which must have one in common; layers with ``dtype=None``
    go with any.

    Raises:
        InvalidArgumentError: something that is not a layer, a name twice, or two dtypes.
        BackendUnavailableError: the backend that was named cannot run here.
    """

    def __init__(
        self,
        layers: Sequence[Layer | SymbolicTensor] | None = None,
        *,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backend=backend, **kwargs)
        self.layers: list[Layer] = []
        self._symbols: list[SymbolicTensor] = []
        self._chained: tuple[list[Layer], Plan] | None = None
        self._twin: tuple[list[Any], Sequential] | None = None
        given = [] if layers is None else entries_of(layers)
        if given is None:
            raise InvalidArgumentError(
                f"expected a list of layers, such as [Dense(10)]. Received: {shown(layers)}"
            )
        for layer in given:
            self.add(layer)

    # --- the stack --------------------------------------------------------------------

    def add(self, layer: Layer | SymbolicTensor) -> None:
        """Put a layer on top.

        What ``gpuconv.Input(shape)`` gives, or an ``InputLayer``, says the shape of the inputs.

        Raises:
            InvalidArgumentError: not a layer, a name twice, or another dtype.
            ShapeError: the layer cannot take what the one below gives. The model is then as it was.
        """
        if isinstance(layer, SymbolicTensor):
            layer = layer.node.layer
        if isinstance(layer, InputLayer):
            self._begin_with(layer)
            return
        self._check_new(layer)
        shape = self.compute_output_shape(self.built_shape) if self.built else None
        given = layer.name
        if not layer.named_by_user:
            layer.name = self._next_name(layer)
        self.layers.append(layer)
        try:
            self._build_with(layer, shape)
        except BaseException:  # an error leaves the model as it was
            self.layers.pop()
            layer.name = given
            raise
        layer.named_by_user = True  # in a second model too: its arrays are saved by this name
        self._find_dtype()
        if not self._trainable:
            layer.trainable = False

    def _begin_with(self, entrance: InputLayer) -> None:
        if self.layers or self.input_shape is not None:
            raise InvalidArgumentError(
                f"an input says what a stack begins with, so it comes first and once. "
                f"Received: {entrance.name}"
            )
        self.input_shape = entrance.shape

    def _build_with(self, layer: Layer, shape: Any) -> None:
        """Build what can be built now; ``shape`` is what the layer gets in a built model."""
        if self.built:
            layer.check_input_shape(shape)
            layer.compute_output_shape(shape)
            self._place(layer)
            layer.build(shape)
            self.name_parameters(self.name)
            self._drawn()
        elif self.first_input_shape is not None:
            self.build((None, *self.first_input_shape))

    def _find_dtype(self) -> None:
        self.dtype = next((each.dtype for each in self.layers if each.dtype), None)

    def pop(self) -> Layer:
        """Take the top layer off and return it.

        Raises:
            InvalidArgumentError: there is none.
        """
        if not self.layers:
            raise InvalidArgumentError(f"{self.name} has no layer to take off")
        layer = self.layers.pop()
        del self._symbols[len(self.layers) + 1 :]
        if not self.layers:
            self.built_shape = None
        self._find_dtype()
        return layer

    @property
    def sublayers(self) -> Sequence[Layer]:
        return self.layers

    @property
    def first_input_shape(self) -> tuple[Any, ...] | None:
        """The ``input_shape`` of the first layer, or of this one, if either was given.

        A first layer that is a model with a known input shape tells that.
        """
        if self.input_shape is not None:
            return self.input_shape
        if not self.layers:
            return None
        first = self.layers[0]
        if isinstance(first, Model) and first.built:
            return tuple(first.built_shape)[1:]  # type: ignore[arg-type]
        return first.first_input_shape if isinstance(first, Sequential) else first.input_shape

    def _check_new(self, layer: Any) -> None:
        if not isinstance(layer, Layer):
            raise InvalidArgumentError(
                f"expected a layer, such as gpuconv.layers.Dense(10). Received: {layer!r}"
            )
        if layer.several_inputs:
            raise InvalidArgumentError(
                f"{type(layer).__name__} takes several inputs, which a Sequential cannot give it. "
                f"Received: {layer.name}"
            )
        present = {id(other) for other in self.walk()}
        for part in layer.walk():
            if id(part) in present:
                raise InvalidArgumentError(
                    f"a layer can stand in a Sequential once. Received: {part.name} again"
                )
        if layer.named_by_user and layer.name in {other.name for other in self.layers}:
            raise InvalidArgumentError(
                f"layers of a model need different names; give one of them a name=.... "
                f"Received: {layer.name!r} twice"
            )
        if self.layers and layer.dtype and self.dtype and layer.dtype != self.dtype:
            raise InvalidArgumentError(
                f"all layers of a Sequential have one dtype, here {self.dtype}. "
                f"Received: {layer.name} with {layer.dtype}"
            )

    def _next_name(self, layer: Layer) -> str:
        stem = snake_case(type(layer).__name__)
        used = {other.name for other in self.layers}
        count = Counter(snake_case(type(other).__name__) for other in self.layers)[stem]
        while (name := f"{stem}_{count}" if count else stem) in used:
            count += 1
        return name

    # --- as a layer -------------------------------------------------------------------

    def check_input_shape(self, shape: Any) -> None:
        if not self.layers:
            raise NotBuiltError(f"{self.name} has no layers: add some first")
        self.layers[0].check_input_shape(shape)
        if self.built and tuple(shape[1:]) != tuple(self.built_shape[1:]):  # type: ignore[index]
            self.compute_output_shape(shape)  # other extents: do the layers above take them too?

    def compute_output_shape(self, input_shape: Any) -> Any:
        for layer in self.layers:
            layer.check_input_shape(input_shape)  # a layer may have been built before it came here
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def add_parameters(self, input_shape: Any) -> None:
        for layer in self.layers:
            self._place(layer)
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def create_parameters(self, input_shape: Any) -> None:
        super().create_parameters(input_shape)
        self._drawn()

    def _place(self, layer: Layer) -> None:
        layer.to(self.engine or self.backend or "cpu")

    @property
    def plan(self) -> Plan:
        """What is run: the layers one after another."""
        if self._chained is None or self._chained[0] != self.layers:
            self._chained = [*self.layers], Plan.chain(self.layers)
        return self._chained[1]

    def run(self, x: Any, training: bool) -> tuple[Any, Backward]:
        return self.plan.run(x, training)

    def infer(self, x: Any) -> Any:
        return self.plan.infer(x)

    # --- as a graph -------------------------------------------------------------------

    def rows(self) -> list[tuple[Layer, Any, list[str]]]:
        shapes = self.plan.shapes(self.built_shape)
        return [(layer, shapes[n + 1], []) for n, layer in enumerate(self.layers)]

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic tensor that the stack begins with, in a list.

        Raises:
            NotBuiltError: no input shape is known yet.
        """
        return [self._drawn()[0]]

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic tensor that the stack ends with, in a list.

        Raises:
            NotBuiltError: no input shape is known yet.
        """
        return [self._drawn()[-1]]

    def _drawn(self) -> list[SymbolicTensor]:
        """The symbolic tensors before, between and behind the layers."""
        if not self.built:
            raise NotBuiltError(f"{self.name} has no graph yet: build it or call it first")
        if not self._symbols:
            self._symbols = [Input(tuple(self.built_shape)[1:], dtype=self.dtype)]  # type: ignore[arg-type]
        for layer in self.layers[len(self._symbols) - 1 :]:
            self._symbols.append(layer(self._symbols[-1]))
        return self._symbols

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_symbols": [], "_chained": None, "_twin": None}

    def without_softmax(self) -> Layer | None:
        if not self.layers:
            return None
        last = self.layers[-1]
        # Asked for in every step: the same twin again while it was made of the same things.
        made_of = [*self.layers, *vars(last).values()]
        if self._twin is not None and not isinstance(last, Model):
            before, twin = self._twin
            if len(before) == len(made_of) and all(map(operator.is_, before, made_of)):
                return twin
        logits = last.without_softmax()
        if logits is None:
            return None
        twin = copy.copy(self)
        twin.layers = [*self.layers[:-1], logits]
        self._twin = made_of, twin
        return twin

    # --- configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return name, settings and the layers' configurations."""
        return {
            "name": self.name,
            "trainable": self._trainable,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "layers": [layer_registry.serialize(layer) for layer in self.layers],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sequential:
        """Build an equal, untrained model from :meth:`get_config`'s dict."""
        settings = dict(config)
        built = [layer_registry.deserialize(entry) for entry in settings.pop("layers")]
        trainable = settings.pop("trainable", True)
        model = cls(built, **settings)
        model._trainable = trainable  # each layer brought its own setting
        return model


layer_registry.register(Sequential)
