"""Where data enters a graph."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError
from gpuconv.geometry import as_open_shape
from gpuconv.layers.base import Backward, Layer, check_dtype
from gpuconv.layers.symbolic import Node, SymbolicTensor


class InputLayer(Layer):
    """The beginning of a graph: gives on what it gets.

    Args:
        shape: of one sample; extents that may vary are None.
        name, dtype: as for every layer. The dtype is that of the layers that follow if it is None.

    Raises:
        InvalidArgumentError: no shape.
    """

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        *,
        input_shape: Sequence[int | None] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", None)
        super().__init__(**kwargs)
        given = input_shape if shape is None else shape
        if given is None:
            raise InvalidArgumentError(
                "an input needs the shape of one sample, such as (28, 28, 1). Received: None"
            )
        self.shape = as_open_shape(given, "shape")
        self.input_shape = self.shape
        self.built_shape = (None, *self.shape)

    def symbol(self) -> SymbolicTensor:
        """Return a symbolic tensor that layers can be called with."""
        node = Node(self, (), [(None, *self.shape)])
        self.nodes.append(weakref.ref(node))
        return node.output()

    def get_config(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "name": self.name,
            "trainable": self._trainable,
            "dtype": self.dtype,
        }

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        return x, lambda dy, input_gradient=True: dy if input_gradient else None

    def infer(self, x: Array) -> Array:
        return x


def Input(
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    name: str | None = None,
) -> SymbolicTensor:
    """Begin a graph, as ``keras.Input``.

    Args:
        shape: of one sample, such as ``(224, 224, 3)``; None for extents that may vary.
        batch_size: taken for Keras's sake: models take batches of any size. It must be positive.
        dtype: ``"float32"`` or ``"float64"``; None: that of the layers.
        name: of the input; None numbers it.

    Returns:
        A symbolic tensor: call layers with it, then ``gpuconv.Model(inputs, outputs)``.

    Raises:
        InvalidArgumentError: not a shape, or not a batch size.
        DTypeError: another dtype.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InvalidArgumentError(
            f"batch_size must be a positive integer or None. Received: {batch_size!r}"
        )
    wanted = None if dtype is None else check_dtype(dtype)
    return InputLayer(shape, dtype=wanted, name=name).symbol()
