"""Layers that bring raw inputs to a useful range: Rescaling and Normalization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.arrays import array_module, constant, is_array, to_device, to_numpy
from gpuconv.backends.base import Array
from gpuconv.containers import unwrap
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError
from gpuconv.layers.axes import as_axes, require_extents, resolve_axes
from gpuconv.layers.base import Backward, Layer, Shape

_EPSILON = 1e-7
"""Smallest standard deviation to divide by, as in Keras."""

_BLOCK_BYTES = 1 << 24
"""Size of the float64 blocks in which data is read; see :meth:`Normalization.adapt`."""


class Rescaling(Layer):
    """``x * scale + offset``, in training and inference.

    Args:
        scale: a number, or an array that broadcasts to a sample, such as one number a channel.
        offset: likewise; default 0.

    Images in 0..255 come to 0..1 with ``scale=1/255``, to -1..1 with
    ``scale=1/127.5, offset=-1``.

    Raises:
        InvalidArgumentError: not numbers.
        ShapeError: an input to which they do not broadcast.
    """

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = _numbers(scale, "scale")
        self.offset = _numbers(offset, "offset")

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            extents = np.shape(value)
            last = tuple(shape[1:])[-len(extents) :] if extents else ()
            if len(last) < len(extents) or any(
                n not in (1, m) and m is not None for n, m in zip(extents, last, strict=True)
            ):
                raise ShapeError(
                    f"{self.name}: expected an input to whose samples {name}, of shape {extents}, "
                    f"broadcasts. Received: shape {tuple(shape)}"
                )

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        scale = constant(np.asarray(self.scale), x)

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy * scale if input_gradient else None

        y = x * scale
        y += constant(np.asarray(self.offset), x)
        return y, backward


class Normalization(Layer):
    """``(x - mean) / sqrt(variance)`` with statistics of the data set, as Keras's Normalization.

    The statistics are given, or :meth:`adapt` takes them from data; until then they are 0 and 1.
    A standard deviation below 1e-7 counts as 1e-7.

    Args:
        axis: the axis (default -1), or several, along which the statistics vary; None takes one
            mean and variance for everything.
        mean, variance: numbers or arrays that broadcast to the extents of ``axis``; both or none.
        invert: the other way round: ``x * sqrt(variance) + mean``.

    State, unless they are given: ``mean`` and ``variance``, of the extents of ``axis``.

    Raises:
        InvalidArgumentError: one of mean and variance without the other, not numbers, or a
            negative variance.
        ShapeError: the input lacks an axis, or has other extents than the statistics.
    """

    mean: Array
    variance: Array

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        none = axis is None or (isinstance(axis, (list, tuple)) and not axis)
        self.axis = None if none else as_axes(axis)
        if (mean is None) != (variance is None):
            raise InvalidArgumentError(
                f"mean and variance go together. Received: mean={mean!r}, variance={variance!r}"
            )
        self.input_mean = None if mean is None else _numbers(mean, "mean")
        self.input_variance = None if variance is None else _numbers(variance, "variance")
        if variance is not None and not np.all(np.asarray(self.input_variance) >= 0):
            raise InvalidArgumentError(f"variance must not be negative. Received: {variance!r}")
        self.invert = bool(invert)
        self.mean = None
        self.variance = None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.input_mean, "variance": self.input_variance}

    def _axes(self, rank: int) -> tuple[int, ...]:
        """The axes along which the statistics vary."""
        if self.axis is None:
            return ()
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return resolve_axes(axes, rank, self.name)

    def check_input_shape(self, shape: Shape) -> None:
        super().check_input_shape(shape)
        extents = require_extents(shape, self._axes(len(shape)), self.name)
        if self.mean is not None and extents != self.mean.shape:
            raise ShapeError(
                f"{self.name}: expected extents {self.mean.shape} along axis={self.axis}. "
                f"Received: shape {tuple(shape)}"
            )

    def add_parameters(self, input_shape: Shape) -> None:
        extents = require_extents(input_shape, self._axes(len(input_shape)), self.name)
        given = self.input_mean is not None
        for name, value in (
            ("mean", self.input_mean if given else 0.0),
            ("variance", self.input_variance if given else 1.0),
        ):
            host = np.asarray(value, self.dtype)
            try:
                full = np.array(np.broadcast_to(host, extents))
            except ValueError:
                raise ShapeError(
                    f"{self.name}: expected an input with the extents of {name}, {host.shape}, "
                    f"along axis={self.axis}. Received: shape {tuple(input_shape)}"
                ) from None
            setattr(self, name, to_device(full, self.backend or "cpu"))

    def non_parameters(self) -> dict[str, Array]:
        if self.input_mean is not None or self.mean is None:
            return {}
        return {"mean": self.mean, "variance": self.variance}

    def move_non_parameters(self, device: str) -> None:
        if self.mean is not None:
            self.mean = to_device(self.mean, device)
            self.variance = to_device(self.variance, device)

    def run(self, x: Array, training: bool) -> tuple[Array, Backward]:
        xp = array_module(x)
        axes = self._axes(x.ndim)
        shape = tuple(extent if i in axes else 1 for i, extent in enumerate(x.shape))
        mean = self.mean.reshape(shape)
        deviation = xp.maximum(xp.sqrt(self.variance), _EPSILON).reshape(shape)
        factor = deviation if self.invert else 1.0 / deviation

        def backward(dy: Array, input_gradient: bool = True) -> Array | None:
            return dy * factor if input_gradient else None

        if self.invert:
            y = x * deviation
            y += mean
        else:
            y = x - mean
            y /= deviation
        return y, backward

    def adapt(self, data: Any) -> None:
        """Take mean and variance from ``data``; what an earlier call took is forgotten.

        The data is read once, in blocks, and summed up in float64: it may be larger than memory.

        Args:
            data: an array, Tensor, memory map or anything else with ``shape`` and slices; or an
                iterable of batches, each an array or a tuple whose first entry is one.

        Raises:
            InvalidArgumentError: mean and variance were given to the constructor, there is no
                data, or it holds NaN or infinity.
            ShapeError: the data does not fit ``axis``, or the shape that the layer was built for.
            DTypeError: not real numbers.
        """
        if self.input_mean is not None:
            raise InvalidArgumentError(
                "adapt is for a layer without mean and variance of its own. "
                f"Received: data for a layer with mean={self.input_mean}"
            )
        count, mean, squares = 0, 0.0, 0.0
        for block in _blocks(data):
            shape = (None, *block.shape[1:])
            self.build(shape)
            self.check_input_shape(shape)
            kept = self._axes(block.ndim)
            reduced = tuple(axis for axis in range(block.ndim) if axis not in kept)
            size = int(np.prod([block.shape[axis] for axis in reduced]))
            if size == 0:
                continue
            # Merging means and sums of squared differences (Chan, Golub and LeVeque 1979).
            with np.errstate(invalid="ignore"):  # infinities are reported below
                block_mean = block.mean(axis=reduced, keepdims=True)
                block_squares = np.square(block - block_mean).sum(axis=reduced)
                difference = block_mean.reshape(block_squares.shape) - mean
                total = count + size
                mean = mean + difference * (size / total)
                squares = squares + block_squares + np.square(difference) * (count * size / total)
            count = total
        if count == 0:
            raise InvalidArgumentError("adapt needs at least one sample. Received: no data")
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(squares))):
            raise InvalidArgumentError(
                f"adapt needs finite numbers. Received: data with the mean {mean}"
            )
        xp = array_module(self.mean)
        self.mean[...] = xp.asarray(mean, dtype=self.dtype)
        self.variance[...] = xp.asarray(squares / count, dtype=self.dtype)


def _blocks(data: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Yield ``data`` in float64, a bounded number of samples at a time."""
    if isinstance(data, (str, bytes, dict)) or not (
        hasattr(data, "shape") or hasattr(data, "__iter__")
    ):
        raise DTypeError(
            f"adapt needs an array or an iterable of batches. Received: {type(data).__name__}"
        )
    listed = isinstance(data, (list, tuple))
    if listed and not (len(data) and hasattr(_first_entry(data[0]), "shape")):
        data = np.asarray(data)
    if not hasattr(data, "shape"):
        for batch in data:
            yield from _blocks(_array_like(_first_entry(batch)))
        return
    samples, *extents = data.shape
    rows = max(1, _BLOCK_BYTES // max(8 * int(np.prod(extents)), 1))
    for start in range(0, samples, rows):
        array, _ = unwrap(data[start : start + rows])
        yield to_numpy(array).astype(np.float64)


def _first_entry(batch: Any) -> Any:
    return batch[0] if isinstance(batch, (list, tuple)) and len(batch) else batch


def _array_like(value: Any) -> Any:
    return value if hasattr(value, "shape") else np.asarray(value)


def _numbers(value: Any, name: str) -> Any:
    """Return a float, or nested lists of floats.

    Raises:
        InvalidArgumentError: something else.
    """
    host = to_numpy(unwrap(value)[0]) if is_array(value) or hasattr(value, "shape") else value
    try:
        array = np.asarray(host)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiu" or isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be a number or an array. Received: {value!r}")
    return array.astype(np.float64).tolist()
