"""The base of every layer: building, the container boundary, parameters, configuration.

A subclass writes ``add_parameters``, ``compute_output_shape`` and ``run``, which works on plain
arrays and returns ``(y, backward)``; ``infer`` where inference can do less.

How one call flows::

    layer.forward(x) -> unwrap, cast, build on first use -> run(array) -> wrap (y, backward)

A ``backward`` closure takes ``dy`` and returns ``dx``; on the way it ADDS the gradients of the
layer's trainable parameters into their ``grad``. It may be called once or several times.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from gpuconv import activations, initializers, regularizers
from gpuconv.backends.arrays import is_array, overwrite, to_device
from gpuconv.backends.base import Array
from gpuconv.backends.selection import resolve_device, use_backend
from gpuconv.configurable import Configurable, snake_case
from gpuconv.containers import FLOATS, Wrap, place, unwrap
from gpuconv.errors import DTypeError, InvalidArgumentError, NotBuiltError, ShapeError, shown
from gpuconv.geometry import as_open_shape
from gpuconv.layers.symbolic import Node, call_symbolically, is_symbolic
from gpuconv.parameter import Parameter
from gpuconv.random import SeedStream

Shape = tuple[Any, ...]
"""A shape whose first entry, the batch, may be None; for several inputs a list of shapes."""

Backward = Callable[..., Any]
"""``backward(dy, input_gradient=True) -> dx``; without input gradient it returns None."""


class Layer(Configurable):
    """A differentiable function with parameters.

    Args:
        name: unique within a model; None derives it from the class and numbers it.
        trainable: False freezes it: no gradients, no updates; takes effect at once.
        dtype: ``"float32"`` (default) or ``"float64"``; inputs are cast to it. Layers without
            parameters also take None: floating inputs keep their dtype, others become float32.
        input_shape: shape of one sample, for the first layer of a model; None for extents that
            may vary from batch to batch.

    Raises:
        UnknownArgumentError: an argument that the layer does not have.
        InvalidArgumentError, DTypeError: an impossible value.
    """

    min_rank: ClassVar[int] = 1
    """Fewest dimensions of an input, the batch included."""
    exact_rank: ClassVar[int | None] = None
    """Number of dimensions of an input where only one is possible."""
    several_inputs: ClassVar[bool] = False
    """Whether the layer takes a list of inputs."""

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: str | None = "float32",
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        stateless = type(self).add_parameters is Layer.add_parameters
        self.dtype = None if dtype is None and stateless else check_dtype(dtype)
        self.named_by_user = name is not None
        self.name = automatic_name(type(self)) if name is None else check_layer_name(name)
        self.input_shape = (
            None if input_shape is None else as_open_shape(input_shape, "input_shape")
        )
        self.backend: str | None = None
        self.engine: str | None = None
        self.built_shape: Shape | list[Shape] | None = None
        self._trainable = bool(trainable)
        self._own: list[Parameter] = []
        self.nodes: list[weakref.ref[Node]] = []  # its calls in graphs, the last one at the end

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in vars(cls):  # as it would be written for Keras
            raise TypeError(
                f"{cls.__name__} defines build; a layer of gpuconv creates its parameters in "
                f"add_parameters(input_shape), which build calls once"
            )
        if "call" in vars(cls) and cls.run is Layer.run:
            raise TypeError(
                f"{cls.__name__} defines call; a layer of gpuconv defines run(x, training), which "
                f"returns the output and the function from its gradient to that of the input"
            )

    # --- what a subclass writes -------------------------------------------------------

    def add_parameters(self, input_shape: Any) -> None:
        """Create the parameters for inputs of this shape (batch first, may be None)."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the output's shape for an input's shape, both with the batch first.

        Raises:
            ShapeError: the layer cannot take such an input.
        """
        return input_shape

    def run(self, x: Any, training: bool) -> tuple[Any, Backward]:
        """Compute ``(y, backward)`` from arrays that lie where the layer lives."""
        raise TypeError(f"{type(self).__name__} must define run")

    def infer(self, x: Any) -> Any:
        """Compute ``y`` alone, keeping nothing."""
        return self.run(x, training=False)[0]

    def without_softmax(self) -> Layer | None:
        """Return a twin with the same parameters that gives logits, if this ends in a softmax."""
        return None

    @property
    def sublayers(self) -> Sequence[Layer]:
        """Layers inside this one."""
        return ()

    def non_parameters(self) -> dict[str, Array]:
        """Arrays that are saved with the layer but are not trained, such as moving statistics."""
        return {}

    # --- calling ----------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False) -> tuple[Any, Backward]:
        """Compute the output and the function that runs the gradient backwards.

        Args:
            x: array or Tensor, batch first; a list of them for layers with several inputs.
                Cast to the layer's dtype; never modified.
            training: dropout drops, BatchNormalization uses and updates batch statistics.

        Returns:
            ``(y, backward)``, both in the container of ``x``: ``dx = backward(dy)`` adds the
            parameters' gradients into their ``grad`` and returns the gradient of ``x``.

        Raises:
            ShapeError: ``x`` does not fit the layer.
            DTypeError: ``x`` does not hold real numbers.
        """
        with self.computing():
            array, wrap = self._enter(x)
            y, array_backward = self.run(array, training)
        many = isinstance(y, list)
        # Not y itself, which the closure would keep alive.
        expected = [(tuple(part.shape), part.dtype.name) for part in (y if many else [y])]

        def backward(dy: Any, input_gradient: bool = True) -> Any:
            with self.computing():
                received = self._received(dy, expected, many)
                dx = array_backward(received if many else received[0], input_gradient)
            if dx is None:
                return None
            return [wrap(part) for part in dx] if self.several_inputs else wrap(dx)

        return [wrap(part) for part in y] if many else wrap(y), backward

    def _received(
        self, dy: Any, expected: Sequence[tuple[tuple[int, ...], str]], many: bool
    ) -> list[Array]:
        """Unwrap and check the gradients of the outputs, whose shapes and dtypes are known."""
        if many and (not isinstance(dy, (list, tuple)) or len(dy) != len(expected)):
            raise ShapeError(
                f"{self.name}: expected a list of {len(expected)} gradients, one an output. "
                f"Received: {shown(dy)}"
            )
        arrays = []
        for part, (shape, dtype) in zip(dy if many else [dy], expected, strict=True):
            array, _ = self._unwrap_one(part, dtype)
            if tuple(array.shape) != shape:
                raise ShapeError(
                    f"{self.name}: dy must have the shape of the output, {shape}. "
                    f"Received: {tuple(array.shape)}"
                )
            arrays.append(array)
        return arrays

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Compute the output alone; see :meth:`forward`. Nothing is retained for a gradient.

        Called with a symbolic tensor (``gpuconv.Input``), or a list of them, it becomes a part of
        a graph, and the output is symbolic too. There ``training``, if it is given, holds for
        this call whatever the model does, as in Keras: ``base(x, training=False)`` keeps the
        moving statistics of a network that is fine-tuned.
        """
        if is_symbolic(x):
            return call_symbolically(self, x, training)
        with self.computing():
            array, wrap = self._enter(x)
            y = self.run(array, True)[0] if training else self.infer(array)
            return [wrap(part) for part in y] if isinstance(y, list) else wrap(y)

    @property
    def output(self) -> Any:
        """The symbolic output of the layer's last call in a graph; a list if it gives several.

        Raises:
            InvalidArgumentError: it is in no graph.
        """
        return self._last_call().result

    @property
    def input(self) -> Any:
        """What the layer was last called with in a graph; a list of them for several inputs."""
        inputs = self._last_call().inputs
        return list(inputs) if self.several_inputs else inputs[0]

    def _last_call(self) -> Node:
        for reference in reversed(self.nodes):
            node = reference()
            if node is not None:
                return node
        raise InvalidArgumentError(
            f"{self.name} stands in no graph: call it with what gpuconv.Input(shape) gives, or put "
            f"it into a model whose input shape is known. Received: {self!r}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: all but the graphs that the layer stands in."""
        return {**self.__dict__, "nodes": []}

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Return a ``with`` block in which the engine that was named for this layer computes."""
        return use_backend(self.engine) if self.engine else contextlib.nullcontext()

    def _enter(self, x: Any) -> tuple[Any, Wrap]:
        """Unwrap, check, cast and place the input; build the layer if this is its first."""
        if self.several_inputs:
            if isinstance(x, np.ndarray) or not isinstance(x, Sequence):
                raise ShapeError(
                    f"{self.name}: expected a list of inputs. Received: {type(x).__name__}"
                )
            pairs = [self._unwrap_one(part) for part in x]
            arrays: Any = [array for array, _ in pairs]
            shape: Any = [(None, *a.shape[1:]) for a in arrays]
            wrap = pairs[0][1] if pairs else _unchanged
        else:
            arrays, wrap = self._unwrap_one(x)
            shape = (None, *arrays.shape[1:])
        self.build(shape)
        return arrays, wrap

    def _unwrap_one(self, value: Any, dtype: str | None = None) -> tuple[Array, Wrap]:
        array, wrap = unwrap(value, self.name)
        if array.ndim == 0:
            raise ShapeError(
                f"{self.name}: expected an array with a batch axis. Received: a scalar"
            )
        placed, back = place(array, self.backend)
        return self.cast(placed, dtype), lambda result: wrap(back(result))

    def cast(self, array: Array, dtype: str | None = None) -> Array:
        """Convert to ``dtype``, by default the layer's; without either, floats stay as they are."""
        wanted = dtype or self.dtype
        if wanted is None:
            wanted = array.dtype.name if array.dtype.name in FLOATS else "float32"
        return array if array.dtype.name == wanted else array.astype(wanted)

    # --- building ---------------------------------------------------------------------

    @property
    def built(self) -> bool:
        """Whether the parameters exist."""
        return self.built_shape is not None

    def build(self, input_shape: Any) -> None:
        """Create the parameters for an input shape; calls do it on first use.

        Args:
            input_shape: the batch, or None, first; a list of shapes for several inputs. Building
                again changes nothing.

        Raises:
            ShapeError: the layer cannot take such an input.
            InvalidArgumentError: not a shape.
        """
        if self.built:
            self.check_input_shape(input_shape)
            return
        if not self.several_inputs:
            input_shape = as_open_shape(input_shape, f"{self.name}: the input's shape")
        self.check_input_shape(input_shape)
        self.compute_output_shape(input_shape)
        self.create_parameters(input_shape)

    def create_parameters(self, input_shape: Any) -> None:
        """Build from those extents that the parameters depend on; the others may be None.

        ``gpuconv.nn`` calls it at construction, where channels are known and sizes are not.
        """
        if self.backend is None:
            self.backend = resolve_device()[0]
        self.add_parameters(input_shape)
        self.built_shape = input_shape
        self.name_parameters(self.name)

    def check_input_shape(self, shape: Any) -> None:
        """Check rank and, once built, the channels and features that the weights expect.

        Raises:
            ShapeError: they do not fit.
        """
        for one in shape if self.several_inputs else [shape]:
            if self.exact_rank is not None and len(one) != self.exact_rank:
                raise ShapeError(
                    f"{self.name}: expected an input of {self.exact_rank} dimensions (batch "
                    f"first). Received: shape {tuple(one)}"
                )
            if len(one) < self.min_rank:
                raise ShapeError(
                    f"{self.name}: expected an input of at least {self.min_rank} dimensions "
                    f"(batch first). Received: shape {tuple(one)}"
                )

    def add_parameter(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Any,
        regularizer: Any = None,
        trainable: bool = True,
    ) -> Parameter:
        """Create a parameter on the layer's device."""
        value = initializers.get(initializer)(tuple(shape), dtype=self.dtype)
        parameter = Parameter(
            to_device(value, self.backend or "cpu"),
            name,
            trainable=trainable and self._trainable,
            regularizer=regularizers.get(regularizer),
        )
        self._own.append(parameter)
        return parameter

    def name_parameters(self, prefix: str) -> None:
        """Give every parameter its path, such as ``"conv2d/kernel"``."""
        for parameter in self._own:
            parameter.path = f"{prefix}/{parameter.name}"
        for layer in self.sublayers:
            layer.name_parameters(f"{prefix}/{layer.name}")

    # --- parameters -------------------------------------------------------------------

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, of the layers inside too, each once."""
        return list(dict.fromkeys(p for layer in self.walk() for p in layer._own))

    @property
    def trainable_parameters(self) -> list[Parameter]:
        """The parameters that gradients are computed for."""
        return [p for p in self.parameters if p.trainable]

    @property
    def trainable_weights(self) -> list[Parameter]:
        """Keras's word for :attr:`trainable_parameters`."""
        return self.trainable_parameters

    @property
    def trainable_variables(self) -> list[Parameter]:
        """Keras's other word for :attr:`trainable_parameters`."""
        return self.trainable_parameters

    @property
    def weights(self) -> list[Parameter]:
        """Keras's word for all arrays of :meth:`state`; moving statistics are frozen ones."""
        found: list[Parameter] = []
        for layer in dict.fromkeys(self.walk()):
            found += layer._own
            for name, array in layer.non_parameters().items():
                found.append(Parameter(array, name, trainable=False))
                found[-1].path = f"{layer.name}/{name}"
        return list(dict.fromkeys(found))

    @property
    def non_trainable_weights(self) -> list[Parameter]:
        """Those of :attr:`weights` that are not :attr:`trainable_weights`."""
        return [weight for weight in self.weights if not weight.trainable]

    @property
    def trainable(self) -> bool:
        """Whether the layer learns; setting it reaches every layer inside, at once."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.walk():
            layer._trainable = bool(value)
            for parameter in layer._own:
                parameter.trainable = bool(value)

    @property
    def has_trainable(self) -> bool:
        """Whether any parameter here or inside is trainable."""
        for parameter in self._own:
            if parameter.trainable:
                return True
        return any(layer.has_trainable for layer in self.sublayers)

    def walk(self) -> Iterator[Layer]:
        """Yield this layer and all layers inside, parents first."""
        pending: list[Layer] = [self]
        while pending:
            layer = pending.pop()
            yield layer
            pending.extend(reversed(layer.sublayers))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.zero_grad()

    def count_params(self) -> int:
        """Number of numbers in parameters and moving statistics.

        Raises:
            NotBuiltError: the layer has not seen a shape yet.
        """
        if not self.built:
            raise NotBuiltError(f"{self.name} has no parameters yet: call it or build it first")
        return sum(int(np.prod(a.shape)) for a in self.state().values())

    def state(self) -> dict[str, Array]:
        """All arrays to be saved, by name within this layer: ``"kernel"``, ``"inner/kernel"``."""
        arrays: dict[str, Array] = {p.name: p.value for p in self._own}
        arrays.update(self.non_parameters())
        for layer in self.sublayers:
            arrays.update({f"{layer.name}/{key}": a for key, a in layer.state().items()})
        return arrays

    def get_weights(self) -> list[np.ndarray[Any, Any]]:
        """Return copies of all arrays of :meth:`state`, in its order."""
        return [np.array(to_device(a, "cpu")) for a in self.state().values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Overwrite all arrays of :meth:`state`, in its order; nothing changes if one is wrong.

        Raises:
            NotBuiltError: the layer has not seen a shape yet.
            InvalidArgumentError: not a list.
            ShapeError: the wrong number of arrays, or a wrong shape.
        """
        if not self.built:
            raise NotBuiltError(f"{self.name} has no weights yet: call it or build it first")
        targets = self.state()
        if is_array(weights) or not isinstance(weights, Sequence):
            raise InvalidArgumentError(
                f"{self.name}: expected a list of {len(targets)} arrays. Received: {shown(weights)}"
            )
        if len(weights) != len(targets):
            raise ShapeError(
                f"{self.name}: expected {len(targets)} arrays ({', '.join(targets) or 'none'}). "
                f"Received: {len(weights)}"
            )
        values = [unwrap(w.value if isinstance(w, Parameter) else w)[0] for w in weights]
        for (key, target), value in zip(targets.items(), values, strict=True):
            if tuple(value.shape) != tuple(target.shape):
                raise ShapeError(
                    f"{self.name}/{key}: expected the shape {tuple(target.shape)}. "
                    f"Received: {tuple(value.shape)}"
                )
        for target, value in zip(targets.values(), values, strict=True):
            overwrite(target, value)

    def to(self, backend: str) -> Layer:
        """Move all arrays to a device and compute there from now on.

        Args:
            backend: ``"cpu"`` or ``"cuda"``, where the dispatcher chooses engines; or an engine
                (``"cuda:numba"``), which then computes everything.

        Raises:
            BackendUnavailableError: it cannot run here.
        """
        device = resolve_device(backend)[0]
        for layer in self.walk():
            layer.backend = device
            layer.engine = backend if ":" in backend else None
            for parameter in layer._own:
                parameter.to(device)
            layer.move_non_parameters(device)
        return self

    def move_non_parameters(self, device: str) -> None:
        """Move what :meth:`non_parameters` returns; nothing for most layers."""

    def random_streams(self) -> dict[str, SeedStream]:
        """Random streams here and inside, by name: ``"seed_stream"``, ``"inner/seed_stream"``.

        Their states, two integers each, can be saved and set to repeat or resume a training.
        """
        return {
            f"{layer.name}/{key}": stream
            for layer in self.sublayers
            for key, stream in layer.random_streams().items()
        }

    # --- configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain data, for ``from_config``."""
        return {key: plain(value) for key, value in super().get_config().items()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name!r}, built={self.built}>"


_counts: Counter[str] = Counter()
_counts_lock = threading.Lock()


def automatic_name(cls: type) -> str:
    """Return ``conv2d``, then ``conv2d_1``, ...: Keras's names, numbered in this process.

    A model numbers the layers it receives anew, so that its names do not depend on others.
    """
    stem = snake_case(cls.__name__)
    with _counts_lock:
        count = _counts[stem]
        _counts[stem] += 1
    return f"{stem}_{count}" if count else stem


def check_layer_name(name: Any) -> str:
    """Return ``name``.

    Raises:
        InvalidArgumentError: not a non-empty string without ``/``.
    """
    if not isinstance(name, str) or not name or "/" in name:
        raise InvalidArgumentError(
            f"a layer's name must be a non-empty string without '/'. Received: {name!r}"
        )
    return name


def check_dtype(dtype: Any) -> str:
    """Return ``"float32"`` or ``"float64"``.

    Raises:
        DTypeError: anything else.
    """
    try:
        name = "None" if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in FLOATS:
        raise DTypeError(f"dtype must be 'float32' or 'float64'. Received: {dtype!r}")
    return name


def plain(value: Any) -> Any:
    """Turn a constructor's argument into JSON-like data."""
    if isinstance(value, Layer):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    if isinstance(value, activations.ActivationFunction):
        return value.config()
    if isinstance(value, initializers.Initializer):
        return initializers.serialize(value)
    if isinstance(value, regularizers.Regularizer):
        return regularizers.serialize(value)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value


def _unchanged(result: Any) -> Any:
    return result
