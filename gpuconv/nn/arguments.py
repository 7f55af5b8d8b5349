"""What PyTorch's constructors have in common: device, dtype, keywords, and building at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gpuconv.backends.selection import resolve_device
from gpuconv.errors import InvalidArgumentError, UnknownArgumentError, one_of, shown, suggestion
from gpuconv.layers.base import Layer, Shape

F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=Layer)

DEVICES = ("cpu", "cuda", "cuda-sim")
EXTENTS = {1: "L", 2: "H, W", 3: "D, H, W"}
"""PyTorch's names of the spatial extents, for docstrings."""


def constructor(function: F) -> F:
    """Make unknown keywords of a constructor an error that suggests the nearest known one."""
    known = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for word in kwargs:
            if word not in known:
                raise UnknownArgumentError(
                    f"{function.__name__} has no argument {word!r}; it has "
                    f"{', '.join(known) or 'none'}.{suggestion(word, known)} "
                    f"Received: {word}={kwargs[word]!r}"
                )
        return function(*args, **kwargs)

    return cast(F, checked)


def named_constructor(function: Any, name: str, text: str, **words: Any) -> Any:
    """Give one of several constructors from one definition its name and docstring."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text.format(**words)
    return constructor(function)


def dtype_or_default(dtype: Any) -> Any:
    """PyTorch's ``dtype=None`` is float32."""
    return "float32" if dtype is None else dtype


def built(layer: L, input_shape: Shape, device: str | None) -> L:
    """Create a layer's parameters from the extents that its constructor was told.

    Args:
        layer: not built yet.
        input_shape: batch first; None for what only an input shows.
        device: ``"cpu"``, ``"cuda"`` or None: what is in force.

    Raises:
        InvalidArgumentError: an unknown device.
        BackendUnavailableError: the device that was named cannot run here.
    """
    if device is not None:
        layer.backend = resolve_device(one_of(device, DEVICES, "device"))[0]
    layer.create_parameters(input_shape)
    return layer


def refuse(name: str, value: Any, accepted: Any, why: str) -> None:
    """Refuse an argument that exists in PyTorch and here has only one possible value.

    Raises:
        InvalidArgumentError: ``value`` is not ``accepted``.
    """
    several = bool(getattr(value, "shape", ()))  # arrays compare element by element
    if value is not accepted and (several or value != accepted):
        raise InvalidArgumentError(f"{name} must be {accepted!r}: {why}. Received: {shown(value)}")
