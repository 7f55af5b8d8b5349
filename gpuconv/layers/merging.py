"""Layers that make one array of several: Add, Subtract, Multiply, Average, Maximum, Minimum,
Concatenate.

They are called with a list and their backward returns a list. The gradients may be views of ``dy``
or ``dy`` itself: whoever adds to one makes a new array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.errors import ShapeError
from gpuconv.geometry import as_int
from gpuconv.layers.axes import resolve_axis
from gpuconv.layers.base import Backward, Layer, Shape

Gradients = Callable[[Array], list[Array]]
"""From the gradient of the output to those of the inputs."""


class Merge(Layer):
    """A layer over a list of arrays with the same batch; subclasses write ``merge``."""

    several_inputs = True

    def merge(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        """Compute the output, and the function to the inputs' gradients."""
        raise TypeError(f"{type(self).__name__} must define merge")

    def check_input_shape(self, shape: Sequence[Shape]) -> None:
        super().check_input_shape(shape)
        if not shape:
            raise ShapeError(f"{self.name}: expected at least one input. Received: []")

    def run(self, x: Sequence[Array], training: bool) -> tuple[Array, Backward]:
        if len({part.shape[0] for part in x}) > 1:
            raise ShapeError(
                f"{self.name}: expected inputs of one batch size. "
                f"Received: shapes {[tuple(part.shape) for part in x]}"
            )
        y, gradients = self.merge(x)

        def backward(dy: Array, input_gradient: bool = True) -> list[Array] | None:
            return gradients(dy) if input_gradient else None

        return y, backward


class ElementwiseMerge(Merge):
    """A merge element by element. Where an input has extent 1 and another more, it is repeated,
    as in Keras; all have the same number of dimensions and the same batch.

    Subclasses write ``combine``, which sees arrays of one shape.
    """

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        """Compute the output, and the function to the inputs' gradients."""
        raise TypeError(f"{type(self).__name__} must define combine")

    def check_input_shape(self, shape: Sequence[Shape]) -> None:
        super().check_input_shape(shape)
        one_rank = len({len(one) for one in shape}) == 1
        if not one_rank or any(len(_repeated_to(e)) > 1 for e in zip(*shape, strict=True)):
            raise ShapeError(
                f"{self.name}: expected inputs of one shape, or with extents of 1 instead. "
                f"Received: shapes {[tuple(one) for one in shape]}"
            )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        self.check_input_shape(input_shape)
        return tuple(
            next(iter(_repeated_to(extents)), None if None in extents else 1)
            for extents in zip(*input_shape, strict=True)
        )

    def merge(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        xp = array_module(arrays[0])
        shapes = [array.shape for array in arrays]
        whole = self.compute_output_shape(shapes)
        y, gradients = self.combine(
            [array if array.shape == whole else xp.broadcast_to(array, whole) for array in arrays]
        )
        return y, lambda dy: [
            _summed_to(shape, gradient)
            for shape, gradient in zip(shapes, gradients(dy), strict=True)
        ]


class Add(ElementwiseMerge):
    """The sum of the inputs; extents of 1 are repeated.

    Raises:
        ShapeError: no input, or shapes that do not fit together.
    """

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        count = len(arrays)
        return _total(arrays), lambda dy: [dy] * count


class Subtract(ElementwiseMerge):
    """The first input minus the second; extents of 1 are repeated.

    Raises:
        ShapeError: not two inputs, or shapes that do not fit together.
    """

    def check_input_shape(self, shape: Sequence[Shape]) -> None:
        super().check_input_shape(shape)
        if len(shape) != 2:
            raise ShapeError(f"{self.name}: expected two inputs. Received: {len(shape)}")

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        return arrays[0] - arrays[1], lambda dy: [dy, -dy]


class Multiply(ElementwiseMerge):
    """The product of the inputs; extents of 1 are repeated.

    Raises:
        ShapeError: no input, or shapes that do not fit together.
    """

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        def gradients(dy: Array) -> list[Array]:
            # Products of the others from both ends: a division would fail at zeros.
            before = [dy]
            for array in arrays[:-1]:
                before.append(before[-1] * array)
            results = [before[-1]]
            after = arrays[-1]
            for array, front in zip(arrays[-2::-1], before[-2::-1], strict=True):
                results.append(front * after)
                after = after * array
            return results[::-1]

        return reduce(_multiply, arrays[1:], arrays[0]), gradients


class Average(ElementwiseMerge):
    """The mean of the inputs; extents of 1 are repeated.

    Raises:
        ShapeError: no input, or shapes that do not fit together.
    """

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        share = 1.0 / len(arrays)

        def gradients(dy: Array) -> list[Array]:
            part = dy * share
            return [part] * len(arrays)

        return _total(arrays) * share, gradients


class _Extreme(ElementwiseMerge):
    """What Maximum and Minimum share; the gradient goes to the first of equal inputs."""

    function: str

    def combine(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        xp = array_module(arrays[0])
        pick = getattr(xp, self.function)
        y, winner = arrays[0], xp.zeros(arrays[0].shape, "int32")
        for number, array in enumerate(arrays[1:], start=1):
            picked = pick(y, array)
            winner[(picked != y) & ~xp.isnan(y)] = number
            y = picked
        count = len(arrays)
        return y, lambda dy: [dy * (winner == number) for number in range(count)]


class Maximum(_Extreme):
    """The largest of the inputs; NaN wins. Of equal inputs the first gets the gradient.

    Extents of 1 are repeated.

    Raises:
        ShapeError: no input, or shapes that do not fit together.
    """

    function = "maximum"


class Minimum(_Extreme):
    """The smallest of the inputs; NaN wins. Of equal inputs the first gets the gradient.

    Extents of 1 are repeated.

    Raises:
        ShapeError: no input, or shapes that do not fit together.
    """

    function = "minimum"


class Concatenate(Merge):
    """Inputs side by side along an axis.

    Args:
        axis: default -1; not the batch.

    Raises:
        ShapeError: no input, an axis that does not exist, or shapes that differ elsewhere.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = as_int(axis, "axis")

    def check_input_shape(self, shape: Sequence[Shape]) -> None:
        super().check_input_shape(shape)
        axis = resolve_axis(self.axis, len(shape[0]), self.name)
        one_rank = len({len(one) for one in shape}) == 1
        if not one_rank or any(
            len(set(extents) - {None}) > 1
            for number, extents in enumerate(zip(*shape, strict=True))
            if number not in (0, axis)
        ):
            raise ShapeError(
                f"{self.name}: expected inputs whose shapes agree but for axis {self.axis}. "
                f"Received: shapes {[tuple(one) for one in shape]}"
            )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        self.check_input_shape(input_shape)
        axis = resolve_axis(self.axis, len(input_shape[0]), self.name)
        columns = list(zip(*input_shape, strict=True))
        # Where one input tells the extent, it is that of all.
        shape = [next((n for n in column if n is not None), None) for column in columns]
        shape[axis] = None if None in columns[axis] else sum(columns[axis])
        return tuple(shape)

    def merge(self, arrays: Sequence[Array]) -> tuple[Array, Gradients]:
        xp = array_module(arrays[0])
        axis = resolve_axis(self.axis, arrays[0].ndim, self.name)
        ends: list[int] = []
        for array in arrays[:-1]:
            ends.append((ends[-1] if ends else 0) + array.shape[axis])
        return xp.concatenate(arrays, axis=axis), lambda dy: list(xp.split(dy, ends, axis=axis))


# --- Keras's functions, which make a layer and call it ------------------------------------------


def add(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Add(**kwargs)(inputs)``."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Subtract(**kwargs)(inputs)``."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Multiply(**kwargs)(inputs)``."""
    return Multiply(**kwargs)(inputs)


def average(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Average(**kwargs)(inputs)``."""
    return Average(**kwargs)(inputs)


def maximum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Maximum(**kwargs)(inputs)``."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """``Minimum(**kwargs)(inputs)``."""
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: Sequence[Any], axis: int = -1, **kwargs: Any) -> Any:
    """``Concatenate(axis, **kwargs)(inputs)``."""
    return Concatenate(axis, **kwargs)(inputs)


def _total(arrays: Sequence[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    total = arrays[0] + arrays[1]
    for array in arrays[2:]:
        total += array
    return total


def _multiply(a: Array, b: Array) -> Array:
    return a * b


def _repeated_to(extents: Sequence[int | None]) -> set[int]:
    """The extents of one axis that are known and not 1; one at most if the inputs fit together."""
    return {extent for extent in extents if extent is not None and extent != 1}


def _summed_to(shape: Sequence[int], gradient: Array) -> Array:
    """Add up what belongs to one repeated element."""
    axes = tuple(a for a, n in enumerate(shape) if n != gradient.shape[a])
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient
