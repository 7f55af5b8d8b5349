"""Mixup (Zhang et al. 2018): training on blends of two samples, and of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import array_module, device_of, to_device
from gpuconv.containers import FLOATS, Wrap, unwrap
from gpuconv.data.sources import is_several
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.random import SeedStream

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


def mixup(
    x: Any,
    y: Any,
    alpha: float = 0.2,
    num_classes: Any = None,
    seed: int | SeedStream | None = None,
) -> tuple[Any, Any]:
    """Blend every sample of a batch with another one, and their labels by the same weights.

    Sample ``i`` becomes ``w*x[i] + (1 - w)*x[j]``, with ``w`` of its own from
    Beta(alpha, alpha) and ``j`` from a random permutation of the batch, as in Keras's MixUp.

    Args:
        x: samples, (N, ...), array or Tensor. Integers become float32. For several inputs a list,
            tuple or dict of them; all parts of a sample are blended by the same weight.
        y: labels: integers, (N,) or (N, 1), with ``num_classes``; or rows of targets such as
            one-hot vectors, (N, K); or floats, (N, ...), which are blended as they are. For
            several outputs a list, tuple or dict of them.
        alpha: strength; 0 blends nothing, 1 draws the weights evenly from 0 to 1.
        num_classes: classes that integer labels stand for; for several outputs a number for
            each, None for those without, in a list, tuple or dict as ``y``.
        seed: an integer gives the same blends at every call; a ``gpuconv.random.SeedStream``
            others at each, reproducibly; None takes a seed from ``gpuconv.random``.

    Returns:
        ``(x, y)``: new ones in the same containers, on the same device, several in a tuple or
        dict; integer labels have become (N, num_classes), for ``categorical_crossentropy``.

    Raises:
        ShapeError: different numbers of samples, or labels and ``num_classes`` that disagree.
        InvalidArgumentError: an impossible ``alpha`` or ``seed``, integer labels without
            ``num_classes``, or a label outside ``[0, num_classes)``.
        DTypeError: not numbers.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.integer, np.floating)):
        raise InvalidArgumentError(f"alpha must be a number of at least 0. Received: {alpha!r}")
    if not 0 <= alpha < np.inf:
        raise InvalidArgumentError(f"alpha must be a number of at least 0. Received: {alpha!r}")
    inputs, outputs = _parts(x, "x"), _parts(y, "y")
    shapes = [tuple(array.shape) for array, _ in (*inputs.values(), *outputs.values())]
    count = shapes[0][0] if shapes[0] else 0
    if any(shape[:1] != (count,) for shape in shapes):
        raise ShapeError(
            "x and y must have the same number of samples. "
            f"Received: shapes {' and '.join(map(str, shapes))}"
        )
    classes = _classes(num_classes, outputs)
    samples = {key: _as_float(array, "float32") for key, (array, _) in inputs.items()}
    dtype = next(iter(samples.values())).dtype.name
    targets = {key: _as_targets(a, classes[key], dtype) for key, (a, _) in outputs.items()}
    stream = seed if isinstance(seed, SeedStream) else SeedStream(seed)
    generator = stream.generator()
    order = generator.permutation(count)
    weights = generator.beta(alpha, alpha, count) if alpha else np.ones(count)

    def blended(arrays: dict[Any, Array], wraps: dict[Any, tuple[Array, Wrap]], given: Any) -> Any:
        made = {key: wraps[key][1](_blend(a, order, weights)) for key, a in arrays.items()}
        if isinstance(given, dict):
            return made
        return tuple(made.values()) if is_several(given) else made[0]

    return blended(samples, inputs, x), blended(targets, outputs, y)


def _parts(value: Any, name: str) -> dict[Any, tuple[Array, Wrap]]:
    """The arrays of ``value`` and their containers, by name, or by number if they have none."""
    if isinstance(value, dict) and value:
        return {key: unwrap(part, f"{name}[{key!r}]") for key, part in value.items()}
    if is_several(value):
        return {i: unwrap(part, f"{name}[{i}]") for i, part in enumerate(value)}
    return {0: unwrap(value, name)}


def _classes(num_classes: Any, outputs: dict[Any, Any]) -> dict[Any, int | None]:
    """Number of classes of each output.

    Raises:
        InvalidArgumentError: they are not those of the outputs.
    """
    if isinstance(num_classes, dict):
        given = num_classes
    elif isinstance(num_classes, (list, tuple)):
        given = dict(enumerate(num_classes))
    else:
        given = dict.fromkeys(outputs, num_classes)
    if set(given) != set(outputs):
        raise InvalidArgumentError(
            f"num_classes must be one number, or one for each of {len(outputs)} targets. "
            f"Received: {num_classes!r}"
        )
    return given


def _blend(values: Array, order: Any, weights: Any) -> Array:
    device = device_of(values)
    weight = to_device(weights.astype(values.dtype), device)
    weight = weight.reshape(-1, *(1,) * (values.ndim - 1))
    blended = weight * values
    blended += (1 - weight) * values[to_device(order, device)]
    return blended


def _as_float(array: Array, otherwise: str) -> Array:
    return array if array.dtype.name in FLOATS else array.astype(otherwise)


def _as_targets(labels: Array, num_classes: int | None, dtype: str) -> Array:
    """Labels as floats that can be blended.

    Raises:
        ShapeError, InvalidArgumentError: they do not fit ``num_classes``.
    """
    classes = labels.dtype.kind in "iu" and (
        labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    )
    if num_classes is not None:
        num_classes = as_int(num_classes, "num_classes", 1)
    if not classes:
        if num_classes is not None and (labels.ndim != 2 or labels.shape[1] != num_classes):
            raise ShapeError(
                f"y must hold integers, or rows of num_classes={num_classes} numbers. "
                f"Received: shape {tuple(labels.shape)} and dtype {labels.dtype.name}"
            )
        return _as_float(labels, dtype)
    if num_classes is None:
        raise InvalidArgumentError(
            "integer labels can be blended as one-hot vectors only: pass num_classes. "
            f"Received: y of shape {tuple(labels.shape)}, num_classes=None"
        )
    xp = array_module(labels)
    flat = labels.reshape(-1)
    if not bool(((flat >= 0) & (flat < num_classes)).all()):
        raise InvalidArgumentError(
            f"labels must lie in [0, {num_classes}). "
            f"Received: labels from {int(flat.min())} to {int(flat.max())}"
        )
    return (flat[:, None] == xp.arange(num_classes)).astype(dtype)
