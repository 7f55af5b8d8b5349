"""Running layers that form a graph: forward in order, gradients in the reverse order.

A :class:`Plan` is a list of steps, each of which reads and writes numbered slots::

    x -> slot 0     step 0: conv   0 -> 1          backward, in reverse:
                    step 1: relu   1 -> 2            slot 3 has dy
                    step 2: add  2,0 -> 3            add  gives slots 2 and 0 a gradient
    y <- slot 3                                      relu gives slot 1 one
                                                     conv adds to what slot 0 has

What nobody reads any more is forgotten at once, forward and backward. Where nothing below a step
learns and nobody asked for the gradient of the inputs, the step computes none. The gradient of an
activation that only max pooling reads is computed behind that (``layers/backwards.py``).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers.backwards import postpone
from gpuconv.layers.base import Backward, Layer


@dataclass(frozen=True)
class Step:
    """One call of a layer.

    Attributes:
        layer: what is called. One that is called several times has several steps.
        inputs, outputs: slots.
        many: whether the layer gives a list of outputs.
        training: how the layer always runs; None: as the model does.
    """

    layer: Layer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    many: bool = False
    training: bool | None = None


@dataclass(frozen=True)
class Plan:
    """What a model runs.

    Attributes:
        steps: in an order in which each finds its inputs.
        inputs, outputs: slots of the model's own.
        many: whether the outputs are a list.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    many: bool = False

    @staticmethod
    def chain(layers: Sequence[Layer]) -> Plan:
        """The plan of layers one after another."""
        steps = tuple(Step(layer, (i,), (i + 1,)) for i, layer in enumerate(layers))
        return Plan(steps, (0,), (len(layers),))

    # --- forward ----------------------------------------------------------------------

    def run(self, x: Any, training: bool) -> tuple[Any, Backward]:
        """Compute ``(y, backward)``; see :class:`GraphBackward`."""
        closures: list[Backward | None] = []

        def compute(step: Step, inputs: Any) -> Any:
            fixed = step.training
            y, closure = step.layer.run(inputs, training if fixed is None else fixed)
            before = self._only_read_by.get(len(closures))
            if before is not None:
                postpone(closures[before], closure, y)
            closures.append(closure)
            return y

        return self._walk(x, compute), GraphBackward(self, closures)

    def infer(self, x: Any) -> Any:
        """Compute ``y`` alone."""

        def compute(step: Step, inputs: Any) -> Any:
            return step.layer.run(inputs, True)[0] if step.training else step.layer.infer(inputs)

        return self._walk(x, compute)

    def shapes(self, input_shape: Any) -> dict[int, Any]:
        """Return the shape in every slot, for the shape of the inputs.

        Raises:
            ShapeError: a layer cannot take what it would get.
        """
        given = input_shape if len(self.inputs) > 1 else [input_shape]
        found = dict(zip(self.inputs, given, strict=True))
        for step in self.steps:
            shape: Any = [found[slot] for slot in step.inputs]
            shape = shape if step.layer.several_inputs else shape[0]
            step.layer.check_input_shape(shape)  # it may have been built before it came here
            result = step.layer.compute_output_shape(shape)
            found.update(zip(step.outputs, result if step.many else [result], strict=True))
        return found

    def output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the outputs; a list of them where there are several."""
        found = self.shapes(input_shape)
        several = [found[slot] for slot in self.outputs]
        return several if self.many else several[0]

    def _walk(self, x: Any, compute: Any) -> Any:
        values: dict[int, Any] = dict(
            zip(self.inputs, x if len(self.inputs) > 1 else [x], strict=True)
        )
        last = self._last_reads
        for number, step in enumerate(self.steps):
            inputs: Any = [values[slot] for slot in step.inputs]
            y = compute(step, inputs if step.layer.several_inputs else inputs[0])
            del inputs
            for slot in step.inputs:
                if last[slot] == number:
                    values.pop(slot, None)
            values.update(zip(step.outputs, y if step.many else [y], strict=True))
            del y
        several = [values[slot] for slot in self.outputs]
        return several if self.many else several[0]

    @functools.cached_property
    def _last_reads(self) -> dict[int, int]:
        """The last step that reads each slot; outputs are read at the end."""
        last = {slot: number for number, step in enumerate(self.steps) for slot in step.inputs}
        last.update(dict.fromkeys(self.outputs, len(self.steps)))
        return last

    @functools.cached_property
    def _only_read_by(self) -> dict[int, int]:
        """The steps whose only output only one other step reads, by the number of that one."""
        reads = Counter(slot for step in self.steps for slot in step.inputs)
        reads.update(self.outputs)
        makers = {step.outputs: number for number, step in enumerate(self.steps)}
        return {
            number: makers[step.inputs]
            for number, step in enumerate(self.steps)
            if len(step.inputs) == 1 and reads[step.inputs[0]] == 1 and step.inputs in makers
        }

    # --- what learns ------------------------------------------------------------------

    def learning(self, input_gradient: bool) -> set[int]:
        """The slots whose gradients are of use: something below learns, or they are asked for."""
        slots = set(self.inputs) if input_gradient else set()
        for step in self.steps:
            if step.layer.has_trainable or slots.intersection(step.inputs):
                slots.update(step.outputs)
        return slots


class GraphBackward:
    """The gradient of a :class:`Plan`: ``backward(dy, input_gradient=True)``.

    Attributes:
        release: forget what each step kept as soon as its gradient is computed. The gradient can
            then be computed once only.
    """

    def __init__(self, plan: Plan, closures: list[Backward | None]) -> None:
        self._plan = plan
        self._closures = closures
        self.release = False

    def __call__(self, dy: Any, input_gradient: bool = True) -> Any:
        plan = self._plan
        useful = plan.learning(input_gradient)
        gradients = _Gradients()
        for slot, part in zip(plan.outputs, dy if plan.many else [dy], strict=True):
            if part is not None and slot in useful:
                gradients.add(slot, part)
        del dy
        for number in range(len(plan.steps) - 1, -1, -1):
            step = plan.steps[number]
            closure = self._closures[number]
            if self.release:
                self._closures[number] = None
            if not useful.intersection(step.outputs):
                continue
            received = [gradients.take(slot) for slot in step.outputs]
            if all(part is None for part in received):
                continue
            if closure is None:
                raise InvalidArgumentError(
                    "this gradient has been computed, and what it needs was released. "
                    "Received: a second call"
                )
            if self.release and isinstance(closure, GraphBackward):
                closure.release = True
            wanted = bool(useful.intersection(step.inputs))
            dx = closure(received if step.many else received[0], wanted)
            del received, closure
            if not wanted or dx is None:
                continue
            for slot, part in zip(
                step.inputs, dx if step.layer.several_inputs else [dx], strict=True
            ):
                if part is not None and slot in useful:
                    gradients.add(slot, part)
            del dx
        if not input_gradient:
            return None
        several = [gradients.take(slot) for slot in plan.inputs]
        return several if len(plan.inputs) > 1 else several[0]


class _Gradients:
    """Gradients by slot; what several readers give a slot is added up."""

    def __init__(self) -> None:
        self._by_slot: dict[int, Array] = {}
        self._own: set[int] = set()

    def add(self, slot: int, gradient: Array) -> None:
        """Add to a slot. The first gradient may belong to others, so the second makes a sum."""
        present = self._by_slot.get(slot)
        if present is None:
            self._by_slot[slot] = gradient
        elif slot in self._own:
            present += gradient
        else:
            self._by_slot[slot] = array_module(present).add(present, gradient)
            self._own.add(slot)

    def take(self, slot: int) -> Array | None:
        """Return and forget a slot's gradient; None if it got none."""
        self._own.discard(slot)
        return self._by_slot.pop(slot, None)
