"""Outputs that are not computed yet: what layers are called with while a graph is drawn.

Calling a layer with a :class:`SymbolicTensor` computes nothing but shapes. It notes a
:class:`Node`: this layer, of those inputs. ``gpuconv.Model(inputs, outputs)`` follows the nodes
back from its outputs and so knows what to run.
"""

from __future__ import annotations

import numbers
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuconv.errors import InvalidArgumentError, shown

if TYPE_CHECKING:
    from gpuconv.layers.base import Layer


class SymbolicTensor:
    """An output of a layer in a graph, as Keras's ``KerasTensor``.

    Attributes:
        shape: with the batch, None, first.
        node: the call that it comes from.
        index: which output of that call it is.
    """

    def __init__(self, shape: tuple[Any, ...], node: Node, index: int = 0) -> None:
        self.shape = shape
        self.node = node
        self.index = index

    @property
    def ndim(self) -> int:
        """Number of dimensions, the batch included."""
        return len(self.shape)

    @property
    def name(self) -> str:
        """Name of the layer that it comes from."""
        return self.node.layer.name

    @property
    def dtype(self) -> str | None:
        """Dtype of the layer that it comes from."""
        return self.node.layer.dtype

    @property
    def key(self) -> tuple[int, int]:
        """What is equal for the same output of the same call."""
        return id(self.node), self.index

    def __repr__(self) -> str:
        return f"<SymbolicTensor of {self.name}, shape {self.shape}>"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise InvalidArgumentError(
            f"a symbolic tensor has no values: call layers with it, and the model of the graph "
            f"with data. Received: {self!r}"
        )

    def __add__(self, other: Any) -> Any:
        return self._scaled(1.0, other) if _is_number(other) else self._merged("Add", other)

    def __sub__(self, other: Any) -> Any:
        return self._scaled(1.0, -other) if _is_number(other) else self._merged("Subtract", other)

    def __mul__(self, other: Any) -> Any:
        return self._scaled(other, 0.0) if _is_number(other) else self._merged("Multiply", other)

    def __truediv__(self, other: Any) -> Any:
        if not _is_number(other) or other == 0:
            raise InvalidArgumentError(
                f"an output of a layer can be divided by a number. Received: {shown(other)}"
            )
        return self._scaled(1.0 / other, 0.0)

    def __neg__(self) -> Any:
        return self._scaled(-1.0, 0.0)

    def __rsub__(self, other: Any) -> Any:
        return self._scaled(-1.0, other) if _is_number(other) else self._merged("Subtract", other)

    __radd__, __rmul__ = __add__, __mul__

    def _scaled(self, scale: float, offset: float) -> Any:
        from gpuconv.layers.preprocessing import Rescaling

        return Rescaling(float(scale), float(offset), dtype=self.dtype or "float32")(self)

    def _merged(self, kind: str, other: Any) -> Any:
        from gpuconv.layers import merging

        if not isinstance(other, SymbolicTensor):
            raise InvalidArgumentError(
                f"outputs of layers can be combined with each other and with numbers; use a layer "
                f"for the rest. Received: {shown(other)}"
            )
        return getattr(merging, kind)()([self, other])


class Node:
    """One call of a layer in a graph.

    Symbolic tensors lead to their nodes, and nodes to layers and to what they were called with,
    never the other way around: a graph that nobody holds any more goes at once, with its weights.

    Attributes:
        layer: which layer.
        inputs: what it was called with.
        shapes: of its outputs.
        many: whether the layer gives a list of outputs.
        training: how the layer always runs here; None: as the model does.
    """

    def __init__(
        self,
        layer: Layer,
        inputs: tuple[SymbolicTensor, ...],
        shapes: Sequence[tuple[Any, ...]],
        many: bool = False,
        training: bool | None = None,
    ) -> None:
        self.layer = layer
        self.inputs = inputs
        self.shapes = tuple(shapes)
        self.many = many
        self.training = training

    def output(self, index: int = 0) -> SymbolicTensor:
        """One of the outputs."""
        return SymbolicTensor(self.shapes[index], self, index)

    @property
    def result(self) -> Any:
        """The output, or a list of them."""
        outputs = [self.output(index) for index in range(len(self.shapes))]
        return outputs if self.many else outputs[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_symbolic(x: Any) -> bool:
    """Whether ``x`` is a symbolic tensor, or a list with one."""
    if isinstance(x, SymbolicTensor):
        return True
    return isinstance(x, (list, tuple)) and any(isinstance(part, SymbolicTensor) for part in x)


def several_shapes(shape: Any) -> bool:
    """Whether a shape is a list of shapes: of several inputs or outputs."""
    return isinstance(shape, list) and all(isinstance(part, (list, tuple)) for part in shape)


def call_symbolically(layer: Layer, x: Any, training: bool | None = None) -> Any:
    """Note a call; return its output, or a list of them.

    Raises:
        ShapeError: the layer cannot take such inputs.
        InvalidArgumentError: a list with something else, or the wrong number of inputs.
    """
    parts = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    others = [part for part in parts if not isinstance(part, SymbolicTensor)]
    if others:
        raise InvalidArgumentError(
            f"{layer.name}: expected outputs of layers only. Received: {shown(others[0])}"
        )
    if len(parts) > 1 and not layer.several_inputs:
        raise InvalidArgumentError(f"{layer.name} has one input. Received: {len(parts)}")
    shapes: Any = [part.shape for part in parts]
    shape = shapes if layer.several_inputs else shapes[0]
    return note_call(layer, parts, shape, None if training is None else bool(training))


def note_call(
    layer: Layer, inputs: tuple[SymbolicTensor, ...], shape: Any, training: bool | None = None
) -> Any:
    """Build the layer for inputs of this shape, and note the call."""
    layer.build(shape)
    result = layer.compute_output_shape(shape)
    many = several_shapes(result)
    shapes = [tuple(one) for one in (result if many else [result])]
    node = Node(layer, inputs, shapes, many, training)
    layer.nodes.append(weakref.ref(node))
    return node.result
